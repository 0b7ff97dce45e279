"""``muster limits``: every limit of the hub and its value under each profile."""

from __future__ import annotations

import json

import click

from muster.core import limits as table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def limits(*, as_json: bool) -> None:
    """List every limit: its value in the azure and the open profile, unit, source and reason."""
    if as_json:
        click.echo(json.dumps([limit._asdict() for limit in table.ALL], indent=1))
        return
    width = max(len(limit.name) for limit in table.ALL)
    click.echo(f"{'limit':<{width}}  {'azure':>14}  {'open':>14}  unit")
    for limit in sorted(table.ALL, key=lambda limit: limit.name.lower()):
        click.echo(f"{limit.name:<{width}}  {limit.azure:>14,}  {limit.open:>14,}  {limit.unit}")
        click.echo(f"{'':<{width}}  {limit.reason} ({limit.source})")
