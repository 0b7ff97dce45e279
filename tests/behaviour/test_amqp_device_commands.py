"""Cloud-to-device messages, twins and methods of devices on AMQP, sentence by sentence."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amqp_device import METHODS, TWIN, Device, DeviceHub
from command_hub import CommandHub, aside, command_hub

from muster.core.amqp_limits import AMQP_COMMANDS_IN_FLIGHT
from muster.core.errors import HubError
from muster.identity.model import IdentityKey
from muster.messages.methods import MethodAnswer
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import (
    ACCEPTED,
    RELEASED,
    SECOND,
    Accepted,
    Detach,
    Disposition,
    Flow,
    Modified,
    Rejected,
    Transfer,
)
from muster.wire.amqp.values import Int, Symbol, UByte, ULong

DEVICEBOUND, EVENTS = "messages/devicebound", "messages/events"
NOTIFICATIONS = "/notifications/twin/properties/desired"
KEY = IdentityKey("d")


@pytest.fixture
async def commands(tmp_path: Path) -> AsyncIterator[CommandHub]:
    async with command_hub(tmp_path) as commands:
        yield commands


@pytest.fixture
async def hub(commands: CommandHub) -> AsyncIterator[DeviceHub]:
    hub = DeviceHub(commands)
    try:
        yield hub
    finally:
        hub.close()


async def taking(hub: DeviceHub, name: str = "d", **options: Any) -> tuple[Device, int]:
    """A device with a link for commands."""
    device = await hub.device(name)
    return device, await aside(device.link, name, DEVICEBOUND, receive=True, **options)


# --- 1. cloud-to-device messages


@pytest.mark.parametrize("name", ["d", "d/m"])
async def test_1_1_a_command_arrives_with_all_that_belongs_to_it(
    hub: DeviceHub, commands: CommandHub, name: str
) -> None:
    device, _ = await taking(hub, name)
    await commands.send(
        b"\xff\x00", device=name, message_id="m", correlation_id="c", user_id=b"u", content_type="text/plain",
        content_encoding="utf-8", application={"a": "b", "none": None, "iothub-ack": "full"},
    )  # fmt: skip
    transfer, message = await aside(device.command)
    assert (len(transfer.delivery_tag or b""), transfer.settled) == (16, False)
    assert message.body == b"\xff\x00"
    assert message.properties == Properties(
        message_id="m", correlation_id="c", user_id=b"u", content_type="text/plain", content_encoding="utf-8",
        to=f"/devices/{name.replace('/', '/modules/')}/messages/devicebound",
    )  # fmt: skip
    assert message.application_properties == {"a": "b", "none": None, "iothub-ack": "full"}
    annotations = message.message_annotations or {}
    assert (type(annotations["x-opt-sequence-number"]), type(annotations["iothub-deliverycount"])) == (ULong, UByte)
    lock = uuid.UUID(annotations["x-opt-lock-token"])
    assert lock.bytes_le == transfer.delivery_tag
    await aside(device.dispose, transfer.delivery_id, ACCEPTED)
    await commands.emptied(name)
    if name == "d":
        assert await commands.statuses() == [("m", "Success")]


@pytest.mark.parametrize(("outcome", "status"), [(Rejected(), "Rejected"), (ACCEPTED, "Success")])
async def test_1_2_accepted_completes_and_rejected_rejects(
    hub: DeviceHub, commands: CommandHub, outcome: Any, status: str
) -> None:
    device, _ = await taking(hub)
    await commands.send(b"x", message_id="m", application={"iothub-ack": "full"})
    transfer, _ = await aside(device.command)
    await aside(device.dispose, transfer.delivery_id, outcome)
    await commands.emptied()
    assert await commands.statuses() == [("m", status)]


@pytest.mark.parametrize("outcome", [RELEASED, Modified(delivery_failed=True)])
async def test_1_3_released_and_modified_give_back_and_count(
    hub: DeviceHub, commands: CommandHub, outcome: Any
) -> None:
    device, _ = await taking(hub)
    await commands.send(b"x", message_id="m", application={"iothub-ack": "full"})
    for number in range(10):
        transfer, message = await aside(device.command)
        assert (message.message_annotations or {})["iothub-deliverycount"] == number
        await aside(device.dispose, transfer.delivery_id, outcome)
    await commands.emptied()
    assert await commands.statuses() == [("m", "DeliveryCountExceeded")]


async def test_1_4_who_waits_for_it_hears_that_it_is_settled(hub: DeviceHub, commands: CommandHub) -> None:
    """C# settles in two steps."""
    device, _ = await taking(hub, rcv_settle_mode=SECOND)
    await commands.send(b"x")
    transfer, _ = await aside(device.command)
    await aside(device.dispose, transfer.delivery_id, ACCEPTED, settled=False)
    said = (await aside(device.wait_for, Disposition)).body
    assert (said.first, said.settled, type(said.state)) == (transfer.delivery_id, True, Accepted)
    assert await commands.depth() == 0


async def test_1_5_a_lost_lock_is_told(hub: DeviceHub, commands: CommandHub) -> None:
    device, _ = await taking(hub, rcv_settle_mode=SECOND)
    await commands.send(b"x")
    first, _ = await aside(device.command)
    await commands.advance(61)
    second, _ = await aside(device.command)
    assert second.delivery_tag != first.delivery_tag
    await aside(device.dispose, first.delivery_id, ACCEPTED, settled=False)
    said = (await aside(device.wait_for, Disposition)).body
    assert said.state.error.condition == "com.microsoft:message-lock-lost"
    await aside(device.dispose, second.delivery_id, ACCEPTED, settled=False)
    assert isinstance((await aside(device.wait_for, Disposition)).body.state, Accepted)
    assert await commands.depth() == 0


async def test_1_6_what_goes_out_settled_is_complete(hub: DeviceHub, commands: CommandHub) -> None:
    device, _ = await taking(hub, snd_settle_mode=1)
    await commands.send(b"x")
    transfer, _ = await aside(device.command)
    assert transfer.settled
    await commands.emptied()


@pytest.mark.parametrize("how", ["detach", "cut"])
async def test_1_7_what_a_device_had_in_hand_goes_back_uncounted(
    hub: DeviceHub, commands: CommandHub, how: str
) -> None:
    device, link = await taking(hub)
    await commands.send(b"x")
    await aside(device.command)
    if how == "detach":
        await aside(device.send, Detach(link, True))
    else:
        device.socket.close()
    again, _ = await taking(hub)
    _, message = await aside(again.command)
    assert (message.message_annotations or {})["iothub-deliverycount"] == 0


async def test_1_8_no_more_is_sent_than_there_is_credit(hub: DeviceHub, commands: CommandHub) -> None:
    device, link = await taking(hub, credit=0)
    await commands.send(b"a", b"b", b"c")
    await aside(device.credit, link, 2)
    assert [message.body for message in await aside(device.messages, 2)] == [b"a", b"b"]
    assert await aside(device.silent)
    await aside(device.credit, link, 1, delivery_count=2)
    assert [message.body for message in await aside(device.messages, 1)] == [b"c"]


async def test_1_9_no_more_is_in_hand_than_the_limit(hub: DeviceHub, commands: CommandHub) -> None:
    most = AMQP_COMMANDS_IN_FLIGHT.open
    device, _ = await taking(hub, credit=1000)
    await commands.send(*[b"%d" % number for number in range(most + 1)])
    got = [await aside(device.command) for _ in range(most)]
    assert await aside(device.silent)
    await aside(device.dispose, got[0][0].delivery_id, ACCEPTED)
    assert (await aside(device.command))[1].body == b"%d" % most


async def test_1_10_credit_is_given_back_when_the_device_drains(hub: DeviceHub, commands: CommandHub) -> None:
    device, link = await taking(hub, credit=0)
    await commands.send(b"a", b"b")
    await aside(device.credit, link, 5, drain=True)
    assert [message.body for message in await aside(device.messages, 2)] == [b"a", b"b"]
    drained = (await aside(device.wait_for, Flow)).body
    assert (drained.link_credit, drained.delivery_count) == (0, 5)


async def test_1_11_a_newer_link_of_the_same_device_takes_the_commands(hub: DeviceHub, commands: CommandHub) -> None:
    device, _ = await taking(hub)
    await aside(device.ask, "d", DEVICEBOUND, receive=True)
    assert (await aside(device.refusal)).condition == "amqp:link:stolen"
    await aside(device.credit, 2 + 1, 10)
    await commands.send(b"x")
    transfer, _ = await aside(device.command)
    assert transfer.handle == 2 + 1


async def test_1_12_a_large_command_comes_in_frames_that_the_device_takes(hub: DeviceHub, commands: CommandHub) -> None:
    """Java takes frames of 4096 bytes."""
    device = await hub.device("d", max_frame_size=4096)
    await aside(device.link, "d", DEVICEBOUND, receive=True)
    await commands.send(b"x" * 60_000)
    [message] = await aside(device.messages, 1)
    assert message.body == b"x" * 60_000
    assert len([came for came in device.came if isinstance(came.body, Transfer)]) > 14


# --- 2. twins


@pytest.mark.parametrize("name", ["d", "d/m"])
@pytest.mark.parametrize("correlation", ["twin:1", uuid.UUID(int=5), ULong(9), b"bytes"])
async def test_2_1_a_device_gets_its_twin(hub: DeviceHub, name: str, correlation: Any) -> None:
    device = await hub.device(name)
    link = await aside(device.pair, name, TWIN)
    status, annotations, body = await aside(device.twin, link, "GET", correlation=correlation)
    assert (status, type(status), annotations) == (200, Int, {})
    assert json.loads(body) == {"desired": {"$version": 1}, "reported": {"$version": 1}}


async def test_2_2_a_device_reports(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.pair, "d", TWIN)
    reported = {"resource": "/properties/reported"}
    assert await aside(device.twin, link, "PATCH", b'{"a":{"b":1}}', **reported) == (204, {"version": 2}, b"")
    assert await aside(device.twin, link, "PATCH", b'{"a":{"c":2}}', version=Int(2), **reported) == (
        204, {"version": 3}, b"",
    )  # fmt: skip
    assert (await hub.mqtt.twins.get(KEY)).reported.values == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize(
    ("operation", "body", "more", "code"),
    [
        ("PATCH", b"no json", {"resource": "/properties/reported"}, 400006),
        ("PATCH", b'{"a b":1}', {"resource": "/properties/reported"}, 400004),
        ("PATCH", b"{}", {"resource": "/properties/reported", "version": 7}, 412001),
        ("PATCH", b"{}", {"resource": "/properties/desired"}, 400004),
        ("PATCH", b"{}", {"resource": "/properties/reported", "version": "x"}, 400004),
        ("EAT", b"", {}, 400004),
        ("GET", b"", {"resource": "/part"}, 400004),
    ],
)
async def test_2_3_a_refusal_is_a_status_and_json(
    hub: DeviceHub, operation: str, body: bytes, more: dict[str, Any], code: int
) -> None:
    device = await hub.device("d")
    link = await aside(device.pair, "d", TWIN)
    came, _, answer = await aside(device.twin, link, operation, body, **more)
    assert came == code // 1000
    assert json.loads(answer)["errorCode"] == code


async def test_2_4_desired_changes_come_while_they_are_wanted(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.pair, "d", TWIN)
    await hub.mqtt.twins.patch(KEY, None, {"n": 0})
    assert await aside(device.silent)
    assert (await aside(device.twin, link, "PUT", resource=NOTIFICATIONS))[0] == 200
    for number in (1, 2):
        await hub.mqtt.twins.patch(KEY, None, {"n": number, "gone": None})
    for number in (1, 2):
        [message] = await aside(device.messages, 1)
        assert json.loads(message.body) == {"n": number, "gone": None, "$version": number + 2}
        assert message.properties is not None
        assert message.properties.correlation_id is None
        assert (message.message_annotations or {})["resource"] == "/properties/desired"
    assert (await aside(device.twin, link, "DELETE", resource=NOTIFICATIONS))[0] == 200
    await hub.mqtt.twins.patch(KEY, None, {"n": 3})
    assert await aside(device.silent)


async def test_2_5_answers_wait_for_the_link_that_brings_them(hub: DeviceHub) -> None:
    device = await hub.device("d")
    properties: dict[Any, Any] = {Symbol("com.microsoft:channel-correlation-id"): "twin:x"}
    link = await aside(device.link, "d", TWIN, properties=properties)
    request = Message(message_annotations={Symbol("operation"): "GET"}, properties=Properties(correlation_id="c"))
    await aside(device.transfer, link, encode_message(request))
    assert await aside(device.silent)
    await aside(device.ask, "d", TWIN, receive=True, properties=properties)
    await aside(device.credit, link + 1, 1)
    [answer] = await aside(device.messages, 1)
    assert (answer.message_annotations or {})["status"] == 200


async def test_2_6_a_request_that_cannot_be_answered_is_rejected(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.pair, "d", TWIN)
    number = await aside(device.transfer, link, encode_message(Message(data=(b" ",))))
    outcome = await aside(device.settlement, number)
    assert outcome.error.condition == "com.microsoft:argument-error"


async def test_2_7_a_device_that_takes_no_changes_loses_the_link_and_no_more(hub: DeviceHub) -> None:
    device = await hub.device("d")
    events = await aside(device.link, "d", EVENTS)
    link = await aside(device.pair, "d", TWIN)
    await aside(device.twin, link, "PUT", resource=NOTIFICATIONS)
    for number in range(200):
        await hub.mqtt.twins.patch(KEY, None, {"n": number})
    assert (await aside(device.refusal)).condition == "com.microsoft:device-container-throttled"
    assert isinstance(await aside(device.telemetry, events, b"x"), Accepted)


# --- 3. methods


async def called(hub: DeviceHub, name: str = "d", **options: Any) -> asyncio.Task[MethodAnswer]:
    device_id, _, module_id = name.partition("/")
    key = IdentityKey(device_id, module_id or None)
    task = asyncio.create_task(hub.mqtt.methods.invoke(key, "echo", b'{"a":1}', **options))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("name", ["d", "d/m"])
@pytest.mark.parametrize("as_text", [False, True])
async def test_3_1_a_device_is_asked_and_answers(hub: DeviceHub, name: str, as_text: bool) -> None:
    device = await hub.device(name)
    link = await aside(device.pair, name, METHODS)
    call = await called(hub, name)
    transfer, request = await aside(device.command)
    assert len(transfer.delivery_tag or b"") == 16
    assert (request.body, request.application_properties) == (b'{"a":1}', {"IoThub-methodname": "echo"})
    assert request.properties is not None
    correlation = request.properties.correlation_id
    assert isinstance(correlation, uuid.UUID)
    answer = Message(
        properties=Properties(correlation_id=str(correlation) if as_text else correlation),
        application_properties={"IoThub-status": Int(207)}, data=(b'"fine"',),
    )  # fmt: skip
    await aside(device.transfer, link, encode_message(answer))
    assert await call == MethodAnswer(207, b'"fine"')


async def test_3_2_methods_are_taken_as_long_as_the_link_is_there(hub: DeviceHub) -> None:
    device = await hub.device("d")
    await aside(device.link, "d", EVENTS)
    with pytest.raises(HubError, match="DeviceNotOnline"):
        await (await called(hub))
    waits = await called(hub, connect_timeout=100)
    link = await aside(device.link, "d", METHODS, receive=True)
    await aside(device.command)
    await aside(device.send, Detach(link, True))
    await aside(device.wait_for, Detach)
    with pytest.raises(HubError, match="DeviceNotOnline"):
        await (await called(hub))
    device.socket.close()
    with pytest.raises(HubError, match="DeviceConnectionClosedRemotely"):
        await waits


@pytest.mark.parametrize(
    "answer",
    [
        Message(data=(b"1",)),
        Message(properties=Properties(correlation_id="x"), application_properties={"IoThub-status": 1}),
        Message(properties=Properties(correlation_id=uuid.UUID(int=1)), application_properties={"IoThub-status": "x"}),
    ],
)
async def test_3_3_an_answer_that_is_none_is_rejected_and_does_no_harm(hub: DeviceHub, answer: Message) -> None:
    device = await hub.device("d")
    link = await aside(device.pair, "d", METHODS)
    outcome = await aside(device.settlement, await aside(device.transfer, link, encode_message(answer)))
    assert outcome.error.condition == "com.microsoft:argument-error"
    late = Message(properties=Properties(correlation_id=uuid.uuid4()), application_properties={"IoThub-status": 200})
    number = await aside(device.transfer, link, encode_message(late))
    assert isinstance(await aside(device.settlement, number), Accepted), "one that nobody waits for is passed over"


async def test_3_4_inputs_of_a_module_may_be_listened_to(hub: DeviceHub) -> None:
    module = await hub.device("d/m")
    await aside(module.link, "d/m", EVENTS, receive=True)
    link = await aside(module.link, "d/m", EVENTS)
    message = Message(data=(b"x",), application_properties={"iothub-outputname": "out"})
    number = await aside(module.transfer, link, encode_message(message))
    assert isinstance(await aside(module.settlement, number), Accepted)
    [stored] = await hub.mqtt.messages("d")
    assert (stored["module_id"], stored["annotations"]["iothub-outputname"]) == ("m", "out")
