"""What the hub says to an MQTT client over TLS, by sentences: CONNECT, sessions, keep-alive (device.md 3)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mqtt_hub import EVENTS, TOKEN_SECONDS, MqttHub, alive, ends_silently, mqtt_hub

from muster.core.limits import CONNECT_WAIT, MQTT_KEEP_ALIVE, MQTT_PACKET_BYTES
from muster.heads import mqtt as head
from muster.identity.authenticator import DeviceAttempt
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict
from muster.testing import mqtt
from muster.wire.mqtt.packets import Will

READ_BYTES = 16_384
"""What the hub takes from a connection in one read: a TLS record."""


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


# --- CONNECT


async def test_001_a_device_with_its_token_is_let_in(hub: MqttHub) -> None:
    client = await hub.open()
    assert await client.connect(*await hub.login("d")) == (False, 0)
    await alive(client)
    assert hub.sessions.is_connected(IdentityKey("d"))


async def test_002_a_module_with_its_token_is_let_in(hub: MqttHub) -> None:
    await hub.device("d")
    client = await hub.device("d", "m")
    await alive(client)
    assert hub.sessions.is_connected(IdentityKey("d", "m"))


@pytest.mark.parametrize(
    "packet",
    [
        mqtt.publish(EVENTS),
        mqtt.subscribe(1, [("a", 0)]),
        mqtt.unsubscribe(1, ["a"]),
        mqtt.puback(1),
        mqtt.PINGREQ,
        mqtt.DISCONNECT,
    ],
)
async def test_003_a_first_packet_other_than_connect_closes(hub: MqttHub, packet: bytes) -> None:
    client = await hub.open()
    await client.send(packet)
    await ends_silently(client)
    assert await hub.last_cause() == "first-packet"


async def test_004_a_second_connect_closes(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(await hub.connect_packet("d"))
    await ends_silently(client)
    assert await hub.last_cause() == "packet"
    await hub.settled(lambda: not hub.sessions.is_connected(IdentityKey("d")))


@pytest.mark.parametrize(("name", "level"), [("MQTT", 5), ("MQTT", 3), ("MQIsdp", 3)])
async def test_005_another_protocol_level_is_refused_with_1(hub: MqttHub, name: str, level: int) -> None:
    client = await hub.open()
    login = await hub.login("d")
    assert await client.connect(*login, protocol_name=name, protocol_level=level) == (False, 1)
    await ends_silently(client)


async def test_006_another_protocol_name_closes(hub: MqttHub) -> None:
    client = await hub.open()
    await client.send(await hub.connect_packet("d", protocol_name="AMQP"))
    await ends_silently(client)
    assert await hub.last_cause() == "packet"


@pytest.mark.parametrize("clean", [False, True])
async def test_007_an_empty_client_id_is_refused_with_2(hub: MqttHub, clean: bool) -> None:
    client = await hub.open()
    _, user, password = await hub.login("d")
    assert await client.connect("", user, password, clean_session=clean) == (False, 2)
    await ends_silently(client)


async def test_008_a_client_id_of_somebody_else_is_refused(hub: MqttHub) -> None:
    client = await hub.open()
    _, user, password = await hub.login("d")
    _, code = await client.connect("other", user, password)
    assert code != 0
    await ends_silently(client)
    assert "client-id" in await hub.last_cause()


@pytest.mark.parametrize(
    ("user", "cause"),
    [
        ("localhost", "user-name"),
        (None, "user-name"),
        ("localhost/d/m/x/?api-version=2021-04-12", "user-name"),
        ("localhost/d", "api-version-missing"),
        ("localhost/nobody/?api-version=2021-04-12", "device-unknown"),
        ("elsewhere.example/d/?api-version=2021-04-12", "host-unknown"),
    ],
)
async def test_009_a_bad_user_name_is_refused_with_5_and_named(hub: MqttHub, user: str | None, cause: str) -> None:
    client = await hub.open()
    client_id = "nobody" if user and "nobody" in user else "d"
    password = (await hub.login("d"))[2]
    assert await client.connect(client_id, user, password if user else None) == (False, 5)
    await ends_silently(client)
    assert await hub.last_cause() == cause


@pytest.mark.parametrize(
    ("password", "cause"),
    [(None, "no-token"), ("", "no-token"), (b"\xff\xfe", "token-malformed"), ("nonsense", "token-malformed")],
)
async def test_010_a_bad_password_is_refused_with_5_and_named(
    hub: MqttHub, password: str | bytes | None, cause: str
) -> None:
    client = await hub.open()
    client_id, user, _ = await hub.login("d")
    assert await client.connect(client_id, user, password) == (False, 5)
    await ends_silently(client)
    assert await hub.last_cause() == cause


async def test_013_connect_may_come_in_single_bytes(hub: MqttHub) -> None:
    client = await hub.open()
    for byte in await hub.connect_packet("d"):
        await client.send(bytes((byte,)))
    assert (await client.expect("CONNACK")).body == b"\x00\x00"


async def test_014_packets_sent_along_with_connect_are_served_after_it(hub: MqttHub) -> None:
    client = await hub.open()
    subscribe = mqtt.subscribe(9, [("devices/d/messages/devicebound/#", 1)])
    publishes = [mqtt.publish(EVENTS, b"%d" % n, packet_id=n) for n in range(1, 200)]
    await client.send(await hub.connect_packet("d"), subscribe, mqtt.PINGREQ, *publishes)
    kinds = [(await client.receive()).kind for _ in range(202)]
    assert kinds == ["CONNACK", "SUBACK", "PINGRESP"] + ["PUBACK"] * 199
    assert await hub.message_bodies("d", 199) == [str(n) for n in range(1, 200)]


async def test_015_a_connect_beyond_what_an_unknown_may_send_closes(hub: MqttHub) -> None:
    client = await hub.open()
    huge = await hub.connect_packet("d", will=Will(EVENTS, bytes(65_500), 0, retain=False))
    assert len(huge) > head.UNAUTHENTICATED_BYTES
    await client.send(huge[:1000])
    await ends_silently(client)
    assert await hub.last_cause() == "packet"


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"AMQP\x03\x01\x00\x00",
        b"\x00",
        b"\xff" * 100,
        b"\x10\xff\xff\xff\xff\x01",
    ],
)
async def test_016_what_is_not_mqtt_closes(hub: MqttHub, nonsense: bytes) -> None:
    client = await hub.open()
    await client.send(nonsense)
    await ends_silently(client)
    assert await hub.last_cause() == "packet"


async def test_017_a_client_that_never_sends_connect_is_closed(hub: MqttHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "CONNECT_WAIT", CONNECT_WAIT._replace(open=0.3))  # type: ignore[arg-type]
    client = await hub.open()
    await client.send((await hub.connect_packet("d"))[:-1])
    await ends_silently(client)
    assert await hub.last_cause() == "connect-wait"


async def test_018_a_client_that_goes_while_it_is_judged_leaves_no_session(hub: MqttHub) -> None:
    client = await hub.open()
    await client.send(await hub.connect_packet("d"), mqtt.DISCONNECT)
    client.abort()
    probe = await hub.device("other")
    await alive(probe)
    await hub.settled(lambda: not hub.sessions.is_connected(IdentityKey("d")))


@pytest.mark.parametrize("size", [70_000, 200_000])
@pytest.mark.parametrize("cut", [-30_000, 0, 5, 30, 100])
async def test_019_a_large_message_may_come_right_behind_connect(hub: MqttHub, size: int, cut: int) -> None:
    client = await hub.open()
    data = await hub.connect_packet("d") + mqtt.publish(EVENTS, b"x" * size) + mqtt.PINGREQ
    await client.send(data[: len(data) - size - cut])
    await client.send(data[len(data) - size - cut :])
    for kind in ("CONNACK", "PINGRESP", "PUBACK"):
        await client.expect(kind)
    assert await hub.message_bodies("d", 1) == ["x" * size]


async def test_020_who_is_not_judged_yet_is_not_read(hub: MqttHub, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = asyncio.Event()
    decide = hub.authenticator.device

    async def late(attempt: DeviceAttempt) -> Verdict:
        await judged.wait()
        return await decide(attempt)

    monkeypatch.setattr(hub.authenticator, "device", late)
    opening, large, small = await hub.connect_packet("d"), mqtt.publish(EVENTS, b"x" * 200_000), mqtt.publish(EVENTS)
    for flights in ((opening + large + small,), (opening, large + small)):
        judged.clear()
        client = await hub.open()
        for flight in flights:
            await client.send(flight)
            await asyncio.sleep(0.05)
        connection = hub.connections[-1]
        await hub.settled(lambda connection=connection: not connection._transport.is_reading())
        await asyncio.sleep(0.05)
        assert 0 < len(connection._decoder._buffer) <= 2 * READ_BYTES
        judged.set()
        for kind in ("CONNACK", "PUBACK", "PUBACK"):
            await client.expect(kind)
        client.abort()


async def test_021_a_message_beyond_the_limit_behind_connect_closes(hub: MqttHub) -> None:
    client = await hub.open()
    await client.send(await hub.connect_packet("d"), mqtt.publish(EVENTS, b"x" * MQTT_PACKET_BYTES.open))
    await client.expect_end()
    assert await hub.last_cause() == "packet"
    assert await hub.messages("d") == []


# --- sessions


async def test_101_subscriptions_of_a_kept_session_are_there_next_time(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.subscribe(1, [("devices/d/messages/devicebound/#", 1)]))
    await client.expect("SUBACK")
    await client.send(mqtt.DISCONNECT)
    await ends_silently(client)
    assert await (await hub.open()).connect(*await hub.login("d")) == (True, 0)


async def test_102_a_clean_session_forgets_them(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.subscribe(1, [("devices/d/messages/devicebound/#", 1)]))
    await client.expect("SUBACK")
    second = await hub.open()
    assert await second.connect(*await hub.login("d"), clean_session=True) == (False, 0)
    await second.send(mqtt.subscribe(1, [("devices/d/messages/devicebound/#", 1)]))
    await second.expect("SUBACK")
    await second.send(mqtt.DISCONNECT)
    await ends_silently(second)
    assert await (await hub.open()).connect(*await hub.login("d")) == (False, 0)


async def test_103_the_newer_connection_takes_over_without_a_word_to_the_older(hub: MqttHub) -> None:
    older = await hub.device("d")
    newer = await hub.device("d")
    await ends_silently(older)
    await alive(newer)
    assert hub.sessions.is_connected(IdentityKey("d"))


async def test_107_the_end_of_its_token_ends_the_connection(hub: MqttHub) -> None:
    client = await hub.device("d")
    hub.ambient.advance(TOKEN_SECONDS - 1)
    await alive(client)
    hub.ambient.advance(601)
    await ends_silently(client)
    assert await hub.last_cause() == "token-expiry"


# --- keep-alive


async def test_201_silence_of_one_and_a_half_keep_alives_closes(hub: MqttHub) -> None:
    client = await hub.device("d", keep_alive=1)
    for _ in range(6):
        await asyncio.sleep(0.4)
        await alive(client)
    await ends_silently(client)
    assert await hub.last_cause() == "keep-alive"


async def test_202_part_of_a_packet_counts_as_a_sign_of_life(hub: MqttHub) -> None:
    client = await hub.device("d", keep_alive=1)
    for byte in mqtt.publish(EVENTS, b"", packet_id=3)[:6]:
        await asyncio.sleep(0.4)
        await client.send(bytes((byte,)))
    await client.send(mqtt.publish(EVENTS, b"", packet_id=3)[6:])
    assert (await client.expect("PUBACK")).packet_id == 3


@pytest.mark.parametrize("keep_alive", [0, 65_535])
async def test_203_no_keep_alive_is_longer_than_the_limit(
    hub: MqttHub, monkeypatch: pytest.MonkeyPatch, keep_alive: int
) -> None:
    monkeypatch.setattr(head, "MQTT_KEEP_ALIVE", MQTT_KEEP_ALIVE._replace(open=1))
    client = await hub.device("d", keep_alive=keep_alive)
    await ends_silently(client)
    assert await hub.last_cause() == "keep-alive"
