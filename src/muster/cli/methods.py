"""``muster methods``: list the direct methods that were called."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, running
from muster.core.errors import INVALID_OPERATION, HubError


@click.command()
@click.option("--device", metavar="ID", help="Only those to this device and its modules.")
@click.option("--count", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one call a line.")
@data_option
@login_options
def methods(*, device: str | None, count: int, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """List the direct methods called since the hub's start, the newest last: when, who, how long, what came of it."""
    target = running(data, login, ca)
    if not isinstance(target, HubClient):
        target.release()
        raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")
    wanted = {"count": str(count)} if device is None else {"device": device, "count": str(count)}
    for call in reversed(target.call("GET", f"/$muster/methods?{urlencode(wanted)}")["methods"]):
        click.echo(json.dumps(call) if as_json else line_of(call))


def line_of(call: dict[str, Any]) -> str:
    """One call as a line for people; control characters in it are escaped, an unknown device's id may hold any."""
    receiver = call["deviceId"] if call["moduleId"] is None else f"{call['deviceId']}/{call['moduleId']}"
    outcome = call["error"] if call["status"] is None else f"status {call['status']}"
    took = f"{call['seconds']:.3f} s"
    text = f"{call['at'][:23]}Z  {receiver}  {call['methodName']}  {outcome}  {took}  {call['caller']}"
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
