"""``muster provisioning policy``: who may do what with the provisioning service."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import click

from muster.cli.network import HubClient
from muster.cli.target import deployment_option, login_options, provisioning_client
from muster.dialect.connection_string import ConnectionString
from muster.identity.policies import RIGHTS_AT_PROVISIONING

_PATH = "/$muster/provisioning/policies"


@click.group()
def policy() -> None:
    """Shared access policies of the provisioning service, besides provisioningserviceowner, which may do all."""


@policy.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one policy a line.")
@deployment_option
@login_options
def list_policies(*, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """List the policies and what they grant."""
    for one in provisioning_client(data, login, ca).call("GET", _PATH)["policies"]:
        click.echo(json.dumps(one) if as_json else f"{one['keyName']}  {one['rights']}")


@policy.command()
@click.argument("name")
@click.option("--right", "rights", type=click.Choice(RIGHTS_AT_PROVISIONING, case_sensitive=False), multiple=True,
              required=True, help="What it grants. Repeatable.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, both keys too.")
@deployment_option
@login_options
def add(
    *, name: str, rights: tuple[str, ...], as_json: bool, data: Path, login: str | None, ca: Path | None
) -> None:  # fmt: skip
    """Add the policy NAME and print its connection string; one that is there keeps its keys and gets these rights."""
    client = provisioning_client(data, login, ca)
    made = client.call("PUT", _one(name), {"rights": ", ".join(rights)})
    text = _connection_string(client, name, made["primaryKey"])
    click.echo(json.dumps({**made, "connectionString": text}, indent=1) if as_json else text)


@policy.command()
@click.argument("name")
@deployment_option
@login_options
def remove(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Remove the policy NAME: whoever has its keys is not let in any more."""
    provisioning_client(data, login, ca).call("DELETE", _one(name))


def _one(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"


def _connection_string(client: HubClient, name: str, key: str) -> str:
    return ConnectionString(host_name=client.login.host_name, policy=name, key=key).text()
