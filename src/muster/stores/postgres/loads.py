"""Many identities with their twins in PostgreSQL: what import and export go through.

The loads of one device are one work. Those that a lane finds waiting are done together: a statement or two read and
lock what is there, what becomes of each is decided in memory, and a few write it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import NamedTuple

from muster.core.audit import Draft
from muster.core.errors import HubError
from muster.identity.model import Identity, IdentityKey
from muster.jobs.contract import Consequences, Load, Loaded, Outcome
from muster.stores.postgres import twins
from muster.stores.postgres.database import Database, Step, settle
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.identity_batch import IdentityBatch
from muster.stores.postgres.identity_rows import COLUMNS, identity_of
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.twins import lock_twin, lock_twins, twin_of, write_twins
from muster.twins.contract import LifecycleRecorder
from muster.twins.document import EMPTY, Twin

# Only the fixed lists of columns go into this text; every value is bound. LIMIT has the server look each twin up.
_PAGE = f"""
    SELECT here.*, twin.* FROM (
        SELECT {COLUMNS} FROM identities WHERE hub = $1 AND (device_id, module_id) > ($2, $3)
        ORDER BY device_id, module_id LIMIT $4
    ) AS here CROSS JOIN LATERAL (
        SELECT {twins.COLUMNS} FROM twins AS kept
        WHERE kept.hub = $1 AND kept.device_id = here.device_id AND kept.module_id = here.module_id LIMIT 1
    ) AS twin ORDER BY here.device_id, here.module_id
"""  # noqa: S608
_WIDTH = len(COLUMNS.split(","))


class _Asked(NamedTuple):
    """Loads of one device, of one call, where they stand at ``positions``."""

    hub: str
    device_id: str
    loads: Sequence[Load]
    so: Consequences
    positions: Sequence[int]


class PostgresLoadStore:
    """``jobs.contract.LoadStore`` on a database of ``migrations``, beside the same hub's ``PostgresIdentityStore``.

    Identities that come and go are recorded as there. The loads of a call are several transactions, device by device:
    when the future raises, some may be done. Raises ``HubError`` as the database does.
    """

    def __init__(
        self,
        database: Database,
        beside: PostgresIdentityStore,
        outbox: PostgresOutbox | None = None,
        recorder: LifecycleRecorder | None = None,
    ) -> None:
        self._database = database
        self._beside = beside
        self._outbox = outbox
        self._recorder = recorder
        self._calls: deque[_Call] = deque()
        """Those that have not ended, in their order."""

    def load(self, hub: str, loads: Sequence[Load], so: Consequences) -> Awaitable[list[Outcome]]:
        """See ``LoadStore``."""
        by_device: dict[str, list[int]] = {}
        for position, one in enumerate(loads):
            by_device.setdefault(one.key.device_id, []).append(position)
        call = _Call(len(loads), len(by_device), so)
        self._calls.append(call)
        for device_id, positions in by_device.items():
            asked = _Asked(hub, device_id, [loads[position] for position in positions], so, positions)
            self._database.call_together(f"{hub}/{device_id}", self._load_all, asked, partial(self._done, call, asked))
        self._end_calls()
        return call.future

    async def page(self, hub: str, after: IdentityKey | None, limit: int) -> Sequence[tuple[Identity, Twin]]:
        """See ``LoadStore``."""
        device_id, module_id = after or ("", "")
        rows = await self._database.fetch(_PAGE, hub, device_id, module_id or "", limit)
        return [(identity_of(row[:_WIDTH]), twin_of(row[_WIDTH:])) for row in rows]

    async def _load_all(self, step: Step, asked: Sequence[_Asked]) -> list[tuple[list[Outcome], bool]]:
        """What became of the loads, and whether there is something in the outbox."""
        batches: dict[str, _Batch] = {}
        for hub in dict.fromkeys(one.hub for one in asked):
            identities = IdentityBatch(step, hub, self._outbox, self._recorder)
            batches[hub] = _Batch(step, hub, identities)
            await batches[hub].open([one for one in asked if one.hub == hub])
        outcomes = [[await batches[one.hub].do(load, one.so) for load in one.loads] for one in asked]
        for batch in batches.values():
            await batch.write()
        return [(made, batches[one.hub].identities.told) for made, one in zip(outcomes, asked, strict=True)]

    def _done(
        self,
        call: _Call,
        asked: _Asked,
        ended: tuple[list[Outcome], bool] | None,
        error: BaseException | None,
    ) -> None:
        self._beside.forget(asked.hub, asked.device_id)
        outcomes, told = ended or ([], False)
        call.note(asked.positions, outcomes, error)
        self._end_calls()
        if told and self._outbox is not None:
            self._outbox.filled()

    def _end_calls(self) -> None:
        while self._calls and self._calls[0].left == 0:
            self._calls.popleft().end()


class _Call:
    """A call of ``load`` and what has become of it."""

    def __init__(self, loads: int, left: int, so: Consequences) -> None:
        self.future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self.left = left
        """Devices that have not ended."""
        self._so = so
        self._outcomes: list[Outcome] = [Loaded(None, None)] * loads
        self._made = 0
        self._error: BaseException | None = None

    def note(self, positions: Sequence[int], outcomes: Sequence[Outcome], error: BaseException | None) -> None:
        """A device's loads have ended."""
        self.left -= 1
        if error is not None:
            self._error = self._error or error
            return
        self._made += 1
        for position, outcome in zip(positions, outcomes, strict=True):
            self._outcomes[position] = outcome

    def end(self) -> None:
        """All loads have ended, and all calls before: tell. Of what is made is told, also where others failed."""
        settle(self.future, self._outcomes, self._error)
        if self._made or self._error is None:
            self._so.then(self._outcomes)


class _Batch:
    """The loads of one hub in one transaction."""

    def __init__(self, step: Step, hub: str, identities: IdentityBatch) -> None:
        self.identities = identities
        self._step = step
        self._hub = hub
        self._twins: dict[IdentityKey, Twin] = {}
        """Twins of identities that were there before, as they are by now, and locked."""
        self._stored: dict[IdentityKey, Twin] = {}
        """The same as they stand in the table."""
        self._made: dict[Consequences, list[Identity]] = {}
        self._drafts: list[Draft] = []

    async def open(self, asked: Sequence[_Asked]) -> None:
        """Lock and read what the loads are about."""
        loads = [load for one in asked for load in one.loads]
        of_modules = {one.key.device_id for one in loads if one.key.module_id is not None or one.follow is not None}
        await self.identities.open({one.device_id for one in asked}, of_modules)
        with_twins = sorted(
            {(self._hub, one.key.device_id, one.key.module_id or "") for one in loads
             if one.twin is not None and self.identities.has(one.key)}
        )  # fmt: skip
        if with_twins:
            for (_, device_id, module_id), twin in (await lock_twins(self._step, with_twins)).items():
                key = IdentityKey(device_id, module_id or None)
                self._twins[key] = self._stored[key] = twin

    async def do(self, load: Load, so: Consequences) -> Outcome:
        """Decide about one load, and what follows it."""
        try:
            standing = self.identities.standing(load.key)
            before, after = standing.identity, load.change(standing)
            if after is None:
                return Loaded(None, None) if before is None else await self._delete(before, so)
            twin_before = twin_after = None
            if load.twin is not None:
                twin_before = EMPTY if before is None else await self._twin(load.key)
                twin_after = load.twin(twin_before)
        except HubError as error:
            return error
        loaded = Loaded(before, after, twin_before, twin_after)
        if loaded.changed:
            self._keep(loaded, after, so)
        for follower in () if load.follow is None else load.follow(before, after):
            await self.do(follower, so)
        return loaded

    async def write(self) -> None:
        """Write what was decided."""
        self._step.record([so.made(identities) for so, identities in self._made.items()])
        self._step.record(self._drafts)
        await self.identities.write()
        changed = [
            ((self._hub, key.device_id, key.module_id or ""), self._stored[key], twin)
            for key, twin in self._twins.items()
            if key in self._stored and twin is not self._stored[key]
        ]
        await write_twins(self._step, changed)
        self._stored = dict(self._twins)
        self._made.clear()
        self._drafts.clear()

    async def _twin(self, key: IdentityKey) -> Twin:
        twin = self.identities.twin_made(key) or self._twins.get(key)
        if twin is None:
            twin = await lock_twin(self._step, self._hub, key)
            assert twin is not None, "each identity has one"
            self._twins[key] = self._stored[key] = twin
        return twin

    def _keep(self, loaded: Loaded, after: Identity, so: Consequences) -> None:
        before, twin = loaded.before, loaded.twin_after
        if before is None:
            self.identities.put(None, after, twin or EMPTY)
            self._made.setdefault(so, []).append(after)
            return
        if after is not before:
            self.identities.put(before, after)
        if twin is not None and twin is not loaded.twin_before:
            if not self.identities.put_twin(after.key, twin):
                self._twins[after.key] = twin
            if so.record is not None:
                self.identities.tell(so.record(loaded))
        self._drafts += so.changed(loaded)

    async def _delete(self, before: Identity, so: Consequences) -> Loaded:
        """What waits is written first, so that what goes is all there."""
        await self.write()
        gone, _ = await self.identities.delete(before, whole=True)
        for one in gone:
            self._drafts += so.changed(Loaded(one, None))
            self._twins.pop(one.key, None)
            self._stored.pop(one.key, None)
        return Loaded(before, None)
