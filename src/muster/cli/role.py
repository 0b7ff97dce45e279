"""``muster role``: who may do what at the hubs of a deployment, with the bearer tokens of an OpenID Connect issuer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from muster.cli.resources import running_client
from muster.cli.target import deployment_option, login_options
from muster.core.errors import NOT_FOUND, HubError

_ROLES, _GRANTS = "/$muster/roles", "/$muster/grants"
_PRINCIPALS = ("subject", "group", "application")
_SCOPE = ("issuer", "hub", "devices")


@click.group()
def role() -> None:
    """Roles for callers with bearer tokens: what each allows, and to whom it is granted.

    A role may also stand in the token itself, by its name in the claim `roles`. What is granted here counts at once and
    stays over restarts; what stands in the file of `muster serve --roles` is changed there.
    """


@role.command("list")
@click.option("--actions", is_flag=True, help="What each role allows, in full.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: roles and grants.")
@deployment_option
@login_options
def list_roles(*, actions: bool, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """List the roles, then the grants with their ids."""
    found = running_client(data, login, ca).call("GET", _ROLES)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for one in found["roles"]:
        click.echo(f"{one['name']}  ({_KINDS[one['kind']]}) {', '.join(one['actions'])}")
        for action in one["allows"] if actions else ():
            click.echo(f"    {action}")
    for one in found["grants"]:
        click.echo(line_of(one))
    if "fileTrouble" in found:
        click.echo(f"{found['fileTrouble']} What it held before counts on.", err=True)


@role.command()
@click.argument("name", metavar="ROLE")
@deployment_option
@login_options
def show(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Print what ROLE allows, and to whom it is granted."""
    found = running_client(data, login, ca).call("GET", _ROLES)
    one = next((one for one in found["roles"] if one["name"].lower() == name.lower()), None)
    if one is None:
        raise HubError(NOT_FOUND, f"There is no role {name!r}, see: muster role list")
    click.echo(f"{one['name']}  ({_KINDS[one['kind']]})")
    for action in one["allows"]:
        click.echo(f"  {action}")
    for grant in found["grants"]:
        if grant["role"] == one["name"]:
            click.echo(line_of(grant))


@role.command()
@click.argument("name", metavar="ROLE")
@click.option("--subject", metavar="ID", help="A person or service: `sub` or `oid` of its tokens.")
@click.option("--group", metavar="ID", help="Whoever has this among the `groups` of his tokens.")
@click.option("--application", metavar="ID", help="A client: `azp`, `appid` or `client_id` of its tokens.")
@click.option("--issuer", metavar="URL", help="Whose tokens count.  [default: those of every trusted issuer]")
@click.option(
    "--hub", metavar="NAME", help="At this hub, or the provisioning service of this id scope.  [default: all]"
)
@click.option("--devices", metavar="CONDITION",
              help="For operations about one device of which this is true, as: tags.site = 'berlin'.")  # fmt: skip
@deployment_option
@login_options
def grant(*, name: str, data: Path, login: str | None, ca: Path | None, **given: str | None) -> None:
    """Grant ROLE to a subject, a group or an application, and print the id of the grant."""
    if sum(given[kind] is not None for kind in _PRINCIPALS) != 1:
        raise click.UsageError("Give one of --subject, --group and --application.")
    members = {member: value for member, value in given.items() if value is not None}
    click.echo(running_client(data, login, ca).call("POST", _GRANTS, {"role": name, **members})["id"])


@role.command()
@click.argument("grant_id", metavar="GRANT")
@deployment_option
@login_options
def revoke(*, grant_id: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Take back the grant of this id."""
    running_client(data, login, ca).call("DELETE", f"{_GRANTS}/{quote(grant_id, safe='')}")


@role.command()
@click.argument("name", metavar="ROLE")
@click.option("--action", "actions", metavar="PATTERN", multiple=True, required=True,
              help="What it allows: an action or a pattern with stars, such as `twins/*`. Repeatable.")  # fmt: skip
@deployment_option
@login_options
def define(*, name: str, actions: tuple[str, ...], data: Path, login: str | None, ca: Path | None) -> None:
    """Define ROLE beside the built-in ones, or give it these actions in place of its own; prints what it allows."""
    made = running_client(data, login, ca).call("PUT", _path(name), {"actions": actions})
    for action in made["allows"]:
        click.echo(action)


@role.command()
@click.argument("name", metavar="ROLE")
@deployment_option
@login_options
def remove(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Remove a ROLE that was defined and is granted to nobody."""
    running_client(data, login, ca).call("DELETE", _path(name))


_KINDS = {"builtIn": "built in", "file": "from the file", "command": "yours"}


def line_of(one: Mapping[str, Any]) -> str:
    """A grant as a line for people."""
    kind = next(kind for kind in _PRINCIPALS if kind in one)
    where = "".join(f"  {member} {one[member]}" for member in _SCOPE if member in one)
    notes = "  (from the file)" if one["source"] == "file" else ""
    notes += "" if one["counts"] else "  (does not count: there is no such role)"
    return f"{one['id']}  {one['role']}  to {kind} {one[kind]}{where}{notes}"


def _path(name: str) -> str:
    return f"{_ROLES}/{quote(name, safe='')}"
