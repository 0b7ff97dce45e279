"""The poller tells of sockets a round at a time, each in its turn."""

from __future__ import annotations

import asyncio
import socket

import pytest

from muster.core.company import Company
from muster.heads import poller as module
from muster.heads.poller import READ, Poller


class Reader:
    """Counts how often it is told; it never reads, so it is told again and again."""

    def __init__(self) -> None:
        self.told = 0

    def ready(self, _events: int) -> None:
        self.told += 1


async def test_many_sockets_are_told_of_in_turns_and_the_loop_goes_on_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVENTS_A_ROUND", 4)
    poller = Poller(asyncio.get_running_loop(), Company())
    pairs = [socket.socketpair() for _ in range(10)]
    readers = [Reader() for _ in pairs]
    try:
        for (here, there), reader in zip(pairs, readers, strict=True):
            there.send(b"x")
            poller.change(here.fileno(), 0, READ, reader)
        most = before = 0
        for _ in range(100):
            await asyncio.sleep(0)
            told = sum(reader.told for reader in readers)
            most, before = max(most, told - before), told
        assert 0 < most <= 4
        assert min(reader.told for reader in readers) > 0
        assert max(reader.told for reader in readers) - min(reader.told for reader in readers) <= 1
    finally:
        poller.close()
        for pair in pairs:
            for sock in pair:
                sock.close()
