"""The server engine: what a client may say, in which order, and what it gets for breaking a rule."""

from __future__ import annotations

from typing import Any

import pytest
from amqp_peer import Peer, begin, credit, frame, receiver, sasl_frames, sender, told, transfer

from muster.wire.amqp.composite import encode_composite
from muster.wire.amqp.connection import Connection, State
from muster.wire.amqp.events import Closed, Delivery, Failed, LinkAttached, LinkDetached, Opened, SaslStarted
from muster.wire.amqp.frames import AMQP_HEADER, EMPTY, SASL, SASL_HEADER, encode_frame
from muster.wire.amqp.link import LinkState
from muster.wire.amqp.performatives import (
    ACCEPTED,
    RECEIVER,
    SENDER,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Open,
)
from muster.wire.amqp.sasl import MECHANISMS, SaslInit, SaslOutcome, SaslResponse
from muster.wire.amqp.session import Limits


def sasl(body: Any) -> bytes:
    return encode_frame(0, encode_composite(body), SASL)


def failure(events: list[Any]) -> str:
    assert isinstance(events[-1], Failed), events
    return str(events[-1].error.condition)


# --- beginning


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_sasl_then_open(mechanism: str) -> None:
    engine = Connection("server")
    events = engine.receive_data(SASL_HEADER + sasl(SaslInit(mechanism, b"x", "host")) + AMQP_HEADER)
    assert events == [SaslStarted(mechanism, b"x", "host")]
    offered = sasl_frames(engine.data_to_send())[0]
    assert list(offered.value[0]) == list(MECHANISMS)
    engine.sasl_outcome(True)
    assert engine.receive_data(frame(Open("client", "host"))) == [Opened(engine.remote)]  # type: ignore[arg-type]
    data = engine.data_to_send()
    assert data == sasl(SaslOutcome(0)) + AMQP_HEADER
    engine.open(properties={"product": "x"})
    assert engine.state is State.OPENED
    assert engine.sasl


def test_sasl_outcome_has_both_its_fields() -> None:
    assert encode_composite(SaslOutcome(0)) == bytes.fromhex("005344c0 04 02 5000 40".replace(" ", ""))


def test_plain_without_initial_response_is_asked_for_it() -> None:
    engine = Connection("server")
    assert engine.receive_data(SASL_HEADER + sasl(SaslInit("PLAIN"))) == []
    assert [body.descriptor for body in sasl_frames(engine.data_to_send())] == [0x40, 0x42]
    assert engine.receive_data(sasl(SaslResponse(b"\0u\0p"))) == [SaslStarted("PLAIN", b"\0u\0p", None)]
    assert "p" not in repr(SaslStarted("MSSBCBS", b"p", None)).replace("response", "").split("hostname")[1]


def test_refused_sasl_ends_it() -> None:
    engine = Connection("server")
    engine.receive_data(SASL_HEADER + sasl(SaslInit("PLAIN", b"\0u\0p")))
    engine.data_to_send()
    engine.sasl_outcome(False)
    assert engine.data_to_send() == sasl(SaslOutcome(1))
    assert engine.state is State.CLOSED
    assert engine.receive_data(AMQP_HEADER) == []


def test_nothing_is_read_before_a_decision() -> None:
    engine = Connection("server")
    events = engine.receive_data(AMQP_HEADER + frame(Open("c")) + frame(begin()) + frame(receiver()))
    assert [type(event) for event in events] == [Opened]
    engine.open()
    assert [type(event) for event in engine.receive_data(b"")] == [LinkAttached]


@pytest.mark.parametrize(
    "data",
    [
        b"AMQP\x00\x00\x09\x01",
        b"AMQP\x02\x01\x00\x00",
        b"GET / HTTP/1.1\r\n",
        SASL_HEADER + frame(Open("c")),
        SASL_HEADER + sasl(SaslResponse(b"")),
        AMQP_HEADER + frame(begin()),
        AMQP_HEADER + frame(Close()),
        AMQP_HEADER + b"\x00\x00\x00\x07\x02\x00\x00\x00",
        AMQP_HEADER + b"\x00\x00\x00\x0c\x01\x00\x00\x00" + b"\0" * 4,
        AMQP_HEADER + b"\x00\x00\x00\x0c\x04\x00\x00\x00" + b"\0" * 4,
        AMQP_HEADER + b"\x7f\xff\xff\xff\x02\x00\x00\x00",
        AMQP_HEADER + frame(Open("c"), b"junk"),
    ],
)
def test_a_wrong_beginning_fails(data: bytes) -> None:
    engine = Connection("server")
    failure(engine.receive_data(data))
    assert engine.state is State.CLOSED
    assert engine.receive_data(b"more") == []


def test_bytes_before_open_are_bounded() -> None:
    engine = Connection("server", Limits(before_open=1000))
    assert engine.receive_data(AMQP_HEADER) == []
    assert failure(engine.receive_data(b"\x00\x00\x03\x00\x02\x00\x00\x00" + b"x" * 990)) == (
        "amqp:connection:framing-error"
    )
    paused = Connection("server", Limits(before_open=1000))
    paused.receive_data(AMQP_HEADER + frame(Open("c")))
    assert failure([event for _ in range(100) for event in paused.receive_data(b"x" * 100)])


def test_a_fault_before_our_open_is_answered_by_open_and_close() -> None:
    peer = Peer()
    peer.send(AMQP_HEADER, frame(begin()))
    assert [type(body) for _, body, _ in peer.read(header=True)] == [Open, Close]


def test_every_performative_has_all_its_fields_and_a_short_descriptor() -> None:
    """azure-eventhub indexes fields without looking at the length, and reads descriptors as one byte."""
    peer = Peer()
    peer.send(AMQP_HEADER, frame(Open("c")), frame(begin()), frame(receiver()), frame(credit(0, 1)))
    peer.links["r0"].send(b"x", tag=b"t", settled=False)
    peer.links["r0"].detach(Error("amqp:not-found"))
    peer.send(frame(End()), frame(Close()))
    data = peer.engine.data_to_send()[8:]
    counts = {}
    while data:
        size = int.from_bytes(data[:4])
        body = data[8:size]
        data = data[size:]
        assert body[:2] == b"\x00\x53"
        counts[body[2]] = body[5] if body[3] == 0xC0 else int.from_bytes(body[8:12])
    assert counts == {0x10: 10, 0x11: 8, 0x12: 14, 0x14: 11, 0x16: 3, 0x17: 1, 0x18: 1}


# --- connection and sessions


def test_open_tells_the_limits() -> None:
    peer = Peer(Limits(max_frame_size=9000, sessions=7, idle_time_out=5000))
    peer.send(AMQP_HEADER, frame(Open("c", max_frame_size=512)))
    answer = peer.read(header=True)[0][1]
    assert (answer.max_frame_size, answer.channel_max, answer.idle_time_out) == (9000, 6, 5000)


def test_close_is_answered() -> None:
    peer = Peer.opened()
    peer.send(frame(receiver()))
    events = peer.send(frame(Close(Error("amqp:internal-error", "bye"))))
    assert told(events) == [("LinkDetached", "r0", None), ("Closed", Error("amqp:internal-error", "bye", None))]
    assert peer.said()[-1] == Close(None)
    assert peer.engine.state is State.CLOSED


def test_closing_from_here_ignores_what_still_comes() -> None:
    peer = Peer.opened()
    peer.send(frame(receiver()))
    peer.engine.close(Error("amqp:connection:forced"))
    assert peer.said()[-1] == Close(Error("amqp:connection:forced"))
    assert peer.send(frame(credit(0, 5)), frame(transfer(9)), frame(begin(), channel=4)) == []
    assert peer.send(frame(Close())) == [Closed(None)]
    assert peer.said() == []


def test_heartbeats() -> None:
    peer = Peer.opened()
    assert peer.send(EMPTY, EMPTY) == []
    peer.engine.heartbeat()
    assert peer.engine.data_to_send() == EMPTY


@pytest.mark.parametrize(
    "data",
    [
        frame(Open("again")),
        frame(begin()),
        frame(begin(remote_channel=3), channel=1),
        frame(begin(), channel=300),
        frame(receiver(), channel=9),
        frame(transfer(), channel=9),
        encode_frame(0, b"\x00\x53\x99\x45"),
        encode_frame(0, b"\x00\x53\x10\x45"),
        encode_frame(0, b"junk"),
        frame(Flow(0, 0, 0, 0), b"payload"),
    ],
)
def test_what_breaks_the_connection(data: bytes) -> None:
    peer = Peer.opened()
    events = peer.send(data)
    assert isinstance(events[-1], Failed)
    assert isinstance(peer.said()[-1], Close)
    assert peer.engine.state is State.CLOSED


@pytest.mark.parametrize(
    ("data", "condition"),
    [
        (frame(receiver(0)) + frame(receiver(0, name="other")), "amqp:session:handle-in-use"),
        (frame(credit(5, 1)), "amqp:session:unattached-handle"),
        (frame(transfer(5)), "amqp:session:unattached-handle"),
        (frame(Detach(5)), "amqp:session:unattached-handle"),
        (frame(receiver(0)) + frame(transfer(0)), "amqp:session:errant-link"),
        (frame(receiver(1024)), "amqp:resource-limit-exceeded"),
    ],
)
def test_what_breaks_the_session(data: bytes, condition: str) -> None:
    peer = Peer.opened()
    peer.send(data)
    last = peer.said()[-1]
    assert isinstance(last, End)
    assert last.error is not None
    assert last.error.condition == condition
    assert peer.send(frame(credit(0, 1)), frame(transfer(0)), frame(End())) == []
    assert peer.said() == []
    peer.send(frame(begin()))
    assert isinstance(peer.said()[0], Begin)


def test_links_in_all_are_bounded() -> None:
    peer = Peer.opened(limits=Limits(links=3))
    peer.send(frame(begin(), channel=1), frame(receiver(0)), frame(receiver(1)), frame(receiver(0), channel=1))
    peer.send(frame(receiver(1), channel=1))
    assert peer.read()[-1][:2] == (
        1,
        End(Error("amqp:resource-limit-exceeded", "there are too many links, or the handle is too high")),
    )
    peer.send(frame(Detach(0, True)), frame(receiver(0)))
    assert isinstance(peer.said()[-1], Attach)


def test_late_frames_after_the_clients_own_end() -> None:
    """azure-eventhub detaches its links after it has ended the session."""
    peer = Peer.opened()
    peer.send(frame(receiver()), frame(End()))
    assert peer.said()[-1] == End(None)
    assert peer.send(frame(Detach(0, True)), frame(credit(0, 1)), frame(End())) == []
    assert peer.said() == []


def test_late_frames_on_a_detached_handle() -> None:
    peer = Peer.opened()
    peer.send(frame(receiver(0)), frame(sender(1)))
    peer.links["r0"].detach(Error("amqp:link:stolen"))
    peer.links["s1"].detach()
    late = [frame(credit(0, 5)), frame(transfer(1)), frame(Detach(0, True)), frame(Detach(1, True))]
    assert peer.send(*late, *late) == []
    assert peer.links["r0"].state is LinkState.DETACHED
    peer.send(frame(receiver(0, name="new")))
    assert peer.links["new"].state is LinkState.ATTACHED


# --- links


def test_attach_is_echoed() -> None:
    peer = Peer.opened()
    asked = receiver(3, "x", snd_settle_mode=1, rcv_settle_mode=1, properties={"p": 1})
    peer.send(frame(asked), frame(sender(4, "y")))
    answers = [body for body in peer.said() if isinstance(body, Attach)]
    assert answers[0]._replace(properties=asked.properties) == asked._replace(role=SENDER, initial_delivery_count=0)
    assert (answers[1].role, answers[1].target.address, answers[1].initial_delivery_count) == (RECEIVER, "y", None)


def test_refusal_is_attach_then_detach() -> None:
    peer = Peer.opened()
    engine = peer.engine
    [event] = engine.receive_data(frame(receiver()))
    assert isinstance(event, LinkAttached)
    error = Error("amqp:link:redirect", "elsewhere", {"hostname": "h"})
    event.link.refuse(error)
    assert [type(body) for body in peer.said()] == [Attach, Detach]
    assert engine.receive_data(frame(credit(0, 10)) + frame(Detach(0, True))) == []


def test_detach_is_answered() -> None:
    peer = Peer.opened()
    peer.send(frame(receiver()))
    peer.said()
    assert told(peer.send(frame(Detach(0, True, Error("e"))))) == [("LinkDetached", "r0", Error("e", None, None))]
    assert peer.said() == [Detach(0, True)]
    link = peer.links["r0"]
    link.detach()
    link.drained()
    assert link.send(b"x", tag=b"", settled=True) is None
    assert link.send_many([b"x"], settled=True) == 0
    assert peer.said() == []


def test_detach_before_the_attach_was_answered() -> None:
    peer = Peer.opened()
    events = peer.engine.receive_data(frame(receiver()) + frame(Detach(0, True)))
    assert [type(event) for event in events] == [LinkAttached, LinkDetached]
    assert peer.said() == []
    events[0].link.accept()  # type: ignore[union-attr]
    assert [type(body) for body in peer.said()] == [Attach, Detach]
    peer.send(frame(receiver(name="next")))
    assert peer.links["next"].state is LinkState.ATTACHED


def test_the_same_name_pushes_out_within_a_session_only() -> None:
    peer = Peer.opened()
    peer.send(frame(begin(), channel=1), frame(receiver(0, name="n")), frame(sender(1, name="n")))
    peer.send(frame(receiver(0, name="n"), channel=1))
    peer.said()
    events = peer.send(frame(receiver(2, name="n")))
    assert [type(event) for event in events] == [LinkDetached, LinkAttached]
    said = peer.said()
    assert isinstance(said[0], Detach)
    assert said[0].error is not None
    assert (said[0].handle, said[0].error.condition) == (0, "amqp:link:stolen")


# --- receiving


def test_messages_arrive_whole() -> None:
    peer = Peer.opened()
    peer.send(frame(sender()))
    events = peer.send(
        frame(transfer(delivery_id=7), b"one"),
        frame(transfer(delivery_id=8, more=True), b"t"),
        frame(transfer(delivery_id=None, more=True), b"w"),
        frame(transfer(delivery_id=8, settled=True), b"o"),
    )
    link = peer.links["s1"]
    assert events == [Delivery(link, 7, b"tag", 0, False, b"one"), Delivery(link, 8, b"tag", 0, True, b"two")]
    assert (link.credit, link.delivery_count) == (8, 2)
    link.dispose(7, ACCEPTED)
    link.dispose(9, ACCEPTED, last=12)
    assert peer.said()[-2:] == [
        Disposition(RECEIVER, 7, None, True, ACCEPTED),
        Disposition(RECEIVER, 9, 12, True, ACCEPTED),
    ]


def test_aborted_messages_vanish_and_cost_credit() -> None:
    peer = Peer.opened()
    peer.send(frame(sender()))
    assert peer.send(frame(transfer(more=True), b"a"), frame(transfer(aborted=True), b"b")) == []
    assert peer.links["s1"].credit == 9
    assert [event.payload for event in peer.send(frame(transfer(delivery_id=1), b"c"))] == [b"c"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("frames", "condition"),
    [
        ([frame(transfer(delivery_id=n), b"x") for n in range(4)], "amqp:link:transfer-limit-exceeded"),
        ([frame(transfer(more=True), b"x" * 60), frame(transfer(), b"x" * 60)], "amqp:link:message-size-exceeded"),
        ([frame(transfer(delivery_id=None), b"x")], "amqp:invalid-field"),
    ],
)
def test_what_breaks_a_sending_client(frames: list[bytes], condition: str) -> None:
    peer = Peer.opened(grant=3, max_message_size=100)
    peer.send(frame(sender()))
    events = peer.send(*frames)
    assert isinstance(events[-1], LinkDetached)
    last = peer.said()[-1]
    assert isinstance(last, Detach)
    assert last.error is not None
    assert last.error.condition == condition
    assert peer.send(frame(transfer(delivery_id=9), b"late"), frame(Detach(1, True))) == []


def test_empty_transfers_cost_no_memory() -> None:
    peer = Peer.opened()
    peer.send(frame(sender()))
    peer.send(*[frame(transfer(more=True))] * 3000)
    assert peer.links["s1"]._parts == []


def test_the_incoming_window_is_kept_open_and_guarded() -> None:
    peer = Peer.opened(limits=Limits(incoming_window=10), grant=1000)
    peer.send(frame(sender()))
    peer.said()
    for number in range(100):
        peer.send(frame(transfer(delivery_id=number), b"x"))
    flows = [body for body in peer.said() if isinstance(body, Flow)]
    assert len(flows) == 20
    assert {(flow.incoming_window, flow.handle) for flow in flows} == {(10, None)}
    assert flows[-1].next_incoming_id == 100


def test_credit_given_up_by_the_client() -> None:
    peer = Peer.opened(grant=10)
    peer.send(frame(sender()), frame(credit(1, 0, delivery_count=10)))
    assert (peer.links["s1"].credit, peer.links["s1"].delivery_count) == (0, 10)
    peer.send(frame(credit(1, 0, delivery_count=5000)))
    assert peer.links["s1"].delivery_count == 10


def test_strangers_have_few_sessions_and_links() -> None:
    limits = Limits(sessions=5, links=5, unproven_sessions=2, unproven_links=2)
    peer = Peer.opened(limits=limits)
    peer.send(frame(begin(), channel=1))
    assert failure(peer.send(frame(begin(), channel=2))) == "amqp:not-allowed"
    peer = Peer.opened(limits=limits)
    peer.send(*(frame(receiver(handle)) for handle in range(3)))
    assert isinstance(peer.said()[-1], End)
    peer = Peer.opened(limits=limits)
    peer.engine.prove()
    peer.send(*(frame(begin(), channel=channel) for channel in range(1, 5)))
    peer.send(*(frame(receiver(handle)) for handle in range(5)))
    assert not any(isinstance(one, (End, Close)) for one in peer.said())


def test_strangers_send_a_bounded_number_of_bytes() -> None:
    flows = frame(credit(0, 1)) * 10
    limits = Limits(unproven_bytes=2 * len(flows) + 50)
    peer = Peer.opened(limits=limits)
    peer.send(frame(receiver(0)))
    peer.send(flows)
    assert failure(peer.send(flows, flows)) == "amqp:connection:framing-error"
    assert isinstance(peer.said()[-1], Close)
    peer = Peer.opened(limits=limits)
    peer.engine.prove()
    peer.send(frame(receiver(0)), *(flows for _ in range(10)))
    assert not any(isinstance(one, Close) for one in peer.said())
    early = Peer(limits)
    early.engine.prove()
    early.send(AMQP_HEADER, frame(Open("client")), frame(begin()))
    early.send(frame(receiver(0)), *(flows for _ in range(10)))
    assert early.engine.state is State.OPENED


def test_messages_that_are_begun_and_not_finished_are_bounded_over_all_links() -> None:
    peer = Peer.opened(limits=Limits(unfinished_bytes=100))
    for handle in (0, 1):
        peer.send(frame(sender(handle)))
    peer.send(frame(transfer(0, delivery_id=0, more=True), b"x" * 60))
    peer.said()
    peer.send(frame(transfer(1, delivery_id=1, more=True), b"x" * 60))
    detached = [one for one in peer.said() if isinstance(one, Detach)]
    assert [one.handle for one in detached] == [1]
    assert detached[0].error is not None
    assert detached[0].error.condition == "amqp:resource-limit-exceeded"
    [whole] = [event for event in peer.send(frame(transfer(0, delivery_id=0), b"y")) if isinstance(event, Delivery)]
    assert len(whole.payload) == 61
    peer.send(frame(Detach(1, True)), frame(sender(2)))
    peer.send(frame(transfer(2, delivery_id=2, more=True), b"x" * 99), frame(Detach(2, True)))
    peer.send(frame(sender(3)))
    peer.send(frame(transfer(3, delivery_id=3, more=True), b"x" * 99))
    assert not [one for one in peer.said() if isinstance(one, Detach) and one.error is not None], "what is gone is free"


def test_a_session_can_be_ended_from_here() -> None:
    peer = Peer.opened()
    peer.send(frame(sender(0)))
    [session] = peer.engine.sessions.values()
    [event] = peer.engine.end_session(session, Error("amqp:internal-error", "no reason"))
    assert isinstance(event, LinkDetached)
    assert session.ended
    last = peer.said()[-1]
    assert isinstance(last, End)
    assert last.error is not None
    assert peer.engine.end_session(session, Error("amqp:internal-error")) == []
    assert peer.send(frame(transfer(0)), frame(End())) == []
    peer.send(frame(begin()))
    assert isinstance(peer.said()[0], Begin)


def test_many_deliveries_are_accepted_in_one_frame() -> None:
    peer = Peer.opened()
    peer.said()
    peer.engine.sessions[0].accept(300, 70_000)
    assert peer.said() == [Disposition(RECEIVER, 300, 70_000, True, ACCEPTED)]
