"""The identity registry: bulk calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from registry_parts import Parts, draft, registry_parts

from muster.core import errors
from muster.core.errors import HubError
from muster.identity.changes import ImportMode, Match
from muster.identity.model import IdentityKey, Status
from muster.identity.registry import BulkItem


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    async with registry_parts(tmp_path) as parts:
        yield parts


async def bulk(parts: Parts, *items: BulkItem) -> list[int | None]:
    """The code of each refusal, in the order of the items."""
    return [outcome and outcome.row.code for outcome in await parts.registry.bulk(items)]


OFF = Status.DISABLED
MODES_ON_ABSENT = [
    (ImportMode.CREATE, None, None),
    (ImportMode.CREATE_OR_UPDATE, None, None),
    (ImportMode.CREATE_OR_UPDATE_IF_MATCH, Match(-1), None),
    (ImportMode.CREATE_OR_UPDATE_IF_MATCH, None, 400005),
    (ImportMode.UPDATE, None, 404001),
    (ImportMode.UPDATE_IF_MATCH, Match(-1), 404001),
    (ImportMode.DELETE, None, 404001),
    (ImportMode.DELETE_IF_MATCH, Match(-1), 404001),
    (ImportMode.UPDATE_TWIN, None, 400003),
    (ImportMode.UPDATE_TWIN_IF_MATCH, Match(-1), 400003),
]


@pytest.mark.parametrize(("mode", "match", "code"), MODES_ON_ABSENT)
async def test_each_mode_on_an_absent_device(
    parts: Parts, mode: ImportMode, match: Match | None, code: int | None
) -> None:
    assert await bulk(parts, BulkItem(mode, draft("d"), match)) == [code]
    assert (await parts.store.get("hub", IdentityKey("d")) is not None) == (code is None)


PRESENT, WRONG, NONE = "present", "wrong", "none"
MODES_ON_PRESENT = [
    (ImportMode.CREATE, NONE, 409001),
    (ImportMode.CREATE_OR_UPDATE, NONE, None),
    (ImportMode.CREATE_OR_UPDATE, WRONG, None),
    (ImportMode.CREATE_OR_UPDATE_IF_MATCH, PRESENT, None),
    (ImportMode.CREATE_OR_UPDATE_IF_MATCH, WRONG, 412001),
    (ImportMode.UPDATE, NONE, None),
    (ImportMode.UPDATE, WRONG, None),
    (ImportMode.UPDATE_IF_MATCH, PRESENT, None),
    (ImportMode.UPDATE_IF_MATCH, WRONG, 412001),
    (ImportMode.UPDATE_IF_MATCH, NONE, 400005),
    (ImportMode.DELETE, WRONG, None),
    (ImportMode.DELETE_IF_MATCH, PRESENT, None),
    (ImportMode.DELETE_IF_MATCH, WRONG, 412001),
    (ImportMode.DELETE_IF_MATCH, NONE, 400005),
    (ImportMode.UPDATE_TWIN, NONE, 400003),
]


@pytest.mark.parametrize(("mode", "match", "code"), MODES_ON_PRESENT)
async def test_each_mode_on_a_present_device(parts: Parts, mode: ImportMode, match: str, code: int | None) -> None:
    made = await parts.registry.create(draft("d"))
    given = {PRESENT: Match(made.version), WRONG: Match(made.version + 1), NONE: None}[match]
    assert await bulk(parts, BulkItem(mode, draft("d", status=OFF), given)) == [code]
    now = await parts.store.get("hub", made.key)
    if code is not None:
        assert now == made
        assert parts.changed == []
    elif mode.deletes:
        assert now is None
        assert parts.changed == ["d"]
    else:
        assert now is not None
        assert (now.status, now.version) == (OFF, made.version + 1)
        assert parts.changed == ["d"]


async def test_a_bulk_call_does_what_it_can(parts: Parts) -> None:
    await parts.registry.create(draft("old"))
    codes = await bulk(
        parts,
        BulkItem(ImportMode.CREATE, draft("new")),
        BulkItem(ImportMode.CREATE, draft("old")),
        BulkItem(ImportMode.CREATE, draft("bad id")),
        BulkItem(ImportMode.CREATE, draft("new", "m")),
        BulkItem(ImportMode.CREATE, draft("ghost", "m")),
        BulkItem(ImportMode.DELETE, draft("old", "$edgeHub")),
        BulkItem(ImportMode.CREATE, draft("leaf", device_scope="nonsense")),
    )
    assert codes == [None, 409001, 400004, None, 404001, 401100, 400028]
    assert [found.device_id for found in await parts.registry.devices()] == ["new", "old"]
    assert [found.module_id for found in await parts.registry.modules("new")] == ["m"]


async def test_edge_devices_of_a_bulk_call_get_their_system_modules(parts: Parts) -> None:
    made = await parts.registry.create(draft("old", iot_edge=True))
    codes = await bulk(
        parts,
        BulkItem(ImportMode.CREATE, draft("new", iot_edge=True)),
        BulkItem(ImportMode.CREATE, draft("old", iot_edge=True)),
        BulkItem(ImportMode.CREATE, draft("plain")),
    )
    assert codes == [None, 409001, None]
    for name in ("new", "old"):
        modules = await parts.registry.modules(name)
        assert [module.module_id for module in modules] == ["$edgeAgent", "$edgeHub"]
    assert await parts.registry.get(made.key) == made
    assert await bulk(parts, BulkItem(ImportMode.UPDATE, draft("old"))) == [None]
    assert list(await parts.registry.modules("old")) == []
    assert await bulk(parts, BulkItem(ImportMode.DELETE, draft("new"))) == [None]


async def test_a_hundred_items_are_taken_and_one_more_is_refused(parts: Parts) -> None:
    items = [BulkItem(ImportMode.CREATE, draft(f"d{number:03}")) for number in range(101)]
    with pytest.raises(HubError) as caught:
        await parts.registry.bulk(items)
    assert caught.value.row is errors.TOO_MANY_DEVICES
    assert list(await parts.registry.devices()) == []
    assert await bulk(parts, *items[:100]) == [None] * 100
    found = await parts.registry.devices()
    assert len(found) == 100
    assert len({identity.authentication.primary_key for identity in found}) == 100
    assert len({identity.generation_id for identity in found}) == 100


async def test_an_identity_stands_once_in_a_call(parts: Parts) -> None:
    with pytest.raises(HubError) as caught:
        await parts.registry.bulk([BulkItem(ImportMode.CREATE, draft("d")), BulkItem(ImportMode.DELETE, draft("d"))])
    assert caught.value.row is errors.DEVICE_DEFINED_TWICE
    assert "d stands" in caught.value.message
    assert list(await parts.registry.devices()) == []
    assert await bulk(
        parts,
        BulkItem(ImportMode.CREATE, draft("d")),
        BulkItem(ImportMode.CREATE, draft("d", "m")),
        BulkItem(ImportMode.CREATE, draft("D")),
    ) == [None, None, None]


async def test_an_empty_call_does_nothing(parts: Parts) -> None:
    assert await parts.registry.bulk([]) == []
