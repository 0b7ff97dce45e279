"""Refused attempts, kept so that `muster why` can explain them: the newest in memory, more of them in a store.

Whatever comes in, time and memory stay bounded: memory holds so many verdicts and so many of one principal,
and only so many a second are handed to the store. The counts by cause count all.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from muster.core.ambient import Ambient
from muster.core.limits import REFUSALS_IN_MEMORY, REFUSALS_PER_PRINCIPAL, REFUSALS_WRITTEN, Profile
from muster.core.rate import RateLimit
from muster.identity.back_off import BackOff
from muster.identity.explain import to_json
from muster.identity.verdict import Verdict

_BURST_SECONDS = 10
_FAILURES = (401, 404)
"""What is answered to a credential that does not count, and to who is not known."""


class KeptRefusal(NamedTuple):
    """A refusal as it is kept. ``report`` is the verdict's JSON form (``identity.explain.to_json``)."""

    tracking_id: str
    at: float
    principal: str
    report: Mapping[str, Any]

    @property
    def identifier(self) -> str:
        """See ``identifier_of``."""
        return identifier_of(self.tracking_id)


def identifier_of(tracking_id: str) -> str:
    """The part of a tracking id that is unique: its 32 hex digits, in lower case, without the dashes that the
    provisioning service writes between them. The rest people leave off."""
    return tracking_id.strip().replace("-", "")[:32].lower()


class RefusalStore(Protocol):
    """Keeps refusals over restarts, the oldest dropped first.

    Promises: ``keep`` returns at once and never raises. Does not promise that what was handed over is ever
    stored: refusals are no reason to fail or to wait.
    """

    def keep(self, refusal: KeptRefusal) -> None:
        """Store it some time soon."""
        ...

    async def find(self, tracking_id: str) -> KeptRefusal | None:
        """The refusal with this tracking id, of which ``identifier_of`` counts."""
        ...

    async def newest(self, principal: str | None, limit: int) -> Sequence[KeptRefusal]:
        """Up to ``limit`` refusals, newest first: all, or those of one principal and its modules."""
        ...


class Refusals:
    """What was refused of late.

    A principal is a device's id, ``device/module``, or a policy's name followed by `` (policy)``.
    """

    def __init__(self, ambient: Ambient, profile: Profile = Profile.OPEN, store: RefusalStore | None = None) -> None:
        self.back_off = BackOff(ambient.monotonic)
        self._most = REFUSALS_IN_MEMORY.under(profile)
        self._most_each = REFUSALS_PER_PRINCIPAL.under(profile)
        rate = REFUSALS_WRITTEN.under(profile)
        self._writes = RateLimit(rate, rate * _BURST_SECONDS, ambient.monotonic)
        self._store = store
        self._by_id: dict[str, Verdict] = {}
        self._by_principal: dict[str, deque[str]] = {}
        self._counts: Counter[str] = Counter()
        self.unwritten = 0

    def add(self, verdict: Verdict) -> None:
        """Keep a refusal. Quick, whatever the load."""
        self._counts[verdict.cause] += 1
        if verdict.error is not None and verdict.error.status in _FAILURES:
            self.back_off.failed(verdict.peer, verdict.principal)
        identifier = identifier_of(verdict.tracking_id)
        own = self._by_principal.get(verdict.principal)
        if own is not None and len(own) >= self._most_each:
            del self._by_id[own.popleft()]
        elif len(self._by_id) >= self._most:
            self._drop_oldest()
        self._by_principal.setdefault(verdict.principal, deque()).append(identifier)
        self._by_id[identifier] = verdict
        if self._store is None:
            return
        if self._writes.take():
            self._store.keep(_kept(verdict))
        else:
            self.unwritten += 1

    def _drop_oldest(self) -> None:
        identifier = next(iter(self._by_id))
        principal = self._by_id.pop(identifier).principal
        own = self._by_principal[principal]
        own.popleft()
        if not own:
            del self._by_principal[principal]

    async def find(self, tracking_id: str) -> KeptRefusal | None:
        """The refusal with this tracking id; its first 32 hex digits are enough."""
        verdict = self._by_id.get(identifier_of(tracking_id))
        if verdict is not None:
            return _kept(verdict)
        return None if self._store is None else await self._store.find(tracking_id)

    async def last(self) -> KeptRefusal | None:
        """The newest refusal."""
        found = await self.newest(limit=1)
        return found[0] if found else None

    async def newest(self, principal: str | None = None, limit: int = 10) -> list[KeptRefusal]:
        """Up to ``limit`` refusals, newest first: all, or those of one principal (a device with its modules)."""
        found: dict[str, KeptRefusal] = {}
        for identifier, verdict in reversed(self._by_id.items()):
            if len(found) == limit:
                break
            if principal is None or _is_of(verdict.principal, principal):
                found[identifier] = _kept(verdict)
        if self._store is not None and len(found) < limit:
            for refusal in await self._store.newest(principal, limit):
                found.setdefault(refusal.identifier, refusal)
        return sorted(found.values(), key=lambda refusal: refusal.at, reverse=True)[:limit]

    def counts(self) -> Mapping[str, int]:
        """How many were refused since the start, by cause."""
        return dict(self._counts)


def _is_of(principal: str, wanted: str) -> bool:
    return principal == wanted or principal.startswith(f"{wanted}/")


def _kept(verdict: Verdict) -> KeptRefusal:
    return KeptRefusal(verdict.tracking_id, verdict.at, verdict.principal, to_json(verdict))
