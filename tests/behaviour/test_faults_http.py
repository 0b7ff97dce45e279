"""Faults that a device asks for over HTTPS: its requests are cut or refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from device_http_hub import EVENTS, DeviceHttpHub, device_http_hub


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHttpHub]:
    async with device_http_hub(tmp_path, faults=True) as hub:
        yield hub


def properties(operation: str, delay: str = "0", duration: str = "5", reason: str = "boom") -> dict[str, str]:
    prefix = "iothub-app-AzIoTHub_FaultOperation"
    said = {"Type": operation, "CloseReason": reason, "DelayInSecs": delay, "DurationInSecs": duration}
    return {prefix + name: value for name, value in said.items()}


async def ask(hub: DeviceHttpHub, operation: str, *said: str) -> None:
    """Ask for a fault; the message is taken, and the fault begun if it has no delay."""
    assert (await hub.send(b"fault", **properties(operation, *said))).status == 204
    hub.ambient.advance(0)


@pytest.mark.parametrize(
    ("operation", "status", "error"),
    [
        ("InvokeThrottling", 429, "ThrottlingException"), ("InvokeMaxMessageQuota", 403, "IotHubQuotaExceeded"),
        ("InvokeAuthError", 401, "IotHubUnauthorized"),
    ],
)  # fmt: skip
async def test_1_messages_are_answered_so_after_the_delay_for_the_duration(
    hub: DeviceHttpHub, operation: str, status: int, error: str
) -> None:
    await ask(hub, operation, "2", "5")
    assert (await hub.send(b"before")).status == 204
    hub.ambient.advance(2)
    for _ in range(2):
        answer = await hub.send(b"refused")
        assert (answer.status, answer.error) == (status, error)
        assert "AzIoTHub_FaultOperationType" in answer.message
    assert (await hub.send_batch([{"body": ""}])).status == status
    assert (await hub.receive()).status == 204, "only what is sent"
    other = "/devices/other/messages/events"
    assert (await hub.call("POST", other, b"x", Authorization=await hub.token("other"))).status == 204
    hub.ambient.advance(5)
    assert (await hub.send(b"after")).status == 204
    assert [message["body"] for message in await hub.stored()] == ["fault", "before", "after"]


@pytest.mark.parametrize("reason", ["boom", "byebye"])
async def test_2_the_connection_that_brought_the_fault_is_cut(hub: DeviceHttpHub, reason: str) -> None:
    await hub.mqtt.key("d")
    await ask(hub, "KillTcp", "1", "0", reason)
    [connection] = hub.http.connections
    hub.ambient.advance(1)
    await hub.mqtt.settled(lambda: not hub.http.connections)
    assert not connection.busy
    assert (await hub.send(b"after")).status == 204
    assert [message["body"] for message in await hub.stored()] == ["fault", "after"]


async def test_3_while_it_lasts_every_request_about_messages_is_cut(hub: DeviceHttpHub) -> None:
    await hub.command()
    await ask(hub, "KillTcp", "0", "5")
    for call in (hub.send, hub.receive):
        with pytest.raises(aiohttp.ClientError):
            await call()
    hub.ambient.advance(5)
    assert (await hub.receive()).status == 200
    assert len(await hub.stored()) == 1


async def test_4_a_batch_may_ask_too(hub: DeviceHttpHub) -> None:
    await hub.send_batch([{"body": ""}, {"body": "", "properties": properties("InvokeThrottling")}])
    hub.ambient.advance(0)
    assert (await hub.send()).status == 429


@pytest.mark.parametrize("operation", ["KillAmqpConnection", "ShutDownMqtt", "Nonsense"])
async def test_5_what_has_nothing_to_strike_here_is_passed_over(hub: DeviceHttpHub, operation: str) -> None:
    await ask(hub, operation)
    assert (await hub.send()).status == 204


async def test_6_it_strikes_the_devices_mqtt_session_as_little_as_that_of_others(hub: DeviceHttpHub) -> None:
    """The fault is the sender's: here a request's, which is no session's."""
    client = await hub.mqtt.device("d")
    await ask(hub, "KillTcp", "0", "0")
    await hub.mqtt.settled(lambda: not hub.http.connections)
    assert hub.mqtt.sessions.all()
    client.abort()


async def test_7_a_hub_that_takes_no_faults_takes_the_message(tmp_path: Path) -> None:
    async with device_http_hub(tmp_path) as hub:
        await ask(hub, "InvokeThrottling")
        assert (await hub.send(path=EVENTS)).status == 204
