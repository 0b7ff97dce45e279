"""What a registry tells of an identity's connection and queue, from queues that know at once and those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from registry_parts import HUB, draft, registry_parts

from muster.core.bus import LocalBus
from muster.core.errors import DEVICE_NOT_FOUND, MODULE_NOT_FOUND, HubError
from muster.identity.model import NEVER, IdentityKey
from muster.identity.registry import Activity, Registry


class Queues:
    """That of ``near`` is at hand, others have to be asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def waiting(self, queue: str) -> int | None:
        return 3 if queue == "near" else None

    async def depths(self, queues: Sequence[str]) -> Sequence[int]:
        self.asked += queues
        return [7 for _ in queues]


async def test_the_depth_of_a_queue_is_asked_for_only_where_it_is_not_at_hand(tmp_path: Path) -> None:
    async with registry_parts(tmp_path) as parts:
        queues = Queues()
        registry = Registry(HUB, parts.store, parts.sessions, LocalBus(), parts.ambient, queues=queues)
        near, far = [await registry.create(draft(name)) for name in ("near", "far")]
        assert await registry.look(near.key) == (near, Activity(False, NEVER, NEVER, 3))
        assert await registry.activity(near.key) == Activity(False, NEVER, NEVER, 3)
        assert queues.asked == []
        assert await registry.look(far.key) == (far, Activity(False, NEVER, NEVER, 7))
        assert await registry.activity(far.key) == Activity(False, NEVER, NEVER, 7)
        assert queues.asked == ["far", "far"]


async def test_who_is_not_there_is_refused_as_by_get(tmp_path: Path) -> None:
    async with registry_parts(tmp_path) as parts:
        await parts.registry.create(draft("d"))
        assert (await parts.registry.look(IdentityKey("d")))[1] == Activity(False, NEVER, NEVER, 0)
        for key, row in ((IdentityKey("x"), DEVICE_NOT_FOUND), (IdentityKey("d", "m"), MODULE_NOT_FOUND)):
            with pytest.raises(HubError) as caught:
                await parts.registry.look(key)
            assert caught.value.row is row
