"""``/$muster/meters`` and ``/metrics``: what passes through the hub, and how much of it may."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from muster.access.roles import DataAction
from muster.core.ambient import iso
from muster.core.meters import Meters, QuotaReading, Reading
from muster.core.throttles import Plan
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.verdict import Right

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

Lines = Callable[[], Iterable[str]]
"""Gives lines for Prometheus."""
Connected = Callable[[], Awaitable[Mapping[str, int]]]
"""Tells how many devices are connected to each node."""


class MeterOperations:
    """The meters of one hub. What they answer is not part of Azure's interface."""

    def __init__(self, meters: Meters, more: Lines = tuple, connected: Connected | None = None) -> None:
        """``more`` gives further lines for Prometheus."""
        self._meters = meters
        self._more = more
        self._connected = connected

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        actions = (DataAction.STATISTICS_READ,)
        return [
            Operation("GET", "/$muster/meters", Right.REGISTRY_READ, self.meters, actions=actions),
            Operation("GET", "/metrics", Right.REGISTRY_READ, self.metrics, actions=actions),
        ]

    async def meters(self, _: Call) -> Response:
        """``{"tier", "units", "operations": [...], "quota"}``; all but the operations is ``null`` without throttles.

        An operation has the counts since the start of the hub (``accepted``, of these ``delayed``, and ``refused``) in
        its ``unit``, ``rate`` (accepted a second, of the last minute at most; ``null`` when nobody has looked before),
        and ``limit`` for each ``seconds``.
        """
        plan, quota = self._meters.plan, self._meters.quota()
        return json_answer(
            {
                "tier": None if plan is None else plan.tier.value,
                "units": None if plan is None else plan.units,
                "operations": [operation_body(reading) for reading in self._meters.look()],
                "quota": None if quota is None else quota_body(quota),
            }
        )

    async def metrics(self, _: Call) -> Response:
        """The same as Prometheus reads it."""
        lines = [*_operations(self._meters.look(), self._meters.plan)]
        quota = self._meters.quota()
        if quota is not None:
            lines += family("muster_quota_messages", "gauge", "Messages of a day.", [("", quota.messages)])
            lines += family("muster_quota_used", "gauge", "Messages used since midnight UTC.", [("", quota.used)])
        if self._connected is not None:
            samples = [(f'{{node="{node}"}}', count) for node, count in (await self._connected()).items()]
            lines += family("muster_connected_devices", "gauge", "Devices connected, by node that lives.", samples)
        lines += self._more()
        return Response(body="".join(f"{line}\n" for line in lines).encode(), headers={"Content-Type": PROMETHEUS})


def operation_body(reading: Reading) -> dict[str, Any]:
    """A meter as JSON."""
    row = reading.throttle
    return {
        "name": row.name,
        "unit": row.unit,
        "accepted": reading.accepted,
        "delayed": reading.delayed,
        "refused": reading.refused,
        "rate": None if reading.rate is None else round(reading.rate, 3),
        "limit": reading.limit,
        "seconds": row.seconds,
    }


def quota_body(quota: QuotaReading) -> dict[str, Any]:
    """The day's quota as JSON."""
    return {
        "messages": quota.messages,
        "blockBytes": quota.block,
        "used": quota.used,
        "resetsAt": iso(quota.resets_at),
    }


def _operations(readings: Sequence[Reading], plan: Plan | None) -> Iterator[str]:
    """Three counters, and the limits as rates, in Prometheus' text format."""
    for outcome, help_ in (
        ("accepted", "Operations let in, those that had to wait included."),
        ("delayed", "Operations that had to wait for their turn."),
        ("refused", "Operations refused above the rate or the quota."),
    ):
        samples = [(f'{{operation="{one.throttle.name}"}}', getattr(one, outcome)) for one in readings]
        yield from family(f"muster_operations_{outcome}_total", "counter", help_, samples)
    if plan is not None:
        limits = [
            (f'{{operation="{one.throttle.name}"}}', plan.limit(one.throttle) / one.throttle.seconds)
            for one in readings
        ]
        yield from family("muster_operations_limit", "gauge", "Operations a second that the tier allows.", limits)


def family(name: str, kind: str, help_: str, samples: Sequence[tuple[str, float]]) -> list[str]:
    """A family of samples in Prometheus' text format, each with its labels."""
    return [
        f"# HELP {name} {help_}",
        f"# TYPE {name} {kind}",
        *(f"{name}{labels} {value!r}" for labels, value in samples),
    ]
