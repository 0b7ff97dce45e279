"""A module that calls methods over HTTPS, of its own device and of those below it (device.md 5.5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from device_http_hub import API, DeviceHttpHub, device_http_hub
from hub_rest import Answer
from method_hub import answer_packet, expect_request, refusal, take

from muster.identity.changes import Draft
from muster.identity.model import IdentityKey
from muster.testing.mqtt import MqttClient

BODY = b'{"methodName":"m","payload":{"a":1},"responseTimeoutInSeconds":30}'


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHttpHub]:
    async with device_http_hub(tmp_path) as hub:
        yield hub


async def call(
    hub: DeviceHttpHub, path: str, *, caller: str = "d/caller", token: str | None = None, query: str = API
) -> Answer:
    if token is None:
        token = await hub.mqtt.token("d", "caller")
    headers = {"x-ms-edge-moduleId": caller} if caller else {}
    return await hub.call("POST", path, BODY, query, Authorization=token, Content_Type="application/json", **headers)


async def answered(hub: DeviceHttpHub, client: MqttClient, path: str, query: str = API) -> Answer:
    calling = asyncio.create_task(call(hub, path, query=query))
    name, request_id, payload = await expect_request(client)
    assert (name, payload) == ("m", b'{"a":1}')
    await client.send(answer_packet(request_id, 201, b'"yes"'))
    return await calling


async def test_1_a_module_calls_its_device_and_the_modules_beside_it(hub: DeviceHttpHub) -> None:
    for key, path in ((("d", None), "/twins/d/methods"), (("d", "m"), "/twins/d/modules/m/methods")):
        client = await hub.mqtt.device(*key)
        await take(client)
        answer = await answered(hub, client, path)
        assert (answer.status, answer.json) == (200, {"status": 201, "payload": "yes"})


async def test_2_node_names_no_api_version(hub: DeviceHttpHub) -> None:
    client = await hub.mqtt.device("d")
    await take(client)
    assert (await answered(hub, client, "/twins/d/methods", query="")).status == 200


async def test_3_a_module_of_an_edge_device_calls_the_devices_below_it(hub: DeviceHttpHub) -> None:
    edge = await hub.registry.create(Draft(key=IdentityKey("d"), iot_edge=True))
    await hub.registry.create(Draft(key=IdentityKey("leaf"), device_scope=edge.device_scope))
    client = await hub.mqtt.device("leaf")
    await take(client)
    assert (await answered(hub, client, "/twins/leaf/methods")).status == 200


async def test_4_others_are_the_business_of_services(hub: DeviceHttpHub) -> None:
    edge = await hub.registry.create(Draft(key=IdentityKey("edge"), iot_edge=True))
    await hub.registry.create(Draft(key=IdentityKey("leaf"), device_scope=edge.device_scope))
    for target in ("leaf", "edge", "nobody"):
        status, code, _ = refusal(await call(hub, f"/twins/{target}/methods"))
        assert (status, code, await hub.last_cause()) == (401, 401003, "method-target")


async def test_5_the_token_must_be_the_named_modules(hub: DeviceHttpHub) -> None:
    await hub.mqtt.token("d", "caller")
    device = await hub.mqtt.token("d")
    other = await hub.mqtt.token("d", "other")
    for caller, token, cause in (
        ("d/caller", other, "module-mismatch"), ("d/caller", "", "no-token"), ("d/caller", device, "key-of-device"),
    ):  # fmt: skip
        status, code, _ = refusal(await call(hub, "/twins/d/methods", caller=caller, token=token))
        assert (status, code, await hub.last_cause()) == (401, 401003, cause)
    assert refusal(await call(hub, "/twins/d/methods", caller="d/nobody", token=other))[:2] == (404, 404010)


@pytest.mark.parametrize("caller", ["d", "d/", "/m", "d/m/x"])
async def test_6_a_caller_that_is_no_module_is_named(hub: DeviceHttpHub, caller: str) -> None:
    status, code, told = refusal(await call(hub, "/twins/d/methods", caller=caller))
    assert (status, code) == (400, 400004)
    assert "x-ms-edge-moduleId" in told["message"]


async def test_7_without_the_header_a_modules_token_is_no_services(hub: DeviceHttpHub) -> None:
    assert refusal(await call(hub, "/twins/d/methods", caller=""))[:2] == (401, 401002)
    assert await hub.last_cause() == "device-token-on-service"


async def test_8_nobody_there_is_said_as_to_services(hub: DeviceHttpHub) -> None:
    assert refusal(await call(hub, "/twins/d/methods"))[:2] == (404, 404103)
    assert refusal(await call(hub, "/twins/d/modules/none/methods"))[:2] == (404, 404010)
