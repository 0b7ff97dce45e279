"""A directory of sessions and leases in memory, for tests with several nodes in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from muster.core.errors import UNAVAILABLE, HubError
from muster.identity.model import IdentityKey
from muster.sessions import lease
from muster.sessions.contract import Claimed, Leased, Present

LEASE_SECONDS = 2.0
"""Of leases after ``hasten``."""

Place = tuple[str, IdentityKey]


def hasten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have leases end, and nodes give up, sooner than they do."""
    for name, seconds in (("LEASE", LEASE_SECONDS), ("RENEW", 0.2), ("MARGIN", 0.6), ("_STORE", 0.3), ("_ASK", 0.1)):
        monkeypatch.setattr(lease, f"{name}_SECONDS", seconds)


@dataclass
class Row:
    generation_id: str = ""
    epoch: int = 0
    lease: str = ""
    holders: list[str] = field(default_factory=list)
    connected: bool = False
    changed: float = 0.0


class DirectoryHere:
    """``sessions.contract.SessionDirectory``, ``SeatStore`` and ``LeaseStore``. ``down`` are leases whose node does not
    reach it."""

    def __init__(self) -> None:
        self.rows: dict[Place, Row] = {}
        self.seats: dict[tuple[str, str], str] = {}
        self.leases: dict[str, float] = {}
        self.down: set[str] = set()
        self._devices: dict[str, Mapping[str, int]] = {}
        self._abouts: dict[str, tuple[Mapping[str, Any], float]] = {}
        self._numbers = count(1)

    def _done(self, lease: str, result: object) -> asyncio.Future[object]:
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if self._cut(lease):
            future.set_exception(HubError(UNAVAILABLE))
        else:
            future.set_result(result)
        return future

    def _cut(self, lease: str) -> bool:
        return lease.rpartition("/")[0] in self.down

    def claim(self, hub: str, key: IdentityKey, generation_id: str, lease: str, at: float) -> asyncio.Future[Claimed]:
        if self._cut(lease):
            return self._done(lease, None)  # type: ignore[return-value]
        row = self.rows.setdefault((hub, key), Row())
        row.generation_id, row.lease, row.connected, row.changed = generation_id, lease, True, at
        row.epoch += 1
        row.holders = [holder for holder in row.holders if holder != lease] + [lease]
        return self._done(lease, Claimed(row.epoch, tuple(row.holders)))  # type: ignore[return-value]

    def alone(self, hub: str, key: IdentityKey, epoch: int, lease: str) -> asyncio.Future[None]:
        row = self.rows[hub, key]
        if not self._cut(lease) and (row.epoch, row.lease, row.connected) == (epoch, lease, True):
            row.holders = [lease]
        return self._done(lease, None)  # type: ignore[return-value]

    def release(self, hub: str, key: IdentityKey, epoch: int, lease: str, at: float) -> asyncio.Future[None]:
        row = self.rows[hub, key]
        if not self._cut(lease) and (row.epoch, row.lease) == (epoch, lease):
            row.holders = [holder for holder in row.holders if holder != lease]
            row.connected, row.changed = False, at
        return self._done(lease, None)  # type: ignore[return-value]

    async def find(self, hub: str, key: IdentityKey) -> str | None:
        row = self.rows.get((hub, key))
        return row.lease if row is not None and row.connected and row.lease in self.leases else None

    async def present(self, hub: str, keys: Sequence[IdentityKey]) -> Sequence[Present | None]:
        found = [self.rows.get((hub, key)) for key in keys]
        return [
            None
            if row is None or not row.generation_id
            else Present(row.connected and row.lease in self.leases, row.changed)
            for row in found
        ]

    async def forget(self, hub: str, key: IdentityKey, generation_id: str) -> None:
        row = self.rows.get((hub, key))
        if row is not None and row.generation_id == generation_id and not row.connected:
            row.generation_id = ""

    async def swap(self, hub: str, place: str, old: str, new: str) -> str | None:
        present = self.seats.get((hub, place), "")
        if present != old:
            return present
        self.seats[hub, place] = new
        return None

    # --- leases

    async def register(self, node: str, seconds: float, about: Mapping[str, Any]) -> str:
        lease = f"{node}/{next(self._numbers)}"
        if self._cut(lease):
            raise HubError(UNAVAILABLE)
        self.leases[lease] = asyncio.get_running_loop().time() + seconds
        self._abouts[lease] = (about, time.time())
        return lease

    async def renew(self, lease: str, seconds: float, devices: Mapping[str, int]) -> Sequence[str] | None:
        if self._cut(lease):
            raise HubError(UNAVAILABLE)
        if lease not in self.leases:
            return None
        now = asyncio.get_running_loop().time()
        self.leases[lease], self._devices[lease] = now + seconds, devices
        return [other for other, until in self.leases.items() if other != lease and until > now]

    async def expire(self, lease: str) -> float:
        left = self.leases.get(lease, 0.0) - asyncio.get_running_loop().time()
        if left > 0:
            return left
        self.leases.pop(lease, None)
        return 0.0

    async def give_up(self, lease: str) -> None:
        self.leases.pop(lease, None)

    async def devices(self, hub: str) -> int:
        now = asyncio.get_running_loop().time()
        return sum(self._devices.get(lease, {}).get(hub, 0) for lease, until in self.leases.items() if until > now)

    async def nodes(self) -> Sequence[Leased]:
        now = asyncio.get_running_loop().time()
        return [
            Leased(lease, *self._abouts[lease], until - now, self._devices.get(lease, {}))
            for lease, until in self.leases.items()
        ]
