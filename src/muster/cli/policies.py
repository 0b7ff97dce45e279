"""``muster hub policy`` and ``muster provisioning policy``: shared access policies, listed, written, rotated."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from muster.cli.network import HubClient
from muster.cli.target import login_options
from muster.dialect.connection_string import ConnectionString

_EARLIER = {"set": "add", "delete": "remove"}
"""What commands were called before, which still does."""

_name = click.argument("name")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, both keys too.")


class Surface(NamedTuple):
    """Whose policies they are: ``path`` is where they stand, ``client`` finds it, ``where`` are the options that say in
    which data directory, ``rights`` are the names of those that there are."""

    path: str
    client: Callable[[Path, str | None, Path | None], HubClient]
    where: Callable[[Any], Any]
    rights: Sequence[str]

    def options(self, function: Callable[..., None]) -> Callable[..., None]:
        """``--data`` and ``--login`` with what belongs to them."""
        found: Callable[..., None] = self.where(login_options(function))
        return found

    def one(self, name: str) -> str:
        """Where the policy ``name`` stands."""
        return f"{self.path}/{quote(name, safe='')}"


def policy_group(surface: Surface, about: str) -> click.Group:
    """The commands; ``about`` is what they say of themselves."""
    group = click.Group("policy", help=about)
    for make in (_list, _show, _set, _rotate, _delete):
        command = make(surface)
        group.add_command(command)
        if command.name in _EARLIER:
            earlier = copy.copy(command)
            earlier.hidden = True
            group.add_command(earlier, _EARLIER[command.name])
    return group


def _list(surface: Surface) -> click.Command:
    @click.command("list")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, one policy a line.")
    @surface.options
    def list_policies(*, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
        """List the policies and what they grant."""
        for one in surface.client(data, login, ca).call("GET", surface.path)["policies"]:
            click.echo(json.dumps(one) if as_json else f"{one['keyName']}  {one['rights']}")

    return list_policies


def _show(surface: Surface) -> click.Command:
    @click.command("show")
    @_name
    @_json
    @surface.options
    def show(*, name: str, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
        """Print the connection string of the policy NAME."""
        client = surface.client(data, login, ca)
        _print(client, client.call("GET", surface.one(name)), as_json=as_json)

    return show


def _set(surface: Surface) -> click.Command:
    @click.command("set")
    @_name
    @click.option(
        "--right", "rights", type=click.Choice(surface.rights, case_sensitive=False), multiple=True, required=True,
        help="What it grants. Repeatable.",
    )  # fmt: skip
    @_json
    @surface.options
    def set_policy(
        *, name: str, rights: tuple[str, ...], as_json: bool, data: Path, login: str | None, ca: Path | None
    ) -> None:
        """Add the policy NAME and print its connection string.

        One that is there keeps its keys and gets these rights; what they no longer allow ends.
        """
        client = surface.client(data, login, ca)
        _print(client, client.call("PUT", surface.one(name), {"rights": ", ".join(rights)}), as_json=as_json)

    return set_policy


def _rotate(surface: Surface) -> click.Command:
    @click.command("rotate")
    @_name
    @click.argument("key", type=click.Choice(["primary", "secondary", "swap"]))
    @_json
    @surface.options
    def rotate(*, name: str, key: str, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
        """Make a key of the policy NAME anew, or swap both; print the connection string with the primary one.

        Tokens that the old key has signed count no more, and what they let in ends. Without a break: rotate secondary,
        give it to the clients (--json), then swap and rotate secondary again.
        """
        client = surface.client(data, login, ca)
        _print(client, client.call("POST", f"{surface.one(name)}/rotate", {"key": key}), as_json=as_json)

    return rotate


def _delete(surface: Surface) -> click.Command:
    @click.command("delete")
    @_name
    @surface.options
    def delete(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
        """Delete the policy NAME: whoever has its keys is not let in any more."""
        surface.client(data, login, ca).call("DELETE", surface.one(name))

    return delete


def _print(client: HubClient, made: Mapping[str, str], *, as_json: bool) -> None:
    login = ConnectionString(host_name=client.login.host_name, policy=made["keyName"], key=made["primaryKey"])
    click.echo(json.dumps({**made, "connectionString": login.text()}, indent=1) if as_json else login.text())
