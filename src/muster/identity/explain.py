"""A verdict made readable: what `muster why` prints, and the JSON form in which it travels and is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from muster.core.ambient import iso
from muster.identity.causes import BREACHES, BY_NAME
from muster.identity.verdict import Outcome, Verdict

_MARKS: dict[str, str] = {Outcome.PASSED: "✓", Outcome.FAILED: "✗", Outcome.SKIPPED: "–"}  # noqa: RUF001 - a dash, not a minus
_AT_CONNECT = {"user-name", "will"}
_ENDED = {cause.name for cause in BREACHES} - _AT_CONNECT
"""What ends an MQTT connection without a word: MQTT 3.1.1 has words for a CONNECT only."""

_CLOSES = _ENDED | _AT_CONNECT
"""What a device of the provisioning service hears outside of an answer."""


def to_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON values. Holds no more secrets than the verdict: none."""
    cause = BY_NAME.get(verdict.cause)
    error = verdict.error
    return {
        "trackingId": verdict.tracking_id,
        "at": iso(verdict.at),
        "transport": verdict.transport,
        "peer": verdict.peer,
        "principal": verdict.principal,
        "allowed": verdict.allowed,
        "cause": verdict.cause,
        "headline": cause.headline if cause is not None else "",
        "remedy": cause.remedy if cause is not None else "",
        "error": None
        if error is None
        else {
            "code": error.code,
            "name": error.name,
            "httpStatus": error.status,
            "amqpCondition": error.condition,
            "mqttReturnCode": error.mqtt,
        },
        "checks": [
            {
                "name": check.name,
                "outcome": check.outcome.value,
                "expected": check.expected,
                "seen": check.seen,
                "remedy": check.remedy,
            }
            for check in verdict.checks
        ],
    }


def explain(report: Mapping[str, Any]) -> str:
    """The JSON form as text for people: a headline, how it was answered, and a line or more for each check."""
    return "\n".join(_lines(report))


def _lines(report: Mapping[str, Any]) -> Iterator[str]:
    who = report["principal"] or "Somebody"
    verb = "was let in" if report["allowed"] else "was refused"
    yield f"{who} {verb}: {report['headline']}" if report["headline"] else f"{who} {verb}."
    if report["remedy"]:
        yield f"What to do: {report['remedy']}"
    yield ""
    yield f"  when      {report['at']}"
    yield f"  from      {report['peer']} over {report['transport']}"
    if report["cause"]:
        yield f"  cause     {report['cause']}"
    if report["error"]:
        yield f"  answered  {_answer(report)}"
    yield f"  tracking  {report['trackingId']}"
    yield ""
    for outcome, checks in groupby(report["checks"], lambda check: check["outcome"]):
        if outcome == Outcome.SKIPPED:
            yield from _skipped_lines(checks)
        else:
            for check in checks:
                yield from _check_lines(check, report["remedy"])


def _answer(report: Mapping[str, Any]) -> str:
    """The error's name, and how the client's protocol says it."""
    error, transport = report["error"], report["transport"]
    if error["name"] == "EnrollmentDisabled":
        said = 'registration status "disabled"'
    elif transport == "tls":
        said = "the TLS handshake came to no end"
    elif transport.startswith("dps-") and transport != "dps-https" and report["cause"] not in _CLOSES:
        said = f"registration answered {error['httpStatus']}"
    elif transport.removeprefix("dps-").startswith("mqtt"):
        # A session that has lost its ground is told with that one check, a CONNECT with all of them.
        alone = [check["name"] for check in report["checks"]] == [report["cause"]]
        ended = report["cause"] in _ENDED or (alone and report["cause"] not in _AT_CONNECT)
        said = "the connection was closed" if ended else f"MQTT CONNACK {error['mqttReturnCode']}"
    elif transport.startswith("amqp"):
        said = f"AMQP {error['amqpCondition']}"
    else:
        said = f"HTTP {error['httpStatus']}"
    return f"{said} ({error['code']} {error['name']})"


def _skipped_lines(checks: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Those that were not made for the same reason share a line."""
    for why, skipped in groupby(checks, lambda check: check["seen"]):
        names = [check["name"] for check in skipped]
        told = f"{names[0]:<15} {why}" if len(names) == 1 else f"{', '.join(names)}: {why}"
        yield f"  {_MARKS[Outcome.SKIPPED]} {told}"


def _check_lines(check: Mapping[str, str], told: str) -> Iterator[str]:
    """``told`` is the remedy that stands at the top already."""
    mark = _MARKS.get(check["outcome"], "?")
    if check["outcome"] != Outcome.FAILED:
        yield f"  {mark} {check['name']:<15} {check['seen']}".rstrip()
        return
    yield f"  {mark} {check['name']:<15} expected: {check['expected']}"
    yield f"    {'':<15} seen:     {check['seen']}"
    if check["remedy"] != told:
        yield f"    {'':<15} remedy:   {check['remedy']}"
