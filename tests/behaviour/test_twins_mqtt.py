"""Twins over MQTT, sentence by sentence, on real sockets (device.md 3.8)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_hub import MqttHub, alive, device_services, ends_silently, mqtt_hub

from muster.core.limits import TWIN_REQUESTS
from muster.dialect.mqtt import SubscriptionKind
from muster.heads.mqtt_twins import TwinRequests
from muster.identity.model import IdentityKey
from muster.testing import mqtt
from muster.testing.mqtt import Answer, MqttClient
from muster.wire.mqtt.packets import Publish

RESPONSES, DESIRED = "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"
GET, PATCH = "$iothub/twin/GET/?$rid=", "$iothub/twin/PATCH/properties/reported/?$rid="
KEY = IdentityKey("d")


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


async def subscribed(hub: MqttHub, *filters: str, qos: int = 0, **options: Any) -> MqttClient:
    client = await hub.device("d", **options)
    await subscribe(client, *filters, qos=qos)
    return client


async def subscribe(client: MqttClient, *filters: str, qos: int = 0) -> None:
    await client.send(mqtt.subscribe(1, [(name, qos) for name in filters]))
    await client.expect("SUBACK")


def read(answer: Answer) -> tuple[str, bytes]:
    """Topic and payload of a PUBLISH of QoS 0."""
    assert (answer.kind, answer.flags) == ("PUBLISH", 0)
    length = int.from_bytes(answer.body[:2], "big")
    return answer.body[2 : 2 + length].decode(), answer.body[2 + length :]


async def ask(client: MqttClient, topic: str, body: bytes = b"") -> tuple[str, Any]:
    """Send a request at QoS 0; topic and decoded payload of the answer."""
    await client.send(mqtt.publish(topic, body, qos=0))
    answered, payload = read(await client.receive())
    return answered, json.loads(payload) if payload else None


def pushed(answer: Answer) -> tuple[int, Any]:
    """Version and payload of a desired patch of QoS 0; both must name the same version."""
    topic, payload = read(answer)
    version = int(topic.removeprefix("$iothub/twin/PATCH/properties/desired/?$version="))
    patch = json.loads(payload)
    assert patch.pop("$version") == version
    return version, patch


# --- requests


@pytest.mark.parametrize("body", [b"", b" "])
async def test_101_a_device_gets_its_twin_without_tags_and_metadata(hub: MqttHub, body: bytes) -> None:
    client = await subscribed(hub, RESPONSES)
    topic, twin = await ask(client, GET + "12", body)
    assert topic == "$iothub/twin/res/200/?$rid=12"
    assert twin == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    await hub.twins.patch(KEY, {"t": 1}, {"a": {"b": [1, {"c": 2}]}})
    _, twin = await ask(client, GET + "13", body)
    assert twin == {"desired": {"a": {"b": [1, {"c": 2}]}, "$version": 2}, "reported": {"$version": 1}}


async def test_102_reported_properties_are_merged_and_answered_with_their_version(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES)
    rid = "0F-a.b_c%20d"
    topic, body = await ask(client, PATCH + rid, b'{"a":{"x":1,"y":2},"b":true}')
    assert (topic, body) == (f"$iothub/twin/res/204/?$rid={rid}&$version=2", None)
    topic, _ = await ask(client, PATCH + rid, b'{"a":{"x":null},"c":"d"}')
    assert topic.endswith("&$version=3")
    twin = await hub.twins.get(KEY)
    assert twin.reported.values == {"a": {"y": 2}, "b": True, "c": "d"}
    assert (twin.version, twin.revision) == (4, 1)


async def test_103_a_request_of_qos_1_is_acknowledged_once_it_is_done(hub: MqttHub) -> None:
    client = await hub.device("d")
    await client.send(mqtt.publish(PATCH + "1", b'{"a":1}', packet_id=7))
    assert (await client.expect("PUBACK")).packet_id == 7
    assert (await hub.twins.get(KEY)).reported.values == {"a": 1}
    await client.send(mqtt.publish(GET + "1", packet_id=8))
    assert (await client.expect("PUBACK")).packet_id == 8
    await alive(client)  # and nothing was answered, for want of a subscription


async def test_104_a_get_sees_what_the_device_reported_just_before(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES)
    requests = [mqtt.publish(PATCH + str(n), b'{"n":%d}' % n, qos=0) for n in range(20)]
    await client.send(*requests, mqtt.publish(GET + "get", qos=0))
    answers = [read(await client.receive()) for _ in range(21)]
    assert [topic for topic, _ in answers[:-1]] == [
        f"$iothub/twin/res/204/?$rid={n}&$version={n + 2}" for n in range(20)
    ]
    assert json.loads(answers[-1][1])["reported"] == {"n": 19, "$version": 21}


async def test_105_without_rid_there_is_no_answer(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES)
    await client.send(mqtt.publish("$iothub/twin/PATCH/properties/reported/", b'{"a":1}', packet_id=1))
    await client.expect("PUBACK")
    await alive(client)
    assert (await hub.twins.get(KEY)).reported.values == {"a": 1}


@pytest.mark.parametrize(
    ("topic", "body", "code", "words"),
    [
        (PATCH, b"", 400005, "empty"),
        (PATCH, b"{", 400006, "line 1"),
        (PATCH, b"\xff", 400006, "UTF-8"),
        (PATCH, b"[]", 400004, "properties.reported must be an object"),
        (PATCH, b'{"a":{"b.c":1}}', 400004, "properties.reported.a.b.c "),
        (PATCH, b'{"$version":1}', 400004, "properties.reported.$version "),
        (PATCH, b'{"a":4503599627370496}', 400004, "properties.reported.a "),
        (PATCH, b'{"a":1e999}', 400004, "properties.reported.a "),
        (PATCH, b'{"a":NaN}', 400006, "NaN"),
        (PATCH, b'{"a":"\\ud800"}', 400004, "surrogate"),
        (PATCH, b'{"a":[null]}', 400004, "properties.reported.a[0] "),
        (PATCH, b'{"l":' * 12 + b"1" + b"}" * 12, 400004, "deeper than 10"),
        (PATCH, b"[" * 100_000, 400006, "deep"),
        (PATCH, json.dumps({f"k{n}": "v" * 4000 for n in range(9)}).encode(), 413001, "32768 is allowed"),
    ],
)
async def test_106_a_bad_patch_is_refused_with_a_reason_and_changes_nothing(
    hub: MqttHub, topic: str, body: bytes, code: int, words: str
) -> None:
    client = await subscribed(hub, RESPONSES)
    answered, error = await ask(client, topic + "r", body)
    assert answered == f"$iothub/twin/res/{code // 1000}/?$rid=r"
    assert error["errorCode"] == code
    assert words in error["message"]
    assert set(error) == {"errorCode", "trackingId", "message", "timestampUtc"}
    assert (await hub.twins.get(KEY)).version == 2
    await alive(client)


async def test_107_a_version_is_a_precondition(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES)
    topic, _ = await ask(client, PATCH + "1&$version=1", b'{"a":1}')
    assert topic == "$iothub/twin/res/204/?$rid=1&$version=2"
    topic, error = await ask(client, PATCH + "2&$version=1", b'{"a":2}')
    assert topic == "$iothub/twin/res/412/?$rid=2"
    assert error["errorCode"] == 412001
    topic, error = await ask(client, PATCH + "3&$version=x", b'{"a":2}')
    assert (topic, error["errorCode"]) == ("$iothub/twin/res/400/?$rid=3", 400004)
    assert (await hub.twins.get(KEY)).reported.values == {"a": 1}


@pytest.mark.parametrize(
    "topic",
    ["$iothub/twin/GET/desired/?$rid=1", "$iothub/twin/PATCH/properties/desired/?$rid=1", "$iothub/twin/",
     "$iothub/twin/res/200/?$rid=1", GET + "x" * 1025],
)  # fmt: skip
async def test_108_other_twin_topics_close_the_connection(hub: MqttHub, topic: str) -> None:
    client = await subscribed(hub, RESPONSES)
    await client.send(mqtt.publish(topic, b"{}"))
    await ends_silently(client)
    assert await hub.last_cause() == "twin-topic"


async def test_109_a_request_of_qos_2_closes_the_connection(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES)
    await client.send(mqtt.publish(PATCH + "1", b'{"a":1}', qos=2))
    await ends_silently(client)
    assert (await hub.twins.get(KEY)).version == 2


async def test_110_a_device_that_does_not_wait_for_answers_is_throttled(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES)
    count = TWIN_REQUESTS.open + 10
    await client.send(*[mqtt.publish(PATCH + str(n), b'{"n":%d}' % n, qos=0) for n in range(count)])
    statuses = [read(await client.receive())[0].split("/")[3] for _ in range(count)]
    assert set(statuses) <= {"204", "429"}
    assert statuses.count("204") >= TWIN_REQUESTS.open
    assert (await ask(client, PATCH + "x", b'{"n":0}'))[0].startswith("$iothub/twin/res/204/")


async def test_110_a_device_that_answers_each_answer_with_a_request_is_not_throttled(hub: MqttHub) -> None:
    await hub.device("d")
    statuses: list[str] = []

    class Device:
        """Has as many requests in progress as may be, all the time: the next comes when an answer has been made."""

        def publish(self, kind: SubscriptionKind, topic: str, payload: bytes, most_qos: int = 1) -> bool:
            statuses.append(topic.split("/")[3])
            if len(statuses) <= TWIN_REQUESTS.open:
                self.request()
            return True

        def acknowledge(self, packet_id: int) -> None:
            raise AssertionError("they come at QoS 0")

        def request(self) -> None:
            requests.serve(Publish(GET.encode() + b"1", b"", 0, 0, dup=False, retain=False))

    device = Device()
    requests = TwinRequests(device_services(hub), KEY, device, asyncio.get_running_loop())
    for _ in range(TWIN_REQUESTS.open):
        device.request()
    await hub.settled(lambda: len(statuses) == 2 * TWIN_REQUESTS.open)
    assert set(statuses) == {"200"}


async def test_111_a_broken_connection_loses_no_patch_that_was_acknowledged(hub: MqttHub) -> None:
    client = await hub.device("d")
    for number in range(50):
        await client.send(mqtt.publish(PATCH + "1", b'{"n%d":1}' % number, packet_id=number + 1))
    acknowledged = [(await client.expect("PUBACK")).packet_id for _ in range(10)]
    client.abort()
    await hub.settled(lambda: not hub.sessions.is_connected(KEY))
    held = (await hub.twins.get(KEY)).reported.values
    assert {f"n{number - 1}" for number in acknowledged} <= set(held)


async def test_112_modules_have_twins_of_their_own(hub: MqttHub) -> None:
    device = await subscribed(hub, RESPONSES, DESIRED)
    module = await hub.device("d", "m")
    await subscribe(module, RESPONSES, DESIRED)
    await ask(module, PATCH + "1", b'{"who":"module"}')
    await hub.twins.patch(IdentityKey("d", "m"), None, {"a": 1})
    assert pushed(await module.receive()) == (2, {"a": 1})
    _, twin = await ask(module, GET + "2")
    assert twin == {"desired": {"a": 1, "$version": 2}, "reported": {"who": "module", "$version": 2}}
    _, twin = await ask(device, GET + "3")
    assert twin == {"desired": {"$version": 1}, "reported": {"$version": 1}}


# --- pushed changes


async def test_201_desired_changes_are_pushed_in_order_as_they_were_sent(hub: MqttHub) -> None:
    client = await subscribed(hub, DESIRED)
    await hub.twins.patch(KEY, None, {"a": {"b": 1, "c": None}})
    assert pushed(await client.receive()) == (2, {"a": {"b": 1, "c": None}})
    await asyncio.gather(*(hub.twins.patch(KEY, None, {"n": number}) for number in range(100)))
    assert [pushed(await client.receive()) for _ in range(100)] == [
        (number + 3, {"n": number}) for number in range(100)
    ]


async def test_202_a_replacement_is_pushed_whole_and_tags_are_not(hub: MqttHub) -> None:
    client = await subscribed(hub, DESIRED)
    await hub.twins.patch(KEY, {"t": 1}, None)
    await hub.twins.replace(KEY, {"t": 2}, {"a": {"b": 1, "c": None}})
    assert pushed(await client.receive()) == (2, {"a": {"b": 1}})
    await hub.twins.report(KEY, {"r": 1})
    await alive(client)


async def test_203_without_a_subscription_nothing_is_pushed(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES)
    await hub.twins.patch(KEY, None, {"a": 1})
    await subscribe(client, DESIRED)
    await hub.twins.patch(KEY, None, {"a": 2})
    assert pushed(await client.receive()) == (3, {"a": 2})
    await client.send(mqtt.unsubscribe(2, [DESIRED]))
    await client.expect("UNSUBACK")
    await hub.twins.patch(KEY, None, {"a": 3})
    await alive(client)


async def test_204_at_qos_1_each_push_has_a_packet_id_of_its_own(hub: MqttHub) -> None:
    client = await subscribed(hub, DESIRED, qos=1)
    seen = []
    for number in range(3):
        await hub.twins.patch(KEY, None, {"a": number})
        answer = await client.expect("PUBLISH")
        assert answer.flags == 0x02
        length = int.from_bytes(answer.body[:2], "big")
        seen.append(int.from_bytes(answer.body[2 + length : 4 + length], "big"))
        assert json.loads(answer.body[4 + length :]) == {"a": number, "$version": number + 2}
        if number == 1:
            await client.send(mqtt.puback(seen[-1]), mqtt.puback(999))
    assert len(set(seen)) == 3
    assert 0 not in seen
    await alive(client)


async def test_205_a_kept_session_goes_on_and_the_twin_tells_what_was_missed(hub: MqttHub) -> None:
    client = await subscribed(hub, RESPONSES, DESIRED)
    client.abort()
    await hub.settled(lambda: not hub.sessions.is_connected(KEY))
    await hub.twins.patch(KEY, None, {"a": 1})
    client = await hub.device("d")
    _, twin = await ask(client, GET + "1")
    assert twin["desired"] == {"a": 1, "$version": 2}
    await hub.twins.patch(KEY, None, {"a": 2})
    assert pushed(await client.receive()) == (3, {"a": 2})
    await client.send(mqtt.DISCONNECT)
    clean = await hub.device("d", clean_session=True)
    await hub.twins.patch(KEY, None, {"a": 3})
    await alive(clean)


async def test_206_after_a_takeover_only_the_newer_connection_is_told(hub: MqttHub) -> None:
    older = await subscribed(hub, DESIRED)
    newer = await hub.device("d")
    await ends_silently(older)
    await hub.twins.patch(KEY, None, {"a": 1})
    assert pushed(await newer.receive()) == (2, {"a": 1})


async def test_207_a_device_that_takes_nothing_is_disconnected(hub: MqttHub) -> None:
    await subscribed(hub, DESIRED)
    big = {f"k{number}": "v" * 4000 for number in range(8)}
    async with asyncio.timeout(60):
        while hub.sessions.is_connected(KEY):
            await hub.twins.patch(KEY, None, big)
    assert await hub.last_cause() == "backlog"
