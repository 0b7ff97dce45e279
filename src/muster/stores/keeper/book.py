"""Whose sessions are where, who reads which partition, and which workers are alive, in the memory of the keeper.

Nothing of it has to survive: when the keeper goes all sessions and readers of the machine end (``sessions.lease``), and
begin anew. A row stays when a session ends, for it tells since when; it goes with its identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from sys import intern
from typing import Any

from muster.core.ambient import SystemAmbient
from muster.sessions.contract import Claimed, Leased, Present, node_of

Place = str
"""Hub, device id and module id (empty for the device itself), which hold no line break, a line each; of readers, a hub
and the place."""


class _Row:
    __slots__ = ("changed", "connected", "epoch", "generation_id", "holders", "lease")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.generation_id = ""
        self.lease = ""
        self.holders: tuple[str, ...] = ()
        self.connected = False
        self.changed = 0.0


class _Lease:
    __slots__ = ("about", "devices", "since", "until")

    def __init__(self, about: Mapping[str, Any], since: float, until: float) -> None:
        self.about, self.since, self.until = about, since, until
        self.devices: Mapping[str, int] = {}


class SessionBook:
    """What ``sessions.contract`` asks of a ``SessionDirectory``, a ``SeatStore`` and a ``LeaseStore``, by calls that
    are done when they return."""

    def __init__(self) -> None:
        self._run = SystemAmbient.random_bytes(4).hex()
        """In the names of leases, that none is given again by the next keeper."""
        self._rows: dict[Place, _Row] = {}
        self._begun = 0
        """The highest epoch of a row that has gone: later ones go on from there."""
        self._seats: dict[Place, str] = {}
        self._leases: dict[str, _Lease] = {}
        self._numbers = count(1)

    # --- sessions

    def claim(self, place: Place, generation_id: str, lease: str, at: float) -> Claimed:
        """See ``SessionDirectory``."""
        row = self._rows.get(place)
        if row is None:
            row = self._rows[place] = _Row(self._begun)
        lease = intern(lease)
        row.generation_id, row.lease, row.connected, row.changed = generation_id, lease, True, at
        row.epoch += 1
        row.holders = (*(holder for holder in row.holders if holder != lease), lease)
        return Claimed(row.epoch, row.holders)

    def alone(self, place: Place, epoch: int, lease: str) -> None:
        """See ``SessionDirectory``."""
        row = self._rows.get(place)
        if row is not None and row.connected and (row.epoch, row.lease) == (epoch, lease):
            row.holders = (row.lease,)

    def release(self, place: Place, epoch: int, lease: str, at: float) -> None:
        """See ``SessionDirectory``."""
        row = self._rows.get(place)
        if row is not None and (row.epoch, row.lease) == (epoch, lease):
            row.holders = tuple(holder for holder in row.holders if holder != lease)
            row.connected, row.changed = False, at

    def find(self, place: Place) -> str | None:
        """See ``SessionDirectory``."""
        row = self._rows.get(place)
        return row.lease if row is not None and row.connected and row.lease in self._leases else None

    def present(self, places: Sequence[Place]) -> list[Present | None]:
        """See ``SessionDirectory``."""
        rows = map(self._rows.get, places)
        return [
            Present(row.connected and row.lease in self._leases, row.changed) if row and row.generation_id else None
            for row in rows
        ]

    def forget(self, place: Place, generation_id: str) -> None:
        """See ``SessionDirectory``."""
        row = self._rows.get(place)
        if row is None or row.connected or row.generation_id != generation_id:
            return
        if any(holder in self._leases for holder in row.holders):
            row.generation_id = ""
        else:
            self._begun = max(self._begun, row.epoch)
            del self._rows[place]

    # --- readers

    def swap(self, place: Place, old: str, new: str) -> str | None:
        """See ``SeatStore``."""
        present = self._seats.get(place, "")
        if present != old:
            return present
        if new:
            self._seats[place] = new
        else:
            self._seats.pop(place, None)
        return None

    # --- leases

    def register(self, node: str, seconds: float, about: Mapping[str, Any]) -> str:
        """See ``LeaseStore``."""
        lease = intern(f"{node}/{self._run}.{next(self._numbers)}")
        self._leases[lease] = _Lease(about, SystemAmbient.now(), SystemAmbient.monotonic() + seconds)
        return lease

    def renew(self, lease: str, seconds: float, devices: Mapping[str, int]) -> list[str] | None:
        """See ``LeaseStore``."""
        present = self._leases.get(lease)
        if present is None:
            return None
        now = SystemAmbient.monotonic()
        present.until, present.devices = now + seconds, devices
        return [other for other, its in self._leases.items() if its is not present and its.until > now]

    def expire(self, lease: str) -> float:
        """See ``LeaseStore``."""
        present = self._leases.get(lease)
        left = 0.0 if present is None else present.until - SystemAmbient.monotonic()
        if left > 0:
            return left
        self.give_up(lease)
        return 0.0

    def give_up(self, lease: str) -> None:
        """See ``LeaseStore``."""
        self._leases.pop(lease, None)

    def gone(self, node: str) -> None:
        """The worker has ended: its sessions are free at once."""
        for lease in [lease for lease in self._leases if node_of(lease) == node]:
            self.give_up(lease)

    def devices(self, hub: str) -> int:
        """See ``LeaseStore``."""
        now = SystemAmbient.monotonic()
        return sum(lease.devices.get(hub, 0) for lease in self._leases.values() if lease.until > now)

    def nodes(self) -> list[Leased]:
        """See ``LeaseStore``."""
        now = SystemAmbient.monotonic()
        return [Leased(name, its.about, its.since, its.until - now, its.devices) for name, its in self._leases.items()]
