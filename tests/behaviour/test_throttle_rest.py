"""Rates and the daily quota for services, sentence by sentence: REST, methods, commands over AMQP; and the meters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from command_hub import aside, command_hub
from hub_rest import Answer
from method_hub import MethodHub, answer_packet, expect_request, method_hub, refusal

from muster.core.throttles import (
    ALL,
    COMMANDS,
    METHODS,
    REGISTRY,
    TWIN_READS,
    TWIN_UPDATES,
    Plan,
    Quota,
    Throttle,
    Tier,
)
from muster.wire.amqp.performatives import Accepted, Rejected

DAY = 86_400


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MethodHub]:
    async with method_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        await hub.mqtt.key("d")
        yield hub


async def meters(hub: MethodHub) -> dict[str, Any]:
    """By operation."""
    body = (await hub.rest.call("GET", "/$muster/meters")).json
    return {one["name"]: one for one in body["operations"]}


def use_up(hub: MethodHub, throttle: Throttle, count: int) -> None:
    for _ in range(count):
        hub.mqtt.meters.take(throttle)


def used(hub: MethodHub) -> int:
    quota = hub.mqtt.meters.quota()
    assert quota is not None
    return quota.used


def told(answer: Answer) -> tuple[int, str, int]:
    return answer.status, answer.error, int(answer.headers["Retry-After"])


async def test_1_above_the_registry_s_rate_calls_are_answered_429_and_when_to_come_again(hub: MethodHub) -> None:
    for _ in range(100):
        assert (await hub.rest.call("GET", "/devices/d")).status == 200
    refused = await hub.rest.call("GET", "/devices/d")
    assert told(refused) == (429, "ThrottlingException", 1)
    assert "registry" in refused.message
    for method, path in (("PUT", "/devices/e"), ("GET", "/devices"), ("DELETE", "/devices/d"), ("POST", "/devices")):
        assert told(await hub.rest.call(method, path, {"deviceId": "e"}))[0] == 429
    assert (await hub.rest.call("GET", "/twins/d")).status == 200, "twins have a rate of their own"
    assert (await hub.rest.call("GET", "/statistics/devices")).json["totalDeviceCount"] == 1
    hub.ambient.advance(int(refused.headers["Retry-After"]))
    assert (await hub.rest.call("GET", "/devices/d")).status == 200
    assert (await hub.rest.call("GET", "/devices/d")).status == 429


@pytest.mark.parametrize(
    ("throttle", "count", "method", "body"),
    [(TWIN_READS, 6000, "GET", None), (TWIN_UPDATES, 3000, "PATCH", {}), (TWIN_UPDATES, 3000, "PUT", {})],
)
async def test_2_so_are_calls_of_twins(
    hub: MethodHub, throttle: Throttle, count: int, method: str, body: dict[str, Any] | None
) -> None:
    use_up(hub, throttle, count)
    for path in ("/twins/d", *(["/digitaltwins/d"] if method == "GET" else [])):
        assert told(await hub.rest.call(method, path, body)) == (429, "ThrottlingException", 1)
    hub.ambient.advance(1)
    assert (await hub.rest.call(method, "/twins/d", body)).status == 200


async def test_3_who_is_not_let_in_uses_nothing_of_the_rate(hub: MethodHub) -> None:
    for _ in range(120):
        assert (await hub.rest.call("GET", "/devices/d", Authorization="")).status == 401
    assert (await meters(hub))["registry"]["accepted"] == 0


async def test_4_methods_are_throttled_by_their_blocks(hub: MethodHub) -> None:
    device = await hub.device()
    for _ in range(40 * 60 - 2):
        hub.mqtt.meters.take(METHODS)
    large = {"methodName": "m", "payload": "a" * 8192}
    code, number, rest = refusal(answer := await hub.call(large))
    assert (code, number, rest["name"], answer.headers["Retry-After"]) == (429, 429001, "ThrottlingException", "1")
    call = hub.begin()
    _, request_id, _ = await expect_request(device)
    await device.send(answer_packet(request_id))
    assert (await call).status == 200
    assert (await meters(hub))["methods"] == {
        "name": "methods", "unit": "blocks of 4 KiB", "accepted": 2399, "delayed": 0, "refused": 3, "rate": None,
        "limit": 40, "seconds": 1,
    }  # fmt: skip


async def test_5_commands_over_amqp_are_rejected_as_throttled(tmp_path: Path) -> None:
    async with command_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        await hub.mqtt.key("d")
        for _ in range(99):
            hub.mqtt.meters.take(COMMANDS)
        await hub.send(b"the last")
        service = await hub.service()
        refused = await aside(service.send_command, b"one more")
        assert isinstance(refused, Rejected)
        assert refused.error is not None
        assert refused.error.condition == "com.microsoft:device-container-throttled"
        assert (refused.error.info or {})["com.microsoft:error-code"] == 429001
        hub.ambient.advance(1)
        assert isinstance(await aside(service.send_command, b"again"), Accepted)
        assert await hub.depth() == 2


async def test_6_with_the_quota_used_up_what_is_charged_is_answered_403002(tmp_path: Path) -> None:
    async with method_hub(tmp_path, plan=Plan(Tier.F1), quota=Quota(2, 512)) as hub:
        await hub.mqtt.key("d")
        assert (await hub.rest.call("PATCH", "/twins/d", {"tags": {"a": "b" * 600}})).status == 200
        refused = await hub.rest.call("GET", "/twins/d")
        assert (refused.status, refused.error) == (403, "IotHubQuotaExceeded")
        assert refusal(await hub.call())[:2] == (403, 403002)
        assert (await hub.rest.call("GET", "/devices/d")).status == 200, "identities are not charged"
        quota = (await hub.rest.call("GET", "/$muster/meters")).json["quota"]
        assert (quota["messages"], quota["blockBytes"], quota["used"]) == (2, 512, 2)
        hub.ambient.advance(DAY)
        assert (await hub.rest.call("GET", "/twins/d")).status == 200


async def test_7_what_is_charged_is_charged_by_its_size_once_it_is_done(tmp_path: Path) -> None:
    async with method_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        await hub.mqtt.key("d")

        async def charged(method: str, path: str, body: Any = None) -> int:
            before = used(hub)
            await hub.rest.call(method, path, body)
            return used(hub) - before

        large = {"tags": {f"k{number}": "a" * 1000 for number in range(6)}}
        assert await charged("PATCH", "/twins/d", large) == 2
        assert await charged("GET", "/twins/d") == 2
        assert await charged("GET", "/twins/nobody") == 0
        assert await charged("GET", "/devices/d") == 0
        device = await hub.device()
        before = used(hub)
        call = hub.begin({"methodName": "m", "payload": "a" * 5000})
        _, request_id, _ = await expect_request(device)
        await device.send(answer_packet(request_id, 200, b'"' + b"a" * 9000 + b'"'))
        await call
        assert used(hub) - before == 2 + 3


# --- meters


async def test_8_meters_count_in_the_open_profile_too_and_have_no_limits(tmp_path: Path) -> None:
    async with method_hub(tmp_path) as hub:
        await hub.mqtt.key("d")
        for _ in range(150):
            assert (await hub.rest.call("GET", "/devices/d")).status == 200
        body = (await hub.rest.call("GET", "/$muster/meters")).json
        assert (body["tier"], body["units"], body["quota"]) == (None, None, None)
        assert (await meters(hub))["registry"] == {
            "name": "registry", "unit": "operations", "accepted": 150, "delayed": 0, "refused": 0, "rate": None,
            "limit": None, "seconds": 60,
        }  # fmt: skip
        hub.ambient.advance(10)
        await hub.rest.call("GET", "/devices/d")
        assert (await meters(hub))["registry"]["rate"] == 0.1
        assert "muster_operations_limit" not in (await hub.rest.call("GET", "/metrics")).body.decode()


async def test_9_prometheus_reads_the_same(hub: MethodHub) -> None:
    use_up(hub, REGISTRY, 100)
    await hub.rest.call("GET", "/devices/d")
    answer = await hub.rest.call("GET", "/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.body.decode().splitlines()
    assert 'muster_operations_accepted_total{operation="registry"} 100' in lines
    assert 'muster_operations_refused_total{operation="registry"} 1' in lines
    assert 'muster_operations_limit{operation="telemetry"} 100.0' in lines
    assert "muster_quota_messages 400000" in lines
    samples = [line for line in lines if not line.startswith("#")]
    assert len(samples) == 4 * len(ALL) + 2
    families = {line.split("{")[0].split()[0] for line in samples}
    assert {line.split()[2] for line in lines if line.startswith("# TYPE")} == families


async def test_10_meters_need_a_right(hub: MethodHub) -> None:
    for path in ("/$muster/meters", "/metrics"):
        assert (await hub.rest.call("GET", path, Authorization="")).status == 401
