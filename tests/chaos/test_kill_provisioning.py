"""kill -9 while devices register: what was answered ends in an assignment, and the hub has the device."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.provisioning_client import PATIENCE, Provisioning

ROUNDS, DEVICES, AT_ONCE = 4, 40, 8


def register(dps: Provisioning, name: str, token: str) -> str:
    """The operation's id; empty when the hub was gone before it answered."""
    with suppress(OSError):
        answer = dps.register(name, token)
        assert answer.status == 202, answer
        return str(answer.body["operationId"])
    return ""


async def test_what_was_answered_is_assigned_after_a_kill(make_hub: Callable[..., HubProcess]) -> None:
    hub, chance, loop = make_hub(), random.Random(6), asyncio.get_running_loop()
    hub.start()
    dps = Provisioning(hub)
    group = dps.group("factory", initialTwin={"tags": {"site": "north"}})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for round_ in range(ROUNDS):
            tokens = {name: dps.derived_token(name, group) for name in (f"dev-{round_}-{n}" for n in range(DEVICES))}
            calls = [loop.run_in_executor(pool, register, dps, name, token) for name, token in tokens.items()]
            done = chance.randrange(1, DEVICES // 2)
            while sum(call.done() for call in calls) < done:
                await asyncio.wait([call for call in calls if not call.done()], return_when=asyncio.FIRST_COMPLETED)
            hub.kill()
            operations = dict(zip(tokens, await asyncio.gather(*calls), strict=True))
            hub.start()
            answered = {name: operation for name, operation in operations.items() if operation}
            assert len(answered) >= done
            for name, operation in answered.items():
                state = dps.poll(name, operation, tokens[name])
                assert (state["status"], state["deviceId"]) == ("assigned", name)
                status, twin = hub.request("GET", f"/twins/{name}")
                assert (status, twin["tags"]) == (200, {"site": "north"})
    hub.stop()


async def test_devices_on_the_move_are_in_one_hub_after_a_kill(tmp_path: Path) -> None:
    west_address = loopback()
    hub = HubProcess(tmp_path, loopback(), "--bind", west_address, "--hub", f"west={west_address}")
    hub.start()
    try:
        dps, west, chance = Provisioning(hub), hub.other("west"), random.Random(7)
        loop, names = asyncio.get_running_loop(), [f"dev-{number}" for number in range(DEVICES)]
        places = {hub.address: hub, west.address: west}

        def point(host: str) -> dict[str, Any]:
            return dps.group("factory", iotHubs=[host], allocationPolicy="static")

        group = point(hub.address)
        tokens = {name: dps.derived_token(name, group) for name in names}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, dps.provision, name, tokens[name]) for name in names))
            for name in names:
                assert hub.request("PATCH", f"/twins/{name}", {"tags": {"name": name}})[0] == 200
            for host in (west.address, hub.address, west.address):
                point(host)
                calls = [loop.run_in_executor(pool, register, dps, name, tokens[name]) for name in names]
                done = chance.randrange(1, DEVICES // 2)
                while sum(call.done() for call in calls) < done:
                    waiting = [call for call in calls if not call.done()]
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                hub.kill()
                operations = dict(zip(names, await asyncio.gather(*calls), strict=True))
                hub.start()
                for name in names:
                    if operations[name]:
                        assert dps.poll(name, operations[name], tokens[name])["assignedHub"] == host
                for name in names:
                    await loop.run_in_executor(pool, settled, dps, name)
                    found = [one for one, place in places.items() if place.request("GET", f"/devices/{name}")[0] == 200]
                    state = dps.call("GET", f"/registrations/{name}").body
                    assert found == [state["assignedHub"]], "in one hub, and that is the one it was told"
                    assert places[found[0]].request("GET", f"/twins/{name}")[1]["tags"] == {"name": name}
    finally:
        hub.kill()


def settled(dps: Provisioning, name: str) -> None:
    """Wait for an assignment that nobody was told of."""
    deadline = time.monotonic() + PATIENCE
    while dps.call("GET", f"/registrations/{name}").body["status"] == "assigning":
        assert time.monotonic() < deadline
        time.sleep(0.05)
