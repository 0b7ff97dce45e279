"""``muster why``: say why somebody was refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, offline, running
from muster.core.errors import NOT_FOUND, HubError
from muster.identity.explain import explain
from muster.identity.refusals import identifier_of

if TYPE_CHECKING:
    from muster.node.offline import OfflineHub

Reports = Sequence[Mapping[str, Any]]


@click.command()
@click.argument("tracking_id", required=False)
@click.option("--last", is_flag=True, help="The newest refusal; this is the default.")
@click.option("--device", metavar="ID", help="The newest refusals of this device and its modules.")
@click.option("--count", type=click.IntRange(1, 100), default=1, show_default=True,
              help="How many, with --last or --device.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one refusal a line.")
@data_option
@login_options
def why(
    *,
    tracking_id: str | None,
    last: bool,
    device: str | None,
    count: int,
    as_json: bool,
    data: Path,
    login: str | None,
    ca: Path | None,
) -> None:
    """Explain a refusal: every check that was made, what was expected and seen, and what to do.

    TRACKING_ID is what the client was told (its first 32 digits are enough). MQTT tells clients none: use --last or
    --device there.
    """
    if sum((tracking_id is not None, last, device is not None)) > 1:
        raise click.UsageError("Give one of TRACKING_ID, --last and --device.")
    target = running(data, login, ca)
    if isinstance(target, HubClient):
        reports = _ask(target, tracking_id, device, count)
    else:
        reports = offline(target, lambda hub: _read(hub, tracking_id, device, count))
    if not reports:
        wanted = f" with the tracking id {tracking_id}" if tracking_id else f" of {device}" if device else ""
        kept = "Refused credentials and broken rules are, not 404, 409 and the like; the oldest are dropped first."
        raise HubError(NOT_FOUND, f"No refusal{wanted} is kept. {kept}")
    for number, report in enumerate(reports):
        if as_json:
            click.echo(json.dumps(report))
        else:
            click.echo(("\n" if number else "") + explain(report))


def _ask(hub: HubClient, tracking_id: str | None, device: str | None, count: int) -> Reports:
    wanted = {"trackingId": identifier_of(tracking_id)} if tracking_id else {"device": device} if device else {}
    reports: Reports = hub.call("GET", f"/$muster/why?{urlencode({**wanted, 'count': count})}")["refusals"]
    return reports


async def _read(hub: OfflineHub, tracking_id: str | None, device: str | None, count: int) -> Reports:
    if tracking_id is None:
        return [refusal.report for refusal in await hub.refusals.newest(device, count)]
    found = await hub.refusals.find(tracking_id)
    return [] if found is None else [found.report]
