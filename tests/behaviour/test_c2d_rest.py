"""Cloud-to-device messages over REST: purge, feedback, and the counts that identities and twins tell."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from command_hub import LOCK, CommandHub, command_hub, gathered
from hub_rest import token

from muster.core.errors import ARGUMENT_INVALID, LOCK_LOST

PATH = "/messages/serviceBound/feedback"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[CommandHub]:
    async with command_hub(tmp_path) as made:
        await made.mqtt.key("d")
        await made.mqtt.key("d", "m")
        yield made


async def test_1_feedback_is_received_and_completed(hub: CommandHub) -> None:
    await gathered(hub, "a")
    answer = await hub.call("GET", PATH)
    assert (answer.status, [record["originalMessageId"] for record in answer.json]) == (200, ["a"])
    assert answer.headers["Content-Type"] == "application/vnd.microsoft.iothub.feedback.json"
    lock = answer.headers["ETag"]
    assert lock == f'"{uuid.UUID(lock[1:-1])}"'
    assert answer.headers["iothub-enqueuedtime"] == "2027-01-15T08:00:15.0000000Z"
    assert answer.headers["iothub-sequencenumber"] == "1"
    assert (answer.headers["iothub-deliverycount"], answer.headers["iothub-userid"]) == ("0", "localhost")
    assert (await hub.call("GET", PATH.lower())).status == 204, "it is locked"
    done = await hub.call("DELETE", f"{PATH}/{lock[1:-1]}")
    assert (done.status, done.body, await hub.depth("/feedback")) == (204, b"", 0)


async def test_2_abandoned_it_is_there_again_and_was_counted(hub: CommandHub) -> None:
    await gathered(hub, "a")
    lock = (await hub.call("GET", PATH)).headers["ETag"][1:-1]
    assert (await hub.call("POST", f"{PATH}/{lock}/abandon", data=b"")).status == 204
    again = await hub.call("GET", PATH)
    assert (again.headers["iothub-deliverycount"], again.headers["ETag"][1:-1] != lock) == ("1", True)


async def test_3_a_lost_lock_is_412(hub: CommandHub) -> None:
    await gathered(hub, "a")
    lock = (await hub.call("GET", PATH)).headers["ETag"][1:-1]
    await hub.advance(LOCK)
    for method, path in (("DELETE", f"{PATH}/{lock}"), ("POST", f"{PATH}/{lock}/abandon")):
        answer = await hub.call(method, path)
        assert (answer.status, answer.error) == (412, LOCK_LOST.name)
    assert await hub.depth("/feedback") == 1


async def test_4_what_is_no_token_is_400(hub: CommandHub) -> None:
    answer = await hub.call("DELETE", f"{PATH}/x")
    assert (answer.status, answer.error) == (400, ARGUMENT_INVALID.name)


async def test_5_purge_empties_the_queue_and_says_how_many_there_were(hub: CommandHub) -> None:
    await hub.send(*[b""] * 3)
    await hub.send(b"", device="d/m")
    await hub.queues.take("d", 1)
    answer = await hub.call("DELETE", "/devices/d/commands")
    assert (answer.status, answer.json) == (200, {"totalMessagesPurged": 3, "deviceId": "d", "moduleId": None})
    answer = await hub.call("DELETE", "/devices/d/modules/m/commands")
    assert answer.json == {"totalMessagesPurged": 1, "deviceId": "d", "moduleId": "m"}
    assert (await hub.call("DELETE", "/devices/d/commands")).json["totalMessagesPurged"] == 0


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/devices/n/commands", 404001),
        ("/devices/d/modules/n/commands", 404010),
        ("/devices/n/modules/m/commands", 404001),
    ],
)
async def test_6_purging_nobodys_queue_is_404(hub: CommandHub, path: str, code: int) -> None:
    answer = await hub.call("DELETE", path)
    assert (answer.status, answer.error) == (404, "DeviceNotFound" if code == 404001 else "ModuleNotFound")


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/devices/d/commands"), ("GET", PATH), ("DELETE", f"{PATH}/{uuid.UUID(int=1)}"),
     ("POST", f"{PATH}/{uuid.UUID(int=1)}/abandon")],
)  # fmt: skip
async def test_7_each_operation_needs_service_connect(hub: CommandHub, method: str, path: str) -> None:
    for policy in ("registryReadWrite", "device"):
        answer = await hub.call(method, path, Authorization=token(policy))
        assert (answer.status, answer.error) == (401, "IotHubUnauthorizedAccess")
    assert (await hub.call(method, path, Authorization=token("service"))).status != 401


async def test_8_identities_and_twins_tell_how_many_messages_wait(hub: CommandHub) -> None:
    await hub.send(b"", b"")
    await hub.send(b"", device="d/m")
    await hub.queues.take("d", 1)
    counts = {}
    for path in ("/devices/d", "/twins/d", "/devices/d/modules/m", "/twins/d/modules/m"):
        counts[path] = (await hub.call("GET", path)).json["cloudToDeviceMessageCount"]
    assert list(counts.values()) == [2, 2, 1, 1], "those in somebody's hands too"
    listed = (await hub.call("GET", "/devices")).json
    assert [one["cloudToDeviceMessageCount"] for one in listed] == [2]
    modules = (await hub.call("GET", "/devices/d/modules")).json
    assert [one["cloudToDeviceMessageCount"] for one in modules] == [1]
    await hub.call("DELETE", "/devices/d/commands")
    assert (await hub.call("GET", "/devices/d")).json["cloudToDeviceMessageCount"] == 0
