"""Cloud-to-device messages over HTTPS: received one by one under a lock, settled by its token (device.md 5.2, 5.3)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from command_hub import GATHER, got, take_commands
from device_http_hub import API, BOUND, DeviceHttpHub, device_http_hub

from muster.core.ambient import iso
from muster.messages.commands import Ack
from muster.messages.queues import taken
from muster.testing.mqtt import puback


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHttpHub]:
    async with device_http_hub(tmp_path) as hub:
        yield hub


async def lock_of(hub: DeviceHttpHub, body: bytes = b"c") -> str:
    """Receive the message that must be there; its lock token."""
    answer = await hub.receive()
    assert (answer.status, answer.body) == (200, body)
    etag = answer.headers["ETag"]
    assert (etag[0], etag[-1]) == ('"', '"')
    return str(UUID(etag[1:-1]))


async def test_1_a_message_comes_with_all_its_properties(hub: DeviceHttpHub) -> None:
    now = hub.ambient.now()
    await hub.command(
        b"\x00body", message_id="m", correlation_id="c", user_id="u", content_type="text/plain",
        content_encoding="utf-8", expires=now + 100, created=now - 1, ack=Ack.FULL,
        properties={"Name": "value", "none": None},
    )  # fmt: skip
    answer = await hub.receive(iothub_to=BOUND)
    assert (answer.status, answer.body) == (200, b"\x00body")
    expected = {
        "iothub-messageid": "m", "iothub-correlationid": "c", "iothub-userid": "u", "iothub-ack": "full",
        "iothub-to": "/devices/d/messages/deviceBound", "iothub-expiry": iso(now + 100),
        "iothub-creationtimeutc": iso(now - 1), "iothub-enqueuedtime": iso(now), "iothub-deliverycount": "0",
        "iothub-sequencenumber": "1", "iothub-contenttype": "text/plain", "iothub-contentencoding": "utf-8",
        "ContentType": "text/plain", "ContentEncoding": "utf-8", "iothub-app-Name": "value", "iothub-app-none": "",
        "Content-Type": "application/octet-stream",
    }  # fmt: skip
    assert expected.items() <= dict(answer.headers).items()


async def test_2_what_was_not_given_has_no_header(hub: DeviceHttpHub) -> None:
    await hub.command()
    names = {name.lower() for name in (await hub.receive()).headers if name.lower().startswith("iothub-")}
    assert names == {"iothub-sequencenumber", "iothub-enqueuedtime", "iothub-deliverycount", "iothub-to"}


async def test_3_an_empty_queue_is_204_in_any_case_of_the_path(hub: DeviceHttpHub) -> None:
    token = await hub.token()
    for path in (BOUND, BOUND.lower(), BOUND.upper().replace("/D/", "/d/")):
        answer = await hub.call("GET", path, Authorization=token)
        assert (answer.status, answer.body) == (204, b"")


async def test_4_complete_removes_and_a_second_time_the_lock_is_lost(hub: DeviceHttpHub) -> None:
    await hub.command()
    lock = await lock_of(hub)
    assert (await hub.receive()).status == 204, "locked"
    assert (await hub.settle(lock)).status == 204
    for again in (lock, str(uuid4())):
        answer = await hub.settle(again)
        assert (answer.status, answer.error) == (412, "DeviceMessageLockLost")
    assert await hub.mqtt.depth() == 0


async def test_5_abandon_gives_it_back_and_counts(hub: DeviceHttpHub) -> None:
    await hub.command(b"one")
    await hub.command(b"two")
    lock = await lock_of(hub, b"one")
    answer = await hub.call(  # Java sends one zero byte
        "POST", f"{BOUND}/{lock}/abandon", b"\x00", Authorization=await hub.token(), If_Match=lock
    )
    assert answer.status == 204
    again = await hub.receive()
    assert (again.body, again.headers["iothub-deliverycount"]) == (b"one", "1"), "it keeps its place"
    assert (await hub.settle(lock, "POST", "/abandon")).status == 412


@pytest.mark.parametrize("reject", ["reject", "reject=true", "%3Freject=true"])
async def test_6_reject_ends_it_as_every_sdk_writes_that(hub: DeviceHttpHub, reject: str) -> None:
    await hub.command(message_id="m", ack=Ack.FULL)
    assert (await hub.settle(await lock_of(hub), query=f"{API}&{reject}")).status == 204
    await hub.mqtt.advance(GATHER)
    [feedback] = taken(await hub.mqtt.queues.take("/feedback", 9))
    [record] = json.loads(feedback.body)
    assert (record["originalMessageId"], record["statusCode"]) == ("m", "Rejected")


@pytest.mark.parametrize("spelled", ['"{}"', "%22{}%22", "{}"])
async def test_7_the_token_may_be_quoted(hub: DeviceHttpHub, spelled: str) -> None:
    await hub.command()
    assert (await hub.settle(spelled.format(await lock_of(hub)))).status == 204


async def test_8_what_is_no_token_is_named(hub: DeviceHttpHub) -> None:
    await hub.command()
    answer = await hub.settle("nonsense")
    assert (answer.status, answer.error) == (400, "ArgumentInvalid")
    assert "lock token" in answer.message


async def test_9_a_lock_lasts_a_minute_and_lapses_uncounted(hub: DeviceHttpHub) -> None:
    await hub.command()
    lock = await lock_of(hub)
    await hub.mqtt.advance(59)
    assert (await hub.receive()).status == 204
    await hub.mqtt.advance(1)
    again = await hub.receive()
    assert (again.status, again.headers["iothub-deliverycount"]) == (200, "0")
    assert (await hub.settle(lock)).status == 412


async def test_10_a_device_may_ask_for_another_time(hub: DeviceHttpHub) -> None:
    await hub.command()
    assert (await hub.receive(iothub_messagelocktimeout="180")).status == 200
    await hub.mqtt.advance(179)
    assert (await hub.receive()).status == 204
    await hub.mqtt.advance(1)
    assert (await hub.receive(f"{API}&iothub-messagelocktimeout=5")).status == 200
    await hub.mqtt.advance(5)
    assert (await hub.receive()).status == 200


@pytest.mark.parametrize("seconds", ["0", "301", "-1", "x", "", "1.5", "99999999999999999999"])
async def test_11_but_not_for_any(hub: DeviceHttpHub, seconds: str) -> None:
    answer = await hub.receive(f"{API}&iothub-messagelocktimeout={seconds}")
    assert (answer.status, answer.error) == (400, "ArgumentInvalid")
    assert "iothub-messagelocktimeout" in answer.message


async def test_12_what_a_header_cannot_hold_is_percent_encoded(hub: DeviceHttpHub) -> None:
    await hub.command(
        user_id="u\r\nx: y",
        content_type="\u20ac",
        properties={"a b:": " c\nd ", "\u20ac": "50 % & more", "blank": "  "},
    )
    answer = await hub.receive()
    headers = answer.headers
    assert (headers["iothub-userid"], headers["iothub-contenttype"]) == ("u%0D%0Ax: y", "%E2%82%AC")
    assert headers["iothub-app-a%20b%3A"] == "%20c%0Ad%20"
    assert headers["iothub-app-%E2%82%AC"] == "50 % & more"
    assert headers["iothub-app-blank"] == "%20%20"
    assert "x" not in headers


async def test_13_an_mqtt_session_and_https_share_the_queue(hub: DeviceHttpHub) -> None:
    await hub.command(b"held")
    lock = await lock_of(hub, b"held")
    client = await hub.mqtt.device("d")
    await take_commands(client)
    await hub.command(b"new")
    one = await got(client)
    assert one.body == b"new"
    await client.send(puback(one.packet_id))
    assert (await hub.settle(lock)).status == 204
    await hub.mqtt.queued(0)


async def test_14_a_module_has_a_queue_of_its_own(hub: DeviceHttpHub) -> None:
    token = await hub.mqtt.token("d", "m")
    await hub.command(b"for m", "m")
    path = "/devices/d/modules/m/messages/deviceBound"
    answer = await hub.call("GET", path, Authorization=token)
    assert (answer.body, answer.headers["iothub-to"]) == (b"for m", path)
    lock = answer.headers["ETag"].strip('"')
    assert (await hub.settle(lock)).status == 412, "the device has not this lock"
    assert (await hub.call("DELETE", f"{path}/{lock}", Authorization=token)).status == 204


async def test_15_nobody_else_receives_or_settles(hub: DeviceHttpHub) -> None:
    await hub.command()
    lock = await lock_of(hub)
    other = await hub.mqtt.token("other")
    for method, path in (("GET", BOUND), ("DELETE", f"{BOUND}/{lock}"), ("POST", f"{BOUND}/{lock}/abandon")):
        answer = await hub.call(method, path, Authorization=other)
        assert (answer.status, await hub.last_cause()) == (401, "device-mismatch")
    answer = await hub.call("DELETE", f"/devices/other/messages/deviceBound/{lock}", Authorization=other)
    assert (answer.status, answer.error) == (412, "DeviceMessageLockLost")
    assert (await hub.settle(lock)).status == 204
