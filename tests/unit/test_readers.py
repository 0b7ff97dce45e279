"""Owner levels and shared reading, as Event Hubs has them."""

from __future__ import annotations

import pytest

from muster.core.errors import HubError
from muster.messages.readers import Readers


class Seat:
    """One reader and what it was told."""

    def __init__(self, readers: Readers, name: str, epoch: int | None = None, group: str = "g", partition: int = 0):
        self.told: list[HubError] = []
        self.leave = readers.join(group, partition, name=name, epoch=epoch, evicted=self.told.append)


def condition(caught: pytest.ExceptionInfo[HubError]) -> str:
    return caught.value.row.condition


def test_five_share_a_partition() -> None:
    readers = Readers()
    seats = [Seat(readers, f"r{n}") for n in range(5)]
    with pytest.raises(HubError, match=r"which is 5.*r0, r1, r2, r3, r4") as caught:
        Seat(readers, "r5")
    assert condition(caught) == "amqp:resource-limit-exceeded"
    Seat(readers, "other group", group="h")
    Seat(readers, "other partition", partition=1)
    seats[2].leave()
    seats[2].leave()
    Seat(readers, "r5")
    assert all(seat.told == [] for seat in seats)


def test_an_epoch_pushes_out_those_without_and_keeps_them_out() -> None:
    readers = Readers()
    shared = [Seat(readers, "a"), Seat(readers, "b")]
    owner = Seat(readers, "owner", epoch=0)
    assert [str(seat.told[0].row.condition) for seat in shared] == ["amqp:link:stolen"] * 2
    assert "'owner'" in str(shared[0].told[0])
    with pytest.raises(HubError, match="epoch of '0'") as caught:
        Seat(readers, "late", group="G")
    assert condition(caught) == "amqp:link:stolen"
    shared[0].leave()
    owner.leave()
    Seat(readers, "late")


@pytest.mark.parametrize(("first", "second", "second_wins"), [(1, 2, True), (1, 1, True), (2, 1, False), (1, 0, False)])
def test_the_higher_epoch_wins_and_of_equals_the_newer(first: int, second: int, second_wins: bool) -> None:
    readers = Readers()
    old = Seat(readers, "old", epoch=first)
    if second_wins:
        new = Seat(readers, "new", epoch=second)
        assert len(old.told) == 1
        old.leave()
        with pytest.raises(HubError):
            Seat(readers, "third")
        new.leave()
        Seat(readers, "third")
    else:
        with pytest.raises(HubError, match=f"higher epoch '{first}'"):
            Seat(readers, "new", epoch=second)
        assert old.told == []


def test_one_that_is_evicted_may_leave_at_once() -> None:
    readers = Readers()
    leave = []
    leave.append(readers.join("g", 0, name="a", epoch=1, evicted=lambda _: leave[0]()))
    Seat(readers, "b", epoch=2)
    with pytest.raises(HubError):
        Seat(readers, "c", epoch=1)
