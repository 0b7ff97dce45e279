"""The directory of sessions, the seats of readers and the leases of workers: kept by the keeper, asked for over the
socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson

from muster.core.errors import HubError
from muster.identity.model import IdentityKey
from muster.sessions.contract import Claimed, Leased, Present
from muster.stores.keeper.book import Place, SessionBook
from muster.stores.keeper.frames import words
from muster.stores.keeper.link import Link
from muster.stores.keeper.server import Keeper, Worker

_CALLS = (
    "claim",
    "alone",
    "release",
    "find",
    "present",
    "forget",
    "swap",
    "register",
    "renew",
    "expire",
    "give_up",
    "devices",
    "nodes",
)
_HEADS = {call: words("", "", f"sessions.{call}") for call in _CALLS}


def serve_sessions(keeper: Keeper) -> None:
    """Have ``keeper`` keep a new ``SessionBook``. The leases of a worker that has gone are over at once,
    and those of one that hangs in their time."""
    book = SessionBook()
    for call in _CALLS:
        keeper.answers[f"sessions.{call}"] = partial(_answer, getattr(book, call))
    keeper.when_left.append(lambda worker: None if worker.hangs else book.gone(worker.name))


def _answer(call: Callable[..., Any], worker: Worker, number: int, body: bytes, at: int) -> None:
    worker.answer(number, [orjson.dumps(call(*orjson.loads(body[at:])), default=tuple)])


class _Asks:
    """Asks the keeper's ``SessionBook``."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def _ask(self, call: str, *arguments: Any, read: Callable[[Any], Any] = lambda answer: answer) -> Any:
        """The future of an answer, which ``read`` makes of JSON."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(answer: bytes, error: HubError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(read(orjson.loads(answer)))
            else:
                future.set_exception(error)

        self._link.call(_HEADS[call], (orjson.dumps(arguments),), done)
        return future


class KeeperSessions(_Asks):
    """``sessions.contract.SessionDirectory`` at the keeper."""

    def claim(self, hub: str, key: IdentityKey, generation_id: str, lease: str, at: float) -> asyncio.Future[Claimed]:
        """See ``SessionDirectory``."""
        made: asyncio.Future[Claimed] = self._ask(
            "claim", _place(hub, key), generation_id, lease, at, read=lambda answer: Claimed(*answer)
        )
        return made

    def alone(self, hub: str, key: IdentityKey, epoch: int, lease: str) -> asyncio.Future[None]:
        """See ``SessionDirectory``."""
        done: asyncio.Future[None] = self._ask("alone", _place(hub, key), epoch, lease)
        return done

    def release(self, hub: str, key: IdentityKey, epoch: int, lease: str, at: float) -> asyncio.Future[None]:
        """See ``SessionDirectory``."""
        done: asyncio.Future[None] = self._ask("release", _place(hub, key), epoch, lease, at)
        return done

    async def find(self, hub: str, key: IdentityKey) -> str | None:
        """See ``SessionDirectory``."""
        lease: str | None = await self._ask("find", _place(hub, key))
        return lease

    async def present(self, hub: str, keys: Sequence[IdentityKey]) -> Sequence[Present | None]:
        """See ``SessionDirectory``."""
        found = await self._ask("present", [_place(hub, key) for key in keys])
        return [None if one is None else Present(*one) for one in found]

    async def forget(self, hub: str, key: IdentityKey, generation_id: str) -> None:
        """See ``SessionDirectory``."""
        await self._ask("forget", _place(hub, key), generation_id)


class KeeperSeats(_Asks):
    """``sessions.contract.SeatStore`` at the keeper."""

    async def swap(self, hub: str, place: str, old: str, new: str) -> str | None:
        """See ``SeatStore``."""
        found: str | None = await self._ask("swap", f"{hub}\n{place}", old, new)
        return found


class KeeperLeases(_Asks):
    """``sessions.contract.LeaseStore`` at the keeper."""

    async def register(self, node: str, seconds: float, about: Mapping[str, Any]) -> str:
        """See ``LeaseStore``."""
        lease: str = await self._ask("register", node, seconds, about)
        return lease

    async def renew(self, lease: str, seconds: float, devices: Mapping[str, int]) -> Sequence[str] | None:
        """See ``LeaseStore``."""
        others: list[str] | None = await self._ask("renew", lease, seconds, devices)
        return others

    async def expire(self, lease: str) -> float:
        """See ``LeaseStore``."""
        left: float = await self._ask("expire", lease)
        return left

    async def give_up(self, lease: str) -> None:
        """See ``LeaseStore``."""
        await self._ask("give_up", lease)

    async def devices(self, hub: str) -> int:
        """See ``LeaseStore``."""
        found: int = await self._ask("devices", hub)
        return found

    async def nodes(self) -> Sequence[Leased]:
        """See ``LeaseStore``."""
        return [Leased(*one) for one in await self._ask("nodes")]


def _place(hub: str, key: IdentityKey) -> Place:
    return f"{hub}\n{key.device_id}\n{key.module_id or ''}"
