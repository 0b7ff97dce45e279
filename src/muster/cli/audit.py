"""``muster audit``: who changed what, and whether the record of it is whole."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import click

from muster.audit.chain import BrokenChainError, Mark, mark_from, verify
from muster.audit.contract import Head
from muster.audit.filter import Filter, moment_from
from muster.cli.network import HubClient
from muster.cli.target import data_option, deployment_option, hub_name, login_options, running

F = TypeVar("F", bound=Callable[..., Any])

_PAGE = 1000
_LAST = "x-muster-audit-last"


class Source(NamedTuple):
    """Where records come from: lines that a filter wants, from behind a number on, and how far the log goes."""

    lines: Callable[[Filter, int], Iterator[bytes]]
    head: Callable[[], Head]


def _moment(_: click.Context, option: click.Parameter, text: str | None) -> str:
    try:
        return "" if text is None else moment_from(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from None


def filter_options(function: F) -> F:
    """Which records are wanted."""
    until = click.option("--until", metavar="TIME", callback=_moment, help="Those before this moment.")
    since = click.option("--since", metavar="TIME", callback=_moment, help="Those from 2026-11-29T06:00:00Z on.")
    subject = click.option("--subject", default="", help="Those of it and all below it, as devices/d or enrollments.")
    return subject(since(until(function)))


@click.group()
def audit() -> None:
    """Show who changed what, export it, and verify that the record is whole."""


@audit.command("list")
@click.option("--count", type=click.IntRange(1, 100_000), default=20, show_default=True, help="So many, the newest.")
@filter_options
@data_option
@login_options
def list_(*, count: int, subject: str, since: str, until: str, data: Path, login: str | None, ca: Path | None) -> None:
    """List the newest records, a line each. What was before and after has: muster audit export."""
    with _source(data, login, ca) as source:
        newest = deque(source.lines(Filter(hub_name() or None, subject, since, until), 0), maxlen=count)
    for line in newest:
        click.echo(line_of(json.loads(line)))


@audit.command()
@filter_options
@data_option
@login_options
def export(*, subject: str, since: str, until: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Print records as they are kept, one JSON object a line, the oldest first.

    What is printed without an option can be verified by itself: muster audit verify --file FILE.
    """
    with _source(data, login, ca) as source:
        for line in source.lines(Filter(hub_name() or None, subject, since, until), 0):
            click.echo(line)


@audit.command()
@deployment_option
@login_options
def head(*, data: Path, login: str | None, ca: Path | None) -> None:
    """Print the mark of the last record, NUMBER:HASH, to be kept where nobody who can write to the hub can."""
    with _source(data, login, ca) as source:
        click.echo(source.head().mark)


@audit.command("verify")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Verify this export instead of the hub's log.")  # fmt: skip
@click.option("--mark", "marks", multiple=True, metavar="NUMBER:HASH",
              help="The log must still say this; from an earlier muster audit head. Repeatable.")  # fmt: skip
@deployment_option
@login_options
def verify_(*, file: Path | None, marks: tuple[str, ...], data: Path, login: str | None, ca: Path | None) -> None:
    """Check that no record was changed, removed or moved, and that the end is there. Exit code 1 when one was.

    Without --mark nobody can tell whether the log was written anew as a whole; docs/audit.md says more.
    """
    try:
        wanted = [mark_from(mark) for mark in marks]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--mark") from None
    try:
        last = _verified(file, wanted) if file is not None else _verified_log(wanted, data, login, ca)
    except BrokenChainError as error:
        raise click.ClickException(f"The audit log is not whole, {error}.") from None
    click.echo(f"whole, {last.number} records: {last}")


def line_of(record: dict[str, Any]) -> str:
    """A record as a line for people."""
    who = record["caller"] or "somebody"
    where = f" from {record['from']}" if record["from"] else ""
    refused = "" if record["verdict"] == "allowed" else f"  refused: {record['error']}, {record['trackingId']}"
    parts = (str(record["number"]), f"{record['at'][:19]}Z", record["scope"] or "-", who + where)
    return "  ".join((*parts, f"{record['operation']} {record['subject']}{refused}"))


def _verified(file: Path, wanted: list[Mark]) -> Mark:
    with file.open("rb") as lines:
        return verify(lines, marks=wanted)


def _verified_log(wanted: list[Mark], data: Path, login: str | None, ca: Path | None) -> Mark:
    with _source(data, login, ca) as source:
        end = source.head()
        return verify(source.lines(Filter(), 0), marks=[*wanted, end.mark], head=end.written)


@contextlib.contextmanager
def _source(data: Path, login: str | None, ca: Path | None) -> Iterator[Source]:
    target = running(data, login, ca)
    if isinstance(target, HubClient):
        client = target

        def lines(wanted: Filter, after: int) -> Iterator[bytes]:
            return _asked(client, wanted, after)

        def end() -> Head:
            told = client.call("GET", "/$muster/audit/head")
            return Head(Mark(told["number"], told["hash"]), told["written"])

        yield Source(lines, end)
        return
    from muster.node.offline_audit import open_audit  # noqa: PLC0415 - brings the stores in

    try:
        with open_audit(target) as kept:
            yield Source(kept.lines, kept.head)
    finally:
        target.release()


def _asked(client: HubClient, wanted: Filter, after: int) -> Iterator[bytes]:
    members = {"subject": wanted.subject, "since": wanted.since, "until": wanted.until}
    members |= {"hub": wanted.scope or "", "count": str(_PAGE)}
    while True:
        query = urlencode({name: value for name, value in {**members, "after": str(after)}.items() if value})
        body, headers = client.content(f"/$muster/audit?{query}")
        yield from body.splitlines()
        last = int(headers[_LAST])
        if last == after:
            return
        after = last
