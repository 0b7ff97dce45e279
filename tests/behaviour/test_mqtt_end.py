"""What the hub says to an MQTT client over TLS, by sentences: wills, the end, WebSocket (device.md 3)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from mqtt_hub import EVENTS, MqttHub, alive, ends_silently, mqtt_hub

from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey, Status
from muster.testing import mqtt
from muster.wire.mqtt.packets import Will


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


# --- wills and the end


WILL = Will(EVENTS + "reason=gone", b"farewell", 1, retain=False)


async def test_501_the_will_is_published_when_the_connection_breaks(hub: MqttHub) -> None:
    client = await hub.device("d", will=WILL)
    client.abort()
    assert await hub.message_bodies("d", 1) == ["farewell"]
    (message,) = await hub.messages("d")
    assert message["properties"] == {"reason": "gone", "iothub-MessageType": "Will"}


async def test_502_the_will_is_published_when_the_socket_closes_without_disconnect(hub: MqttHub) -> None:
    client = await hub.device("d", will=WILL)
    await client.close()
    assert await hub.message_bodies("d", 1) == ["farewell"]


async def test_503_the_will_is_discarded_by_disconnect(hub: MqttHub) -> None:
    client = await hub.device("d", will=WILL)
    await client.send(mqtt.publish(EVENTS, b"last", qos=0), mqtt.DISCONNECT)
    await ends_silently(client)
    probe = await hub.device("d")
    await probe.send(mqtt.publish(EVENTS, b"probe"))
    await probe.expect("PUBACK")
    assert await hub.message_bodies("d", 2) == ["last", "probe"]


async def test_504_the_will_is_published_on_silence_a_breach_and_a_takeover(hub: MqttHub) -> None:
    await hub.device("d", will=WILL._replace(payload=b"silence"), keep_alive=1)
    assert await hub.message_bodies("d", 1) == ["silence"]
    client = await hub.device("d", will=WILL._replace(payload=b"breach"))
    await client.send(b"\x00\x00")
    assert await hub.message_bodies("d", 2) == ["silence", "breach"]
    await hub.device("d", will=WILL._replace(payload=b"takeover"))
    await hub.device("d")
    assert await hub.message_bodies("d", 3) == ["silence", "breach", "takeover"]


@pytest.mark.parametrize("change", ["disable", "delete"])
async def test_505_a_device_that_may_not_speak_has_no_will(hub: MqttHub, change: str) -> None:
    client = await hub.device("d", will=WILL)
    if change == "disable":
        await hub.registry.update(Draft(key=IdentityKey("d"), status=Status.DISABLED), ANY)
    else:
        await hub.registry.delete(IdentityKey("d"))
    await ends_silently(client)
    probe = await hub.device("other")
    await probe.send(mqtt.publish("devices/other/messages/events/", b"x"))
    await probe.expect("PUBACK")
    assert await hub.messages("d") == []


@pytest.mark.parametrize("topic", ["free/topic", "devices/other/messages/events/", "$iothub/twin/GET/?$rid=1"])
async def test_506_a_will_on_another_topic_is_refused(hub: MqttHub, topic: str) -> None:
    client = await hub.open()
    login = await hub.login("d")
    assert await client.connect(*login, will=Will(topic, b"", 0, retain=False)) == (False, 5)
    await ends_silently(client)
    assert await hub.last_cause() == "will"
    assert not hub.sessions.is_connected(IdentityKey("d"))


async def test_507_a_retained_will_says_so(hub: MqttHub) -> None:
    client = await hub.device("d", will=WILL._replace(retain=True, qos=2))
    client.abort()
    await hub.message_bodies("d", 1)
    (message,) = await hub.messages("d")
    assert message["properties"]["mqtt-retain"] == "true"


async def test_508_nothing_is_served_behind_disconnect(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.DISCONNECT, mqtt.PINGREQ, mqtt.publish(EVENTS, b"late"))
    await ends_silently(client)
    assert await hub.messages("d") == []


async def test_509_random_packets_never_harm_anybody_else(hub: MqttHub) -> None:
    bystander = await hub.device("other")
    random = hub.ambient.random_bytes
    for number in range(40):
        client = await hub.device("d")
        kind = random(1)[0] if number % 2 else 0x32
        await client.send(mqtt.packet(kind, random(1 + number)), random(20), mqtt.DISCONNECT)
        await alive(bystander)
        client.abort()


# --- over WebSocket


async def test_601_the_same_over_a_websocket(hub: MqttHub, tmp_path: Path) -> None:
    packet = await hub.connect_packet("d", will=WILL)

    def talk() -> list[bytes]:
        socket: Any = websocket.create_connection(
            f"wss://localhost:{hub.websocket_port}/$iothub/websocket",
            subprotocols=["mqtt"],
            sslopt={"ca_certs": str(tmp_path / "ca"), "cert_reqs": ssl.CERT_REQUIRED},
            timeout=10,
        )
        answers = []
        # Packets need not begin and end where messages do.
        whole = packet + mqtt.publish(EVENTS, b"over a websocket", packet_id=3)
        for part in (whole[:1], whole[1:40], whole[40:-5], whole[-5:]):
            socket.send_binary(part)
        answers.append(socket.recv())
        answers.append(socket.recv())
        socket.shutdown()
        return answers

    assert await asyncio.to_thread(talk) == [b"\x20\x02\x00\x00", b"\x40\x02\x00\x03"]
    assert await hub.message_bodies("d", 2) == ["over a websocket", "farewell"]


async def test_602_a_connection_over_tcp_takes_over_from_one_over_a_websocket(hub: MqttHub, tmp_path: Path) -> None:
    packet, taken_over = await hub.connect_packet("d"), asyncio.Event()
    loop = asyncio.get_running_loop()

    def talk() -> tuple[bytes, Any]:
        socket: Any = websocket.create_connection(
            f"wss://localhost:{hub.websocket_port}/$iothub/websocket",
            subprotocols=["mqtt"],
            sslopt={"ca_certs": str(tmp_path / "ca")},
            timeout=10,
        )
        socket.send_binary(packet)
        answer = socket.recv()
        loop.call_soon_threadsafe(taken_over.set)
        return answer, socket.recv_data()

    talking = asyncio.create_task(asyncio.to_thread(talk))
    await taken_over.wait()
    newer = await hub.device("d")
    # Opcode 8 is the close frame; 1000 its code.
    assert await talking == (b"\x20\x02\x00\x00", (8, b"\x03\xe8"))
    await alive(newer)
