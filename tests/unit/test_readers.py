"""Owner levels and shared reading, as Event Hubs has them: in one process, and on nodes that take turns."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from itertools import cycle

import pytest

from muster.core.errors import HubError
from muster.messages.readers import Leave, PartitionReaders, Readers
from muster.sessions.lease import Lease
from muster.sessions.shared_readers import SharedReaders
from tests.node_buses import Nodes
from tests.session_directory import DirectoryHere

Next = Callable[[], PartitionReaders]
"""Where the next reader is connected."""


@pytest.fixture(params=[0, 1, 2], ids=["one process", "one node", "two nodes"])
async def at(request: pytest.FixtureRequest) -> AsyncIterator[Next]:
    if not request.param:
        only = Readers()
        yield lambda: only
        return
    nodes, directory, made = Nodes(), DirectoryHere(), list[SharedReaders]()
    async with AsyncExitStack() as undo:
        for number in range(request.param):
            bus = nodes.bus(f"n{number}")
            lease = Lease(directory, bus)
            await lease.start()
            undo.push_async_callback(lease.stop)
            made.append(SharedReaders("hub", directory, lease, bus))
            undo.push_async_callback(made[-1].close)
        yield cycle(made).__next__


class Seat:
    """One reader and what it was told."""

    leave: Leave

    def __init__(self) -> None:
        self.told: list[HubError] = []


async def sit(at: Next, name: str, epoch: int | None = None, group: str = "g", partition: int = 0) -> Seat:
    seat, readers = Seat(), at()
    seat.leave = await readers.join(group, partition, name=name, epoch=epoch, evicted=seat.told.append)
    return seat


def condition(caught: pytest.ExceptionInfo[HubError]) -> str:
    return caught.value.row.condition


async def test_five_share_a_partition(at: Next) -> None:
    seats = [await sit(at, f"r{n}") for n in range(5)]
    with pytest.raises(HubError, match=r"which is 5.*r0, r1, r2, r3, r4") as caught:
        await sit(at, "r5")
    assert condition(caught) == "amqp:resource-limit-exceeded"
    await sit(at, "other group", group="h")
    await sit(at, "other partition", partition=1)
    seats[2].leave()
    seats[2].leave()
    await sit(at, "r5")
    assert all(seat.told == [] for seat in seats)


async def test_an_epoch_pushes_out_those_without_and_keeps_them_out(at: Next) -> None:
    shared = [await sit(at, "a"), await sit(at, "b")]
    owner = await sit(at, "owner", epoch=0)
    assert [str(seat.told[0].row.condition) for seat in shared] == ["amqp:link:stolen"] * 2
    assert "'owner'" in str(shared[0].told[0])
    with pytest.raises(HubError, match="epoch of '0'") as caught:
        await sit(at, "late", group="G")
    assert condition(caught) == "amqp:link:stolen"
    shared[0].leave()
    with pytest.raises(HubError, match="epoch of '0'"):
        await sit(at, "late")
    owner.leave()
    await sit(at, "late")
    assert [len(seat.told) for seat in (*shared, owner)] == [1, 1, 0]


@pytest.mark.parametrize(("first", "second", "second_wins"), [(1, 2, True), (1, 1, True), (2, 1, False), (1, 0, False)])
async def test_the_higher_epoch_wins_and_of_equals_the_newer(
    at: Next, first: int, second: int, second_wins: bool
) -> None:
    old = await sit(at, "old", epoch=first)
    if second_wins:
        new = await sit(at, "new", epoch=second)
        assert len(old.told) == 1
        old.leave()
        with pytest.raises(HubError):
            await sit(at, "third")
        new.leave()
        await sit(at, "third")
    else:
        with pytest.raises(HubError, match=f"higher epoch '{first}'"):
            await sit(at, "new", epoch=second)
        assert old.told == []


async def test_one_that_is_evicted_may_leave_at_once(at: Next) -> None:
    leave: list[Leave] = []
    leave.append(await at().join("g", 0, name="a", epoch=1, evicted=lambda _: leave[0]()))
    await sit(at, "b", epoch=2)
    with pytest.raises(HubError):
        await sit(at, "c", epoch=1)
