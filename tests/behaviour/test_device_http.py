"""Telemetry over HTTPS, as a device sees it: single messages and batches, what is stored of them, what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from device_http_hub import BATCH, EVENTS, DeviceHttpHub, device_http_hub

from muster.core.errors import SERVER_ERROR, HubError
from muster.core.limits import MESSAGE_BYTES, Profile
from muster.core.meters import Reading
from muster.core.throttles import COMMAND_RECEIVES, TELEMETRY, Plan, Quota, Tier
from muster.identity.changes import Draft
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType, IdentityKey
from muster.identity.sas import make
from tests.certificate_maker import Maker


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHttpHub]:
    async with device_http_hub(tmp_path) as hub:
        yield hub


def encoded(body: bytes) -> str:
    return base64.b64encode(body).decode()


async def test_1_a_message_is_stored_with_all_that_its_headers_say(hub: DeviceHttpHub) -> None:
    answer = await hub.send(
        b"\x00\xff", iothub_to=EVENTS, IoTHub_MessageId="m", iothub_correlationid="c", iothub_userid="u",
        iothub_expiry="2030-01-02T03:04:05.0000000Z", iothub_contenttype="application/json",
        iothub_contentencoding="utf-8", iothub_creationtimeutc="2026-01-01T00:00:00Z", iothub_messageschema="s",
        iothub_interface_id="urn:i", iothub_operation="d2c", dt_subject="thermostat1", iothub_ack="full",
        Content_Type="application/octet-stream", **{"iothub-app-Temp": "21", "iothub-app-a_b": "c d"},
    )  # fmt: skip
    assert (answer.status, answer.body) == (204, b"")
    [message] = await hub.stored()
    assert message["body"] == encoded(b"\x00\xff")
    assert message["system_properties"] == {
        "message-id": "m", "correlation-id": "c", "user-id": "u", "to": EVENTS, "content-type": "application/json",
        "content-encoding": "utf-8", "absolute-expiry-time": "2030-01-02T03:04:05.0000000Z",
    }  # fmt: skip
    assert message["properties"] == {"Temp": "21", "a_b": "c d", "iothub-ack": "full"}
    annotations = message["annotations"]
    expected = {
        "iothub-connection-device-id": "d", "iothub-message-source": "Telemetry", "dt-subject": "thermostat1",
        "iothub-interface-id": "urn:i", "iothub-creation-time-utc": "2026-01-01T00:00:00Z",
        "iothub-message-schema": "s",
    }  # fmt: skip
    assert expected.items() <= annotations.items()
    assert json.loads(annotations["iothub-connection-auth-method"]) == {
        "scope": "device", "type": "sas", "issuer": "iothub", "acceptingIpFilterRule": None,
    }  # fmt: skip
    identity = await hub.registry.get(IdentityKey("d"))
    assert annotations["iothub-connection-auth-generation-id"] == identity.generation_id


async def test_2_nothing_but_a_body_is_enough_and_even_that_may_be_empty(hub: DeviceHttpHub) -> None:
    assert [(await hub.send(body)).status for body in (b"x", b"", None)] == [204] * 3
    stored = await hub.stored()
    assert [message["body"] for message in stored] == ["x", "", ""]
    assert all(message["system_properties"] == message["properties"] == {} for message in stored)


async def test_3_java_spells_the_creation_time_its_own_way(hub: DeviceHttpHub) -> None:
    await hub.send(iothub_creation_time_utc="2026-01-01T00:00:00Z", Content_Type="binary/octet-stream")
    [message] = await hub.stored()
    assert message["annotations"]["iothub-creation-time-utc"] == "2026-01-01T00:00:00Z"


async def test_4_text_beyond_ascii_comes_through_in_utf_8_and_in_nothing_else(hub: DeviceHttpHub) -> None:
    assert (await hub.send(**{"iothub-app-x": "\u20ac"})).status == 204
    assert (await hub.stored())[0]["properties"] == {"x": "\u20ac"}
    head = (
        f"POST {EVENTS}?api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Authorization: {await hub.token()}\r\nContent-Length: 0\r\niothub-app-x: "
    )
    reader, writer = await asyncio.open_connection("localhost", hub.port, ssl=hub.trust)
    writer.write(head.encode() + b"\xe9\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"iothub-app-x is not UTF-8" in answer


async def test_5_a_batch_is_stored_whole_and_in_order(hub: DeviceHttpHub) -> None:
    answer = await hub.send_batch([
        {"body": encoded(b"\xff"), "base64Encoded": True, "properties": {"iothub-app-x": "1", "iothub-messageid": "m"}},
        {"body": encoded(b"two")},
        {"body": "three \u20ac", "base64Encoded": False, "properties": {"plain": 1, "yes": True, "none": None}},
        {"body": encoded(b"four"), "properties": {"iothub-app-iothub-creation-time-utc": "2026-01-01T00:00:00Z"}},
    ])  # fmt: skip
    assert (answer.status, answer.body) == (204, b"")
    one, two, three, four = await hub.stored()
    assert (one["body"], one["properties"], one["system_properties"]) == ("/w==", {"x": "1"}, {"message-id": "m"})
    assert (two["body"], two["properties"]) == ("two", {})
    assert (three["body"], three["properties"]) == ("three \u20ac", {"plain": "1", "yes": "true", "none": None})
    assert four["annotations"]["iothub-creation-time-utc"] == "2026-01-01T00:00:00Z"


async def test_6_headers_of_a_batch_are_not_those_of_its_messages(hub: DeviceHttpHub) -> None:
    await hub.send_batch([{"body": ""}], iothub_operation="d2c", iothub_to=EVENTS, Content_Type=f"{BATCH}; a=b")
    [message] = await hub.stored()
    assert message["system_properties"] == message["properties"] == {}
    assert (await hub.send_batch([])).status == 204
    assert len(await hub.stored()) == 1


@pytest.mark.parametrize(
    ("batch", "named"),
    [
        (b"[", "line 1"), (b"", "empty"), (b"{}", "array"), (b'"x"', "array"), (b"[1]", "[0]"),
        ([{"body": ""}, {}], "[1].body"), ([{"body": 1}], "[0].body"), ([{"body": "?"}], "[0].body"),
        ([{"body": "\u20ac"}], "[0].body"), (b'[{"body":"\\ud800","base64Encoded":false}]', "[0].body"),
        ([{"body": "", "base64Encoded": "false"}], "[0].base64Encoded"),
        ([{"body": "", "properties": []}], "[0].properties"),
        ([{"body": "", "properties": {"x": {}}}], "[0].properties.x"),
        ([{"body": "", "properties": {"iothub-app-": "1"}}], "no name"),
        (b"[" * 100_000, "nested"), (b"\xff", "UTF-8"),
    ],
)  # fmt: skip
async def test_7_of_a_batch_with_a_mistake_nothing_is_stored(hub: DeviceHttpHub, batch: Any, named: str) -> None:
    answer = await hub.send_batch(batch)
    assert answer.status == 400
    assert answer.error in {"ArgumentInvalid", "ArgumentNull", "IotHubFormatError"}
    assert named in answer.message
    assert await hub.stored() == []


async def test_8_a_message_may_have_256_kib_with_its_properties_and_not_a_byte_more(hub: DeviceHttpHub) -> None:
    most = MESSAGE_BYTES.open
    properties = {"iothub-app-name": "value", "iothub-messageid": "mid"}
    assert (await hub.send(bytes(most - 12), **properties)).status == 204
    for body in (bytes(most - 11), bytes(most + 1), bytes(most * 3)):
        answer = await hub.send(body, **properties)
        assert (answer.status, answer.error) == (413, "MessageTooLarge")
    assert len(await hub.stored()) == 1


async def test_9_a_batch_may_have_256_kib_as_it_is_sent(hub: DeviceHttpHub) -> None:
    most = MESSAGE_BYTES.open
    frame = json.dumps([{"body": "", "base64Encoded": False}]).encode()
    fits = frame.replace(b'""', b'"%b"' % (b"x" * (most - len(frame))))
    assert len(fits) == most
    assert (await hub.send_batch(fits)).status == 204
    answer = await hub.send_batch(fits + b" ")
    assert (answer.status, answer.error) == (413, "MessageTooLarge")


async def test_10_many_small_messages_in_one_batch_keep_their_order(hub: DeviceHttpHub) -> None:
    count = 5000
    assert (await hub.send_batch([{"body": encoded(b"%d" % number)} for number in range(count)])).status == 204
    assert [int(message["body"]) for message in await hub.stored()] == list(range(count))


async def test_11_204_comes_after_the_commit_and_a_failed_one_is_500(hub: DeviceHttpHub) -> None:
    await hub.mqtt.key("d")
    hub.mqtt.log.held = True
    sending = asyncio.create_task(hub.send())
    await hub.mqtt.settled(lambda: len(hub.mqtt.log.waiting) == 1)
    assert not sending.done()
    hub.mqtt.log.release()
    assert (await sending).status == 204
    hub.mqtt.log.failure = HubError(SERVER_ERROR, "The disk is full.")
    answer = await hub.send()
    assert (answer.status, answer.error) == (500, "ServerError")
    hub.mqtt.log.failure = None
    assert (await hub.send()).status == 204
    assert len(await hub.stored()) == 2


async def test_12_above_the_bound_of_what_waits_for_the_disk_devices_wait_too(hub: DeviceHttpHub) -> None:
    await hub.mqtt.key("d")
    hub.mqtt.log.held = True
    first = [asyncio.create_task(hub.send(bytes(250_000))) for _ in range(9)]
    await hub.mqtt.settled(lambda: hub.mqtt.telemetry.congested)
    before = hub.mqtt.telemetry.pending_bytes
    late = asyncio.create_task(hub.send(b"late"))
    while not hub.mqtt.telemetry._held_back:  # the late one has come as far as it gets
        await asyncio.sleep(0.005)
    assert hub.mqtt.telemetry.pending_bytes == before
    hub.mqtt.log.release()
    assert [answer.status for answer in await asyncio.gather(*first, late)] == [204] * 10


async def test_13_a_module_sends_with_a_token_of_its_own(hub: DeviceHttpHub) -> None:
    token = await hub.mqtt.token("d", "m")
    path = "/devices/d/modules/m/messages/events"
    assert (await hub.call("POST", path, b"x", Authorization=token)).status == 204
    [message] = await hub.stored()
    assert message["module_id"] == "m"
    assert json.loads(message["annotations"]["iothub-connection-auth-method"])["scope"] == "module"
    refused = await hub.call("POST", EVENTS, b"x", Authorization=token)
    assert (refused.status, await hub.last_cause()) == (401, "module-token-for-device")


async def test_14_a_certificate_stands_in_for_a_token(hub: DeviceHttpHub, tmp_path: Path) -> None:
    maker = Maker(hub.ambient.now())
    own, other = maker.issue("cert", None), maker.issue("cert", None)
    credentials = Credentials(AuthenticationType.SELF_SIGNED, primary_thumbprint=own.sha256)
    await hub.registry.create(Draft(key=IdentityKey("cert"), credentials=credentials))
    for shown, status in ((own, 204), (other, 401)):
        path = tmp_path / "client.pem"
        path.write_bytes(shown.pem + shown.key_pem)
        async with hub.showing(path):
            assert (await hub.call("POST", "/devices/cert/messages/events", b"x")).status == status
    [message] = await hub.stored("cert")
    assert json.loads(message["annotations"]["iothub-connection-auth-method"])["type"] == "x509Certificate"


async def test_15_ids_are_decoded_as_every_sdk_encodes_them(hub: DeviceHttpHub) -> None:
    await hub.mqtt.key("a%b+c#d")
    for path in ("a%25b%2Bc%23d", "a%25b%2bc%23d"):
        answer = await hub.call(
            "POST", f"/devices/{path}/messages/events", b"x", Authorization=await hub.mqtt.token("a%b+c#d")
        )
        assert answer.status == 204, answer.body
    assert len(await hub.stored("a%b+c#d")) == 2


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("api-version=x", 400), ("api-version=2016-11-14", 204), ("api-version=2020-09-30", 204)],
)
async def test_16_the_api_version_is_checked_as_everywhere(hub: DeviceHttpHub, query: str, status: int) -> None:
    answer = await hub.call("POST", EVENTS, b"x", query=query, Authorization=await hub.token())
    assert answer.status == status


async def test_17_refused_devices_hear_azures_answer_and_why_tells_the_rest(hub: DeviceHttpHub) -> None:
    key, ambient = await hub.mqtt.key("d"), hub.ambient
    other = await hub.mqtt.token("other")
    expired = make("localhost/devices/d", int(ambient.now()) - 600, key)
    for authorization, cause in (
        ("", "no-token"), (other, "device-mismatch"), (expired, "token-expired"),
        (make("localhost/devices/d", int(ambient.now()) + 60, b"wrong key 123456"), "wrong-key"),
    ):  # fmt: skip
        headers = {"Authorization": authorization} if authorization else {}
        answer = await hub.call("POST", EVENTS, b"x", **headers)
        assert (answer.status, answer.error) == (401, "IotHubUnauthorized")
        assert await hub.last_cause() == cause
    answer = await hub.call("POST", "/devices/nobody/messages/events", b"x", Authorization=other)
    assert (answer.status, answer.error) == (404, "DeviceNotFound")
    assert await hub.stored() == []


async def test_19_the_cloud_profile_takes_ascii_properties_only(tmp_path: Path) -> None:
    async with device_http_hub(tmp_path, Profile.AZURE) as hub:
        assert (await hub.send(**{"iothub-app-x": "a-b.c"})).status == 204
        for value in ("a b", "\u20ac"):
            answer = await hub.send(**{"iothub-app-x": value})
            assert (answer.status, answer.error) == (400, "ArgumentInvalid")
            assert "'x'" in answer.message
        assert (await hub.send_batch([{"body": "", "properties": {"a b": "c"}}])).status == 400


async def test_19_1_a_batch_holds_a_bounded_number_of_messages(tmp_path: Path) -> None:
    async with device_http_hub(tmp_path, Profile.AZURE) as hub:
        assert (await hub.send_batch([{"body": ""}] * 500)).status == 204
        answer = await hub.send_batch([{"body": ""}] * 501)
        assert (answer.status, answer.error) == (400, "ArgumentInvalid")
        assert "500 at most" in answer.message


async def test_20_calls_are_activity_and_no_connection(hub: DeviceHttpHub) -> None:
    key = IdentityKey("d")
    await hub.mqtt.key("d")
    assert (await hub.registry.activity(key)).last_activity == 0
    for call in (hub.send, hub.receive):
        hub.ambient.advance(10)
        await call()
        activity = await hub.registry.activity(key)
        assert (activity.connected, activity.connection_changed) == (False, 0)
        assert activity.last_activity == hub.ambient.now()
    assert await hub.registry.connected_count() == 0
    assert (await hub.as_service("GET", "/devices/d")).json["connectionState"] == "Disconnected"


async def test_21_an_identity_made_anew_has_no_activity_of_the_old_one(hub: DeviceHttpHub) -> None:
    await hub.send()
    path = "/devices/d/modules/m/messages/events"
    await hub.call("POST", path, b"x", Authorization=await hub.mqtt.token("d", "m"))
    keys = IdentityKey("d"), IdentityKey("d", "m")
    assert all(one.last_activity for one in await hub.registry.activities(keys))
    await hub.registry.delete(IdentityKey("d"))
    await hub.mqtt.settled(lambda: not any(hub.mqtt.sessions.activity(key)[2] for key in keys))


async def test_22_a_call_during_a_session_counts_beside_it(hub: DeviceHttpHub) -> None:
    await hub.mqtt.device("d")
    hub.ambient.advance(5)
    await hub.send()
    activity = await hub.registry.activity(IdentityKey("d"))
    assert (activity.connected, activity.last_activity) == (True, hub.ambient.now())


async def test_23_other_methods_are_refused_with_what_the_resource_takes(hub: DeviceHttpHub) -> None:
    answer = await hub.call("GET", EVENTS, Authorization=await hub.token())
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_24_above_the_rate_of_the_tier_sends_are_late_and_a_batch_is_one(tmp_path: Path) -> None:
    async with device_http_hub(tmp_path, plan=Plan(Tier.S1)) as hub:

        def reading() -> Reading:
            return next(one for one in hub.mqtt.meters.look() if one.throttle is TELEMETRY)

        assert (await hub.send_batch([{"body": ""}] * 3)).status == 204
        assert reading().accepted == 1
        while not hub.mqtt.meters.shape(TELEMETRY, "d"):
            pass
        late = asyncio.create_task(hub.send())
        await hub.mqtt.settled(lambda: reading().delayed == 2)
        assert not late.done()
        hub.ambient.advance(1)
        assert (await late).status == 204
        assert reading().refused == 0


async def test_25_looking_for_messages_too_often_is_refused_with_when_to_come_again(tmp_path: Path) -> None:
    async with device_http_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        assert hub.mqtt.meters.plan is not None
        answers = [await hub.receive() for _ in range(hub.mqtt.meters.plan.limit(COMMAND_RECEIVES) + 1)]
        assert {answer.status for answer in answers[:-1]} == {204}
        assert (answers[-1].status, answers[-1].error) == (429, "ThrottlingException")
        assert int(answers[-1].headers["Retry-After"]) >= 1


async def test_26_messages_are_charged_to_the_days_quota(tmp_path: Path) -> None:
    async with device_http_hub(tmp_path, plan=Plan(Tier.F1), quota=Quota(4, 512)) as hub:
        assert (await hub.send(bytes(513))).status == 204, "two of the four"
        assert (await hub.send_batch([{"body": ""}] * 2)).status == 204
        answer = await hub.send()
        assert (answer.status, answer.error) == (403, "IotHubQuotaExceeded")
        assert len(await hub.stored()) == 3
