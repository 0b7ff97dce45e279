"""The newest messages in memory."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from muster.messages.contract import PartitionState, Slice
from muster.messages.tail import SLICES_AT_ONCE, Tail


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5), st.integers(0, 3)), max_size=120),
    st.integers(0, 3000),
    st.data(),
)
def test_the_tail_holds_the_newest_and_says_when_it_does_not(
    pushes: list[tuple[int, int, int]], limit: int, data: st.DataObject
) -> None:
    tail = Tail([PartitionState(0, 10, 0)] * 3, limit)
    ends, kept = [10] * 3, list[tuple[int, Slice]]()
    for ms, (partition, count, gap) in enumerate(pushes):
        base = ends[partition] + gap
        new = Slice(base, ms, [b"%d" % n for n in range(base, base + count)])
        ends[partition] = base + count
        tail.push(partition, new)
        kept.append((partition, new))
    held = 0
    while (
        held < len(kept) and sum(sum(map(len, run.records)) + 48 * len(run.records) for _, run in kept[held:]) > limit
    ):
        held += 1
    partition = data.draw(st.integers(0, 2))
    mine = [run for number, run in kept[held:] if number == partition]
    before = max((run.base + len(run.records) for number, run in kept[:held] if number == partition), default=10)
    start = before if mine else ends[partition]
    assert tail.since(partition, start - 1) is None
    assert tail.since(partition, ends[partition]) == ()
    if mine:
        sequence = data.draw(st.integers(start, ends[partition] - 1))
        found = tail.since(partition, sequence)
        assert found is not None
        assert len(found) <= SLICES_AT_ONCE
        wanted = [record for run in mine for n, record in enumerate(run.records, run.base) if n >= sequence]
        got = [record for run in found for record in run.records]
        assert got == wanted[: len(got)]
        assert len(got) == len(wanted) or len(found) == SLICES_AT_ONCE
        moment = data.draw(st.integers(mine[0].enqueued_ms + 1, len(pushes) + 1))
        later = next((run.base for run in mine if run.enqueued_ms >= moment), ends[partition])
        assert tail.first_enqueued(partition, moment) == later


def test_a_run_that_begins_anew_forgets_what_it_held() -> None:
    tail = Tail([PartitionState(0, 0, 0)] * 2, 250)
    tail.push(0, Slice(0, 1, [bytes(20)]))
    tail.push(1, Slice(0, 1, [bytes(20)]))
    tail.restart(0, 10)
    assert tail.since(0, 0) is None
    assert tail.since(0, 10) == ()
    for base in (12, 20, 30, 40):
        tail.push(0, Slice(base, 2, [bytes(20)]))
    assert tail.since(0, 10) is None, "what was forgotten counted for its bytes until it went"
    assert [run.base for run in tail.since(0, 22) or ()] == [30, 40]
    assert tail.since(1, 0) is None
