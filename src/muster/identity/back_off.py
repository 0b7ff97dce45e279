"""How long the answer to a failed authentication waits: who fails again and again hears of it ever later.

Only refusals wait, and only after the verdict. So nobody can be locked out by the failures of others: a credential that
is good lets in at once, also from an address, or behind a NAT, where thousands fail. What is won is that clients which
try again as soon as they are refused come ever more seldom, and that their handshakes do not crowd out the others'.

Failures are counted by address, and by address and principal together; never by principal alone, for then a stranger
could make the owner's mistakes dear. Each count is a bucket that leaks: some failures are free, further ones double the
wait, and the most is soon forgotten. Clients on the machine itself (127.0.0.1, ::1) are not counted: there developers
try things out, and a proxy's clients would all be one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address
from typing import NamedTuple

from muster.core.door_limits import (
    BACK_OFF_ADDRESSES,
    BACK_OFF_FREE,
    BACK_OFF_FREE_ADDRESS,
    BACK_OFF_HELD,
    BACK_OFF_MOST,
)
from muster.identity.network import address_of, host_of

_OWN = frozenset({"127.0.0.1", "::1", ""})
_FIRST = 0.1
_DOUBLINGS = 7
_PREFIX = 64  # of an IPv6 address: who has one has them all


class _Kind(NamedTuple):
    """``free`` failures cost nothing; ``leak`` of them are forgotten each second."""

    free: int
    leak: float


_ADDRESS = _Kind(BACK_OFF_FREE_ADDRESS.open, 1.0)
_BOTH = _Kind(BACK_OFF_FREE.open, 0.1)


class _Bucket(NamedTuple):
    level: float
    at: float


class BackOff:
    """The failures of late at one hub. Bounded: with too many addresses those that failed longest ago are
    forgotten."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """``monotonic``: seconds of any clock that never goes back."""
        self._monotonic = monotonic
        self._recent: dict[tuple[str, str], _Bucket] = {}
        self._earlier: dict[tuple[str, str], _Bucket] = {}
        self._held: dict[str, int] = {}
        self._all_held = 0

    def failed(self, peer: str, principal: str) -> None:
        """Who says that he is ``principal`` (empty for nobody) failed from ``peer`` (``address:port``)."""
        source = _source(peer)
        if source in _OWN:
            return
        self._count((source, ""), _ADDRESS)
        if principal:
            self._count((source, principal), _BOTH)

    def wait(self, peer: str, principal: str = "") -> float:
        """For how many seconds the answer to a failure that was counted waits, 0 for none."""
        source = _source(peer)
        if source in _OWN:
            return 0.0
        return max(self._seconds((source, ""), _ADDRESS), self._seconds((source, principal), _BOTH) if principal else 0)

    @contextmanager
    def holding(self, peer: str) -> Iterator[bool]:
        """An answer is held back within the block; whether that may be: only so many are, and no more of an address
        than a tenth of them."""
        source, most = _source(peer), BACK_OFF_HELD.open
        of_source = self._held.get(source, 0)
        if self._all_held >= most or of_source >= max(1, most // 10):
            yield False
            return
        self._all_held += 1
        self._held[source] = of_source + 1
        try:
            yield True
        finally:
            self._all_held -= 1
            if self._held[source] == 1:
                del self._held[source]
            else:
                self._held[source] -= 1

    def _level(self, key: tuple[str, str], kind: _Kind) -> float:
        bucket = self._recent.get(key) or self._earlier.get(key)
        return 0.0 if bucket is None else max(0.0, bucket.level - (self._monotonic() - bucket.at) * kind.leak)

    def _count(self, key: tuple[str, str], kind: _Kind) -> None:
        level = min(self._level(key, kind) + 1, float(kind.free + _DOUBLINGS))
        if key not in self._recent and len(self._recent) >= BACK_OFF_ADDRESSES.open:
            self._earlier, self._recent = self._recent, {}
        self._recent[key] = _Bucket(level, self._monotonic())

    def _seconds(self, key: tuple[str, str], kind: _Kind) -> float:
        over = self._level(key, kind) - kind.free
        return 0.0 if over <= 0 else min(_FIRST * 2.0 ** (over - 1), float(BACK_OFF_MOST.open))


def _source(peer: str) -> str:
    """Whose failures count together: an IPv4 address, or the network of an IPv6 one."""
    host = host_of(peer)
    address = address_of(host)
    if isinstance(address, IPv6Address) and not address.is_loopback:
        return f"{IPv6Address(int(address) >> (128 - _PREFIX) << (128 - _PREFIX))}/{_PREFIX}"
    return host if address is None else str(address)
