"""Qpid Proton as an independent peer: another implementation of the same standard must understand ours, and we its.

Runs where python-qpid-proton is installed (it needs a compiler and OpenSSL's headers).
"""

from __future__ import annotations

from typing import Any

import pytest

from muster.wire.amqp.connection import Connection
from muster.wire.amqp.events import Closed, Delivery, LinkAttached, LinkFlow, Opened, Outcome, SaslStarted
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.message import Message, Properties, decode_message, encode_message
from muster.wire.amqp.performatives import ACCEPTED, Error
from muster.wire.amqp.sasl import parse_plain
from muster.wire.amqp.session import Limits
from muster.wire.amqp.values import Symbol, Timestamp

proton = pytest.importorskip("proton", reason="python-qpid-proton is not installed")


class Pair:
    """A Proton client and our server, joined by memory."""

    def __init__(self, *, user: str = "", password: str = "", max_frame_size: int = 4096) -> None:
        self.client = proton.Connection()
        self.client.container = "proton"
        self.client.hostname = "host"
        if user:
            self.client.user, self.client.password = user, password
        self.transport = proton.Transport()
        self.transport.max_frame_size = max_frame_size
        if user:
            self.transport.sasl().allow_insecure_mechs = True
            self.transport.sasl().allowed_mechs("PLAIN")
        self.transport.bind(self.client)
        self.server = Connection("server", Limits(max_frame_size=max_frame_size))
        self.events: list[Any] = []
        self.refusal: Error | None = None

    def pump(self) -> None:
        """Carry bytes both ways until nobody has more to say."""
        for _ in range(100):
            pending = self.transport.pending()
            data = bytes(self.transport.peek(pending)) if pending > 0 else b""
            if data:
                self.transport.pop(len(data))
            batch = self.server.receive_data(data)
            while batch:
                for event in batch:
                    self._answer(event)
                self.events += batch
                batch = self.server.receive_data(b"")
            answer = self.server.data_to_send()
            for start in range(0, len(answer), 1024):
                self.transport.push(answer[start : start + 1024])
            if not data and not answer:
                return
        raise AssertionError("the two never come to an end")

    def _answer(self, event: Any) -> None:
        if isinstance(event, SaslStarted):
            self.server.sasl_outcome(event.mechanism != "PLAIN" or parse_plain(event.response).password == "right")
        elif isinstance(event, Opened):
            self.server.open(properties={Symbol("product"): "test"})
        elif isinstance(event, LinkAttached):
            if self.refusal is not None:
                event.link.refuse(self.refusal)
                return
            event.link.accept()
            if isinstance(event.link, ReceivingLink):
                event.link.grant(50)
        elif isinstance(event, Delivery) and not event.settled:
            event.link.dispose(event.delivery_id, ACCEPTED)

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def opened(self) -> Any:
        """A session on an open connection."""
        self.client.open()
        session = self.client.session()
        session.open()
        self.pump()
        assert self.client.state & proton.Endpoint.REMOTE_ACTIVE
        assert session.state & proton.Endpoint.REMOTE_ACTIVE
        return session


@pytest.mark.parametrize(("password", "succeeds"), [("right", True), ("wrong", False)])
def test_plain(password: str, succeeds: bool) -> None:
    pair = Pair(user="u", password=password)
    pair.client.open()
    pair.pump()
    assert bool(pair.client.state & proton.Endpoint.REMOTE_ACTIVE) == succeeds
    assert (pair.transport.sasl().outcome == proton.SASL.OK) == succeeds


def test_messages_to_the_server() -> None:
    pair = Pair()
    sender = pair.opened().sender("s")
    sender.target.address = "telemetry"
    sender.open()
    pair.pump()
    assert sender.credit == 50
    deliveries = []
    for number, size in enumerate((10, 20_000)):
        message = proton.Message(
            body=b"x" * size, inferred=True, id=number, content_type="application/json", properties={"n": number}
        )
        deliveries.append(sender.delivery(str(number).encode()))
        sender.send(message.encode())
        sender.advance()
    pair.pump()
    received = [decode_message(event.payload) for event in pair.of(Delivery)]
    assert [message.body for message in received] == [b"x" * 10, b"x" * 20_000]
    assert [message.properties.message_id for message in received if message.properties] == [0, 1]
    assert received[1].application_properties == {"n": 1}
    assert all(delivery.remote_state == proton.Delivery.ACCEPTED and delivery.settled for delivery in deliveries)


@pytest.mark.parametrize("settled", [True, False])
def test_messages_from_the_server(settled: bool) -> None:
    pair = Pair(max_frame_size=1024)
    receiver = pair.opened().receiver("r")
    receiver.source.address = "events"
    receiver.open()
    receiver.flow(10)
    pair.pump()
    [link] = [event.link for event in pair.of(LinkAttached)]
    assert pair.of(LinkFlow)[-1].link is link
    message = Message(
        message_annotations={Symbol("x-opt-sequence-number"): 5, Symbol("x-opt-enqueued-time"): Timestamp(1000)},
        properties=Properties(message_id="m", user_id=b"u", content_type="text/plain"),
        application_properties={"a": "b", "none": None},
        data=(b"y" * 3000,),
    )
    payload = encode_message(message)
    assert link.send_many([payload] * 3, settled=settled) == 3
    assert link.send(payload, tag=b"tracked", settled=False) == 3
    pair.pump()
    for number in range(4):
        delivery = receiver.current
        received = proton.Message()
        received.decode(receiver.recv(10_000))
        assert received.body == b"y" * 3000
        assert (received.id, received.user_id, received.content_type) == ("m", b"u", "text/plain")
        assert received.properties == {"a": "b", "none": None}
        assert received.annotations == {"x-opt-sequence-number": 5, "x-opt-enqueued-time": 1000}
        assert delivery.settled == (settled and number < 3)
        delivery.update(proton.Delivery.ACCEPTED)
        delivery.settle()
    pair.pump()
    assert [(event.delivery_id, event.settled, event.state) for event in pair.of(Outcome)] == [(3, True, ACCEPTED)]
    receiver.drain(0)
    pair.pump()
    link.drained()
    pair.pump()
    assert receiver.credit == 0
    assert not receiver.draining()


def test_refusals_and_their_information() -> None:
    pair = Pair()
    session = pair.opened()
    pair.refusal = Error("amqp:link:redirect", "elsewhere", {Symbol("hostname"): "h", Symbol("port"): 5671})
    receiver = session.receiver("r")
    receiver.open()
    pair.pump()
    assert receiver.remote_condition.name == "amqp:link:redirect"
    assert receiver.remote_condition.description == "elsewhere"
    assert receiver.remote_condition.info == {"hostname": "h", "port": 5671}
    receiver.close()
    pair.pump()
    assert pair.server.sessions[0].links == {}


def test_closing_from_both_sides() -> None:
    pair = Pair()
    pair.opened()
    pair.client.close()
    pair.pump()
    assert pair.of(Closed) == [Closed(None)]
    assert pair.client.state & proton.Endpoint.REMOTE_CLOSED
    other = Pair()
    other.opened()
    other.server.close(Error("amqp:connection:forced", "going down"))
    other.pump()
    assert other.client.remote_condition.name == "amqp:connection:forced"
