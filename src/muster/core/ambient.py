"""Time, randomness and ids: the one object that is passed in wherever any of them is needed.

Domain time is what ``Ambient.now`` says, and tests may move it (``muster.testing.clock``). Transport
timeouts (handshakes, keep-alive) use real time, the event loop's, and do not come from here.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


_IDS_AT_ONCE = 64


class Timer(Protocol):
    """A callback that is due later."""

    def cancel(self) -> None:
        """Forget the callback; harmless when it has already run."""


class Ambient(Protocol):
    """What the domain may ask of the world. It does not promise that time never goes back."""

    def now(self) -> float:
        """Seconds since 1970-01-01 UTC, by the domain's clock."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        ...

    def at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` on the loop once ``now()`` has reached ``deadline`` (seconds since 1970)."""
        ...

    def random_bytes(self, count: int) -> bytes:
        """``count`` bytes fit for keys."""
        ...

    def uuid(self) -> uuid.UUID:
        """A fresh random UUID."""
        ...

    def fresh_id(self) -> str:
        """32 random hex digits, to name something by."""
        ...


class SystemAmbient:
    """The machine's own clock and randomness. All but ``at`` and ``fresh_id`` can be had without an instance."""

    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)
    random_bytes = staticmethod(os.urandom)
    uuid = staticmethod(uuid.uuid4)
    _digits, _taken = "", 0

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def at(self, deadline: float, callback: Callable[[], None]) -> Timer:
        """See ``Ambient.at``. Re-armed when the wall clock was set back meanwhile."""
        return _SystemTimer(self._loop, deadline, callback)

    def fresh_id(self) -> str:
        """See ``Ambient.fresh_id``. Random bytes are fetched for many at a time: each call of the system lets go of
        the interpreter's lock, and a writer that works meanwhile gives it back late."""
        start = self._taken
        if start == len(self._digits):
            self._digits, start = os.urandom(_IDS_AT_ONCE * 16).hex(), 0
        self._taken = start + 32
        return self._digits[start : start + 32]


class _SystemTimer:
    __slots__ = ("_callback", "_deadline", "_handle", "_loop")

    def __init__(self, loop: AbstractEventLoop, deadline: float, callback: Callable[[], None]) -> None:
        self._loop, self._deadline, self._callback = loop, deadline, callback
        self._handle = loop.call_later(max(0.0, deadline - time.time()), self._due)

    def _due(self) -> None:
        left = self._deadline - time.time()
        if left > 0.001:
            self._handle = self._loop.call_later(left, self._due)
        else:
            self._callback()

    def cancel(self) -> None:
        self._handle.cancel()


async def pause(ambient: Ambient, seconds: float) -> None:
    """Wait, by the domain's clock."""
    over = asyncio.Event()
    timer = ambient.at(ambient.now() + seconds, over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()


def tracking_id(ambient: Ambient, digits: str = "") -> str:
    """A tracking id in Azure's form: 32 hex digits, ``-G:<n>-TimeStamp:MM/dd/yyyy HH:mm:ss`` (service.md 2.3).

    The digits are ``digits``, or fresh ones.
    """
    return f"{digits or ambient.fresh_id()}-G:0-TimeStamp:{_stamp(int(ambient.now()))}"


def shown_id(request_id: str) -> str:
    """``request_id``, 32 hex digits, as a UUID."""
    return f"{request_id[:8]}-{request_id[8:12]}-{request_id[12:16]}-{request_id[16:20]}-{request_id[20:]}"


@lru_cache(maxsize=4)
def _stamp(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%m/%d/%Y %H:%M:%S")


@lru_cache(maxsize=64)
def iso(moment: float) -> str:
    """``moment`` (seconds since 1970) as Azure prints times: ISO 8601, UTC, seven fraction digits, ``Z``."""
    microseconds = round(moment * 1_000_000)
    return f"{_iso_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06}0Z"


@lru_cache(maxsize=256)
def _iso_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
