"""The hub's own operations under ``/$muster``: why somebody was refused, live telemetry, the limits in force."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress

from muster.access.roles import DataAction, StreamAction
from muster.core import limits, throttles
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.limits import Profile
from muster.dialect.json_body import compact
from muster.dialect.record import describe
from muster.heads.http.answers import json_answer
from muster.heads.http.auth import ServiceGate, authorize
from muster.heads.http.messages import Response, StreamResponse
from muster.heads.http.network import check_network
from muster.heads.http.operations import Call, Operation
from muster.identity.network_access import NetworkAccess
from muster.identity.refusals import Refusals
from muster.identity.verdict import Right
from muster.messages.telemetry import Telemetry

_MOST_REFUSALS = 100
_READ_BYTES = 262_144
_LINES_AT_ONCE = 32  # then others get their turn
_IDLE_SECONDS = 1.0
_BEATS = 15  # idle seconds until an empty line tells whether the caller is still there


class AdminOperations:
    """Operations of the command line on a running hub. What they answer is not part of Azure's interface."""

    def __init__(
        self,
        refusals: Refusals,
        telemetry: Telemetry,
        profile: Profile,
        ready: Callable[[], bool],
        *,
        gate: ServiceGate,
        network: NetworkAccess | None = None,
    ) -> None:
        """``ready`` ceases to hold when the node stops; ``network``, and ``gate`` after a change, may refuse who was
        let in: what does not end by itself ends then."""
        self._gate = gate
        self._generation = 0
        """Counts the changes of what tokens count by."""
        self._network = network
        self._refusals = refusals
        self._ready = ready
        self._telemetry = telemetry
        self._profile = profile

    def access_changed(self) -> None:
        """What tokens count by has changed: who still streams is judged again."""
        self._generation += 1

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        devices, counts, events = (DataAction.DEVICES_READ,), (DataAction.STATISTICS_READ,), (StreamAction.RECEIVE,)
        return [
            Operation("GET", "/$muster/why", Right.REGISTRY_READ, self.why, actions=devices),
            Operation("GET", "/$muster/limits", Right.REGISTRY_READ, self.limits, actions=counts),
            Operation("GET", "/$muster/monitor", Right.SERVICE_CONNECT, self.monitor, actions=events),
        ]

    async def why(self, call: Call) -> Response:
        """``{"refusals": [...], "counts": {...}}``: refusals newest first, in the form of ``identity.explain.to_json``.

        Query: ``trackingId`` for that one, ``device`` for those of a device and its modules, neither for all;
        ``count`` (1 to 100, default 1) for how many. ``counts`` are all refusals since the start, by cause.
        Raises ``HubError`` 400004 for a wrong ``count``.
        """
        wanted, device = call.query("trackingId"), call.query("device")
        count = call.number("count", 1, _MOST_REFUSALS, default=1)
        if wanted is not None:
            one = await self._refusals.find(wanted)
            found = [] if one is None else [one]
        else:
            found = await self._refusals.newest(device, count)
        return json_answer({"refusals": [one.report for one in found], "counts": self._refusals.counts()})

    async def limits(self, _: Call) -> Response:
        """Every limit with its value in force, and the rates of every tier; ``/$muster/meters`` says if they are."""
        rows = [{**limit._asdict(), "value": limit.under(self._profile)} for limit in limits.ALL]
        return json_answer(
            {
                "profile": self._profile.value,
                "limits": rows,
                "throttles": [throttles.as_json(row) for row in throttles.ALL],
            }
        )

    async def monitor(self, call: Call) -> StreamResponse:
        """Messages as they are stored, one JSON object a line, until the caller goes or the hub stops.

        An object has the members of ``dialect.record.describe`` and ``partition``; empty lines come while there is
        nothing. Query: ``device`` and ``partition`` for fewer, ``from=start`` for what is kept first. Raises
        ``HubError`` 400004 for a wrong value.
        """
        telemetry, device = self._telemetry, call.query("device")
        if call.query("partition") is not None:
            partitions = [call.number("partition", 0, telemetry.partitions - 1, default=0)]
        elif device is not None:
            partitions = [telemetry.partition_of(device)]
        else:
            partitions = list(range(telemetry.partitions))
        if call.query("from") not in {None, "now", "start"}:
            raise HubError(ARGUMENT_INVALID, "from is neither now nor start, give one of them.")
        from_start = call.query("from") == "start"
        answer = StreamResponse(headers={"Content-Type": "application/x-ndjson", "Cache-Control": "no-store"})
        await answer.prepare(call.request)
        idle, generation = 0, self._generation
        async for lines in _follow(telemetry, partitions, device, from_start=from_start):
            idle = 0 if lines else idle + 1
            if not self._ready():
                break
            if self._network is not None:
                check_network(call, self._network)
            if generation != self._generation:
                generation = self._generation
                await self._judge(call)
            if lines or idle % _BEATS == 0:
                await answer.write(lines or b"\n")
        return answer

    async def _judge(self, call: Call) -> None:
        operation = call.operation
        assert operation is not None, "it was found"
        assert operation.right is not None, "it asks for one"
        pending = authorize(call, operation.right, self._gate, operation.actions)
        if pending is not None:
            await pending


async def _follow(
    telemetry: Telemetry, partitions: list[int], device: str | None, *, from_start: bool
) -> AsyncIterator[bytes]:
    """Joined JSON lines of what is stored in ``partitions``; empty bytes for each second without."""
    news = asyncio.Event()
    states = {partition: await telemetry.look(partition) for partition in partitions}
    at = {partition: state.first if from_start else state.next for partition, state in states.items()}
    with ExitStack() as stack:
        for partition in partitions:
            stack.callback(telemetry.subscribe(partition, news.set))
        while True:
            news.clear()
            more = False
            for partition in partitions:
                lines: list[bytes] = []
                for slice_ in await telemetry.read(partition, at[partition], _READ_BYTES):
                    more = True
                    at[partition] = slice_.base + len(slice_.records)
                    for number, record in enumerate(slice_.records, start=slice_.base):
                        with suppress(ValueError):  # it cannot be read: ``heads.eventhubs`` says so
                            message = describe(record, number, slice_.enqueued_ms)
                            if device is None or message["device_id"] == device:
                                lines.append(compact({"partition": partition, **message}) + b"\n")
                        if number % _LINES_AT_ONCE == 0:
                            yield b"".join(lines)
                            lines.clear()
                            await asyncio.sleep(0)
                if lines:
                    yield b"".join(lines)
            if not more:
                with suppress(TimeoutError):
                    await asyncio.wait_for(news.wait(), _IDLE_SECONDS)
                yield b""
