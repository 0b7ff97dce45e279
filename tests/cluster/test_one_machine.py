"""``muster serve --workers`` on a directory: one hub, whichever worker clients come to, and whatever process dies."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from azure.eventhub import EventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, Message, MethodResponse
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish
from tests.addresses import loopback
from tests.cluster.deployment import Deployment
from tests.cluster.processes import keeper_of, workers_of
from tests.cluster.storm import Fault, storm

pytestmark = pytest.mark.sdk
PATIENCE = 60.0
SEVERAL = 8
"""So many connections in a row that each come to the same one of two workers: once in 256 times."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub"), loopback(), "--workers", "2") as hub:
        yield hub


async def attempt(hub: HubProcess, device_id: str, key: str) -> tuple[MqttClient, int]:
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    token = hub.token(f"devices/{device_id}", key)
    _, code = await client.connect(device_id, f"{hub.address}/{device_id}/?api-version=2021-04-12", token)
    return client, code


async def opened(hub: HubProcess, device_id: str, key: str) -> MqttClient:
    client, code = await attempt(hub, device_id, key)
    assert code == 0
    return client


async def opened_at_last(hub: HubProcess, device_id: str, key: str) -> MqttClient:
    """As a device connects: again, while the worker that it comes to has not heard of the new keeper yet."""
    async with asyncio.timeout(PATIENCE):
        while True:
            client, code = await attempt(hub, device_id, key)
            if code == 0:
                return client
            assert code == 3, "not taken for another"
            await client.expect_end()


def sdk_device(hub: HubProcess, device_id: str) -> IoTHubDeviceClient:
    authority = Path(hub.facts["HUB_CA_FILE"]).read_text()
    client = IoTHubDeviceClient.create_from_connection_string(
        hub.device_connection_string(device_id, hub.add_device(device_id)), server_verification_cert=authority
    )
    client.connect()
    return client


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await asyncio.sleep(0.05)


async def readiness(hub: HubProcess) -> int:
    """The status of ``/health/ready``; 0 when the worker that was asked went."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        return (await asyncio.to_thread(hub.request, "GET", "/health/ready"))[0]
    return 0


def test_one_reader_reads_what_devices_send_to_all_workers(hub: HubProcess) -> None:
    """1. azure-iot-device and azure-eventhub."""
    devices = [sdk_device(hub, f"many{number}") for number in range(SEVERAL)]
    for number in range(5):
        for device in devices:
            device.send_message(Message(f"{number}"))
    found: dict[str, list[str]] = {}
    consumer = EventHubConsumerClient.from_connection_string(
        hub.facts["EVENTHUB_CONNECTION_STRING"], "$Default", connection_verify=hub.facts["HUB_CA_FILE"]
    )

    def take(_: Any, event: Any) -> None:
        name = event.system_properties[b"iothub-connection-device-id"].decode()
        if name.startswith("many"):
            found.setdefault(name, []).append(event.body_as_str())
        if sum(map(len, found.values())) == 6 * SEVERAL:
            consumer.close()

    last = [*devices]
    for device in last:  # while somebody reads, too
        device.send_message(Message("5"))
    consumer.receive(take, starting_position="-1")
    assert found == {f"many{number}": list("012345") for number in range(SEVERAL)}
    for device in devices:
        device.shutdown()


def test_services_reach_a_device_by_any_worker(hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """2. azure-iot-hub: methods, desired properties, and who is connected."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", hub.facts["HUB_CA_FILE"])
    device = sdk_device(hub, "reached")
    patches: list[int] = []
    device.on_twin_desired_properties_patch_received = lambda patch: patches.append(patch["n"])
    device.on_method_request_received = lambda request: device.send_method_response(
        MethodResponse.create_from_method_request(request, 200, request.payload)
    )
    for number in range(SEVERAL):
        service = IoTHubRegistryManager.from_connection_string(hub.facts["HUB_CONNECTION_STRING"])
        assert service.get_device("reached").connection_state == "Connected"
        deadline = time.monotonic() + PATIENCE
        while True:  # the SDK subscribes a moment after it was given a handler
            status, answer = hub.request("POST", "/twins/reached/methods", {"methodName": "echo", "payload": number})
            if status == 200 or time.monotonic() > deadline:
                break
        assert (status, answer["payload"]) == (200, number)
        called = service.invoke_device_method("reached", CloudToDeviceMethod(method_name="echo", payload=number))
        assert called.payload == number
        service.update_twin("reached", Twin(properties=TwinProperties(desired={"n": number})), "*")
    deadline = time.monotonic() + PATIENCE
    while patches != list(range(SEVERAL)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert patches == list(range(SEVERAL))
    query = {"query": "SELECT deviceId FROM devices WHERE connectionState = 'Connected' AND deviceId = 'reached'"}
    for _ in range(SEVERAL):
        assert hub.request("POST", "/devices/query", query) == (200, [{"deviceId": "reached"}])
    device.shutdown()


async def test_a_newer_session_ends_the_older_one_at_whatever_worker(hub: HubProcess) -> None:
    """3. And what it is acknowledged is stored."""
    key = await asyncio.to_thread(hub.add_device, "moves")
    older = await opened(hub, "moves", key)
    for _ in range(SEVERAL):
        newer = await opened(hub, "moves", key)
        async with asyncio.timeout(PATIENCE):
            assert await older.expect_end() == b""
        await newer.send(publish("devices/moves/messages/events/", b"x"))
        await newer.expect("PUBACK")
        older = newer
    await older.close()


async def test_a_device_that_is_disabled_loses_its_session_at_whatever_worker(hub: HubProcess) -> None:
    """4. So the notice of a change comes to all."""
    for number in range(SEVERAL):
        name = f"disabled{number}"
        client = await opened(hub, name, await asyncio.to_thread(hub.add_device, name))
        _, device = await asyncio.to_thread(hub.request, "GET", f"/devices/{name}")
        device["status"] = "disabled"
        status, _ = await asyncio.to_thread(hub.request, "PUT", f"/devices/{name}", device, **{"If-Match": "*"})
        assert status == 200
        async with asyncio.timeout(PATIENCE):
            await client.expect_end()


async def test_sessions_of_a_worker_that_was_killed_are_free_at_once(hub: HubProcess) -> None:
    """5. Nobody waits for its lease: the keeper knows that it is gone."""
    names = [f"orphan{number}" for number in range(SEVERAL)]
    keys = {name: await asyncio.to_thread(hub.add_device, name) for name in names}
    for name in names:
        await opened(hub, name, keys[name])
    victim = workers_of(hub)[0]
    os.kill(victim, signal.SIGKILL)
    for name in names:
        while True:
            try:
                again = await opened(hub, name, keys[name])
            except ConnectionError:  # the kernel had given it to the dead one
                continue
            await again.close()
            break
    nodes = {
        node["pid"]
        for node in (await asyncio.to_thread(hub.request, "GET", "/$muster/nodes"))[1]["nodes"]
        if node["alive"]
    }
    assert victim not in nodes

    async def whole() -> bool:
        return len(workers_of(hub)) == 2

    await until(whole)


async def test_a_hub_without_its_keeper_says_so_and_comes_back(hub: HubProcess) -> None:
    """6. Who was connected is not any more: nobody else would know of it."""
    key = await asyncio.to_thread(hub.add_device, "left")
    client = await opened(hub, "left", key)
    keeper = keeper_of(hub)
    os.kill(keeper, signal.SIGSTOP)
    try:
        await client.send(publish("devices/left/messages/events/", b"x"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.expect("PUBACK"), 1)
    finally:
        os.kill(keeper, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await client.expect_end()
    statuses: set[int] = set()

    async def ready() -> bool:
        status = await readiness(hub)
        statuses.add(status)
        return status == 200 and keeper_of(hub) not in (0, keeper)

    await until(ready)
    assert statuses - {0} == {200, 503}
    again = await opened_at_last(hub, "left", key)
    await again.send(publish("devices/left/messages/events/", b"x"))
    assert (await again.expect("PUBACK")).packet_id == 1
    await again.close()


def test_an_ephemeral_hub_has_workers_too(tmp_path: Path) -> None:
    """7. And leaves nothing."""
    hub = HubProcess(tmp_path, loopback(), "--workers", "2", ephemeral=True)
    with hub:
        directory = Path(hub.facts["HUB_CA_FILE"]).parent
        key = hub.add_device("d")
        sender = IoTHubDeviceClient.create_from_connection_string(
            hub.device_connection_string("d", key),
            server_verification_cert=Path(hub.facts["HUB_CA_FILE"]).read_text(),
        )
        sender.send_message("x")
        sender.shutdown()
    assert not directory.exists()


def test_what_cannot_be_served_ends_all_with_the_reason(tmp_path: Path) -> None:
    """8. As one process ends."""
    HubProcess(tmp_path, loopback(), "--partitions", "2").start().stop()
    hub = HubProcess(tmp_path, loopback(), "--partitions", "3", "--workers", "2")
    with pytest.raises(RuntimeError, match="has 2 partitions, 3 were asked for"):
        hub.start()


def test_commands_of_the_machine_find_the_hub(hub: HubProcess) -> None:
    """9. As they find one process."""
    done = subprocess.run(
        ["muster", "device", "add", "by-command", "--data", str(hub.directory / "data")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert hub.request("GET", "/devices/by-command")[0] == 200


class Machine:
    """What a storm needs of a deployment."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub


def struck(name: str, process: Callable[[HubProcess], int], *signals: int) -> Fault:
    """Send ``signals`` to a process, with a pause between them; wait until there are two workers and a keeper again."""

    async def strike(deployment: Deployment, chance: random.Random) -> None:
        hub = cast(HubProcess, deployment.hub)
        pid = process(hub)
        os.kill(pid, signals[0])
        for number in signals[1:]:
            await asyncio.sleep(chance.uniform(6, 9))
            os.kill(pid, number)

        async def whole() -> bool:
            workers, keeper = workers_of(hub), keeper_of(hub)
            gone = signals[0] != signal.SIGKILL or pid not in (*workers, keeper)
            return gone and len(workers) == 2 and keeper != 0 and await readiness(hub) == 200

        await until(whole)

    return Fault(name, strike)


def _worker(hub: HubProcess) -> int:
    return workers_of(hub)[0]


FAULTS = [
    struck("kill a worker", _worker, signal.SIGKILL),
    struck("kill the keeper", keeper_of, signal.SIGKILL),
    struck("freeze a worker", _worker, signal.SIGSTOP, signal.SIGCONT),
    struck("freeze the keeper", keeper_of, signal.SIGSTOP, signal.SIGCONT),
    struck("kill the keeper again", keeper_of, signal.SIGKILL),
]


@pytest.mark.timeout(400)
async def test_processes_die_and_hang_under_load(tmp_path: Path) -> None:
    """10. No promise is broken: the judge of the cluster's storms says so."""
    with HubProcess(tmp_path, loopback(), "--workers", "2") as hub:
        outcome = await storm(cast(Deployment, Machine(hub)), tmp_path / "history", FAULTS, seed=7)
        log = hub.log_file.read_text()
    assert outcome.problems == [], log[-3000:]
    assert outcome.acknowledged > 500
    assert outcome.counts["succeeded"] > 20
    assert outcome.counts["pushed"] > 20
    assert outcome.counts["feedback"] > 20
