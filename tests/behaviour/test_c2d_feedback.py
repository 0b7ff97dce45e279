"""Feedback and file notifications: gathered, received over AMQP (TCP and WebSocket) and REST, settled, given back."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from command_hub import (
    FEEDBACK,
    GATHER,
    LOCK,
    TTL,
    CommandHub,
    aside,
    command_hub,
    complete,
    gathered,
    got_and_acknowledged,
    settle,
)
from hub_rest import POLICIES

from muster.core.errors import INVALID_OPERATION, LOCK_LOST, UNAUTHORIZED
from muster.identity.model import IdentityKey
from muster.identity.sas import make
from muster.messages.queue import Settlement
from muster.wire.amqp.frames import AMQP_HEADER, FrameBuffer, encode_frame
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import (
    ACCEPTED,
    RELEASED,
    SECOND,
    SETTLED,
    Accepted,
    Attach,
    Begin,
    Disposition,
    Flow,
    Modified,
    Open,
    Rejected,
    Source,
    Target,
    Transfer,
    decode_performative,
    encode_performative,
)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[CommandHub]:
    async with command_hub(tmp_path) as made:
        await made.mqtt.key("d")
        await made.mqtt.key("d", "m")
        yield made


# --- 1. Which outcomes are told


OUTCOMES: dict[str, Callable[[CommandHub], Any]] = {
    "Success": lambda hub: settle(hub, Settlement.COMPLETE),
    "Rejected": lambda hub: settle(hub, Settlement.REJECT),
    "Expired": lambda hub: hub.advance(TTL),
    "Purged": lambda hub: hub.call("DELETE", "/devices/d/commands"),
    "DeliveryCountExceeded": lambda hub: _abandon(hub, 10),
}


async def _abandon(hub: CommandHub, times: int) -> None:
    for _ in range(times):
        await settle(hub, Settlement.ABANDON)


@pytest.mark.parametrize("ack", ["none", "positive", "negative", "full"])
@pytest.mark.parametrize("status", OUTCOMES)
async def test_1_1_each_outcome_is_told_to_who_asked_for_it(hub: CommandHub, status: str, ack: str) -> None:
    await hub.send(b"", message_id="m", application={"iothub-ack": ack})
    await OUTCOMES[status](hub)
    wanted = ack in {"full", "positive" if status == "Success" else "negative"}
    assert await hub.statuses() == ([("m", status)] if wanted else [])


async def test_1_2_a_record_says_which_message_which_device_and_when(hub: CommandHub) -> None:
    await complete(hub, "m-1")
    identity = await hub.mqtt.registry.get(_key("d"))
    (record,) = await hub.feedback()
    assert record == {
        "originalMessageId": "m-1", "description": "Success", "statusCode": "Success", "deviceId": "d",
        "deviceGenerationId": identity.generation_id, "enqueuedTimeUtc": "2027-01-15T08:00:00.0000000Z",
    }  # fmt: skip


async def test_1_3_a_module_is_named_too_and_a_missing_message_id_is_empty(hub: CommandHub) -> None:
    await hub.send(b"", device="d/m", application={"ack": "full"})
    await settle(hub, Settlement.REJECT, "d/m")
    (record,) = await hub.feedback()
    assert (record["deviceId"], record["moduleId"], record["originalMessageId"]) == ("d", "m", "")


def _key(device_id: str) -> IdentityKey:
    return IdentityKey(device_id)


async def test_1_4_puback_is_success(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"", message_id="m", application={"iothub-ack": "positive"})
    await got_and_acknowledged(device)
    await hub.emptied()
    assert await hub.statuses() == [("m", "Success")]


# --- 2. Gathering


async def test_2_1_records_wait_fifteen_seconds_for_others(hub: CommandHub) -> None:
    await complete(hub, "a")
    await hub.advance(GATHER - 1)
    await complete(hub, "b")
    assert await hub.depth("/feedback") == 0
    await hub.advance(1)
    assert await hub.depth("/feedback") == 1
    assert await hub.statuses() == [("a", "Success"), ("b", "Success")]


async def test_2_2_sixty_four_records_are_a_message_at_once(hub: CommandHub) -> None:
    await hub.send(*[b""] * 70, message_id="m", application={"iothub-ack": "full"})
    await hub.call("DELETE", "/devices/d/commands")
    await hub.queued(1, "/feedback")
    assert len(await hub.feedback()) == 70
    assert await hub.depth("/feedback") == 0


async def test_2_3_a_deleted_device_takes_its_records_along(hub: CommandHub) -> None:
    await hub.mqtt.key("other")
    await complete(hub, "a", "b")
    await complete(hub, "c", device="other")
    await hub.mqtt.registry.delete(_key("d"))
    assert await hub.statuses() == [("c", "Success")]


async def test_2_4_feedback_that_nobody_reads_expires_after_an_hour(hub: CommandHub) -> None:
    await complete(hub, "a")
    await hub.advance(GATHER)
    await hub.advance(TTL - 1)
    assert await hub.depth("/feedback") == 1
    await hub.advance(1)
    assert await hub.depth("/feedback") == 0


# --- 3. Receiving over AMQP


def said(message: Message) -> list[str]:
    return [record["originalMessageId"] for record in json.loads(message.body)]


@pytest.mark.parametrize("address", [FEEDBACK, "messages/servicebound/feedback", f"amqps://localhost:5671{FEEDBACK}"])
async def test_3_1_a_message_has_all_that_clients_read_unasked(hub: CommandHub, address: str) -> None:
    await gathered(hub, "a")
    service = await hub.service()
    await aside(service.receiver, address)
    transfer, message = await aside(service.transfer)
    assert transfer.delivery_tag is not None
    assert len(transfer.delivery_tag) == 16
    assert not transfer.settled
    properties, annotations = message.properties or Properties(), message.message_annotations or {}
    assert properties.content_type == "application/vnd.microsoft.iothub.feedback.json"
    assert properties.user_id == b"localhost"
    assert annotations["iothub-enqueuedtime"] == int(hub.ambient.now() * 1000)
    assert annotations["iothub-deliverycount"] == 0
    assert len(message.data) == 1
    assert said(message) == ["a"]


async def test_3_2_nothing_is_sent_without_credit_and_one_for_one(hub: CommandHub) -> None:
    await gathered(hub, "a", "b")
    service = await hub.service()
    link = await aside(service.receiver, credit=0)
    assert await aside(service.silent)
    await aside(service.credit, link, 1)
    first, message = await aside(service.transfer)
    assert said(message) == ["a"]
    assert await aside(service.silent)
    await aside(service.dispose, first.delivery_id, ACCEPTED)
    assert await aside(service.silent), "settling is no credit"
    await aside(service.credit, link, 1, delivery_count=1)
    assert said((await aside(service.transfer))[1]) == ["b"]


async def test_3_3_what_comes_later_wakes_the_receiver(hub: CommandHub) -> None:
    service = await hub.service()
    await aside(service.receiver)
    assert await aside(service.silent, 0.05)
    await gathered(hub, "a")
    assert said((await aside(service.transfer))[1]) == ["a"]


@pytest.mark.parametrize(
    ("state", "left"),
    [(ACCEPTED, 0), (Rejected(), 0), (RELEASED, 1), (Modified(True), 1), (Modified(False, True), 1)],
    ids=["accepted", "rejected", "released", "modified", "undeliverable"],
)
async def test_3_4_each_outcome_does_its_own(hub: CommandHub, state: Any, left: int) -> None:
    await gathered(hub, "a")
    service = await hub.service()
    link = await aside(service.receiver, credit=1)
    transfer, _ = await aside(service.transfer)
    await aside(service.dispose, transfer.delivery_id, state)
    if left:
        await aside(service.credit, link, 1, delivery_count=1)
        again, message = await aside(service.transfer)
        assert (message.message_annotations or {})["iothub-deliverycount"] == 1
        assert again.delivery_tag != transfer.delivery_tag
    await hub.queued(left, "/feedback")


@pytest.mark.parametrize("state", [ACCEPTED, RELEASED, Rejected()], ids=["accepted", "released", "rejected"])
async def test_3_5_a_receiver_that_settles_second_hears_that_it_was_done(hub: CommandHub, state: Any) -> None:
    await gathered(hub, "a")
    service = await hub.service()
    await aside(service.receiver, credit=1, rcv_settle_mode=SECOND)
    transfer, _ = await aside(service.transfer)
    await aside(service.dispose, transfer.delivery_id, state, settled=False)
    came: Disposition = (await aside(service.wait_for, Disposition)).body
    assert (came.first, came.settled, came.role) == (transfer.delivery_id, True, False)
    assert isinstance(came.state, Accepted), "C# takes nothing else for it"
    assert await hub.depth("/feedback") == (1 if state is RELEASED else 0)


async def test_3_6_a_lost_lock_is_told(hub: CommandHub) -> None:
    await gathered(hub, "a")
    service = await hub.service()
    await aside(service.receiver, credit=1, rcv_settle_mode=SECOND)
    transfer, _ = await aside(service.transfer)
    await hub.advance(LOCK)
    await aside(service.dispose, transfer.delivery_id, ACCEPTED, settled=False)
    state = (await aside(service.wait_for, Disposition)).body.state
    assert isinstance(state, Rejected)
    assert state.error is not None
    assert state.error.condition == LOCK_LOST.condition == "com.microsoft:message-lock-lost"
    assert "com.microsoft:tracking-id" in (state.error.info or {})
    assert await hub.depth("/feedback") == 1


async def test_3_7_receivers_compete_and_each_message_goes_to_one(hub: CommandHub) -> None:
    names = [f"m{number}" for number in range(6)]
    await gathered(hub, *names)
    services = [await hub.service() for _ in range(3)]
    for service in services:
        await aside(service.receiver, credit=2)
    found = [said(message) for service in services for message in await aside(service.messages, 2)]
    assert sorted(found) == sorted([name] for name in names)
    for service in services:
        assert await aside(service.silent, 0.03)


async def test_3_8_what_a_cut_receiver_had_in_hand_goes_to_others_at_once_and_is_not_counted(hub: CommandHub) -> None:
    await gathered(hub, "a")
    for _ in range(12):
        service = await hub.service()
        await aside(service.receiver, credit=1)
        _, message = await aside(service.transfer)
        assert (message.message_annotations or {})["iothub-deliverycount"] == 0
        service.socket.close()


async def test_3_9_a_lapsed_lock_brings_the_message_to_whoever_has_credit(hub: CommandHub) -> None:
    await gathered(hub, "a")
    slow, quick = await hub.service(), await hub.service()
    await aside(slow.receiver, credit=1)
    await aside(slow.transfer)
    await aside(quick.receiver, credit=1)
    assert await aside(quick.silent, 0.03)
    await hub.advance(LOCK)
    assert said((await aside(quick.transfer))[1]) == ["a"]


async def test_3_10_a_message_that_was_abandoned_ten_times_is_given_up(hub: CommandHub) -> None:
    await gathered(hub, "a")
    service = await hub.service()
    link = await aside(service.receiver, credit=1)
    for number in range(10):
        transfer, _ = await aside(service.transfer)
        await aside(service.dispose, transfer.delivery_id, RELEASED)
        await aside(service.credit, link, 1, delivery_count=number + 1)
    await hub.queued(0, "/feedback")


async def test_3_11_a_receiver_that_asks_for_settled_messages_gets_them_so(hub: CommandHub) -> None:
    await gathered(hub, "a")
    service = await hub.service()
    await aside(service.receiver, snd_settle_mode=SETTLED)
    transfer, _ = await aside(service.transfer)
    assert transfer.settled
    await hub.queued(0, "/feedback")


async def test_3_12_drain_is_answered(hub: CommandHub) -> None:
    service = await hub.service()
    link = await aside(service.receiver, credit=0)
    await aside(service.credit, link, 5, drain=True)
    flow: Flow = (await aside(service.wait_for, Flow)).body
    assert (flow.link_credit, flow.delivery_count) == (0, 5)
    await gathered(hub, "a")
    await aside(service.credit, link, 5, drain=True, delivery_count=5)
    assert said((await aside(service.transfer))[1]) == ["a"]
    flow = (await aside(service.wait_for, Flow)).body
    assert flow.link_credit == 0


async def test_3_13_services_do_not_send_there(hub: CommandHub) -> None:
    service = await hub.service()
    service.attach(target=FEEDBACK)
    assert (await aside(service.refusal)).condition == INVALID_OPERATION.condition


@pytest.mark.parametrize("policy", ["", "device", "registryReadWrite"])
async def test_3_14_without_the_right_there_is_no_link(hub: CommandHub, policy: str) -> None:
    service = await hub.service(policy=policy)
    service.attach(source=FEEDBACK)
    assert (await aside(service.refusal)).condition == UNAUTHORIZED.condition


@pytest.mark.parametrize("name", ["filenotifications", "fileNotifications", "fileuploadnotifications"])
async def test_3_15_file_notifications_have_a_queue_of_their_own(hub: CommandHub, name: str) -> None:
    service = await hub.service()
    await aside(service.receiver, f"/messages/serviceBound/{name}")
    await gathered(hub, "a")
    assert await aside(service.silent, 0.03)
    await hub.mqtt.messaging.file_notifications.put(b'{"deviceId":"d"}')
    transfer, message = await aside(service.transfer)
    assert (message.body, len(transfer.delivery_tag or b"")) == (b'{"deviceId":"d"}', 16)
    assert message.properties is not None
    assert message.properties.content_type == "application/vnd.microsoft.iothub.filenotification.json"
    await aside(service.dispose, transfer.delivery_id, ACCEPTED)
    await hub.queued(0, "/filenotifications")


@pytest.mark.parametrize("path", ["/$iothub/websocket", "/$servicebus/websocket", "/$servicebus/websocket/"])
async def test_3_16_both_ways_work_over_a_websocket(hub: CommandHub, path: str) -> None:
    url = f"wss://localhost:{hub.mqtt.websocket_port}{path}"
    trust: ssl.SSLContext = hub.mqtt.client_trust
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=["AMQPWSB10"], ssl=trust) as socket,
    ):
        peer = _Peer(socket)
        await peer.open(hub.ambient.now())
        await peer.send(Attach("s", 2, False, target=Target("/messages/devicebound"), source=Source("s"),
                               initial_delivery_count=0))  # fmt: skip
        await peer.wait_for(Attach)
        message = Message(properties=Properties(to="/devices/d/messages/devicebound"), data=(b"ws",),
                          application_properties={"iothub-ack": "full"})  # fmt: skip
        await peer.send(Transfer(2, 1, b"1", 0, False), encode_message(message))
        assert isinstance((await peer.wait_for(Disposition)).state, Accepted)
        await settle(hub, Settlement.COMPLETE)
        await peer.send(Attach("r", 3, True, source=Source(FEEDBACK), target=Target("r")))
        await peer.wait_for(Attach)
        await peer.send(Flow(None, 100, 2, 100, 3, 0, 5))
        await hub.advance(GATHER)
        await peer.wait_for(Transfer)


class _Peer:
    """A bare AMQP client on a WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._buffer = FrameBuffer(1 << 20)

    async def open(self, now: float) -> None:
        await self._socket.send_bytes(AMQP_HEADER)
        await self.send(Open("ws", "localhost"))
        while self._buffer.header() is None:
            self._buffer.feed(await self._socket.receive_bytes())
        await self.wait_for(Open)
        await self.send(Begin(None, 0, 1000, 1000))
        await self.send(Attach("c", 0, False, target=Target("$cbs"), source=Source("c"), initial_delivery_count=0))
        await self.send(Attach("b", 1, True, source=Source("$cbs"), target=Target("b")))
        await self.send(Flow(None, 100, 0, 100, 1, 0, 5))
        token = make("localhost", int(now) + 600, POLICIES["service"].primary_key.encode(), "service")
        properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "localhost"}
        request = Message(properties=Properties(message_id="1"), application_properties=properties, value=token)
        await self.wait_for(Attach)
        await self.send(Transfer(0, 0, b"0", 0, True), encode_message(request))
        await self.wait_for(Transfer)

    async def send(self, performative: Any, payload: bytes = b"") -> None:
        await self._socket.send_bytes(encode_frame(0, encode_performative(performative) + payload))

    async def wait_for(self, kind: Any) -> Any:
        while True:
            frame = self._buffer.frame()
            if frame is None:
                self._buffer.feed(await self._socket.receive_bytes(timeout=10))
                continue
            _, _, data, start, end = frame
            performative, _ = decode_performative(data, start, end)
            if isinstance(performative, kind):
                return performative
