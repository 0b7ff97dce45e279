"""Who has the process to himself."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import pytest

from muster.core.company import ALONE_SECONDS, Company
from muster.heads.poller import READ, Poller


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Reader:
    """Takes one byte each time it is told, and counts the bytes."""

    def __init__(self, sock: socket.socket, all_came: asyncio.Event, wanted: int) -> None:
        self._sock, self._all_came, self._wanted = sock, all_came, wanted
        self.told = 0

    def ready(self, events: int) -> None:
        assert events & READ
        self._sock.recv(1)
        self.told += 1
        if self.told == self._wanted:
            self._all_came.set()


@pytest.fixture
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    pairs = [socket.socketpair() for _ in range(2)]
    yield pairs
    for pair in pairs:
        for sock in pair:
            sock.close()


async def heard(company: Company, poller: Poller, *pairs: tuple[socket.socket, socket.socket], count: int = 1) -> None:
    """``count`` bytes come on each of ``pairs``, and are taken."""
    events = []
    for sock, peer in pairs:
        peer.send(bytes(count))
        events.append(asyncio.Event())
        poller.change(sock.fileno(), 0, READ, Reader(sock, events[-1], count))
    for event in events:
        async with asyncio.timeout(10):
            await event.wait()
    for sock, _ in pairs:
        poller.change(sock.fileno(), READ, 0, Reader(sock, asyncio.Event(), 0))


async def test_one_that_goes_on_is_alone_until_another_is_heard(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    clock = Clock()
    company = Company(clock)
    poller = Poller(asyncio.get_running_loop(), company)
    first, second = pairs
    await heard(company, poller, first)
    assert not company.alone(), "it was not there before"
    clock.now += ALONE_SECONDS
    assert company.alone()
    await heard(company, poller, first, count=3)
    assert company.alone()
    await heard(company, poller, second)
    assert not company.alone()
    clock.now += ALONE_SECONDS - 0.01
    assert not company.alone()
    clock.now += 0.02
    assert company.alone()
    poller.close()


async def test_two_that_are_heard_in_one_round_are_not_alone(
    pairs: list[tuple[socket.socket, socket.socket]],
) -> None:
    clock = Clock()
    company = Company(clock)
    pollers = [Poller(asyncio.get_running_loop(), company) for _ in pairs]
    await heard(company, pollers[0], *pairs)
    for _ in range(3):
        clock.now += ALONE_SECONDS
        assert company.alone()
        await heard(company, pollers[0], *pairs)
        assert not company.alone()
    await heard(company, pollers[0], pairs[0])
    for index in (1, 0, 1):
        clock.now += ALONE_SECONDS
        assert company.alone()
        await heard(company, pollers[index], pairs[index])
        assert not company.alone(), "it does not matter which listener has accepted them"
    for poller in pollers:
        poller.close()
