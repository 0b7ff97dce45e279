"""Operations of the management API that are answered before they are done."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.heads.arm import long_operations
from muster.heads.arm.long_operations import LongOperations
from muster.heads.http.operations import Call
from muster.testing.clock import VirtualAmbient


class Asked:
    """The part of a call that is looked at."""

    def __init__(self, operation: str) -> None:
        self.parameters = {"operation": operation}
        self.path = f"hub/operationResults/{operation}"


async def status(work: LongOperations, operation: str) -> dict[str, Any]:
    answer = await work.answer(cast(Call, Asked(operation)))
    body: dict[str, Any] = json.loads(answer.body)
    assert ("Retry-After" in answer.headers) is (body["status"] == "InProgress")
    return body


async def test_what_is_under_way_is_found_and_what_failed_says_why() -> None:
    work, go = LongOperations(VirtualAmbient()), asyncio.Event()

    async def refused() -> None:
        await go.wait()
        raise HubError(ARGUMENT_INVALID, "no such host")

    async def broken() -> None:
        raise RuntimeError("a key in here")

    async def done() -> None:
        return

    first = work.begin("hub a", refused)
    assert work.begin("hub a", done) == first, "one at a time on one subject"
    other, last = work.begin("hub b", done), work.begin("hub c", broken)
    assert (await status(work, first))["status"] == "InProgress"
    go.set()
    await work.close()
    failed = await status(work, first)
    assert (failed["status"], failed["error"]) == ("Failed", {"code": "ArgumentInvalid", "message": "no such host"})
    assert (await status(work, other))["status"] == "Succeeded"
    assert "a key" not in json.dumps(await status(work, last))
    assert work.begin("hub a", done) != first
    with pytest.raises(HubError, match="no such operation"):
        await status(work, "unheard")


async def test_the_last_ones_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_operations, "_REMEMBERED", 3)
    work = LongOperations(VirtualAmbient())

    async def done() -> None:
        return

    names = []
    for number in range(6):
        names.append(work.begin(str(number), done))
        await work.close()
    assert (await status(work, names[-1]))["status"] == "Succeeded"
    with pytest.raises(HubError):
        await status(work, names[0])


async def test_an_end_waits_and_then_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_operations, "_PATIENCE_SECONDS", 0.01)
    work, ended = LongOperations(VirtualAmbient()), []

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    work.begin("hub a", for_ever)
    await asyncio.sleep(0)
    await work.close()
    assert ended == [True]
