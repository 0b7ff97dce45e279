"""``muster env``: what clients need to reach the hub of a data directory, running or not."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, hub_facts, offline, read_facts, running

if TYPE_CHECKING:
    from muster.node.offline import OfflineHub

_LOCAL = "LOCAL_CONNECTION_STRING"
"""Not for clients: it ends with the hub's run."""


@click.command()
@data_option
@click.option(
    "--format", "form", type=click.Choice(["dotenv", "shell", "json"]), default="dotenv", show_default=True,
    help="dotenv: NAME=value; shell: export lines, for eval; json: one object.",
)  # fmt: skip
def env(data: Path, form: str) -> None:
    """Print host, ports, connection strings and CA files of the hub.

    For a hub that does not run these are the names of its last run: keys and connection strings stay.
    """
    names = {name: value for name, value in facts_of(data).items() if isinstance(value, str) and name != _LOCAL}
    if form == "json":
        click.echo(json.dumps(names, indent=1))
        return
    for name, value in names.items():
        click.echo(f"export {name}={shlex.quote(value)}" if form == "shell" else f"{name}={value}")


def facts_of(data: Path) -> dict[str, Any]:
    """The facts of the hub in ``data``, running or not. Raises ``HubError`` when there is none."""
    target = running(data, None, None)
    if isinstance(target, HubClient):
        return read_facts(data) or {}

    async def read(hub: OfflineHub) -> dict[str, Any]:
        return hub_facts(hub.facts)

    return offline(target, read)
