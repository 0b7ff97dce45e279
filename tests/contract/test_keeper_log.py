"""What two workers have of one log at their keeper, and what is left of it when the keeper goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from muster.core.errors import UNAVAILABLE, HubError
from muster.messages.contract import Share
from muster.stores.keeper.link import Link
from muster.stores.keeper.telemetry import KeeperLog
from tests.contract.telemetry_book import PATIENCE, Book, commit, everything, named, records_of
from tests.keepers import KeeperHere

FILE = "telemetry.db"
Open = Callable[[str], Awaitable[KeeperLog]]


@pytest.fixture
async def keeper(tmp_path: Path) -> AsyncIterator[KeeperHere]:
    async with KeeperHere(tmp_path) as here:
        yield here


@pytest.fixture
async def opened(keeper: KeeperHere) -> AsyncIterator[Open]:
    async with AsyncExitStack() as stack:

        async def make(worker: str) -> KeeperLog:
            link = Link(keeper.directory, worker)
            stack.push_async_callback(link.close)
            await link.open()
            return await KeeperLog.open(link, FILE, 2, created_at=1.0)

        yield make


async def test_a_worker_hears_what_others_commit_in_the_order_of_the_log(opened: Open) -> None:
    one, other = await opened("a"), await opened("b")
    book, there = await Book(one).ready(), await Book(other).ready()
    for number in range(50):
        await asyncio.gather(
            commit(one, Share(0, named(0, number, 1))), commit(other, Share(0, named(1, 2 * number, 2)))
        )
    assert await book.until(0, 150) == await there.until(0, 150)
    assert [run.base for run in book.told[0]] == [0, *(run.base + len(run.records) for run in book.told[0][:-1])]
    told = records_of(book.told[0])
    assert [record for record in told if record.startswith(b"0/")] == named(0, 0, 50)
    assert [record for record in told if record.startswith(b"1/")] == named(1, 0, 100)
    assert book.told[1] == []


async def test_nothing_acknowledged_is_lost_with_the_keeper_and_followers_go_on(
    keeper: KeeperHere, opened: Open
) -> None:
    one, other = await opened("a"), await opened("b")
    book = await Book(other).ready()
    acknowledged: list[bytes] = []
    over = asyncio.Event()

    async def send() -> None:
        number = 0
        while not over.is_set():
            record = b"%d" % number
            try:
                await commit(one, Share(0, [record]))
                acknowledged.append(record)
            except HubError:
                await asyncio.sleep(0.01)
            number += 1

    sending = asyncio.ensure_future(send())
    for _ in range(3):
        before = len(acknowledged)
        async with asyncio.timeout(PATIENCE):
            while len(acknowledged) < before + 50:
                await asyncio.sleep(0.01)
        await keeper.die()
        assert not one.reachable
        await asyncio.sleep(0.05)
        await keeper.start()
    over.set()
    await sending
    async with asyncio.timeout(PATIENCE):
        while not one.reachable:
            await asyncio.sleep(0.01)
    await commit(one, Share(0, [b"last"]))
    kept = records_of(await everything(one, 0))
    assert set(acknowledged) <= set(kept)
    await book.until(0, len(kept))
    assert records_of(book.told[0]) == kept


async def test_a_follower_that_does_not_take_what_it_is_sent_has_it_read_for_it_later(
    keeper: KeeperHere, opened: Open
) -> None:
    one, other = await opened("a"), await opened("b")
    book = await Book(other).ready()
    slow = other._link._transport
    assert slow is not None
    slow.pause_reading()
    large = [bytes([number]) * 1_000_000 for number in range(40)]
    for record in large:
        await commit(one, Share(0, [record]))
    deaf = keeper.keeper.workers["b"]
    assert not deaf.roomy
    assert deaf._transport is not None
    assert deaf._transport.get_write_buffer_size() < 16_000_000  # the rest is on the disk
    slow.resume_reading()
    assert records_of(await book.until(0, 40)) == large
    await commit(one, Share(0, [b"live again"]))
    assert records_of(await book.until(0, 41))[-1] == b"live again"


async def test_who_stops_following_hears_nothing_more(opened: Open) -> None:
    one = await opened("a")
    book = await Book(one).ready()
    await book.commit(Share(0, [b"x"]), Share(1, [b"y"]))
    book.unfollow[0]()
    book.unfollow[0]()
    await commit(one, Share(0, [b"z"]))
    await book.commit(Share(1, [b"y"]))
    assert records_of(book.told[0]) == [b"x"]
    assert (await one.state(0)).next == 2


async def test_a_log_that_was_given_up_is_not_written_by_those_who_still_have_it(opened: Open) -> None:
    one, other = await opened("a"), await opened("b")
    await commit(one, Share(0, [b"x"]))
    await KeeperLog.delete(one._link, FILE)
    await KeeperLog.delete(one._link, FILE)
    (one._link._directory / FILE).unlink()
    again = await KeeperLog.open(one._link, FILE, 2, created_at=2.0)
    with pytest.raises(HubError) as refused:
        await commit(other, Share(0, [b"stray"]))
    assert refused.value.row is UNAVAILABLE
    assert await everything(again, 0) == []
    assert again.created_at == 2.0
