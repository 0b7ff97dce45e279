"""kill -9 while devices register: what was answered ends in an assignment, and the hub has the device."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from muster.testing.hub import HubProcess
from tests.provisioning_client import Provisioning

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
