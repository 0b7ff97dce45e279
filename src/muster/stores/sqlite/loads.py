"""Many identities with their twins in one transaction of ``hub.db``: what import and export go through.

The rows of ``identities.py`` and ``twins.py``, a batch at a time: those that are there are read by one statement, what
becomes of each is decided in memory, and new rows are written by two. A tenth of what single edits cost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any

import apsw

from muster.core.audit import Draft
from muster.core.errors import DEVICE_NOT_FOUND, HubError
from muster.core.json_text import encode, text_of
from muster.core.outbox import Entry
from muster.identity.contract import Edit, Standing
from muster.identity.model import Identity, IdentityKey
from muster.jobs.contract import Consequences, Load, Loaded, Outcome
from muster.stores.sqlite import identities, twins
from muster.stores.sqlite.audit import keep
from muster.stores.sqlite.database import Writer, settle, told_as_refusal
from muster.stores.sqlite.identities import SqliteIdentityStore, identity_of
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.stores.sqlite.twins import read_twin, twin_of
from muster.twins.contract import LifecycleRecorder
from muster.twins.document import EMPTY, Twin


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{name.strip()}" for name in columns.split(","))


# Only the fixed lists of columns go into these texts; every value is bound.
_THERE = (
    f"SELECT {identities.COLUMNS} FROM json_each(?) AS wanted "  # noqa: S608
    "CROSS JOIN identities ON hub = ? AND device_id = wanted.value"
)
_PUT_TWIN = (
    f"INSERT OR REPLACE INTO twins (hub, device_id, module_id, {twins.COLUMNS}) "  # noqa: S608
    f"VALUES (?{', ?' * (2 + len(twins.COLUMNS.split(',')))})"
)
_PAGE = (
    f"SELECT {_of('i', identities.COLUMNS)}, {_of('t', twins.COLUMNS)} FROM identities AS i "  # noqa: S608
    "CROSS JOIN twins AS t ON t.hub = i.hub AND t.device_id = i.device_id AND t.module_id = i.module_id "
    "WHERE i.hub = ? AND (i.device_id, i.module_id) > (?, ?) ORDER BY i.device_id, i.module_id LIMIT ?"
)
_IDENTITY_COLUMNS = len(identities.COLUMNS.split(","))


class SqliteLoadStore:
    """``jobs.contract.LoadStore`` on a ``hub.db``, beside the ``SqliteIdentityStore`` of the same hub.

    Pages are read on the loop, on ``reader``, which nothing but the loop's thread may use. Identities that come and go
    are recorded as there. A call of ``load`` is one transaction. Raises ``HubError`` (500001) when the disk fails.
    """

    def __init__(
        self,
        writer: Writer,
        reader: apsw.Connection,
        beside: SqliteIdentityStore,
        outbox: SqliteOutbox | None = None,
        recorder: LifecycleRecorder | None = None,
    ) -> None:
        self._writer = writer
        self._reader = reader
        self._beside = beside
        self._outbox = outbox
        self._recorder = recorder

    def load(self, hub: str, loads: Sequence[Load], so: Consequences) -> Awaitable[list[Outcome]]:
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()

        def done(outcomes: list[Outcome], error: BaseException | None) -> None:
            for device_id in {load.key.device_id for load in loads}:
                self._beside.forget(hub, device_id)
            settle(future, outcomes, error)
            if error is None:
                so.then(outcomes)

        self._writer.call(partial(self._load, hub, loads, so), done)
        return future

    def _load(self, hub: str, loads: Sequence[Load], so: Consequences, connection: apsw.Connection) -> list[Outcome]:
        batch = _Batch(self, connection, hub, so)
        return batch.run(loads)

    async def page(self, hub: str, after: IdentityKey | None, limit: int) -> Sequence[tuple[Identity, Twin]]:
        device_id, module_id = after or ("", "")
        with told_as_refusal(self._writer.path):
            rows = self._reader.execute(_PAGE, (hub, device_id, module_id or "", limit)).fetchall()
        return [(identity_of(row[:_IDENTITY_COLUMNS]), twin_of(row[_IDENTITY_COLUMNS:])) for row in rows]

    # --- for a batch, in the writer's thread

    def delete(self, connection: apsw.Connection, hub: str, edit: Edit) -> Identity | Exception | None:
        """As the identity store does it, with all that goes."""
        return self._beside.edit_within(connection, hub, edit)

    def tell(self, connection: apsw.Connection, made: Sequence[tuple[Identity, Twin]], told: Sequence[Entry]) -> None:
        """Put into the outbox what is to be told of identities that were ``made``, and what was ``told`` of twins."""
        if self._outbox is None:
            return
        entries = list(told)
        if self._recorder is not None:
            for identity, twin in made:
                entries += self._recorder.identity_changed(identity, twin, created=True)
        if entries:
            self._outbox.keep(connection, entries)

    def note(self, connection: apsw.Connection, drafts: Sequence[Draft]) -> None:
        """Put ``drafts`` on record."""
        if drafts:
            keep(self._writer, connection, drafts)

    def forget(self, hub: str, keys: Sequence[IdentityKey]) -> None:
        """Twins have changed that the writer may remember."""
        for key in keys:
            self._writer.kept.pop((hub, key), None)


class _Batch:
    """One transaction: identities as they were and as they become, rows that wait to be written."""

    def __init__(self, store: SqliteLoadStore, connection: apsw.Connection, hub: str, so: Consequences) -> None:
        self._store = store
        self._connection = connection
        self._hub = hub
        self._so = so
        self._devices: dict[str, dict[str | None, Identity]] = {}
        """By device: it and its modules, as they are by now."""
        self._twins: dict[IdentityKey, Twin] = {}
        self._waiting: dict[IdentityKey, Identity] = {}
        self._waiting_twins: dict[IdentityKey, Twin] = {}
        self._made: dict[IdentityKey, Identity] = {}
        self._counts = Counter[str]()
        self._drafts: list[Draft] = []
        self._told: list[Entry] = []

    def run(self, loads: Sequence[Load]) -> list[Outcome]:
        """Decide and write."""
        wanted = encode(sorted({load.key.device_id for load in loads}))
        for row in self._connection.execute(_THERE, (wanted, self._hub)):
            identity = identity_of(row)
            self._devices.setdefault(identity.device_id, {})[identity.module_id] = identity
        outcomes = [self._one(load) for load in loads]
        self._write()
        return outcomes

    def _one(self, load: Load) -> Outcome:
        key = load.key
        try:
            standing = self._standing(key)
            before = standing.identity
            after = load.change(standing)
            if after is None:
                return Loaded(None, None) if before is None else self._delete(before)
            twin_before = twin_after = None
            if load.twin is not None:
                twin_before = EMPTY if before is None else self._twin(key)
                twin_after = load.twin(twin_before)
        except HubError as error:
            return error
        loaded = Loaded(before, after, twin_before, twin_after)
        if loaded.changed:
            self._keep(loaded, after)
        if load.follow is not None:
            for follower in load.follow(before, after):
                self._one(follower)
        return loaded

    def _standing(self, key: IdentityKey) -> Standing:
        device_id, module_id = key
        there = self._devices.get(device_id)
        if module_id is None:
            return Standing(None if there is None else there.get(None))
        if there is None:
            raise HubError(DEVICE_NOT_FOUND, device_id)
        return Standing(there.get(module_id), there[None], len(there) - 1)

    def _twin(self, key: IdentityKey) -> Twin:
        twin = self._twins.get(key) or read_twin(self._connection, self._hub, key)
        assert twin is not None, "each identity has one"
        self._twins[key] = twin
        return twin

    def _keep(self, loaded: Loaded, after: Identity) -> None:
        before, key = loaded.before, after.key
        if after is not before:
            self._devices.setdefault(key.device_id, {})[key.module_id] = self._waiting[key] = after
            if key.module_id is None and (before is None or before.status is not after.status):
                self._counts[after.status] += 1
                if before is not None:
                    self._counts[before.status] -= 1
        if before is None:
            self._made[key] = after
            self._twins[key] = self._waiting_twins[key] = loaded.twin_after or EMPTY
            return
        if loaded.twin_after is not None and loaded.twin_after is not loaded.twin_before:
            self._twins[key] = self._waiting_twins[key] = loaded.twin_after
            if self._so.record is not None:
                self._told += self._so.record(loaded)
        self._drafts += self._so.changed(loaded)

    def _delete(self, before: Identity) -> Loaded:
        """What waits is written first, so that what goes is all there."""
        self._write()

        def note(going: Identity | None, _: Identity | None) -> Draft:
            (draft,) = self._so.changed(Loaded(going, None))
            return draft

        key = before.key
        outcome = self._store.delete(self._connection, self._hub, Edit(key, lambda _: None, note))
        assert outcome is None, "nothing refuses this"
        there = self._devices.pop(key.device_id)
        if key.module_id is not None:
            del there[key.module_id]
            self._devices[key.device_id] = there
        for gone in [one for one in self._twins if one.device_id == key.device_id]:
            del self._twins[gone]
        return Loaded(before, None)

    def _write(self) -> None:
        connection, hub, store = self._connection, self._hub, self._store
        if self._waiting:
            connection.executemany(identities.PUT, [identities.row_of(hub, one) for one in self._waiting.values()])
        if self._waiting_twins:
            connection.executemany(_PUT_TWIN, [_twin_row(hub, *pair) for pair in self._waiting_twins.items()])
            store.forget(hub, list(self._waiting_twins))
        identities.add_counts(connection, hub, self._counts)
        drafts = [self._so.made(list(self._made.values()))] if self._made else []
        drafts += self._drafts
        store.tell(connection, [(self._waiting[key], self._waiting_twins[key]) for key in self._made], self._told)
        store.note(connection, drafts)
        for kept in (self._waiting, self._waiting_twins, self._made, self._counts, self._drafts, self._told):
            kept.clear()


def _twin_row(hub: str, key: IdentityKey, twin: Twin) -> tuple[Any, ...]:
    desired, reported = twin.desired, twin.reported
    return (
        hub, key.device_id, key.module_id or "", twin.version, twin.revision, text_of(twin.tags),
        text_of(desired.values), text_of(desired.metadata), desired.version,
        text_of(reported.values), text_of(reported.metadata), reported.version, twin.model_id,
    )  # fmt: skip
