"""What the hub says to an MQTT client, sentence by sentence, over TLS (device.md section 3)."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from mqtt_hub import MAX_PENDING_BYTES, TOKEN_SECONDS, MqttHub, mqtt_hub

from muster.core.limits import CONNECT_WAIT, MESSAGE_BYTES, MQTT_KEEP_ALIVE, MQTT_PACKET_BYTES
from muster.heads import mqtt as head
from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey, Status
from muster.testing import mqtt
from muster.testing.mqtt import MqttClient
from muster.wire.mqtt.packets import Will

EVENTS = "devices/d/messages/events/"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


async def alive(client: MqttClient) -> None:
    await client.send(mqtt.PINGREQ)
    await client.expect("PINGRESP")


async def ends_silently(client: MqttClient) -> None:
    """The connection is closed and nothing more was said."""
    assert await client.expect_end() == b""


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


async def test_011_an_expired_token_is_refused_with_5(hub: MqttHub) -> None:
    client = await hub.open()
    client_id, user, _ = await hub.login("d")
    assert await client.connect(client_id, user, await hub.token("d", seconds=-600)) == (False, 5)
    assert "expir" in await hub.last_cause()


async def test_012_a_disabled_device_is_refused_with_5(hub: MqttHub) -> None:
    login = await hub.login("d")
    await hub.registry.update(Draft(key=IdentityKey("d"), status=Status.DISABLED), ANY)
    client = await hub.open()
    assert await client.connect(*login) == (False, 5)
    assert await hub.last_cause() == "device-disabled"


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


async def test_104_a_device_and_its_modules_do_not_take_over_from_each_other(hub: MqttHub) -> None:
    clients = [await hub.device("d"), await hub.device("d", "m1"), await hub.device("d", "m2")]
    for client in clients:
        await alive(client)


async def test_105_a_refused_connect_does_not_take_over(hub: MqttHub) -> None:
    client = await hub.device("d")
    intruder = await hub.open()
    client_id, user, _ = await hub.login("d")
    assert (await intruder.connect(client_id, user, await hub.token("other")))[1] == 5
    await alive(client)


@pytest.mark.parametrize("change", ["disable", "delete"])
async def test_106_a_device_that_is_disabled_or_deleted_is_cut_off(hub: MqttHub, change: str) -> None:
    client = await hub.device("d")
    if change == "disable":
        await hub.registry.update(Draft(key=IdentityKey("d"), status=Status.DISABLED), ANY)
    else:
        await hub.registry.delete(IdentityKey("d"))
    await ends_silently(client)


async def test_107_the_end_of_its_token_ends_the_connection(hub: MqttHub) -> None:
    client = await hub.device("d")
    hub.ambient.advance(TOKEN_SECONDS - 1)
    await alive(client)
    hub.ambient.advance(601)
    await ends_silently(client)
    assert await hub.last_cause() == "token-expiry"


async def test_108_reconnecting_with_a_new_token_goes_on(hub: MqttHub) -> None:
    await hub.device("d")
    hub.ambient.advance(TOKEN_SECONDS - 1)
    renewed = await hub.device("d")
    hub.ambient.advance(TOKEN_SECONDS - 1)
    await alive(renewed)


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
