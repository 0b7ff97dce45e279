"""``muster query``: ask for twins in the device query language."""

from __future__ import annotations

import json
from pathlib import Path

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, running
from muster.core.errors import INVALID_OPERATION, HubError


@click.command()
@click.argument("text", metavar="QUERY")
@data_option
@login_options
def query(*, text: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Print what QUERY finds, a row of JSON a line: muster query "SELECT deviceId FROM devices WHERE tags.a = 1"."""
    target = running(data, login, ca)
    if not isinstance(target, HubClient):
        target.release()
        raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")
    for page in target.pages("/devices/query", {"query": text}):
        for row in page:
            text = json.dumps(row, ensure_ascii=False)
            click.echo("".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text))
