"""Sending from the server: credit, windows, splitting, bulk, tracking and outcomes."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peer import Peer, begin, credit, frame, receiver
from hypothesis import given
from hypothesis import strategies as st

from muster.wire.amqp.events import LinkFlow, Outcome
from muster.wire.amqp.link import SendingLink
from muster.wire.amqp.performatives import (
    ACCEPTED,
    RECEIVER,
    RELEASED,
    SENDER,
    Detach,
    Disposition,
    Flow,
    Open,
    Transfer,
)
from muster.wire.amqp.session import Limits


def attached(grant: int = 100, **options: Any) -> tuple[Peer, SendingLink]:
    peer = Peer.opened(**options)
    peer.send(frame(receiver()), frame(credit(0, grant)))
    peer.said()
    link = peer.links["r0"]
    assert isinstance(link, SendingLink)
    return peer, link


def messages(peer: Peer) -> list[tuple[int | None, bool | None, bytes]]:
    """What the client would put together: delivery-id, settled, payload; checks the frames on the way."""
    whole: list[tuple[int | None, bool | None, bytes]] = []
    parts: list[bytes] = []
    for _, body, payload in peer.read():
        if isinstance(body, Transfer):
            parts.append(payload)
            if not body.more:
                whole.append((body.delivery_id, body.settled, b"".join(parts)))
                parts = []
    assert parts == []
    return whole


def test_nothing_is_sent_without_credit() -> None:
    peer, link = attached(grant=2)
    assert link.send_many([b"a", b"b", b"c"], settled=True) == 2
    assert link.send(b"c", tag=b"t", settled=True) is None
    assert messages(peer) == [(0, True, b"a"), (1, True, b"b")]
    assert peer.send(frame(credit(0, 5, delivery_count=1))) == [LinkFlow(link)]
    assert link.ready == 4
    peer.send(frame(credit(0, 1, delivery_count=0)))
    assert link.ready == 0


def test_a_client_that_counts_wrong_gets_no_more_than_it_asked_for() -> None:
    peer, link = attached()
    peer.send(frame(credit(0, 5, delivery_count=3)))
    assert link.ready == 5


def test_delivery_ids_count_per_session() -> None:
    peer, link = attached()
    peer.send(frame(begin(), channel=1), frame(receiver(), channel=1), frame(credit(0, 9), channel=1))
    other = peer.links["r0"]
    assert other is not link
    link.send_many([b"a", b"b"], settled=True)
    other.send_many([b"c"], settled=True)
    assert [(channel, body.delivery_id) for channel, body, _ in peer.read() if isinstance(body, Transfer)] == [
        (0, 0),
        (0, 1),
        (1, 0),
    ]


@given(
    st.lists(st.binary(max_size=1500), max_size=12),
    st.sampled_from([512, 600, 4096]),
    st.booleans(),
    st.integers(0, 300),
)
def test_bulk_and_single_sending_reach_the_client_alike(
    payloads: list[bytes], frame_size: int, settled: bool, handle: int
) -> None:
    results = []
    for bulk in (True, False):
        limits = Limits(links=400)
        peer = Peer.opened(remote=Open("c", max_frame_size=frame_size), limits=limits)
        peer.send(frame(receiver(handle, name="r")), frame(credit(handle, 100)))
        peer.said()
        link = peer.links["r"]
        if bulk:
            assert link.send_many(payloads, settled=settled) == len(payloads)
        else:
            for index, payload in enumerate(payloads):
                assert link.send(payload, tag=index.to_bytes(2), settled=settled) == index
        data = peer.engine.data_to_send()
        results.append(data)
        sizes = []
        position = 0
        while position < len(data):
            sizes.append(int.from_bytes(data[position : position + 4]))
            position += sizes[-1]
        assert all(size <= frame_size for size in sizes)
        assert link.session.next_outgoing_id == len(sizes)
        assert link.session.next_delivery_id == len(payloads)
    for data in results:
        reader = Peer()
        reader.engine._wire.parts.append(data)
        assert messages(reader) == [(index, settled, payload) for index, payload in enumerate(payloads)]


def test_the_clients_window_is_respected_and_reopens() -> None:
    peer, link = attached(begin_fields={"incoming_window": 3}, remote=Open("c", max_frame_size=512))
    peer.send(frame(credit(0, 100, incoming_window=3)))
    peer.send(frame(receiver(7)), frame(credit(7, 10, incoming_window=3)))
    peer.said()
    assert link.send_many([b"a", b"b" * 1000, b"c"], settled=True) == 2
    assert link.ready == 0
    assert link.send_many([b"c"], settled=True) == 0
    transfers = [body for body in peer.said() if isinstance(body, Transfer)]
    assert [transfer.more for transfer in transfers] == [False, True, True]
    events = peer.send(frame(Flow(3, 5, 0, 100)))
    assert events == [LinkFlow(link), LinkFlow(peer.links["r7"])]
    assert [(transfer.delivery_id, transfer.more) for transfer in peer.said()] == [(1, False)]
    assert link.ready == 4


def test_a_window_that_opens_for_one_link_wakes_the_others_once() -> None:
    peer, link = attached(begin_fields={"incoming_window": 0})
    peer.send(frame(receiver(7)), frame(credit(7, 10, incoming_window=0)))
    peer.send(frame(credit(0, 10, incoming_window=0)))
    events = peer.send(frame(credit(0, 10)))
    assert sorted(event.link.name for event in events) == ["r0", "r7"]  # type: ignore[union-attr]
    assert link.ready == 10


def test_drain_gives_the_credit_back() -> None:
    peer, link = attached(grant=5)
    link.send_many([b"a"], settled=True)
    peer.said()
    assert peer.send(frame(credit(0, 4, delivery_count=1, drain=True))) == [LinkFlow(link)]
    assert link.drain
    link.drained()
    flow = peer.said()[-1]
    assert (flow.handle, flow.delivery_count, flow.link_credit, flow.drain) == (0, 5, 0, True)
    assert not link.drain
    assert link.ready == 0


def test_echo_is_answered() -> None:
    peer, link = attached()
    link.send_many([b"a"], settled=True)
    peer.said()
    peer.send(frame(credit(0, 50, echo=True)), frame(Flow(1, 100, 0, 100, echo=True)))
    first, second = peer.said()
    assert (first.handle, first.delivery_count, first.link_credit) == (0, 1, 49)
    assert (second.handle, second.next_outgoing_id) == (None, 1)


# --- outcomes


def test_tracked_deliveries_tell_their_outcome() -> None:
    peer, link = attached()
    ids = [link.send(b"x", tag=bytes([n]), settled=False) for n in range(4)]
    assert ids == [0, 1, 2, 3]
    events = peer.send(
        frame(Disposition(RECEIVER, 0, 1, True, ACCEPTED)),
        frame(Disposition(RECEIVER, 2, None, False, RELEASED)),
        frame(Disposition(RECEIVER, 0, None, True, ACCEPTED)),
    )
    assert events == [
        Outcome(link, 0, ACCEPTED, True),
        Outcome(link, 1, ACCEPTED, True),
        Outcome(link, 2, RELEASED, False),
    ]
    peer.said()
    link.settle(2, RELEASED)
    link.settle(2, RELEASED)
    assert peer.said() == [Disposition(SENDER, 2, None, True, RELEASED)]
    assert [event.delivery_id for event in peer.send(frame(Disposition(RECEIVER, 3, 4_000_000_000, True)))] == [3]  # type: ignore[union-attr]


def test_untracked_deliveries_are_settled_on_demand() -> None:
    """A client with rcv-settle-mode second waits for it; nobody here wants to know."""
    peer, link = attached()
    link.send_many([b"a", b"b"], settled=False)
    peer.said()
    assert peer.send(frame(Disposition(RECEIVER, 0, 1, False, ACCEPTED))) == []
    assert peer.said() == [Disposition(SENDER, 0, 1, True, ACCEPTED)]
    peer.send(frame(Disposition(RECEIVER, 0, 1, True, ACCEPTED)), frame(Disposition(SENDER, 0, 1, True, ACCEPTED)))
    assert peer.said() == []


def test_tracking_is_bounded_and_ends_with_the_link() -> None:
    peer, link = attached(limits=Limits(tracked_deliveries=2))
    assert link.send(b"x", tag=b"0", settled=False) == 0
    assert link.send(b"x", tag=b"1", settled=False) == 1
    assert link.send(b"x", tag=b"2", settled=False) is None
    assert link.send(b"x", tag=b"2", settled=True) == 2
    peer.send(frame(Detach(0, True)))
    assert link.session._tracked == {}
    assert peer.send(frame(Disposition(RECEIVER, 0, 5, True, ACCEPTED))) == []


@pytest.mark.parametrize("settled", [True, False])
def test_tags_of_bulk_deliveries_differ_within_a_window(settled: bool) -> None:
    peer, link = attached(grant=1000)
    peer.send(frame(credit(0, 1000, incoming_window=5000)))
    peer.said()
    link.send_many([b"x"] * 1000, settled=settled)
    assert len({body.delivery_tag for body in peer.said()}) == 1000
