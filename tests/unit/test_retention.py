"""Retention that is given another age while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from muster.messages.contract import TelemetryLog
from muster.messages.retention import Retention
from muster.testing.clock import VirtualAmbient

START = 1_000_000.0


class TrimmedLog:
    """What is asked of the log: up to when in seconds."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    async def trim(self, now_ms: int, keep_ms: int, _: int) -> Sequence[int]:
        self.asked.append((now_ms - keep_ms) / 1000)
        return [0]


async def rounds() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_another_age_counts_at_once_and_from_then_on() -> None:
    log, ambient = TrimmedLog(), VirtualAmbient(START)
    retention = Retention(cast(TelemetryLog, log), ambient, seconds=100.0, limit_bytes=1, trimmed=lambda first: None)
    retention.start()
    await rounds()
    assert set(log.asked) == {START - 100}
    log.asked.clear()
    retention.keep(40.0)
    await rounds()
    assert set(log.asked) == {START - 40}, "not only when the next look is due"
    log.asked.clear()
    retention.keep(40.0)
    await rounds()
    assert log.asked == [], "nothing has changed"
    ambient.advance(4)  # a tenth of the new age
    await rounds()
    assert set(log.asked) == {START - 36}
    await retention.stop()
