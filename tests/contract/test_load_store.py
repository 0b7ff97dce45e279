"""What every ``LoadStore`` promises, beside the ``IdentityStore`` and ``TwinStore`` of the same database."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.audit.contract import AuditLog
from muster.core.audit import BY_THE_HUB, Draft
from muster.core.errors import DEVICE_EXISTS, DEVICE_NOT_FOUND, MESSAGE_TOO_LARGE, HubError
from muster.core.outbox import Entry, Outbox
from muster.identity.contract import Change, Counts, Edit, IdentityStore, Standing
from muster.identity.model import Authentication, Identity, IdentityKey, Status
from muster.jobs.contract import Consequences, Load, Loaded, LoadStore, Outcome
from muster.stores.postgres.audit import PostgresAuditLog
from muster.stores.postgres.database import Database
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.loads import PostgresLoadStore
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.twins import PostgresTwinStore
from muster.stores.sqlite.audit import SqliteAuditLog
from muster.stores.sqlite.database import Writer
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.loads import SqliteLoadStore
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.contract import TwinStore
from muster.twins.document import EMPTY, Twin, patch_twin
from tests.postgres import emptied_database

HUB = "hub"


class Births:
    """Records identities in words."""

    def identity_changed(self, identity: Identity, twin: Twin, *, created: bool) -> Sequence[Entry]:
        return [_entry(f"{identity.key} {'+' if created else '-'} {dict(twin.tags)}")]


class Stores(NamedTuple):
    loads: LoadStore
    identities: IdentityStore
    twins: TwinStore
    outbox: Outbox
    audit: AuditLog
    told: list[Sequence[Outcome]]

    async def load(self, *loads: Load) -> list[Outcome]:
        """Load; records name what was changed and made, and what is told the twins that were."""
        return await self.loads.load(HUB, loads, self.consequences())

    def consequences(self) -> Consequences:
        return Consequences(
            lambda loaded: [_draft("changed", [loaded.after or loaded.before])],
            lambda made: _draft("made", made),
            lambda loaded: [_entry(f"{loaded.after and loaded.after.key} {dict((loaded.twin_after or EMPTY).tags)}")],
            self.told.append,
        )

    async def get(self, device_id: str, module_id: str | None = None) -> tuple[Identity | None, Twin | None]:
        key = IdentityKey(device_id, module_id)
        return await self.identities.get(HUB, key), await self.twins.get(HUB, key)

    async def entries(self) -> list[str]:
        return [entry.record.decode() for _, entry in await self.outbox.take(0, 1000, 1 << 30)]

    async def records(self) -> list[str]:
        return [line.decode().split('"subject":"')[1].split('"')[0] for _, line in await self.audit.lines(0, 1000)]


def _entry(text: str) -> Entry:
    return Entry("d", text.encode())


def _draft(what: str, identities: Sequence[Identity | None]) -> Draft:
    names = " ".join(str(one.key) for one in identities if one is not None)
    return Draft(HUB, BY_THE_HUB, f"{what} {names}", 1.0)


def _sqlite(directory: Path) -> Opener[Stores]:
    def make(writer: Writer, reader: apsw.Connection) -> Stores:
        outbox = SqliteOutbox(writer, HUB)
        identities = SqliteIdentityStore(writer, reader, outbox, Births())
        loads = SqliteLoadStore(writer, reader, identities, outbox, Births())
        twins = SqliteTwinStore(writer, reader, outbox)
        return Stores(loads, identities, twins, outbox, SqliteAuditLog(writer, reader), [])

    return opener_of(directory, make)


def _postgres(_: Path) -> Opener[Stores]:
    def make(database: Database) -> Stores:
        outbox = PostgresOutbox(database, HUB)
        identities = PostgresIdentityStore(database, outbox, Births())
        loads = PostgresLoadStore(database, identities, outbox, Births())
        return Stores(loads, identities, PostgresTwinStore(database, outbox), outbox, PostgresAuditLog(database), [])

    return postgres_opener(emptied_database(), make)


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Stores]:
    made: Opener[Stores] = request.param(tmp_path)
    return made


@pytest.fixture
async def stores(opener: Opener[Stores]) -> AsyncIterator[Stores]:
    async with opener() as stores:
        yield stores


def identity(device_id: str, module_id: str | None = None, **fields: object) -> Identity:
    given: dict[str, object] = {"generation_id": "1", "version": 1, "authentication": Authentication()}
    return Identity(key=IdentityKey(device_id, module_id), **(given | fields))  # type: ignore[arg-type]


def making(one: Identity) -> Change:
    def change(standing: Standing) -> Identity:
        if standing.identity is not None:
            raise HubError(DEVICE_EXISTS, str(one.key))
        return one

    return change


def load(device_id: str, module_id: str | None = None, *, tag: int | None = None, **fields: object) -> Load:
    """Makes an identity that must not be there."""
    one = identity(device_id, module_id, **fields)
    return Load(one.key, making(one), None if tag is None else tagging(tag))


def tagging(value: int) -> Callable[[Twin], Twin]:
    return lambda twin: twin if dict(twin.tags) == {"t": value} else patch_twin(twin, {"t": value}, {}, 0.0)


def keeping(device_id: str, *, tag: int | None = None, module_id: str | None = None) -> Load:
    return Load(IdentityKey(device_id, module_id), lambda so: so.identity, None if tag is None else tagging(tag))


def disabling(device_id: str, *, tag: int | None = None) -> Load:
    def change(standing: Standing) -> Identity | None:
        return standing.identity and replace(standing.identity, status=Status.DISABLED, version=2)

    return Load(IdentityKey(device_id), change, None if tag is None else tagging(tag))


def dropping(device_id: str, module_id: str | None = None) -> Load:
    return Load(IdentityKey(device_id, module_id), lambda _: None)


def row(outcome: Outcome) -> object:
    return outcome.row if isinstance(outcome, HubError) else None


async def test_identities_and_twins_are_there_when_it_returns(stores: Stores, opener: Opener[Stores]) -> None:
    outcomes = await stores.load(load("a", tag=1), load("a", "m", tag=2), load("b"))
    assert [one.before for one in outcomes if isinstance(one, Loaded)] == [None, None, None]
    for name, module, tags in (("a", None, {"t": 1}), ("a", "m", {"t": 2}), ("b", None, {})):
        found, twin = await stores.get(name, module)
        assert found == identity(name, module)
        assert twin is not None
        assert (dict(twin.tags), twin.version) == (tags, 3 if tags else 2)
    assert (await stores.get("b"))[1] == EMPTY
    assert await stores.identities.counts(HUB) == Counts(2, 0)
    async with opener() as again:
        assert (await again.get("a", "m"))[0] == identity("a", "m")


async def test_each_load_is_made_by_itself_and_a_refused_one_not_at_all(stores: Stores) -> None:
    def too_large(_: Twin) -> Twin:
        raise HubError(MESSAGE_TOO_LARGE)

    await stores.load(load("old", tag=1))
    outcomes = await stores.load(
        load("a"), load("old", tag=7), load("ghost", "m"), load("b")._replace(twin=too_large), load("c"),
        disabling("old")._replace(twin=too_large),
    )  # fmt: skip
    assert [row(one) for one in outcomes] == [
        None, DEVICE_EXISTS, DEVICE_NOT_FOUND, MESSAGE_TOO_LARGE, None, MESSAGE_TOO_LARGE,
    ]  # fmt: skip
    assert isinstance(outcomes[2], HubError)
    assert outcomes[2].message == "ghost"
    assert [found.device_id for found in await stores.identities.devices(HUB, 10)] == ["a", "c", "old"]
    found, twin = await stores.get("old")
    assert (found, twin and dict(twin.tags)) == (identity("old"), {"t": 1})
    assert await stores.identities.counts(HUB) == Counts(3, 0)


async def test_loads_of_one_device_are_made_in_their_order(stores: Stores) -> None:
    outcomes = await stores.load(
        load("a", tag=1), disabling("a", tag=2), load("a", "m"), dropping("a"), load("a", "m"), load("a", tag=3),
        dropping("a"), dropping("a"), load("a", tag=4, version=9),
    )  # fmt: skip
    assert [row(one) for one in outcomes] == [None, None, None, None, DEVICE_NOT_FOUND, None, None, None, None]
    found, twin = await stores.get("a")
    assert found == identity("a", version=9)
    assert twin is not None
    assert (dict(twin.tags), twin.version) == ({"t": 4}, 3)
    assert await stores.get("a", "m") == (None, None)
    assert await stores.identities.counts(HUB) == Counts(1, 0)


async def test_calls_are_made_in_the_order_they_come_whoever_awaits_them(stores: Stores) -> None:
    so = stores.consequences()
    calls = [stores.loads.load(HUB, [one], so) for one in (load("a", tag=1), disabling("a"), keeping("a", tag=2))]
    edit = stores.twins.edit(HUB, IdentityKey("a"), lambda twin: patch_twin(twin, {"e": 1}, {}, 0.0), lambda _: None)
    last = stores.loads.load(HUB, [keeping("a", tag=3)], so)
    assert dict((await edit).tags) == {"t": 2, "e": 1}
    await last
    found, twin = await stores.get("a")
    assert found is not None
    assert (found.status, twin and dict(twin.tags)) == (Status.DISABLED, {"t": 3, "e": 1})
    for call in calls:
        await call
    assert [len(outcomes) for outcomes in stores.told] == [1, 1, 1, 1]


async def test_what_is_read_before_is_forgotten(stores: Stores) -> None:
    await stores.load(load("a", tag=1))
    await stores.get("a")
    await stores.twins.edit(HUB, IdentityKey("a"), tagging(2), lambda _: None)
    await stores.load(disabling("a", tag=3))
    found, _ = await stores.get("a")
    assert found is not None
    assert found.status is Status.DISABLED
    twin = await stores.twins.edit(HUB, IdentityKey("a"), lambda twin: twin, lambda _: None)
    assert dict(twin.tags) == {"t": 3}


async def test_what_is_as_it_should_be_leaves_nothing_behind(stores: Stores) -> None:
    await stores.load(load("a", tag=1))
    before = await stores.records(), await stores.entries()
    (outcome,) = await stores.load(keeping("a", tag=1))
    assert isinstance(outcome, Loaded)
    assert not outcome.changed
    assert (await stores.records(), await stores.entries()) == before


async def test_what_follows_is_of_the_same_transaction_and_may_be_refused(stores: Stores) -> None:
    def follow(before: Identity | None, after: Identity | None) -> list[Load]:
        assert (before, after) == (None, identity("a"))
        return [load("a", "m"), load("a"), load("a", "n")]

    assert [row(one) for one in await stores.load(load("a")._replace(follow=follow))] == [None]
    assert [found.module_id for found in await stores.identities.modules(HUB, "a")] == ["m", "n"]


async def test_records_and_events_tell_what_happened(stores: Stores) -> None:
    await stores.load(load("a", tag=1), load("a", "m"), load("b"))
    await stores.load(disabling("b"), keeping("a", tag=2), dropping("a"), load("c"))
    records, entries = await stores.records(), await stores.entries()
    made = [one for one in records if one.startswith("made ")]
    assert sorted(name for one in made for name in one.split()[1:]) == ["a", "a/m", "b", "c"]
    changed = [one for one in records if one not in made]
    assert [one for one in changed if one != "changed b"] == ["changed a", "changed a/m", "changed a"]
    assert len(changed) == 4
    assert [one for one in entries if one.startswith("a")] == [
        "a + {'t': 1}", "a/m + {}", "a {'t': 2}", "a/m - {}", "a - {'t': 2}",
    ]  # fmt: skip
    assert sorted(one for one in entries if not one.startswith("a")) == ["b + {}", "c + {}"]


async def test_a_load_that_fails_in_the_midst_leaves_nothing(stores: Stores) -> None:
    def broken(_: Sequence[Identity]) -> Draft:
        raise RuntimeError("a record cannot be made")

    with pytest.raises(RuntimeError):
        await stores.loads.load(HUB, [load("a")], stores.consequences()._replace(made=broken))
    assert await stores.get("a") == (None, None)
    assert (await stores.identities.counts(HUB), stores.told) == (Counts(0, 0), [])


async def test_hubs_do_not_see_each_others_loads(stores: Stores) -> None:
    await stores.load(load("a", tag=1))
    assert [row(one) for one in await stores.loads.load("other", [load("a")], stores.consequences())] == [None]
    await stores.loads.load("other", [dropping("a")], stores.consequences())
    assert (await stores.get("a"))[0] == identity("a")
    assert [key.key for key, _ in await stores.loads.page(HUB, None, 10)] == [IdentityKey("a")]
    assert list(await stores.loads.page("other", None, 10)) == []


async def test_pages_have_all_in_order_with_their_twins(stores: Stores) -> None:
    names = [("a", None), ("a", "m"), ("a", "n"), ("a-", None), ("b", None), ("b", "$edgeHub"), ("c", None)]
    loads = [load(name, module, tag=number) for number, (name, module) in enumerate(names, 1)]
    await stores.load(*loads)
    for limit in (1, 2, 3, 100):
        found: list[tuple[Identity, Twin]] = []
        while page := await stores.loads.page(HUB, found[-1][0].key if found else None, limit):
            assert len(page) <= limit
            found += page
        assert [(one.device_id, one.module_id) for one, _ in found] == names
        assert [twin.tags["t"] for _, twin in found] == list(range(1, 8))
    assert [one.key for one, _ in await stores.loads.page(HUB, IdentityKey("a", "mm"), 2)] == [
        IdentityKey("a", "n"), IdentityKey("a-"),
    ]  # fmt: skip


async def test_an_edit_by_itself_and_a_load_make_the_same(stores: Stores) -> None:
    await stores.identities.edit(HUB, [Edit(IdentityKey("a"), making(identity("a")))])
    await stores.twins.edit(HUB, IdentityKey("a"), tagging(5), lambda _: None)
    await stores.load(load("b", tag=5))
    (one, first), (other, second) = await stores.get("a"), await stores.get("b")
    assert one == replace(other, key=IdentityKey("a"))  # type: ignore[type-var]
    assert first == second


async def test_nothing_of_a_transaction_that_was_undone_stays(stores: Stores) -> None:
    await stores.load(load("a", tag=1))

    def broken(_: Loaded) -> Sequence[Draft]:
        raise RuntimeError("a record cannot be made")

    with contextlib.suppress(RuntimeError):
        await stores.loads.load(HUB, [keeping("a", tag=2)], stores.consequences()._replace(changed=broken))
    twin = await stores.twins.edit(HUB, IdentityKey("a"), lambda twin: twin, lambda _: None)
    assert dict(twin.tags) == {"t": 1}
