"""Faults that an MQTT client asks for by a message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mqtt_hub import EVENTS, MqttHub, alive, ends_silently, mqtt_hub

from muster.core.throttles import Plan, Tier
from muster.identity.model import IdentityKey
from muster.testing.mqtt import MqttClient, Will, publish


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path, faults=True) as hub:
        yield hub


def bag(operation: str, reason: str = "boom", delay: str = "0", duration: str = "0") -> str:
    prefix = "AzIoTHub_FaultOperation"
    said = {"Type": operation, "CloseReason": reason, "DelayInSecs": delay, "DurationInSecs": duration}
    return "&".join(f"{prefix}{name}={value}" for name, value in said.items())


async def ask(hub: MqttHub, client: MqttClient, *said: str, packet_id: int = 1) -> None:
    """Ask for a fault; the message is acknowledged, and the fault begun if it has no delay."""
    await client.send(publish(EVENTS + bag(*said), b"fault", packet_id=packet_id))
    await client.expect("PUBACK")
    hub.ambient.advance(0)


async def send(client: MqttClient, packet_id: int = 9, topic: str = EVENTS) -> None:
    await client.send(publish(topic, b"x", packet_id=packet_id))
    await client.expect("PUBACK")


@pytest.mark.parametrize("said", [("KillTcp", "boom"), ("KillTcp", "byebye"), ("ShutDownMqtt", "byebye")])
async def test_1_the_connection_ends_after_the_puback_and_the_delay(hub: MqttHub, said: tuple[str, str]) -> None:
    client = await hub.device("d")
    await ask(hub, client, *said, "2")
    await send(client)
    hub.ambient.advance(1.9)
    await alive(client)
    hub.ambient.advance(0.1)
    await ends_silently(client)
    assert await hub.last_cause() == "fault"
    assert not hub.sessions.is_connected(IdentityKey("d"))
    back = await hub.device("d")
    await send(back)
    assert await hub.message_bodies("d", 3) == ["fault", "x", "x"]


async def test_2_with_no_delay_the_puback_still_comes_first(hub: MqttHub) -> None:
    client = await hub.device("d")
    await ask(hub, client, "KillTcp")
    await ends_silently(client)


async def test_3_the_message_is_telemetry_like_any_other(hub: MqttHub) -> None:
    client = await hub.device("d")
    await ask(hub, client, "KillTcp", "boom", "10")
    [message] = await hub.messages("d")
    assert message["body"] == "fault"
    assert message["properties"]["AzIoTHub_FaultOperationType"] == "KillTcp"


async def test_4_the_same_topic_again_is_a_fault_again(hub: MqttHub) -> None:
    struck = []
    client = await hub.device("d")
    assert hub.faults is not None
    hub.faults.attend(IdentityKey("d"), struck.append)
    for packet_id in (1, 2, 3):
        await ask(hub, client, "KillTcp", packet_id=packet_id)
    assert len(struck) == 3


async def test_5_qos_0_may_ask_too(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(publish(EVENTS + bag("KillTcp"), b"x", qos=0))
    await hub.message_bodies("d", 1)
    hub.ambient.advance(0)
    await ends_silently(client)


async def test_6_while_it_lasts_a_new_connection_ends_too(hub: MqttHub) -> None:
    for operation, reason, code in (("KillTcp", "boom", None), ("ShutDownMqtt", "byebye", 3)):
        client = await hub.device("d")
        await ask(hub, client, operation, reason, "0", "5")
        await ends_silently(client)
        again = await hub.open()
        await again.send(await hub.connect_packet("d"))
        if code is not None:
            assert (await again.expect("CONNACK")).body[1] == code
        await ends_silently(again)
        await alive(await hub.device("other"))
        hub.ambient.advance(5)
        await alive(await hub.device("d"))


async def test_7_throttled_messages_are_late_and_not_lost(hub: MqttHub) -> None:
    client = await hub.device("d")
    await ask(hub, client, "InvokeThrottling", "boom", "0", "5")
    await client.send(publish(EVENTS, b"late", packet_id=9))
    other = await hub.device("other")
    await other.send(publish("devices/other/messages/events/", b"x", packet_id=1))
    await other.expect("PUBACK")
    assert [message["body"] for message in await hub.messages("d")] == ["fault"]
    hub.ambient.advance(5)
    await client.expect("PUBACK")
    assert await hub.message_bodies("d", 2) == ["fault", "late"]


async def test_8_who_connects_anew_is_throttled_still(hub: MqttHub) -> None:
    client = await hub.device("d")
    await ask(hub, client, "InvokeThrottling", "boom", "0", "5")
    again = await hub.device("d")
    await again.send(publish(EVENTS, b"late", packet_id=9))
    await alive(await hub.device("other"))
    assert [message["body"] for message in await hub.messages("d")] == ["fault"]
    hub.ambient.advance(5)
    await again.expect("PUBACK")


@pytest.mark.parametrize("operation", ["InvokeMaxMessageQuota", "InvokeAuthError"])
async def test_9_a_message_that_is_to_be_refused_ends_the_connection(hub: MqttHub, operation: str) -> None:
    client = await hub.device("d")
    await send(client)
    await ask(hub, client, operation, "boom", "1", "5")
    await send(client)
    hub.ambient.advance(1)
    await alive(client)
    await client.send(publish(EVENTS, b"refused", packet_id=9))
    await ends_silently(client)
    assert await hub.last_cause() == "fault"
    again = await hub.device("d")
    await again.send(publish(EVENTS, b"refused", packet_id=9))
    await ends_silently(again)
    hub.ambient.advance(5)
    await send(await hub.device("d"))
    assert await hub.message_bodies("d", 4) == ["x", "fault", "x", "x"]


async def test_10_a_topic_that_was_sent_before_is_no_way_around(hub: MqttHub) -> None:
    client = await hub.device("d")
    await ask(hub, client, "InvokeAuthError", "boom", "1", "5")
    await send(client, topic=EVENTS + "a=b")
    hub.ambient.advance(1)
    await client.send(publish(EVENTS + "a=b", b"refused", packet_id=9))
    await ends_silently(client)


@pytest.mark.parametrize(
    "said",
    [("KillAmqpConnection",), ("ShutDownAmqp",), ("Nonsense",), ("KillTcp", "boom", "x"), ("KillTcp", "", "1e9")],
)
async def test_11_what_has_nothing_to_strike_here_is_passed_over(hub: MqttHub, said: tuple[str, ...]) -> None:
    client = await hub.device("d")
    await ask(hub, client, *said)
    await alive(client)
    assert await hub.last_cause() == ""


async def test_12_a_will_asks_for_nothing(hub: MqttHub) -> None:
    client = await hub.device("d", will=Will(EVENTS + bag("KillTcp"), b"gone", 1, False))
    client.abort()
    assert await hub.message_bodies("d", 1) == ["gone"]
    back = await hub.device("d")
    hub.ambient.advance(10)
    await alive(back)


async def test_13_a_message_that_could_not_be_stored_asks_for_nothing(hub: MqttHub) -> None:
    client = await hub.device("d")
    hub.log.failure = OSError("full")
    await client.send(publish(EVENTS + bag("KillTcp", "boom", "1"), b"x", packet_id=1))
    await ends_silently(client)
    hub.log.failure = None
    back = await hub.device("d")
    hub.ambient.advance(2)
    await alive(back)


async def test_14_a_hub_that_takes_no_faults_takes_the_message(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path) as hub:
        client = await hub.device("d")
        await ask(hub, client, "KillTcp")
        await alive(client)


async def test_15_a_hub_with_rates_takes_faults_too(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path, plan=Plan(Tier.S1), faults=True) as hub:
        client = await hub.device("d")
        await ask(hub, client, "InvokeThrottling", "boom", "0", "5")
        await client.send(publish(EVENTS, b"late", packet_id=9))
        await alive(await hub.device("other"))
        hub.ambient.advance(5)
        await client.expect("PUBACK")
        await ask(hub, client, "KillTcp", packet_id=10)
        await ends_silently(client)
