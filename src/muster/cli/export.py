"""``muster export``: write the identities and twins of a running hub in Azure's export format."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import urlencode

import click

from muster.cli.network import HubClient, HubLine
from muster.cli.progress import Progress
from muster.cli.resources import running_client
from muster.cli.target import data_option, login_options


@click.command()
@click.argument("file", metavar="[FILE]", default="-", type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--exclude-keys", is_flag=True, help="Leave the symmetric keys out; an import then makes new ones.")
@click.option("--progress/--no-progress", default=None, help="Say how far it is.  [default: on a terminal]")
@data_option
@login_options
def export(
    *, file: str, exclude_keys: bool, progress: bool | None, data: Path, login: str | None, ca: Path | None
) -> None:
    """Write every identity with its twin to FILE, or to standard output: a JSON object a line, for muster import and
    for Azure.

    Symmetric keys are in it. FILE is readable by its owner only, and there once it is whole.
    """
    client = running_client(data, login, ca)
    told = Progress("lines", shown=progress)
    count = 0
    with _output(file) as output:
        for lines in _pages(client, exclude_keys=exclude_keys):
            for line in lines:
                count += 1
                told.step(count, len(line))
            output.write(b"".join(lines))
    told.end()
    click.echo(f"{count:,} identities", err=True)


def _pages(client: HubClient, *, exclude_keys: bool) -> Iterator[list[bytes]]:
    hub = HubLine(client)
    behind: dict[str, str] = {}
    try:
        while True:
            query = {**behind, **({"excludeKeys": "true"} if exclude_keys else {})}
            lines = hub.call("GET", f"/$muster/identities?{urlencode(query)}").splitlines(keepends=True)
            if not lines:
                return
            yield lines
            last = json.loads(lines[-1])
            behind = {"afterDevice": last["id"], "afterModule": last.get("moduleId") or ""}
    finally:
        hub.close()


@contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    """Where to write: a file beside ``name``, which takes its place at the end."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    draft = path.with_name(f".{path.name}.part")
    try:
        with open(draft, "wb", opener=_private) as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        draft.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            draft.unlink()
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
