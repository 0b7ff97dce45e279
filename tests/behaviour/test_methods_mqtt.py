"""Direct methods over real sockets: REST on one side, MQTT over TLS on the other.

1. A call reaches the device at QoS 0 and its answer reaches the caller, whatever the status.
2. An answer at QoS 1 is acknowledged at once; a late, unknown or foreign one is acknowledged and passed over.
3. Only who has subscribed to a method is called; a subscription that outlives the connection counts again.
4. Whoever waits for a device is served when it has subscribed.
5. A connection that ends, by a cut, in order, by a takeover or by the registry, ends its calls with 404104.
6. A caller who goes leaves nothing behind.
7. Every refusal has shape B and its header; what is wrong is named.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hub_rest import token
from method_hub import MethodHub, answer_packet, expect_request, method_hub, refusal, take
from mqtt_hub import alive, ends_silently

from muster.core import method_limits
from muster.heads.mqtt_methods import MOST_UNREAD_BYTES
from muster.identity.model import IdentityKey
from muster.testing.mqtt import DISCONNECT, MqttClient, publish, unsubscribe


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MethodHub]:
    async with method_hub(tmp_path) as running:
        yield running


async def served(hub: MethodHub, client: MqttClient, path: str = "/twins/d/methods", status: int = 200) -> None:
    """A call that is made now gets through."""
    call = hub.begin(path=path)
    _, request_id, _ = await expect_request(client)
    await client.send(answer_packet(request_id, status))
    assert (await call).json == {"status": status, "payload": None}


# --- 1: calls


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, b"null"),
        ({"payload": None}, b"null"),
        ({"payload": ""}, b'""'),
        ({"payload": {"b": [1, 2.5, True, "é\u20ac"]}}, '{"b":[1,2.5,true,"é\u20ac"]}'.encode()),
        ({"payload": "a" * (method_limits.METHOD_PAYLOAD_BYTES.open - 2)}, None),
    ],
    ids=["missing", "null", "empty", "object", "largest"],
)
async def test_a_call_and_its_answer(hub: MethodHub, given: dict[str, Any], sent: bytes | None) -> None:
    client = await hub.device()
    call = hub.begin({"methodName": "c*re.boot", **given})
    name, request_id, payload = await expect_request(client)
    assert name == "c*re.boot"
    assert payload == (json.dumps(given["payload"]).encode() if sent is None else sent)
    await client.send(answer_packet(request_id, 201, payload))
    answer = await call
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.json == {"status": 201, "payload": given.get("payload")}


@pytest.mark.parametrize("status", [0, -1, 404, 2**31 - 1, "%32%30%30"])
async def test_any_status_is_200(hub: MethodHub, status: int | str) -> None:
    client = await hub.device()
    call = hub.begin()
    _, request_id, _ = await expect_request(client)
    await client.send(answer_packet(request_id, status, b""))
    answer = await call
    assert (answer.status, answer.json) == (
        200,
        {"status": 200 if isinstance(status, str) else status, "payload": None},
    )


async def test_a_module_is_called_by_its_own_path(hub: MethodHub) -> None:
    device, module = await hub.device(), await hub.device("d", "m")
    await served(hub, module, "/twins/d/modules/m/methods")
    await served(hub, device)


async def test_old_clients_say_timeout_in_seconds(hub: MethodHub) -> None:
    client = await hub.device()
    call = hub.begin({"methodName": "m", "timeoutInSeconds": 7})
    await expect_request(client)
    hub.ambient.advance(7)
    assert refusal(await call)[2]["info"] == {"timeout": "00:00:07"}


async def test_many_calls_at_once_each_get_their_own_answer(hub: MethodHub) -> None:
    client = await hub.device()
    calls = [hub.begin({"methodName": "m", "payload": number}) for number in range(50)]
    requests = [await expect_request(client) for _ in calls]
    await client.send(*(answer_packet(rid, 200, payload) for _, rid, payload in reversed(requests)))
    assert [(await call).json["payload"] for call in calls] == list(range(50))


# --- 2: answers


async def test_an_answer_at_qos_1_is_acknowledged_while_telemetry_waits_for_the_disk(hub: MethodHub) -> None:
    client = await hub.device()
    hub.mqtt.log.held = True
    call = hub.begin()
    _, request_id, _ = await expect_request(client)
    events = publish("devices/d/messages/events/", b"t", packet_id=3)
    await client.send(events, answer_packet(request_id, qos=1, packet_id=4))
    assert (await client.expect("PUBACK")).packet_id == 4
    assert (await call).status == 200
    hub.mqtt.log.release()
    assert (await client.expect("PUBACK")).packet_id == 3


async def test_an_answer_nobody_waits_for_is_acknowledged_and_passed_over(hub: MethodHub) -> None:
    client, other = await hub.device(), await hub.device("other")
    call = hub.begin()
    _, request_id, _ = await expect_request(client)
    await other.send(answer_packet(request_id, qos=1, packet_id=1))
    assert (await other.expect("PUBACK")).packet_id == 1
    await client.send(answer_packet("unknown", qos=1, packet_id=2))
    await client.expect("PUBACK")
    assert not call.done()
    hub.ambient.advance(30)
    assert refusal(await call)[:2] == (504, 504101)
    await client.send(answer_packet(request_id, qos=1, packet_id=3))
    await client.expect("PUBACK")
    await served(hub, client)
    await served(hub, other, "/twins/other/methods")


@pytest.mark.parametrize(
    "topic",
    [
        "$iothub/methods/res/ok/?$rid=1",
        "$iothub/methods/res/200",
        "$iothub/methods/res/200/?$rid=",
        "$iothub/methods/res/99999999999/?$rid=1",
        "$iothub/methods/res/3000000000/?$rid=1",
        "$iothub/methods/POST/m/?$rid=1",
    ],
)
async def test_an_answer_on_a_wrong_topic_ends_the_connection(hub: MethodHub, topic: str) -> None:
    client = await hub.device()
    await client.send(publish(topic, b"{}"))
    await ends_silently(client)
    assert await hub.mqtt.last_cause() == "topic"


async def test_an_answer_at_qos_2_ends_the_connection_and_the_call(hub: MethodHub) -> None:
    client = await hub.device()
    call = hub.begin()
    _, request_id, _ = await expect_request(client)
    await client.send(answer_packet(request_id, qos=2))
    await ends_silently(client)
    assert refusal(await call)[:2] == (404, 404104)


@pytest.mark.parametrize(
    "payload", [b"{", b'"' + b"a" * method_limits.METHOD_PAYLOAD_BYTES.open + b'"'], ids=["bad", "large"]
)
async def test_a_bad_answer_is_502_and_the_device_stays(hub: MethodHub, payload: bytes) -> None:
    client = await hub.device()
    call = hub.begin()
    _, request_id, _ = await expect_request(client)
    await client.send(answer_packet(request_id, 200, payload))
    assert refusal(await call)[:2] == (502, 502000)
    await served(hub, client)


# --- 3: subscriptions


async def test_without_a_subscription_the_device_is_not_online(hub: MethodHub) -> None:
    client = await hub.mqtt.device("d")
    assert refusal(await hub.call())[:2] == (404, 404103)
    await take(client)
    await served(hub, client)
    await client.send(unsubscribe(2, ["$iothub/methods/POST/#"]))
    await client.expect("UNSUBACK")
    assert refusal(await hub.call())[:2] == (404, 404103)
    await alive(client)


async def test_a_narrower_subscription_brings_only_its_methods(hub: MethodHub) -> None:
    client = await hub.mqtt.device("d")
    await take(client, "$iothub/methods/POST/m/#")
    await served(hub, client)
    assert refusal(await hub.call({"methodName": "other"}))[:2] == (404, 404103)
    await take(client, "$iothub/methods/POST/+/+")
    call = hub.begin({"methodName": "other"})
    assert (await expect_request(client))[0] == "other"
    call.cancel()


async def test_a_subscription_of_a_kept_session_counts_again_without_subscribe(hub: MethodHub) -> None:
    first = await hub.device(clean_session=False)
    await first.send(DISCONNECT)
    await ends_silently(first)
    assert refusal(await hub.call())[:2] == (404, 404103)
    client = await hub.mqtt.open()
    present, code = await client.connect(*await hub.mqtt.login("d"), clean_session=False)
    assert (present, code) == (True, 0)
    await served(hub, client)
    client.abort()
    await hub.mqtt.settled(lambda: hub.mqtt.sessions.connected_count() == 0)
    await hub.mqtt.device("d", clean_session=True)
    assert refusal(await hub.call())[:2] == (404, 404103)


# --- 4: waiting for the device


async def test_a_device_that_connects_in_time_is_called(hub: MethodHub) -> None:
    await hub.mqtt.key("d")
    call = hub.begin({"methodName": "m", "connectTimeoutInSeconds": 20, "responseTimeoutInSeconds": 5})
    await hub.waiting()
    hub.ambient.advance(19)
    client = await hub.device()
    _, request_id, _ = await expect_request(client)
    hub.ambient.advance(4)
    await client.send(answer_packet(request_id, 200, b"1"))
    assert (await call).json == {"status": 200, "payload": 1}


async def test_one_that_comes_back_with_a_kept_session_is_called_too(hub: MethodHub) -> None:
    first = await hub.device(clean_session=False)
    first.abort()
    await hub.mqtt.settled(lambda: hub.mqtt.sessions.connected_count() == 0)
    call = hub.begin({"methodName": "m", "connectTimeoutInSeconds": 20})
    await hub.waiting()
    client = await hub.mqtt.device("d", clean_session=False)
    _, request_id, _ = await expect_request(client)
    await client.send(answer_packet(request_id))
    assert (await call).status == 200


async def test_one_that_does_not_come_is_404103_with_the_time_given(hub: MethodHub) -> None:
    await hub.mqtt.key("d")
    call = hub.begin({"methodName": "m", "connectTimeoutInSeconds": 60})
    await hub.waiting()
    hub.ambient.advance(59)
    assert not call.done()
    hub.ambient.advance(1)
    status, code, told = refusal(await call)
    assert (status, code, told["name"]) == (404, 404103, "DeviceNotOnline")
    assert (told["message"], told["info"]) == ("Timed out waiting for device to connect.", {"timeout": "00:01:00"})


# --- 5: the connection ends


@pytest.mark.parametrize("way", ["cut", "disconnect", "takeover", "disabled", "deleted"])
async def test_a_connection_that_ends_ends_its_calls(hub: MethodHub, way: str) -> None:
    client = await hub.device()
    calls = [hub.begin({"methodName": "m", "connectTimeoutInSeconds": 300}) for _ in range(3)]
    for _ in calls:
        await expect_request(client)
    newer = None
    if way == "cut":
        client.abort()
    elif way == "disconnect":
        await client.send(DISCONNECT)
    elif way == "takeover":
        newer = await hub.device()
    elif way == "disabled":
        await hub.rest.call("PUT", "/devices/d", {"deviceId": "d", "status": "disabled"}, If_Match="*")
    else:
        await hub.rest.call("DELETE", "/devices/d", If_Match="*")
    for call in calls:
        status, code, told = refusal(await asyncio.wait_for(call, 10))
        assert (status, code, told["name"]) == (404, 404104, "DeviceConnectionClosedRemotely")
    if newer is not None:
        await served(hub, newer)


async def test_a_cut_in_the_midst_of_the_answer_is_no_answer(hub: MethodHub) -> None:
    client = await hub.device()
    call = hub.begin()
    _, request_id, _ = await expect_request(client)
    await client.send(answer_packet(request_id, 200, b'"whole"')[:-2])
    client.abort()
    assert refusal(await asyncio.wait_for(call, 10))[:2] == (404, 404104)


async def test_a_cut_right_after_the_answer_takes_nothing_back(hub: MethodHub) -> None:
    client = await hub.device()
    call = hub.begin()
    _, request_id, _ = await expect_request(client)
    await client.send(answer_packet(request_id, 200, b'"whole"'))
    await client.close()
    assert (await call).json == {"status": 200, "payload": "whole"}


async def test_a_device_that_does_not_read_costs_a_bounded_amount(hub: MethodHub) -> None:
    client = await hub.device()
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    most = method_limits.METHODS_IN_FLIGHT.open
    calls = [hub.begin({"methodName": "m", "payload": "a" * 131_000}) for _ in range(most)]
    await hub.mqtt.settled(lambda: sum(call.done() for call in calls) + hub.mqtt.methods.in_flight == most)
    session = hub.mqtt.sessions.taker(IdentityKey("d"), "m")
    assert session is not None
    unread = session.sink._transport.get_write_buffer_size()  # type: ignore[attr-defined]
    assert unread < MOST_UNREAD_BYTES + 2 * method_limits.METHOD_PAYLOAD_BYTES.open
    hub.ambient.advance(30)
    assert {refusal(await call)[1] for call in calls} == {429001, 504101}
    for _ in range(sum(refusal(call.result())[1] == 504101 for call in calls)):
        await expect_request(client)
    await served(hub, client)


# --- 6: callers who go


async def test_a_caller_who_goes_leaves_nothing_behind(hub: MethodHub) -> None:
    client = await hub.device()
    asked, waiting = hub.begin(), hub.begin({"methodName": "m", "connectTimeoutInSeconds": 300}, "/twins/e/methods")
    await hub.mqtt.key("e")
    waiting.cancel()
    waiting = hub.begin({"methodName": "m", "connectTimeoutInSeconds": 300}, "/twins/e/methods")
    _, request_id, _ = await expect_request(client)
    await hub.waiting(2)
    asked.cancel()
    waiting.cancel()
    await hub.waiting(0)
    await client.send(answer_packet(request_id, qos=1))
    await client.expect("PUBACK")
    late = await hub.device("e")
    await alive(late)
    answer = await hub.rest.call("GET", "/$muster/methods", query="count=2&api-version=2021-04-12")
    assert [one["error"] for one in answer.json["methods"]] == ["Cancelled", "Cancelled"]
    await served(hub, client)


# --- 7: refusals


REFUSALS: list[tuple[str, dict[str, Any], int, tuple[str, str]]] = [
    ("/twins/nobody/methods", {}, 404001, ("DeviceNotFound", "nobody")),
    ("/twins/d/modules/nothing/methods", {}, 404010, ("ModuleNotFound", "nothing")),
    ("/twins/d/methods", {}, 404103, ("DeviceNotOnline", "Timed out waiting for device to connect.")),
    ("/twins/d/methods", {"methodName": None}, 400005, ("ArgumentNull", "methodName")),
    ("/twins/d/methods", {"methodName": 5}, 400004, ("ArgumentInvalid", "methodName")),
    ("/twins/d/methods", {"methodName": ""}, 400004, ("ArgumentInvalid", "methodName")),
    ("/twins/d/methods", {"methodName": "a/b"}, 400004, ("ArgumentInvalid", "methodName")),
    ("/twins/d/methods", {"methodName": "n" * 101}, 400004, ("ArgumentInvalid", "methodName")),
    ("/twins/d/methods", {"payload": "a" * 131_071}, 413001, ("MessageTooLarge", "payload")),
    ("/twins/d/methods", {"responseTimeoutInSeconds": 4}, 400004, ("ArgumentInvalid", "responseTimeoutInSeconds")),
    ("/twins/d/methods", {"responseTimeoutInSeconds": 301}, 400004, ("ArgumentInvalid", "responseTimeoutInSeconds")),
    ("/twins/d/methods", {"responseTimeoutInSeconds": "30"}, 400004, ("ArgumentInvalid", "responseTimeoutInSeconds")),
    ("/twins/d/methods", {"responseTimeoutInSeconds": True}, 400004, ("ArgumentInvalid", "responseTimeoutInSeconds")),
    ("/twins/d/methods", {"timeoutInSeconds": 1.5}, 400004, ("ArgumentInvalid", "timeoutInSeconds")),
    ("/twins/d/methods", {"connectTimeoutInSeconds": -1}, 400004, ("ArgumentInvalid", "connectTimeoutInSeconds")),
    ("/twins/d/methods", {"connectTimeoutInSeconds": 301}, 400004, ("ArgumentInvalid", "connectTimeoutInSeconds")),
]


@pytest.mark.parametrize(("path", "change", "code", "told_as"), REFUSALS)
async def test_refusals(hub: MethodHub, path: str, change: dict[str, Any], code: int, told_as: tuple[str, str]) -> None:
    await hub.mqtt.key("d")
    status, seen, told = refusal(await hub.call({"methodName": "m", **change}, path))
    name, named = told_as
    assert (status, seen, told["name"]) == (code // 1000, code, name)
    assert named in told["message"]


@pytest.mark.parametrize(
    ("data", "code"), [(b"", 400005), (b"{", 400006), (b"[]", 400004), (b'{"methodName":"m","payload":1e999}', 400004)]
)
async def test_bodies_that_cannot_be_read(hub: MethodHub, data: bytes, code: int) -> None:
    answer = await hub.rest.call("POST", "/twins/d/methods", data=data)
    assert refusal(answer)[1] == code


@pytest.mark.parametrize(
    ("given", "query", "code"),
    [
        (token("registryReadWrite"), "api-version=2021-04-12", 401002),
        ("nonsense", "api-version=2021-04-12", 401002),
        (token(), "", 400001),
    ],
)
async def test_who_may_not_call(hub: MethodHub, given: str, query: str, code: int) -> None:
    answer = await hub.rest.call("POST", "/twins/d/methods", {"methodName": "m"}, query=query, Authorization=given)
    assert refusal(answer)[1] == code


async def test_too_many_calls_at_once_are_403800(hub: MethodHub) -> None:
    await hub.device()
    most = method_limits.METHODS_IN_FLIGHT.open
    calls = [hub.begin() for _ in range(most)]
    await hub.waiting(most)
    status, code, told = refusal(await hub.call())
    assert (status, code, told["name"]) == (403, 403800, "DeviceMaximumInflightMethodExceeded")
    hub.ambient.advance(30)
    assert {refusal(await call)[1] for call in calls} == {504101}


# --- the history


async def test_the_history_tells_who_when_how_long_and_what_came_of_it(hub: MethodHub) -> None:
    client = await hub.device("d", "m")
    call = hub.begin({"methodName": "slow"}, "/twins/d/modules/m/methods")
    _, request_id, _ = await expect_request(client)
    hub.ambient.advance(3)
    await client.send(answer_packet(request_id, 207))
    await call
    await hub.call()
    history = "/$muster/methods"
    newest, oldest = (await hub.rest.call("GET", history)).json["methods"]
    assert newest["trackingId"] != oldest["trackingId"]
    told = {name: oldest[name] for name in ("deviceId", "moduleId", "methodName", "status", "error", "seconds")}
    assert told == {
        "deviceId": "d", "moduleId": "m", "methodName": "slow", "status": 207, "error": None, "seconds": 3.0,
    }  # fmt: skip
    assert "iothubowner" in oldest["caller"]
    assert (newest["moduleId"], newest["status"], newest["error"]) == (None, None, "DeviceNotOnline")
    only = await hub.rest.call("GET", history, query="device=elsewhere&api-version=2021-04-12")
    assert only.json == {"methods": []}
    assert (await hub.rest.call("GET", history, query="count=0&api-version=2021-04-12")).error == "ArgumentInvalid"
    assert (await hub.rest.call("GET", history, Authorization=token("device"))).status == 401
