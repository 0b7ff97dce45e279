"""``muster nodes``: the nodes of a deployment, their leases and sessions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from muster.cli.resources import running_client
from muster.cli.target import deployment_option, login_options

_TITLES = ("NODE", "STATE", "VERSION", "SINCE", "RENEWED", "DEVICES", "LISTENS")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one node a line.")
@deployment_option
@login_options
def nodes(*, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """List the nodes of the deployment: who is alive, and how many devices are connected to each.

    The node that answered is marked with *. One that is gone without a word stays in the list, as "over", until another
    has taken its lease away.
    """
    found = running_client(data, login, ca).call("GET", "/$muster/nodes")["nodes"]
    if as_json:
        for one in found:
            click.echo(json.dumps(one))
        return
    rows = [_TITLES, *map(columns_of, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def columns_of(one: Mapping[str, Any]) -> tuple[str, ...]:
    """A node as a row for people."""
    renewed, devices = one["renewedSecondsAgo"], one["connectedDevices"]
    by_hub = "" if len(devices) < 2 else f" ({', '.join(f'{hub} {count}' for hub, count in devices.items())})"
    ports = ", ".join(f"{name} {port}" for name, port in one.get("ports", {}).items())
    return (
        one["name"] + ("*" if one["this"] else ""),
        "alive" if one["alive"] else "over",
        one.get("version", "-"),
        f"{one['since'][:19]}Z",
        "-" if renewed is None else f"{renewed:.1f} s ago",
        f"{sum(devices.values())}{by_hub}",
        f"{', '.join(one.get('addresses', ()))}: {ports}" if ports else "-",
    )
