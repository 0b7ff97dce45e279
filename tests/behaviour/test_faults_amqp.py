"""Faults that an AMQP client asks for by a message: the object that is named is closed with an error."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amqp_device import METHODS, TWIN, Device, DeviceHub
from command_hub import aside, command_hub

from muster.core.throttles import Plan, Tier
from muster.dialect.amqp_telemetry import BATCH_FORMAT
from muster.wire.amqp.message import Message, encode_message
from muster.wire.amqp.performatives import Accepted, Close, Detach, End, Rejected

EVENTS, BOUND = "messages/events", "messages/devicebound"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHub]:
    async with command_hub(tmp_path, faults=True) as commands:
        hub = DeviceHub(commands)
        try:
            yield hub
        finally:
            hub.close()


def properties(operation: str, reason: str = "boom", delay: str = "0", duration: str = "0") -> dict[Any, Any]:
    prefix = "AzIoTHub_FaultOperation"
    said = {"Type": operation, "CloseReason": reason, "DelayInSecs": delay, "DurationInSecs": duration}
    return {prefix + name: value for name, value in said.items()}


async def ask(hub: DeviceHub, device: Device, link: int, *said: str) -> None:
    """Ask for a fault; the message is accepted, and the fault begun if it has no delay."""
    outcome = await aside(device.telemetry, link, b"fault", application_properties=properties(*said))
    assert isinstance(outcome, Accepted)
    hub.ambient.advance(0)


async def accepted(device: Device, link: int, **more: Any) -> None:
    assert isinstance(await aside(device.telemetry, link, b"x", **more), Accepted)


async def ended(device: Device) -> Any:
    """The last frame before the end of the connection."""
    last = None
    with contextlib.suppress(ConnectionResetError):
        while (came := await aside(device.next)) is not None:
            last = came.body
    return last


@pytest.mark.parametrize("reason", ["boom", "byebye"])
async def test_1_the_transport_is_cut_without_a_word_after_the_delay(hub: DeviceHub, reason: str) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    await ask(hub, device, link, "KillTcp", reason, "2")
    hub.ambient.advance(1.9)
    await accepted(device, link)
    hub.ambient.advance(0.1)
    assert not isinstance(await ended(device), Close)
    assert await hub.mqtt.last_cause() == "fault"
    assert not hub.connected("d")
    back = await hub.device()
    await accepted(back, await aside(back.link, "d", EVENTS))
    assert await hub.bodies("d", 3) == ["fault", "x", "x"]


@pytest.mark.parametrize(
    ("operation", "condition"), [("KillAmqpConnection", "amqp:internal-error"), ("ShutDownAmqp", None)]
)
async def test_2_the_connection_is_closed_with_an_error_or_in_good_order(
    hub: DeviceHub, operation: str, condition: str | None
) -> None:
    device = await hub.device()
    await ask(hub, device, await aside(device.link, "d", EVENTS), operation)
    close = (await aside(device.wait_for, Close)).body
    assert (None if close.error is None else close.error.condition) == condition
    assert not hub.connected("d")


async def test_3_the_sessions_of_the_device_end_and_the_connection_goes_on(hub: DeviceHub) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS, channel=1)
    outcome = await aside(device.telemetry, link, b"fault", 1, application_properties=properties("KillAmqpSession"))
    assert isinstance(outcome, Accepted)
    hub.ambient.advance(0)
    end = await aside(device.wait_for, End)
    assert (end.channel, end.body.error.condition) == (1, "amqp:internal-error")
    assert not hub.connected("d")
    again = await aside(device.link, "d", EVENTS, channel=2)
    await accepted(device, again, channel=2)


@pytest.mark.parametrize(
    ("operation", "end", "receive"),
    [
        ("KillAmqpD2CLink", EVENTS, False), ("KillAmqpC2DLink", BOUND, True), ("KillAmqpTwinLinkReq", TWIN, False),
        ("KillAmqpTwinLinkResp", TWIN, True), ("KillAmqpMethodReqLink", METHODS, True),
        ("KillAmqpMethodRespLink", METHODS, False),
    ],
)  # fmt: skip
async def test_4_one_link_is_detached_with_an_error_and_the_others_go_on(
    hub: DeviceHub, operation: str, end: str, receive: bool
) -> None:
    device = await hub.device()
    telemetry = await aside(device.link, "d", EVENTS)
    struck = telemetry if end == EVENTS else await aside(device.link, "d", end, receive=receive)
    await ask(hub, device, telemetry, operation)
    detach = (await aside(device.wait_for, Detach)).body
    assert (detach.handle, detach.closed, detach.error.condition) == (struck, True, "amqp:link:detach-forced")
    assert "AzIoTHub_FaultOperationType" in detach.error.description
    again = await aside(device.link, "d", end, receive=receive)
    await accepted(device, again if end == EVENTS else telemetry)


@pytest.mark.parametrize(("operation", "sender"), [("KillAmqpCBSLinkReq", True), ("KillAmqpCBSLinkResp", False)])
async def test_5_a_link_to_cbs_is_detached_and_the_device_goes_on(hub: DeviceHub, operation: str, sender: bool) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    await ask(hub, device, link, operation)
    detach = (await aside(device.wait_for, Detach)).body
    assert detach.error.condition == "amqp:link:detach-forced"
    assert detach.handle == (1 if sender else 0), "the client attaches the receiver first"
    await accepted(device, link)
    status, _ = await aside(device.put, await hub.token("d", 7200))
    assert status == 200, "a token is put by new links"
    hub.ambient.advance(3700)
    await accepted(device, link)


@pytest.mark.parametrize(
    ("operation", "condition"),
    [
        ("InvokeThrottling", "com.microsoft:device-container-throttled"),
        ("InvokeMaxMessageQuota", "com.microsoft:quota-exceeded"),
        ("InvokeAuthError", "amqp:unauthorized-access"),
    ],
)
async def test_6_messages_are_rejected_so_after_the_delay_for_the_duration(
    hub: DeviceHub, operation: str, condition: str
) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    await ask(hub, device, link, operation, "boom", "1", "5")
    await accepted(device, link)
    hub.ambient.advance(1)
    for _ in range(2):
        outcome = await aside(device.telemetry, link, b"refused")
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert outcome.error.condition == condition
    hub.ambient.advance(5)
    await accepted(device, link)
    assert await hub.bodies("d", 3) == ["fault", "x", "x"]


@pytest.mark.parametrize(
    ("operation", "last"), [("KillTcp", None), ("KillAmqpConnection", "amqp:internal-error"), ("ShutDownAmqp", "")]
)
async def test_7_while_it_lasts_a_connection_ends_when_the_device_logs_in(
    hub: DeviceHub, operation: str, last: str | None
) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    await ask(hub, device, link, operation, "boom", "0", "5")
    await ended(device)
    again = await hub.connect()
    with pytest.raises(AssertionError, match="hung up"):
        await aside(again.put, await hub.token("d"))
    closes = [came.body for came in again.came if isinstance(came.body, Close)]
    assert [close.error.condition if close.error else "" for close in closes] == [] if last is None else [last]
    other = await hub.device("other")
    await accepted(other, await aside(other.link, "other", EVENTS))
    hub.ambient.advance(5)
    back = await hub.device()
    await accepted(back, await aside(back.link, "d", EVENTS))


async def test_7_1_and_one_with_a_policys_token_when_the_device_attaches(hub: DeviceHub) -> None:
    device = await hub.connect()
    await hub.token("d")
    assert (await aside(device.put, hub.policy_token()))[0] == 200
    link = await aside(device.link, "d", EVENTS)
    await ask(hub, device, link, "KillAmqpConnection", "boom", "0", "5")
    await aside(device.wait_for, Close)
    again = await hub.connect()
    assert (await aside(again.put, hub.policy_token()))[0] == 200
    await aside(again.ask, "d", EVENTS)
    hub.ambient.advance(0)
    await aside(again.wait_for, Close)


async def test_8_another_device_on_the_connection_only_loses_what_they_share(hub: DeviceHub) -> None:
    device = await hub.device("a")
    assert (await aside(device.put, await hub.token("b"), message_id="2"))[0] == 200
    first, second = [await aside(device.link, name, EVENTS) for name in ("a", "b")]
    await ask(hub, device, first, "KillAmqpD2CLink", "boom", "0", "5")
    assert (await aside(device.wait_for, Detach)).body.handle == first
    await accepted(device, second)
    await ask(hub, device, second, "KillTcp")
    await ended(device)
    assert not hub.connected("b")


@pytest.mark.parametrize("form", ["batch", "settled"])
async def test_9_batches_and_settled_messages_may_ask_too(hub: DeviceHub, form: str) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    asking = encode_message(Message(data=(b"x",), application_properties=properties("KillTcp")))
    if form == "batch":
        whole = encode_message(Message(data=(encode_message(Message(data=(b"x",))), asking)))
        number = await aside(device.transfer, link, whole, message_format=BATCH_FORMAT)
        assert isinstance(await aside(device.settlement, number), Accepted)
    else:
        await aside(device.transfer, link, asking, settled=True)
        await hub.bodies("d", 1)
    hub.ambient.advance(0)
    await ended(device)


@pytest.mark.parametrize("operation", ["ShutDownMqtt", "Nonsense"])
async def test_10_what_has_nothing_to_strike_here_is_passed_over(hub: DeviceHub, operation: str) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    await ask(hub, device, link, operation)
    await accepted(device, link)
    assert await hub.mqtt.last_cause() == ""


async def test_11_a_message_that_is_refused_asks_for_nothing(hub: DeviceHub) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    asking = Message(data=(bytes(262_144),), application_properties=properties("KillTcp", "boom", "1"))
    assert isinstance(
        await aside(device.settlement, await aside(device.transfer, link, encode_message(asking))), Rejected
    )
    hub.ambient.advance(2)
    await accepted(device, link)


async def test_12_a_hub_that_takes_no_faults_takes_the_message(tmp_path: Path) -> None:
    async with command_hub(tmp_path) as commands:
        hub = DeviceHub(commands)
        device = await hub.device()
        link = await aside(device.link, "d", EVENTS)
        await ask(hub, device, link, "KillTcp")
        await accepted(device, link)
        hub.close()


async def test_13_a_hub_with_rates_takes_faults_too(tmp_path: Path) -> None:
    async with command_hub(tmp_path, plan=Plan(Tier.S1), faults=True) as commands:
        hub = DeviceHub(commands)
        device = await hub.device()
        link = await aside(device.link, "d", EVENTS)
        await ask(hub, device, link, "InvokeAuthError", "boom", "0", "5")
        assert isinstance(await aside(device.telemetry, link, b"refused"), Rejected)
        hub.ambient.advance(5)
        await ask(hub, device, link, "KillTcp")
        await ended(device)
        hub.close()
