"""What the hub says to an MQTT client over TLS, by sentences: PUBLISH and SUBSCRIBE (device.md 3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mqtt_hub import EVENTS, MAX_PENDING_BYTES, MqttHub, alive, ends_silently, mqtt_hub

from muster.core.limits import MESSAGE_BYTES, MQTT_PACKET_BYTES
from muster.identity.model import IdentityKey
from muster.testing import mqtt


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


# --- PUBLISH


async def test_301_a_message_is_stored_with_its_properties_and_acknowledged(hub: MqttHub) -> None:
    client = await hub.device("d")
    topic = EVENTS + "%24.mid=m1&%24.cid=cc&%24.ct=application%2Fjson&%24.ce=utf-8&a%20b=c%26d&none"
    await client.send(mqtt.publish(topic, b'{"t":21}', packet_id=77))
    assert (await client.expect("PUBACK")).packet_id == 77
    (message,) = await hub.messages("d")
    assert message["body"] == '{"t":21}'
    assert message["system_properties"] == {
        "message-id": "m1",
        "correlation-id": "cc",
        "content-type": "application/json",
        "content-encoding": "utf-8",
    }
    assert message["properties"] == {"a b": "c&d", "none": None}
    assert message["annotations"]["iothub-connection-device-id"] == "d"


async def test_302_a_message_of_qos_0_is_stored_and_not_acknowledged(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(EVENTS, b"quiet", qos=0))
    await alive(client)
    assert await hub.message_bodies("d", 1) == ["quiet"]


async def test_303_acknowledgements_come_in_the_order_of_the_messages(hub: MqttHub) -> None:
    client = await hub.device("d")
    numbers = [*range(500, 400, -1), *range(1, 101), 65_535, 1]
    await client.send(*[mqtt.publish(EVENTS, b"%d" % n, packet_id=n) for n in numbers])
    assert [(await client.expect("PUBACK")).packet_id for _ in numbers] == numbers
    assert await hub.message_bodies("d", len(numbers)) == [str(n) for n in numbers]


async def test_304_nothing_is_acknowledged_before_it_is_durable(hub: MqttHub) -> None:
    client, bystander = await hub.device("d"), await hub.device("other")
    hub.log.held = True
    await client.send(mqtt.publish(EVENTS, b"1", packet_id=1), mqtt.PINGREQ)
    await bystander.send(mqtt.publish("devices/other/messages/events/", b"2", packet_id=2), mqtt.PINGREQ)
    await client.expect("PINGRESP")
    await bystander.expect("PINGRESP")
    await hub.settled(lambda: bool(hub.log.waiting))
    hub.log.release()
    assert (await client.expect("PUBACK")).packet_id == 1
    assert (await bystander.expect("PUBACK")).packet_id == 2


async def test_305_a_commit_that_fails_closes_without_an_acknowledgement(hub: MqttHub) -> None:
    client = await hub.device("d")
    hub.log.failure = OSError("disk full")
    await client.send(mqtt.publish(EVENTS, b"lost"))
    await ends_silently(client)
    hub.log.failure = None
    again = await hub.device("d")
    await again.send(mqtt.publish(EVENTS, b"kept"))
    await again.expect("PUBACK")
    assert await hub.message_bodies("d", 1) == ["kept"]


async def test_306_qos_2_closes(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(EVENTS, b"", qos=2))
    await ends_silently(client)
    assert await hub.last_cause() == "qos"
    assert await hub.messages("d") == []


@pytest.mark.parametrize("first", [0x50, 0x62, 0x70])
async def test_307_packets_of_qos_2_close(hub: MqttHub, first: int) -> None:
    client = await hub.device("d")
    await client.send(bytes((first, 2, 0, 1)))
    await ends_silently(client)
    assert await hub.last_cause() == "packet"


@pytest.mark.parametrize(
    "topic",
    [
        "free/topic",
        "devices/other/messages/events/",
        "devices/d/messages/devicebound/",
        "devices/d/modules/m/messages/events/",
        "devices/d/messages/eventsandmore/",
        EVENTS + "=value-without-a-name",
    ],
)
async def test_308_other_topics_close(hub: MqttHub, topic: str) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(topic, b"x"))
    await ends_silently(client)
    assert await hub.last_cause() == "topic"


@pytest.mark.parametrize("topic", ["devices/d/messages/events", EVENTS, EVENTS + "a=b", EVENTS + "a=b/"])
async def test_309_all_spellings_of_the_telemetry_topic_are_taken(hub: MqttHub, topic: str) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(topic, b"x"))
    await client.expect("PUBACK")


async def test_310_a_module_publishes_to_its_own_topic_only(hub: MqttHub) -> None:
    await hub.key("d")
    client = await hub.device("d", "m")
    await client.send(mqtt.publish("devices/d/modules/m/messages/events/%24.on=out/", b"x"))
    await client.expect("PUBACK")
    (message,) = await hub.messages("d")
    assert (message["module_id"], message["annotations"]["iothub-outputname"]) == ("m", "out")
    await client.send(mqtt.publish(EVENTS, b"x"))
    await ends_silently(client)


async def test_311_retain_becomes_a_property(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(EVENTS + "a=b", b"1", retain=True), mqtt.publish(EVENTS + "a=b", b"2", packet_id=2))
    await client.expect("PUBACK")
    await client.expect("PUBACK")
    assert [message["properties"] for message in await hub.messages("d")] == [
        {"a": "b", "mqtt-retain": "true"},
        {"a": "b"},
    ]


async def test_312_a_message_sent_again_is_taken(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(EVENTS, b"x", packet_id=5), mqtt.publish(EVENTS, b"x", packet_id=5, dup=True))
    assert [(await client.expect("PUBACK")).packet_id for _ in range(2)] == [5, 5]


async def test_313_a_message_may_have_256_kib_and_no_more(hub: MqttHub) -> None:
    client = await hub.device("d")
    topic = EVENTS + "%24.mid=four&name=value"
    room = MESSAGE_BYTES.open - len("four" + "name" + "value")
    await client.send(mqtt.publish(topic, bytes(room), packet_id=1))
    assert (await client.expect("PUBACK")).packet_id == 1
    await client.send(mqtt.publish(topic, bytes(room + 1), packet_id=2))
    await ends_silently(client)
    assert await hub.last_cause() == "message-size"


async def test_314_a_packet_that_says_it_is_too_large_closes_before_it_is_here(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(EVENTS, bytes(MQTT_PACKET_BYTES.open))[:2000])
    await ends_silently(client)
    assert await hub.last_cause() == "packet"


async def test_315_a_message_in_single_bytes_is_one_message(hub: MqttHub) -> None:
    client = await hub.device("d")
    for byte in mqtt.publish(EVENTS + "a=b", b"slow", packet_id=9):
        await client.send(bytes((byte,)))
    assert (await client.expect("PUBACK")).packet_id == 9
    assert await hub.message_bodies("d", 1) == ["slow"]


async def test_316_a_malformed_packet_closes_and_spares_the_others(hub: MqttHub) -> None:
    client, bystander = await hub.device("d"), await hub.device("other")
    await client.send(mqtt.publish(EVENTS, b"good", qos=0), b"\x32\x03\x00\x01a")
    await ends_silently(client)
    assert await hub.message_bodies("d", 1) == ["good"]
    await alive(bystander)


async def test_317_who_sends_faster_than_the_disk_writes_is_not_read_and_loses_nothing(hub: MqttHub) -> None:
    client = await hub.device("d")
    hub.log.held = True
    count, body = 100, bytes(100_000)
    sending = asyncio.create_task(client.send(*[mqtt.publish(EVENTS, body, packet_id=n) for n in range(1, count + 1)]))
    await hub.settled(lambda: hub.telemetry.congested)
    await asyncio.sleep(0.2)
    assert hub.telemetry.pending_bytes < MAX_PENDING_BYTES + 400_000
    hub.log.release()
    assert [(await client.expect("PUBACK")).packet_id for _ in range(count)] == list(range(1, count + 1))
    await sending


async def test_318_a_message_is_activity_and_a_ping_is_none(hub: MqttHub) -> None:
    client, key = await hub.device("d"), IdentityKey("d")
    connected = (await hub.registry.activity(key)).connection_changed
    hub.ambient.advance(600)
    await alive(client)
    assert (await hub.registry.activity(key)).last_activity == connected
    await client.send(mqtt.publish(EVENTS, b"1", packet_id=1))
    await client.expect("PUBACK")
    activity = await hub.registry.activity(key)
    assert activity.connection_changed == connected
    assert activity.last_activity > connected + 300


# --- SUBSCRIBE


async def test_401_filters_are_granted_qos_1_at_most_and_foreign_ones_refused(hub: MqttHub) -> None:
    client = await hub.device("d")
    asked = [
        ("devices/d/messages/devicebound/#", 2),
        ("$iothub/methods/POST/#", 0),
        ("devices/other/messages/devicebound/#", 1),
        ("$iothub/twin/res/#", 1),
        ("free/topic", 0),
        ("$iothub/twin/PATCH/properties/desired/#", 2),
    ]
    await client.send(mqtt.subscribe(300, asked))
    answer = await client.expect("SUBACK")
    assert answer.packet_id == 300
    assert list(answer.body[2:]) == [1, 0, 0x80, 1, 0x80, 1]


async def test_402_a_subscription_may_be_repeated(hub: MqttHub) -> None:
    client = await hub.device("d")
    for packet_id in (1, 2):
        await client.send(mqtt.subscribe(packet_id, [("devices/d/messages/devicebound/#", 1)]))
        assert (await client.expect("SUBACK")).body == packet_id.to_bytes(2, "big") + b"\x01"


async def test_403_modules_subscribe_to_their_inputs(hub: MqttHub) -> None:
    await hub.key("d")
    client = await hub.device("d", "m")
    asked = [("devices/d/modules/m/inputs/#", 1), ("devices/d/modules/m/#", 1), ("devices/d/modules/n/#", 1)]
    await client.send(mqtt.subscribe(1, asked))
    assert list((await client.expect("SUBACK")).body[2:]) == [1, 1, 0x80]


async def test_404_unsubscribe_is_always_acknowledged(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.subscribe(1, [("devices/d/messages/devicebound/#", 1)]))
    await client.expect("SUBACK")
    for packet_id in (2, 3):
        await client.send(mqtt.unsubscribe(packet_id, ["devices/d/messages/devicebound/#", "free/topic"]))
        assert (await client.expect("UNSUBACK")).packet_id == packet_id
    await client.send(mqtt.DISCONNECT)
    await ends_silently(client)
    assert await (await hub.open()).connect(*await hub.login("d")) == (False, 0)


async def test_405_an_acknowledgement_of_nothing_is_ignored(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.puback(99))
    await alive(client)
