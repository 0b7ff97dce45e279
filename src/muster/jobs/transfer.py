"""Import and export of identities with their twins: what ``Registry.bulk`` does to a hundred, to any number of them.

Knows no format: items in, what became of each out. Each item is made by itself, in the order in which they come, with
the rules of the registry and of the twins; many share a transaction, which is what makes it fast.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.audit import Act, Draft, draft
from muster.core.bulk_limits import IMPORT_TRANSACTION
from muster.core.errors import ARGUMENT_NULL, HubError
from muster.core.outbox import Entry
from muster.identity import changes, scopes
from muster.identity.account import noted, subject_of
from muster.identity.changes import ANY, ImportMode
from muster.identity.contract import Change
from muster.identity.ids import SYSTEM_MODULES
from muster.identity.model import Identity, IdentityKey
from muster.identity.registry import BulkItem, Registry
from muster.jobs.contract import Consequences, Load, Loaded, LoadStore, Outcome
from muster.twins.account import replaced
from muster.twins.contract import Change as TwinChange
from muster.twins.contract import DesiredListener, TwinRecorder
from muster.twins.document import Content, Twin, merge
from muster.twins.restoring import GivenTwin, check_given, restore

_MOST_UNDER_WAY = 2
"""Transactions that are asked for and not awaited: while one is written the next is made ready."""
_ITEMS_AT_ONCE = 25
"""Then others get their turn on the loop."""
_TWIN_MODES = {ImportMode.UPDATE_TWIN, ImportMode.UPDATE_TWIN_IF_MATCH}


class Item(NamedTuple):
    """One identity to be imported; ``twin`` is ``None`` where nothing is said of it."""

    bulk: BulkItem
    twin: GivenTwin | None = None


class Tally(NamedTuple):
    """What became of items: how many were made, changed, found as they should be and deleted; the refused ones by
    their positions."""

    created: int
    updated: int
    unchanged: int
    deleted: int
    failures: tuple[tuple[int, HubError], ...]


class Transfer:
    """The identities of ``hub``, many at a time. What is changed is put on record as what ``by`` does."""

    def __init__(
        self, hub: str, store: LoadStore, registry: Registry, listener: DesiredListener, ambient: Ambient,
        *, recorder: TwinRecorder | None = None,
    ) -> None:  # fmt: skip
        """``listener`` hears of desired properties that have changed, ``recorder`` makes events of twins that have."""
        self._hub = hub
        self._store = store
        self._registry = registry
        self._listener = listener
        self._ambient = ambient
        self._recorder = recorder

    async def page(self, after: IdentityKey | None, limit: int) -> Sequence[tuple[Identity, Twin]]:
        """Identities with their twins, see ``LoadStore.page``."""
        return await self._store.page(self._hub, after, limit)

    async def load(self, items: Iterable[Item | HubError], by: Act) -> Tally:
        """Do each item by itself, in their order; one that is a refusal already is counted with those of the hub.

        What is the same already is left as it is, ETags included, so that an import may be repeated. Of a twin the
        parts that are given replace those that are there; reported properties only where nobody has written the twin
        yet (``twins.restoring``). Items are taken as they are needed. Raises ``HubError`` 500001 when the store fails:
        then it is not known which items were done.
        """
        run = _Run(self, by)
        for position, item in enumerate(items):
            if position % _ITEMS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if isinstance(item, HubError):
                run.outcomes[position] = item
                continue
            await run.make_way(item.bulk.draft)
            try:
                load = await self.prepared(item)
            except HubError as error:
                run.outcomes[position] = error
            else:
                await run.add(position, load)
        await run.drain()
        return _tally(run.outcomes)

    async def prepared(self, item: Item) -> Load:
        """What ``item`` asks of the store. Raises ``HubError`` for what can be refused beforehand."""
        bulk, given = item
        key = bulk.draft.key
        if given is not None and not bulk.mode.deletes:
            check_given(given)
        change = changes.unless_same(await self._change(bulk))
        follow = None if key.module_id is not None or bulk.mode.deletes else self._system_modules
        return Load(key, change, self._twin_change(item), follow)

    def written(self, loads: Sequence[Load], by: Act) -> Awaitable[list[Outcome]]:
        """Hand ``loads`` to the store."""
        at, note = self._ambient.now(), noted(self._hub, by, self._ambient.now())

        def changed(loaded: Loaded) -> list[Draft]:
            drafts = [] if loaded.before is loaded.after else [note(loaded.before, loaded.after)]
            was, now, identity = loaded.twin_before, loaded.twin_after, loaded.after
            if was is not now and was is not None and now is not None and identity is not None:
                drafts.append(replaced(self._hub, by, subject_of(identity.key), at)(was, now))
            return drafts

        def made(identities: Sequence[Identity]) -> Draft:
            names = [str(identity.key) for identity in identities]
            return draft(self._hub, by, "devices", at, after={"count": len(names), "made": names})

        recorder = self._recorder
        record = None if recorder is None else partial(_twin_recorded, recorder, at)
        return self._store.load(self._hub, loads, Consequences(changed, made, record, self._tell))

    # --- within

    async def _change(self, bulk: BulkItem) -> Change:
        key = bulk.draft.key
        if bulk.mode in _TWIN_MODES:
            return changes.keep(key, ANY)
        if key.module_id in SYSTEM_MODULES and not bulk.mode.deletes:
            return changes.restore_system_module(bulk.draft, self._registry.fresh(bulk.draft.credentials))
        return await self._registry.planned(bulk)

    def _twin_change(self, item: Item) -> TwinChange | None:
        bulk, given = item
        if bulk.mode is ImportMode.UPDATE_TWIN_IF_MATCH and (given is None or given.revision is None):
            raise HubError(ARGUMENT_NULL, f"twinETag is missing, importMode {bulk.mode} needs it.")
        if given is None:
            return None
        if bulk.mode is not ImportMode.UPDATE_TWIN_IF_MATCH:
            given = given._replace(revision=None)
        return partial(_restored, given, self._ambient.now())

    def _system_modules(self, before: Identity | None, after: Identity | None) -> list[Load]:
        edge = [one for one in (before, after) if one is not None and one.iot_edge]
        if not edge or after is None:
            return []
        return [Load(key, change) for key, change in self._registry.system_modules(after.device_id)]

    def _tell(self, outcomes: Sequence[Outcome]) -> None:
        for loaded in outcomes:
            if isinstance(loaded, HubError) or loaded.before is None:
                continue
            if loaded.before is not loaded.after:
                self._registry.published(loaded.before.key)
            was, now = loaded.twin_before, loaded.twin_after
            if was is not None and now is not None and was.desired is not now.desired:
                self._listener.desired_changed(loaded.before.key, _plain(now.desired.values), now.desired.version)


class _Run:
    """One call: items that gather, transactions under way."""

    def __init__(self, transfer: Transfer, by: Act) -> None:
        self._transfer = transfer
        self._by = by
        self.outcomes: dict[int, Outcome] = {}
        self._positions: list[int] = []
        self._loads: list[Load] = []
        self._devices: set[str] = set()
        """Devices with loads that have no outcome yet."""
        self._under_way: deque[tuple[list[int], Awaitable[list[Outcome]]]] = deque()

    async def make_way(self, named: changes.Draft) -> None:
        """Parents are looked up before a child is written, so one that came just before must be there by then."""
        if not named.parent_scopes and not named.device_scope:
            return
        parent = None
        with suppress(HubError):  # what is no scope is refused where it is looked at
            scope = scopes.wanted_parent(named.iot_edge, named.device_scope, named.parent_scopes)
            parent = None if scope is None else scopes.device_of(scope)
        if parent in self._devices:
            await self.drain()

    async def add(self, position: int, load: Load) -> None:
        """Take a load on. Raises ``HubError`` when the store fails, about whichever load."""
        self._positions.append(position)
        self._loads.append(load)
        self._devices.add(load.key.device_id)
        if len(self._loads) >= IMPORT_TRANSACTION.open:
            self._hand_over()
            while len(self._under_way) > _MOST_UNDER_WAY:
                await self._settle()

    async def drain(self) -> None:
        """Wait until all items that were taken on are durable, or refused."""
        if self._loads:
            self._hand_over()
        while self._under_way:
            await self._settle()
        self._devices.clear()

    def _hand_over(self) -> None:
        self._under_way.append((self._positions, self._transfer.written(self._loads, self._by)))
        self._positions, self._loads = [], []

    async def _settle(self) -> None:
        positions, pending = self._under_way.popleft()
        try:
            outcomes = await pending
        except BaseException:  # nobody will ask how the others ended
            others = [other for _, other in self._under_way]
            self._under_way.clear()
            asyncio.gather(*others, return_exceptions=True)
            raise
        self.outcomes.update(zip(positions, outcomes, strict=True))


def _restored(given: GivenTwin, at: float, twin: Twin) -> Twin:
    return restore(twin, given, at)


def _twin_recorded(recorder: TwinRecorder, at: float, loaded: Loaded) -> Sequence[Entry]:
    was, now = loaded.twin_before, loaded.twin_after
    if loaded.after is None or was is None or now is None or was is now:
        return ()
    return recorder.twin_replaced(loaded.after.key, was, now, at)


def _plain(values: Content) -> Content:
    return merge({}, values)


def _tally(outcomes: dict[int, Outcome]) -> Tally:
    created = updated = unchanged = deleted = 0
    failures: list[tuple[int, HubError]] = []
    for position, outcome in sorted(outcomes.items(), key=lambda pair: pair[0]):
        if isinstance(outcome, HubError):
            failures.append((position, outcome))
        elif not outcome.changed:
            unchanged += 1
        elif outcome.before is None:
            created += 1
        elif outcome.after is None:
            deleted += 1
        else:
            updated += 1
    return Tally(created, updated, unchanged, deleted, tuple(failures))
