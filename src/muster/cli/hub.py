"""``muster hub``: the hubs of a deployment, listed, added and removed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from muster.cli.hub_resource import group, set_hub, stats
from muster.cli.network import HubClient
from muster.cli.network_rules import network_commands
from muster.cli.policies import Surface, policy_group
from muster.cli.resources import running_client
from muster.cli.target import data_option, deployment_option, login_options, offline, running
from muster.core.errors import NOT_FOUND, HubError
from muster.identity.policies import RIGHTS_AT_HUBS

if TYPE_CHECKING:
    from muster.node.offline import OfflineHub

"""What the resource manager calls what the options switch off."""


@click.group()
def hub() -> None:
    """The hubs of a deployment: each has its own names, keys, devices and telemetry.

    What is added stays over restarts; hubs that ``muster serve --hub`` or muster.toml name are taken out there.
    """


hub.add_command(set_hub)
hub.add_command(stats)
hub.add_command(group)


@hub.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one hub a line.")
@deployment_option
@login_options
def list_hubs(*, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """List the hubs, the first one first: name, host names, partitions, devices."""
    for one in _hubs(data, login, ca):
        click.echo(json.dumps(one) if as_json else line_of(one))


@hub.command()
@click.argument("name")
@deployment_option
@login_options
def show(*, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Print what there is of the hub NAME, as JSON. How to reach it: muster env --hub NAME."""
    for one in _hubs(data, login, ca):
        if one["name"] == name:
            click.echo(json.dumps(one, indent=1))
            return
    raise HubError(NOT_FOUND, f"There is no hub {name}, see: muster hub list")


@hub.command()
@click.argument("name")
@click.argument("hosts", metavar="HOST...", nargs=-1, required=True)
@click.option("--partitions", type=click.IntRange(1, 32), help="Of its built-in endpoint.  [default: as the first hub]")
@click.option("--consumer-group", multiple=True, help="A consumer group besides $Default. Repeatable.")
@click.option(
    "--retention-days", type=click.IntRange(1), help="How long telemetry is kept.  [default: as the first hub]"
)
@deployment_option
@login_options
def add(
    *,
    name: str,
    hosts: tuple[str, ...],
    partitions: int | None,
    consumer_group: tuple[str, ...],
    retention_days: int | None,
    data: Path,
    login: str | None,
    ca: Path | None,
) -> None:
    """Add the hub NAME, which clients reach by the names or addresses HOST, to a running deployment.

    It serves at once, and at every start from now on. HOST must resolve to an address that the deployment listens on.
    """
    wanted = {
        "hostNames": hosts,
        "partitions": partitions,
        "consumerGroups": consumer_group or None,
        "retentionDays": retention_days,
    }
    body = {member: value for member, value in wanted.items() if value is not None}
    running_client(data, login, ca).call("PUT", _path(name), body)
    click.echo(f"{name} serves {', '.join(hosts)}; its connection strings: muster env --hub {name}")


@hub.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@deployment_option
@login_options
def remove(*, name: str, yes: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """Remove the hub NAME: its sessions end, and its devices, telemetry and files are gone for good."""
    target = running_client(data, login, ca)
    if not yes:
        click.confirm(f"Remove {name} with all its devices, telemetry and files?", abort=True)
    target.call("DELETE", _path(name))


hub.add_command(network_commands(data_option, running, hub=True))


def line_of(one: Mapping[str, Any]) -> str:
    """A hub as a line for people."""
    hosts = ", ".join(one["hostNames"])
    if "devices" not in one:
        return f"{one['name']}  {hosts}"
    devices = f"{one['devices']} devices, {one['connectedDevices']} connected"
    return f"{one['name']}  {hosts}  {one['partitions']} partitions, {devices}"


def _hubs(data: Path, login: str | None, ca: Path | None) -> Sequence[Mapping[str, Any]]:
    target = running(data, login, ca)
    if isinstance(target, HubClient):
        hubs: Sequence[Mapping[str, Any]] = target.call("GET", "/$muster/hubs")["hubs"]
        return hubs

    async def read(opened: OfflineHub) -> Sequence[Mapping[str, Any]]:
        return [{"name": name, "hostNames": [names["HUB_HOST"]]} for name, names in opened.facts["hubs"].items()]

    return offline(target, read)


def _path(name: str) -> str:
    return f"/$muster/hubs/{quote(name, safe='')}"


hub.add_command(
    policy_group(
        Surface("/$muster/policies", running_client, data_option, RIGHTS_AT_HUBS),
        "Shared access policies of a hub (--hub NAME): iothubowner, which may do all, four others that each hub begins "
        "with, and your own.",
    )
)
