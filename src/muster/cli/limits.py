"""``muster limits``: every limit of the hub, the rates of every tier, and live how far they are used."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, running
from muster.core import limits as table
from muster.core import throttles
from muster.core.errors import INVALID_OPERATION, HubError

_BETWEEN_LOOKS_SECONDS = 1.1


@click.command()
@click.option("--live", is_flag=True, help="Show what passes through a running hub, and the rates in force.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@data_option
@login_options
def limits(*, live: bool, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """List every limit, unit, source and reason: its value in the azure and the open profile, rates by tier.

    With --live ask a hub (--data or --login) instead: how many operations of each kind it has let in, delayed and
    refused, how many a second there are now, how many there may be, and what is left of the day's messages.
    """
    if live:
        _live(data, login, ca, as_json=as_json)
    elif as_json:
        rates = [throttles.as_json(row) for row in throttles.ALL]
        quotas = {tier.value: quota._asdict() for tier, quota in throttles.QUOTAS.items()}
        rows = [limit._asdict() for limit in table.ALL]
        click.echo(json.dumps({"limits": rows, "throttles": rates, "quotas": quotas}, indent=1))
    else:
        _limits()
        _throttles()


def _limits() -> None:
    width = max(len(limit.name) for limit in table.ALL)
    click.echo(f"{'limit':<{width}}  {'azure':>14}  {'open':>14}  unit")
    for limit in sorted(table.ALL, key=lambda limit: limit.name.lower()):
        click.echo(f"{limit.name:<{width}}  {limit.azure:>14,}  {limit.open:>14,}  {limit.unit}")
        click.echo(f"{'':<{width}}  {limit.reason} ({limit.source})")


def _throttles() -> None:
    click.echo("\nRates, in force with --profile azure or --throttle on (--tier, --units):\n")
    for row in throttles.ALL:
        click.echo(f"{row.name}, {row.unit} {row.period}: {'late, then refused' if row.shaped else 'refused'} above")
        for tier, rate in zip(throttles.Tier, row.rates, strict=True):
            click.echo(f"    {tier}  {rate}")
        click.echo(f"    {row.reason} ({row.source})")
    click.echo("\nMessages a day, each of so many bytes; larger ones count several times:\n")
    for tier, quota in throttles.QUOTAS.items():
        click.echo(f"    {tier}  {quota.messages:,} a unit, {quota.block:,} bytes")


def _live(data: Path, login: str | None, ca: Path | None, *, as_json: bool) -> None:
    hub = running(data, login, ca)
    if not isinstance(hub, HubClient):
        hub.release()
        raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")
    meters = hub.call("GET", "/$muster/meters")
    if any(one["rate"] is None for one in meters["operations"]):  # nobody has looked of late: rates are between looks
        time.sleep(_BETWEEN_LOOKS_SECONDS)
        meters = hub.call("GET", "/$muster/meters")
    if as_json:
        click.echo(json.dumps(meters, indent=1))
        return
    throttled = meters["tier"] is not None
    click.echo(f"tier {meters['tier']}, units {meters['units']}" if throttled else "Nothing is throttled.")
    click.echo("\n".join(_columns(_rows(meters["operations"]))))
    if throttled:
        quota = meters["quota"]
        click.echo(
            f"messages today: {quota['used']:,} of {quota['messages']:,} (blocks of {quota['blockBytes']:,} bytes), "
            f"anew at {quota['resetsAt'][:16]}Z"
        )


def _rows(operations: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("operations", "accepted", "delayed", "refused", "a second", "limit", "unit")]
    for one in operations:
        period = "" if one["limit"] is None else f"{one['limit']:,} in {one['seconds']} s"
        counts = (f"{one[name]:,}" for name in ("accepted", "delayed", "refused"))
        rate = "" if one["rate"] is None else f"{one['rate']:,.1f}"
        rows.append((one["name"], *counts, rate, period, one["unit"]))
    return rows


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """The first and the last column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, unit in rows:
        cells = [f"{text:>{width}}" for text, width in zip(numbers, widths[1:-1], strict=True)]
        yield "  ".join((f"{name:<{widths[0]}}", *cells, unit))
