"""``muster monitor``: watch telemetry arrive."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, running
from muster.core.errors import INVALID_OPERATION, HubError


@click.command()
@click.option("--device", metavar="ID", help="Only from this device and its modules.")
@click.option("--partition", type=click.IntRange(0, 31), help="Only from this partition.")
@click.option("--from", "start", type=click.Choice(["now", "start"]), default="now", show_default=True,
              help="start: what is kept comes first.")  # fmt: skip
@click.option("--count", type=click.IntRange(1), help="End after so many messages.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one message a line.")
@data_option
@login_options
def monitor(
    *,
    device: str | None,
    partition: int | None,
    start: str,
    count: int | None,
    as_json: bool,
    data: Path,
    login: str | None,
    ca: Path | None,
) -> None:
    """Print telemetry as the hub stores it, until Ctrl-C."""
    target = running(data, login, ca)
    if not isinstance(target, HubClient):
        target.release()
        raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")
    wanted = {"device": device, "partition": partition, "from": start}
    query = urlencode({name: value for name, value in wanted.items() if value is not None})
    with suppress(KeyboardInterrupt):
        for number, message in enumerate(target.lines(f"/$muster/monitor?{query}"), start=1):
            click.echo(json.dumps(message) if as_json else line_of(message))
            if number == count:
                break


def line_of(message: dict[str, Any]) -> str:
    """One message as a line for people; control characters in it are escaped, terminals obey some."""
    sender = message["device_id"] if message["module_id"] is None else f"{message['device_id']}/{message['module_id']}"
    place = f"p{message['partition']} #{message['sequence_number']}"
    body = f"(base64) {message['body']}" if message["body_encoding"] == "base64" else message["body"]
    named = {**message["system_properties"], **message["properties"]}
    properties = " ".join(f"{name}={value}" for name, value in named.items())
    text = f"{message['enqueued_time'][:23]}Z  {sender}  [{place}]  {body}  {properties}".rstrip(" ")
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
