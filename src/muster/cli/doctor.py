"""``muster doctor``: what works today and will hurt, and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, running
from muster.core.ambient import SystemAmbient
from muster.core.errors import INVALID_OPERATION, HubError
from muster.node.device_authority import DeviceAuthorityFiles

_MOST_APART = 30.0
_MARKS = {"bad": "✗", "warning": "!", "notice": "-"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one finding a line.")
@data_option
@login_options
def doctor(*, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """Look for what works today and will hurt: certificates that end, shared or weak credentials, clocks, and where
    there are several nodes these, PostgreSQL and NATS.

    Ends with 1 when something is bad.
    """
    target = running(data, login, ca)
    if not isinstance(target, HubClient):
        target.release()
        raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")
    before = SystemAmbient.now()
    answer = target.call("GET", "/$muster/doctor")
    findings = [*_clock(answer["now"], before, SystemAmbient.now()), *answer["findings"], *_files(data, login)]
    for finding in findings:
        if as_json:
            click.echo(json.dumps(finding))
        else:
            click.echo(f"{_MARKS[finding['level']]} {finding['what']}\n    {finding['remedy']}")
    if not as_json:
        if not answer["complete"]:
            click.echo(f"Only the first {answer['devices']} devices were looked at.")
        if not findings:
            click.echo(f"Nothing to see to; {answer['devices']} devices were looked at.")
    if any(finding["level"] == "bad" for finding in findings):
        raise click.exceptions.Exit(1)


def _clock(hub: float, before: float, after: float) -> list[dict[str, Any]]:
    apart = max(before - hub, hub - after, 0.0)
    if apart <= _MOST_APART:
        return []
    what = f"The clocks of the hub and of this machine are {apart:.0f} s apart."
    remedy = "Let both follow a time server (NTP): tokens and certificates are judged by the hub's clock."
    return [{"level": "warning", "name": "clocks-apart", "what": what, "remedy": remedy}]


def _files(data: Path, login: str | None) -> list[dict[str, Any]]:
    key = DeviceAuthorityFiles(data).path / "root.key"
    if login is not None or not key.exists():
        return []
    what = f"The root's private key lies beside the hub, in {key}."
    remedy = "Move it to a safe place; it is needed only to make another issuing authority."
    return [{"level": "warning", "name": "root-key-online", "what": what, "remedy": remedy}]
