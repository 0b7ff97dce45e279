"""Import and export: what becomes of items, by the rules of the registry and of the twins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from registry_parts import HUB, Parts, draft, registry_parts

from muster.core.audit import Act
from muster.core.errors import ARGUMENT_INVALID, SERVER_ERROR, HubError
from muster.identity.changes import ImportMode, Match
from muster.identity.keys import Credentials
from muster.identity.model import IdentityKey, Status
from muster.identity.registry import BulkItem
from muster.jobs.contract import Outcome
from muster.jobs.transfer import Item, Tally, Transfer
from muster.stores.sqlite.audit import SqliteAuditLog
from muster.stores.sqlite.loads import SqliteLoadStore
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.document import Content
from muster.twins.restoring import GivenProperties, GivenTwin
from muster.twins.service import Twins

ACT = Act("identities.import", "test")
M = ImportMode
OFF = Status.DISABLED


class Listener:
    def __init__(self) -> None:
        self.heard: list[tuple[str, Content, int]] = []

    def desired_changed(self, key: IdentityKey, patch: Content, version: int) -> None:
        self.heard.append((str(key), patch, version))


class Scene(NamedTuple):
    parts: Parts
    transfer: Transfer
    twins: Twins
    listener: Listener
    audit: SqliteAuditLog

    async def load(self, *items: Item | HubError) -> list[int | None]:
        """The code of each refusal, in the order of the items."""
        tally = await self.tally(*items)
        codes = {position: error.row.code for position, error in tally.failures}
        return [codes.get(position) for position in range(len(items))]

    async def tally(self, *items: Item | HubError) -> Tally:
        return await self.transfer.load(items, ACT)

    async def records(self) -> list[str]:
        return [line.decode() for _, line in await self.audit.lines(0, 1000)]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with registry_parts(tmp_path) as parts:
        writer, reader = parts.store._writer, parts.store._reader
        listener, loads = Listener(), SqliteLoadStore(writer, reader, parts.store)
        twins = Twins(HUB, SqliteTwinStore(writer, reader), listener, parts.ambient)
        transfer = Transfer(HUB, loads, parts.registry, listener, parts.ambient)
        yield Scene(parts, transfer, twins, listener, SqliteAuditLog(writer, reader))


def item(
    device_id: str, module_id: str | None = None, mode: ImportMode = M.CREATE_OR_UPDATE, *,
    match: Match | None = None, twin: GivenTwin | None = None, **fields: Any,
) -> Item:  # fmt: skip
    return Item(BulkItem(mode, draft(device_id, module_id, keeps_scope=True, **fields), match), twin)


def desired(**members: Any) -> GivenTwin:
    return GivenTwin(desired=GivenProperties(members))


@pytest.mark.parametrize(
    ("mode", "absent", "present"),
    [
        (M.CREATE, None, 409001), (M.CREATE_OR_UPDATE, None, None), (M.UPDATE, 404001, None), (M.DELETE, 404001, None),
        (M.CREATE_OR_UPDATE_IF_MATCH, 400005, 400005), (M.UPDATE_IF_MATCH, 400005, 400005),
        (M.DELETE_IF_MATCH, 400005, 400005), (M.UPDATE_TWIN, 404001, None), (M.UPDATE_TWIN_IF_MATCH, 400005, 400005),
    ],
)  # fmt: skip
async def test_each_mode_on_what_is_there_and_what_is_not(
    scene: Scene, mode: ImportMode, absent: int | None, present: int | None
) -> None:
    await scene.parts.registry.create(draft("there"))
    twin = GivenTwin(tags={"t": 1})
    assert await scene.load(item("d", mode=mode, twin=twin), item("there", mode=mode, twin=twin, status=OFF)) == [
        absent, present,
    ]  # fmt: skip
    made = await scene.parts.store.get(HUB, IdentityKey("d"))
    assert (made is not None) == (absent is None)
    there = await scene.parts.store.get(HUB, IdentityKey("there"))
    if mode is M.DELETE:
        assert there is None
        return
    assert there is not None
    of_twin = mode is M.UPDATE_TWIN
    assert there.status is (OFF if present is None and not of_twin else Status.ENABLED)
    assert dict((await scene.twins.get(there.key)).tags) == ({"t": 1} if present is None else {})


async def test_conditions_are_those_of_the_identity_and_of_the_twin(scene: Scene) -> None:
    made = await scene.parts.registry.create(draft("d"))
    right, wrong, tag = Match(made.version), Match(made.version + 1), GivenTwin(tags={"t": 1}, revision=1)
    assert await scene.load(
        item("d", mode=M.UPDATE_IF_MATCH, match=wrong, status=OFF),
        item("d", mode=M.UPDATE_TWIN_IF_MATCH, twin=tag._replace(revision=2)),
        item("d", mode=M.UPDATE_IF_MATCH, match=right, status=OFF),
        item("d", mode=M.UPDATE_TWIN_IF_MATCH, twin=tag),
        item("d", mode=M.UPDATE, match=wrong, twin=tag._replace(tags={"t": 2})),
    ) == [412001, 412001, None, None, None]


async def test_to_import_again_changes_nothing(scene: Scene) -> None:
    items = [
        item("a", twin=GivenTwin({"t": 1}, GivenProperties({"p": 1}, None, 5), GivenProperties({"r": 1}, None, 7))),
        item("a", "m", managed_by="me"),
        item("edge", iot_edge=True, device_scope="ms-azure-iot-edge://edge-77"),
        item("leaf", device_scope="ms-azure-iot-edge://edge-77"),
        item("cert", credentials=Credentials(primary_thumbprint="AB" * 20)),
    ]
    assert await scene.tally(*items) == Tally(5, 0, 0, 0, ())
    before, records = await scene.transfer.page(None, 100), await scene.records()
    assert len(before) == 7, "an edge device has its two modules"
    scene.parts.ambient.advance(60)
    assert await scene.tally(*items) == Tally(0, 0, 5, 0, ())
    assert await scene.transfer.page(None, 100) == before
    assert (scene.parts.changed, scene.listener.heard, await scene.records()) == ([], [], records)


async def test_what_is_given_is_taken_with_its_numbers(scene: Scene) -> None:
    given = GivenTwin({"t": 1}, GivenProperties({"p": 1}, None, 5), GivenProperties({"r": 1}, None, 7))
    await scene.load(item("d", twin=given))
    twin = await scene.twins.get(IdentityKey("d"))
    assert (dict(twin.tags), dict(twin.desired.values), dict(twin.reported.values)) == ({"t": 1}, {"p": 1}, {"r": 1})
    assert (twin.desired.version, twin.reported.version) == (5, 7)


async def test_who_is_connected_hears_of_changes(scene: Scene) -> None:
    await scene.load(item("a", twin=desired(p=1)), item("b"))
    assert (scene.parts.changed, scene.listener.heard) == ([], []), "nobody can be connected yet"
    await scene.load(item("a", twin=desired(p=2)), item("b", status=OFF), item("c", twin=desired(p=3)))
    assert (scene.parts.changed, scene.listener.heard) == (["b"], [("a", {"p": 2}, 3)])
    await scene.load(item("b", mode=M.DELETE))
    assert scene.parts.changed == ["b", "b"]


async def test_a_scope_is_kept_and_a_parent_may_come_just_before(scene: Scene) -> None:
    scope = "ms-azure-iot-edge://parent-638000000000000001"
    assert await scene.load(
        item("parent", iot_edge=True, device_scope=scope),
        item("child", device_scope=scope),
        item("orphan", device_scope="ms-azure-iot-edge://late-1"),
        item("late", iot_edge=True, device_scope="ms-azure-iot-edge://late-1"),
        item("thief", iot_edge=True, device_scope=scope),
    ) == [None, None, 400028, None, 400028]
    child = await scene.parts.registry.get(IdentityKey("child"))
    assert (child.device_scope, child.parent_scopes) == (scope, (scope,))


async def test_system_modules_take_what_they_had_where_they_are(scene: Scene) -> None:
    key = "a2V5IG9mIGFuIGVkZ2UgbW9kdWxlIG9mIHRlc3RzLi4="
    agent = {"credentials": Credentials(primary_key=key, secondary_key=key)}
    assert await scene.load(
        item("edge", iot_edge=True),
        item("edge", "$edgeAgent", twin=desired(schema="1.1"), **agent),
        item("edge", "$edgeAgent", M.CREATE, **agent),
        item("edge", "$edgeHub", M.DELETE),
        item("leaf"),
        item("leaf", "$edgeAgent", **agent),
        item("ghost", "$edgeAgent", **agent),
    ) == [None, None, None, 401100, None, 401100, 404001]
    made = await scene.parts.registry.get(IdentityKey("edge", "$edgeAgent"))
    assert made.authentication.primary_key == key
    assert dict((await scene.twins.get(made.key)).desired.values) == {"schema": "1.1"}
    assert await scene.load(item("edge")) == [None]
    assert list(await scene.parts.registry.modules("edge")) == []


async def test_what_is_refused_is_named_by_its_place_and_the_rest_is_done(scene: Scene) -> None:
    assert await scene.load(
        HubError(ARGUMENT_INVALID, "not read"), item("a"), item("bad id"), item("ghost", "m"),
        item("b", twin=GivenTwin(tags={"a.b": 1})), item("c", credentials=Credentials(primary_key="*")), item("d"),
    ) == [400004, None, 400004, 404001, 400004, 400004, None]  # fmt: skip
    assert [found.device_id for found in await scene.parts.registry.devices()] == ["a", "d"]


async def test_thousands_are_done_in_their_order_and_none_is_lost(scene: Scene) -> None:
    items = [item(f"d{number:04}", twin=GivenTwin(tags={"n": number})) for number in range(1100)]
    twice = [item(f"d{number:04}", status=OFF) for number in range(0, 1100, 2)]
    assert await scene.tally(*items, *twice) == Tally(1100, 550, 0, 0, ())
    counts = await scene.parts.registry.counts()
    assert (counts.enabled, counts.disabled) == (550, 550)
    page = await scene.transfer.page(None, 2000)
    assert [twin.tags["n"] for _, twin in page] == list(range(1100))
    keys = {one.authentication.primary_key for one, _ in page}
    assert len(keys) == 1100, "those without keys have got keys of their own"


async def test_a_store_that_fails_fails_the_call_and_not_one_of_its_items(scene: Scene) -> None:
    loads, failing = scene.transfer._store, HubError(SERVER_ERROR, "the disk is full")

    class Failing:
        calls = 0

        def load(self, *arguments: Any) -> Awaitable[list[Outcome]]:
            self.calls += 1
            if self.calls != 2:
                return loads.load(*arguments)
            future = asyncio.get_running_loop().create_future()
            future.set_exception(failing)
            return future

    scene.transfer._store = Failing()  # type: ignore[assignment]
    with pytest.raises(HubError) as caught:
        await scene.load(*(item(f"d{number:04}") for number in range(1600)))
    assert caught.value is failing
    scene.transfer._store = loads
    assert await scene.load(*(item(f"d{number:04}") for number in range(1600))) == [None] * 1600
    assert (await scene.parts.registry.counts()).enabled == 1600


async def test_made_is_on_record_together_and_changed_by_itself_without_keys(scene: Scene) -> None:
    await scene.load(item("a"), item("b", "m"), item("b"), item("c"))
    made = await scene.parts.registry.get(IdentityKey("a"))
    await scene.load(item("a", status=OFF, twin=desired(p=1)), item("c", mode=M.DELETE))
    first, *others = await scene.records()
    assert '"subject":"devices",' in first
    assert '"before":null,"after":{"count":3,"made":["a","b","c"]}' in first
    assert [line.split('"subject":"')[1].split('"')[0] for line in others] == ["devices/a", "devices/a", "devices/c"]
    assert all('"operation":"identities.import"' in line for line in (first, *others))
    key = made.authentication.primary_key
    assert key is not None
    assert not any(key in line for line in (first, *others))
