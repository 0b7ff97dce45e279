"""A verdict made readable: what `muster why` prints, and the JSON form in which it travels and is kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from muster.core.ambient import iso
from muster.identity.causes import BY_NAME
from muster.identity.verdict import Outcome, Verdict

_MARKS = {Outcome.PASSED.value: "✓", Outcome.FAILED.value: "✗", Outcome.SKIPPED.value: "–"}  # noqa: RUF001 - a dash, not a minus


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


def _lines(report: Mapping[str, Any]) -> Iterable[str]:
    verb = "was let in" if report["allowed"] else "was refused"
    yield (
        f"{report['principal']} {verb}: {report['headline']}"
        if report["headline"]
        else f"{report['principal']} {verb}."
    )
    if report["remedy"]:
        yield f"What to do: {report['remedy']}"
    yield ""
    yield f"  when      {report['at']}"
    yield f"  from      {report['peer']} over {report['transport']}"
    if report["cause"]:
        yield f"  cause     {report['cause']}"
    if report["error"]:
        yield f"  answered  {_answer(report['error'])}"
    yield f"  tracking  {report['trackingId']}"
    yield ""
    for check in report["checks"]:
        yield from _check_lines(check)


def _answer(error: Mapping[str, Any]) -> str:
    return (
        f"{error['code']} {error['name']} (HTTP {error['httpStatus']}, AMQP {error['amqpCondition']}, "
        f"MQTT CONNACK {error['mqttReturnCode']})"
    )


def _check_lines(check: Mapping[str, str]) -> Iterable[str]:
    mark = _MARKS.get(check["outcome"], "?")
    if check["outcome"] != Outcome.FAILED:
        yield f"  {mark} {check['name']:<15} {check['seen']}".rstrip()
        return
    yield f"  {mark} {check['name']:<15} expected: {check['expected']}"
    yield f"    {'':<15} seen:     {check['seen']}"
    yield f"    {'':<15} remedy:   {check['remedy']}"
