"""The session table: one live session for each identity, ended when its ground is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from math import inf

import pytest

from muster.core.bus import IDENTITY_CHANGED, MISSED, LocalBus
from muster.core.errors import DEVICE_DISABLED, DEVICE_NOT_FOUND, DEVICE_UNAUTHORIZED, TAKEN_OVER, UNAVAILABLE, ErrorRow
from muster.identity.contract import Counts, Edit
from muster.identity.model import NEVER, Authentication, Identity, IdentityKey, Status
from muster.identity.verdict import Verdict
from muster.sessions.table import RECHECKS_AT_ONCE, SessionTable
from muster.testing.clock import VirtualAmbient

DEVICE, MODULE = IdentityKey("d"), IdentityKey("d", "m")


class Shelf:
    """An identity store for reading only."""

    def __init__(self) -> None:
        self.held: dict[IdentityKey, Identity] = {}

    async def get(self, hub: str, key: IdentityKey) -> Identity | None:
        return self.held.get(key)

    async def devices(self, hub: str, limit: int) -> Sequence[Identity]:
        raise NotImplementedError

    async def modules(self, hub: str, device_id: str) -> Sequence[Identity]:
        raise NotImplementedError

    async def counts(self, hub: str) -> Counts:
        raise NotImplementedError

    async def edit(self, hub: str, edits: Sequence[Edit]) -> list[Identity | Exception | None]:
        raise NotImplementedError


class Ended:
    def __init__(self, quiet: float = inf) -> None:
        self.errors: list[ErrorRow] = []
        self.quiet = quiet

    def end(self, error: ErrorRow) -> None:
        self.errors.append(error)

    def quiet_seconds(self) -> float:
        return self.quiet


class Room:
    """A table with what it needs."""

    def __init__(self) -> None:
        self.ambient, self.bus, self.shelf = VirtualAmbient(), LocalBus(), Shelf()
        self.table = SessionTable("hub", self.shelf, self.bus, self.ambient)
        for key in (DEVICE, MODULE):
            self.shelf.held[key] = Identity(
                key=key, generation_id="1", version=1, authentication=Authentication(primary_key="a", secondary_key="b")
            )

    def verdict(self, key: IdentityKey) -> Verdict:
        return Verdict(
            tracking_id="t",
            at=0,
            transport="mqtt",
            peer="p",
            principal=str(key),
            checks=(),
            identity=self.shelf.held[key],
        )

    async def change(self, key: IdentityKey, identity: Identity | None) -> None:
        if identity is None:
            del self.shelf.held[key]
        else:
            self.shelf.held[key] = identity
        self.bus.publish(IDENTITY_CHANGED, str(key))
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
def room() -> Room:
    return Room()


def test_a_newer_session_takes_over(room: Room) -> None:
    older, newer = Ended(), Ended()
    first = room.table.open(room.verdict(DEVICE), older)
    room.table.open(room.verdict(DEVICE), newer)
    assert older.errors == [TAKEN_OVER]
    assert newer.errors == []
    room.table.close(first)  # its connection is lost only now: the newer session is not touched
    assert room.table.is_connected(DEVICE)
    assert room.table.connected_count() == 1


def test_a_device_and_its_module_are_apart(room: Room) -> None:
    device, module = Ended(), Ended()
    room.table.open(room.verdict(DEVICE), device)
    session = room.table.open(room.verdict(MODULE), module)
    assert (device.errors, module.errors) == ([], [])
    assert room.table.connected_count() == 1
    room.table.close(session)
    assert not room.table.is_connected(MODULE)
    assert room.table.is_connected(DEVICE)


def test_presence_tells_since_when(room: Room) -> None:
    assert room.table.activity(DEVICE)[1] == NEVER
    session = room.table.open(room.verdict(DEVICE), Ended())
    opened = room.ambient.now()
    room.ambient.advance(10)
    assert room.table.activity(DEVICE)[1] == opened
    room.table.close(session)
    assert room.table.activity(DEVICE)[1] == opened + 10
    assert not room.table.is_connected(DEVICE)


def test_the_last_activity_is_the_last_message_or_else_the_last_change(room: Room) -> None:
    assert room.table.activity(DEVICE)[2] == NEVER
    sink = Ended()
    session = room.table.open(room.verdict(DEVICE), sink)
    room.ambient.advance(100)
    assert room.table.activity(DEVICE)[2] == room.ambient.now() - 100, "it sent nothing yet"
    sink.quiet = 30.0
    assert room.table.activity(DEVICE)[2] == room.ambient.now() - 30
    room.table.close(session)
    assert room.table.activity(DEVICE)[2] == room.ambient.now()


@pytest.mark.parametrize("key", [DEVICE, MODULE])
@pytest.mark.parametrize("again", [False, True])
async def test_nothing_of_a_deleted_identity_is_left_to_the_next_of_its_name(
    room: Room, key: IdentityKey, again: bool
) -> None:
    room.table.close(room.table.open(room.verdict(key), Ended()))
    held = room.shelf.held.pop(key)
    if again:
        room.shelf.held[key] = replace(held, generation_id="2")
    room.bus.publish(IDENTITY_CHANGED, key.device_id)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert room.table.activity(key)[1:] == (NEVER, NEVER)


async def test_a_change_leaves_what_is_known_of_an_identity_that_is_away(room: Room) -> None:
    room.table.close(room.table.open(room.verdict(DEVICE), Ended()))
    await room.change(DEVICE, replace(room.shelf.held[DEVICE], version=2))
    assert room.table.activity(DEVICE)[1] == room.ambient.now()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (None, DEVICE_NOT_FOUND),
        ({"generation_id": "2"}, DEVICE_NOT_FOUND),
        ({"status": Status.DISABLED}, DEVICE_DISABLED),
        ({"authentication": Authentication(primary_key="new", secondary_key="b")}, DEVICE_UNAUTHORIZED),
    ],
)
async def test_a_change_that_takes_the_ground_ends_the_session(
    room: Room, change: dict[str, object] | None, error: ErrorRow
) -> None:
    sink = Ended()
    room.table.open(room.verdict(DEVICE), sink)
    held = room.shelf.held[DEVICE]
    await room.change(DEVICE, None if change is None else replace(held, **change))  # type: ignore[arg-type]
    assert sink.errors == [error]
    assert not room.table.is_connected(DEVICE)


async def test_a_harmless_change_does_not(room: Room) -> None:
    sink = Ended()
    room.table.open(room.verdict(DEVICE), sink)
    await room.change(DEVICE, replace(room.shelf.held[DEVICE], version=2, status_reason="looked at"))
    assert sink.errors == []


async def test_disabling_a_device_ends_its_modules(room: Room) -> None:
    module = Ended()
    room.table.open(room.verdict(MODULE), module)
    await room.change(DEVICE, replace(room.shelf.held[DEVICE], status=Status.DISABLED))
    assert module.errors == [DEVICE_DISABLED]


async def test_a_change_to_a_module_leaves_its_device(room: Room) -> None:
    device, module = Ended(), Ended()
    room.table.open(room.verdict(DEVICE), device)
    room.table.open(room.verdict(MODULE), module)
    await room.change(MODULE, None)
    assert (device.errors, module.errors) == ([], [DEVICE_NOT_FOUND])


async def test_who_was_judged_while_the_hub_ended_ends_too(room: Room) -> None:
    room.table.end_all(UNAVAILABLE)
    late = Ended()
    session = room.table.open(room.verdict(DEVICE), late)
    assert not session.ended, "its head has still to answer"
    await asyncio.sleep(0)
    assert session.ended
    assert late.errors == [UNAVAILABLE]
    assert room.table.connected_count() == 0


def test_all_sessions_end_with_the_hub(room: Room) -> None:
    sinks = [Ended(), Ended()]
    for key, sink in zip((DEVICE, MODULE), sinks, strict=True):
        room.table.open(room.verdict(key), sink)
    room.table.end_all(UNAVAILABLE)
    assert [sink.errors for sink in sinks] == [[UNAVAILABLE], [UNAVAILABLE]]
    assert room.table.connected_count() == 0


async def test_after_missed_notices_all_sessions_are_looked_at_anew(room: Room) -> None:
    keys = [IdentityKey(f"d{number}") for number in range(3 * RECHECKS_AT_ONCE)]
    sinks = {}
    for key in keys:
        room.shelf.held[key] = replace(room.shelf.held[DEVICE], key=key)
        sinks[key] = Ended()
        room.table.open(room.verdict(key), sinks[key])
    gone, disabled = keys[3], keys[-1]
    del room.shelf.held[gone]
    room.shelf.held[disabled] = replace(room.shelf.held[disabled], status=Status.DISABLED)
    for _ in range(3):
        room.bus.publish(MISSED, "")
    for _ in range(20):
        await asyncio.sleep(0)
    lost = {key: sink.errors for key, sink in sinks.items() if sink.errors}
    assert lost == {gone: [DEVICE_NOT_FOUND], disabled: [DEVICE_DISABLED]}
    room.shelf.held.pop(keys[0])
    room.bus.publish(MISSED, "")  # once more: whoever looked has ended
    for _ in range(20):
        await asyncio.sleep(0)
    assert sinks[keys[0]].errors == [DEVICE_NOT_FOUND]
