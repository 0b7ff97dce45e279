"""Readers of partitions on several nodes: one rule for all of a hub, and who has to end has ended.

Who reads a place (a partition, in a consumer group) is a text in a store, a *seat* for each reader, which whoever comes
or goes swaps for another. The seat of a reader that is pushed out stays in the text, marked, until its node has said
that it has ended, or its lease is over, and with that all of its readers (``sessions.lease``); who comes meanwhile
waits for that too. So it does not matter which nodes die in between, nor whether the store did what it did not confirm.
Before somebody is refused, the nodes whose readers stand in his way are asked whether they still have them: a seat may
be left behind by a node that died, or that did not reach the store when a reader went. Events pass none of this.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from itertools import count, groupby
from typing import Any, NamedTuple, TypeVar

from muster.core.bus import NodeBus
from muster.core.errors import READER_REPLACED, UNAVAILABLE, HubError
from muster.core.limits import CONSUMER_READERS
from muster.messages.readers import Evicted, Leave, Reader, pushed_out, replaced_by
from muster.sessions.contract import SeatStore, node_of
from muster.sessions.lease import Lease

WAIT_SECONDS = 15.0
"""How long a reader waits at most for the end of those that it pushes out before it is refused; clients come again."""
_ASK_SECONDS = 5.0
_THERE_SECONDS = 1.0
"""Within which a node says whether it still has a reader; else it has."""
_AGAIN_SECONDS = 0.5
_END, _THERE = "readers.end", "readers.there"

T = TypeVar("T")
log = logging.getLogger("muster.sessions")


class _Seat(NamedTuple):
    """``over``: the reader has been pushed out, and its node has not said yet that it has ended."""

    reader: Reader
    over: bool = False

    @property
    def holder(self) -> str:
        """The lease of its node."""
        return self.reader.id.rpartition("#")[0]


class SharedReaders:
    """``messages.readers.PartitionReaders`` of one hub on one of several nodes. ``close`` it when the hub closes."""

    def __init__(self, hub: str, store: SeatStore, lease: Lease, bus: NodeBus) -> None:
        """``bus`` is the hub's."""
        self._hub, self._store, self._lease, self._bus = hub, store, lease, bus
        self._here: dict[str, Evicted] = {}
        """Readers on this node that have not been told to end, by id."""
        self._numbers = count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unlisten = lease.when_lost(self._lost)
        bus.answer(_END, self._end_here)
        bus.answer(_THERE, self._still_here)

    async def close(self) -> None:
        """Return when the store knows of all readers that have gone."""
        self._unlisten()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def join(self, group: str, partition: int, *, name: str, epoch: int | None, evicted: Evicted) -> Leave:
        """See ``PartitionReaders``."""
        if not self._lease.held:
            raise HubError(UNAVAILABLE, "this node has lost its lease and takes no receivers now; try again")
        reader = Reader(f"{self._lease.name}#{next(self._numbers)}", name, epoch)
        place = f"{group.lower()}/{partition}"
        self._here[reader.id] = evicted  # others may ask for its end as soon as it is in the store
        sitting = self._run(self._sit(place, reader))

        def leave() -> None:
            if self._here.pop(reader.id, None) is not None:
                self._run(self._stand_up(place, reader, sitting))

        try:
            over, text = await asyncio.shield(sitting)
            if over:
                await self._end_all(reader, over)
                self._run(self._strike(place, {seat.reader.id for seat in over}, text))
            if reader.id not in self._here:
                raise HubError(UNAVAILABLE, "the place was lost again before it was taken; try again")
        except BaseException:
            leave()
            raise
        return leave

    # --- seats

    async def _sit(self, place: str, reader: Reader) -> tuple[list[_Seat], str]:
        """Take a seat. The seats of those that must have ended, and what is in the store now."""
        old, gone = "", set[str]()
        while True:
            seats = [seat for seat in _seats(old) if seat.reader.id not in gone]
            try:
                replaced = pushed_out([seat.reader for seat in seats if not seat.over], reader, CONSUMER_READERS.open)
            except HubError:
                found = await self._gone(seats)
                if not found:
                    raise
                gone |= found
                continue
            over = [seat._replace(over=True) for seat in seats if seat.over or seat.reader in replaced]
            staying = [seat for seat in seats if not seat.over and seat.reader not in replaced]
            new = _text([*over, *staying, _Seat(reader)])
            there = await self._store.swap(self._hub, place, old, new)
            if there is None:
                return over, new
            old = there

    async def _stand_up(self, place: str, reader: Reader, sitting: asyncio.Task[tuple[list[_Seat], str]]) -> None:
        text = ""
        with suppress(HubError):  # the store may have done what it did not confirm
            _, text = await sitting
        await self._strike(place, {reader.id}, text)

    async def _strike(self, place: str, ids: set[str], text: str) -> None:
        """Take the seats of ``ids`` away; ``text`` is what may be in the store. Where that fails they stay, and go when
        they stand in somebody's way."""
        there: str | None = text
        try:
            while there is not None:
                seats = _seats(there)
                left = [seat for seat in seats if seat.reader.id not in ids]
                if there and len(left) == len(seats):
                    return
                there = await self._store.swap(self._hub, place, there, _text(left))
        except HubError as error:
            log.info("%s: that receivers have gone is not in the store: %s", place, error)

    # --- this node and others

    async def _end_all(self, reader: Reader, over: Sequence[_Seat]) -> None:
        """Return when the readers of ``over`` have ended, or all readers of their nodes have. Raises ``HubError``."""
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await asyncio.gather(*(self._end_at(holder, reader, some) for holder, some in _by_holder(over)))
        except TimeoutError:
            nodes = ", ".join(node_of(holder) for holder, _ in _by_holder(over))
            raise HubError(UNAVAILABLE, f"an older receiver on {nodes} has not ended in time; try again") from None

    async def _end_at(self, holder: str, reader: Reader, seats: Iterable[_Seat]) -> None:
        told = [[seat.reader.id, replaced_by(reader, seat.reader).message] for seat in seats]
        question = json.dumps(told).encode()
        answer = await self._end_here(question) if holder == self._lease.name else None
        while answer is None:
            answer = await self._lease.answer_of(holder, self._bus, _END, question, seconds=_ASK_SECONDS)
            await asyncio.sleep(_AGAIN_SECONDS if answer is None else 0)

    async def _gone(self, seats: Sequence[_Seat]) -> set[str]:
        """The ids of those among ``seats`` that nobody sits on any more."""

        async def gone_at(holder: str, some: Sequence[_Seat]) -> set[str]:
            ids = [seat.reader.id for seat in some]
            if holder == self._lease.name:
                return set(ids) - set(self._here)
            question = json.dumps(ids).encode()
            there = await self._lease.answer_of(holder, self._bus, _THERE, question, seconds=_THERE_SECONDS)
            return set() if there is None else set(ids) - set(json.loads(there or b"[]"))

        return set().union(*await asyncio.gather(*(gone_at(*one) for one in _by_holder(seats))))

    async def _end_here(self, question: bytes) -> bytes:
        for reader_id, text in json.loads(question):
            self._evict(reader_id, HubError(READER_REPLACED, text))
        return b""

    async def _still_here(self, question: bytes) -> bytes:
        return json.dumps([reader_id for reader_id in json.loads(question) if reader_id in self._here]).encode()

    # --- within

    def _evict(self, reader_id: str, error: HubError) -> None:
        evicted = self._here.pop(reader_id, None)
        if evicted is not None:
            evicted(error)

    def _lost(self) -> None:
        """Others may take the places unasked."""
        for reader_id in tuple(self._here):
            self._evict(reader_id, HubError(UNAVAILABLE, "this node has lost its lease; try again"))

    def _run(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the reader that waited may be gone


def _seats(text: str) -> list[_Seat]:
    return [_Seat(Reader(*one), over) for *one, over in json.loads(text or "[]")]


def _text(seats: Sequence[_Seat]) -> str:
    return json.dumps([[*seat.reader, seat.over] for seat in seats]) if seats else ""


def _by_holder(seats: Iterable[_Seat]) -> list[tuple[str, list[_Seat]]]:
    found = sorted(seats, key=lambda seat: seat.holder)
    return [(holder, list(some)) for holder, some in groupby(found, key=lambda seat: seat.holder)]
