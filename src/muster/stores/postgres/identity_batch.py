"""Identities of some devices within one transaction: read and locked at once, changed in memory, written at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import asyncpg

from muster.core.errors import DEVICE_NOT_FOUND, HubError
from muster.core.outbox import Entry
from muster.identity.contract import Standing
from muster.identity.model import Identity, IdentityKey
from muster.stores.postgres.database import Step
from muster.stores.postgres.identity_rows import COLUMNS, TYPES, identity_of, row_of
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.queues import forget_queues
from muster.stores.postgres.twins import insert_twins, lock_twin
from muster.twins.contract import LifecycleRecorder
from muster.twins.document import EMPTY, Twin

_NAMES = COLUMNS.split(", ")
# Only fixed lists of columns and tables go into these texts; every value is bound.
_LOCK = f"SELECT {COLUMNS} FROM identities WHERE hub = $1 AND device_id = $2 AND module_id = '' FOR UPDATE"  # noqa: S608
_LOCK_ALL = (  # a subquery that locks is run for each row of the outer one, in their order
    "SELECT found.* FROM unnest($2::text[]) AS asked (device_id) CROSS JOIN LATERAL "  # noqa: S608
    f"(SELECT {COLUMNS} FROM identities AS kept WHERE kept.hub = $1 AND kept.device_id = asked.device_id "
    "AND kept.module_id = '' FOR UPDATE) AS found"
)
_MODULES = (
    "SELECT found.* FROM unnest($2::text[]) AS asked (device_id) CROSS JOIN LATERAL "  # noqa: S608
    f"(SELECT {COLUMNS} FROM identities AS kept WHERE kept.hub = $1 AND kept.device_id = asked.device_id "
    "AND kept.module_id > '' ORDER BY module_id OFFSET 0) AS found"
)
_INSERT = (
    f"INSERT INTO identities (hub, {COLUMNS}) "  # noqa: S608
    f"SELECT $1, made.* FROM unnest({', '.join(f'${at}::{kind}[]' for at, kind in enumerate(TYPES.split(', '), 2))}) "
    "AS made ON CONFLICT DO NOTHING"
)
_CHANGE = (
    f"UPDATE identities SET {', '.join(f'{name} = ${at}' for at, name in enumerate(_NAMES[2:], 4))} "  # noqa: S608
    "WHERE hub = $1 AND device_id = $2 AND module_id = $3"
)
_DELETE = tuple(
    f"DELETE FROM {table} WHERE hub = $1 AND device_id = $2 AND module_id = $3"  # noqa: S608
    for table in ("identities", "twins", "subscriptions")
)
_DELETE_DEVICE = tuple(
    f"DELETE FROM {table} WHERE hub = $1 AND device_id = $2"  # noqa: S608
    for table in ("identities", "twins", "subscriptions", "uploads")
)


class IdentityBatch:
    """Identities of ``hub``. After ``open`` the devices are held until the transaction ends, and others wait.

    What is put is written by ``write``, to be called at the end. What ``recorder`` makes of identities that come and go
    goes into ``outbox`` with it.
    """

    def __init__(self, step: Step, hub: str, outbox: PostgresOutbox | None, recorder: LifecycleRecorder | None) -> None:
        self._step = step
        self._hub = hub
        self._outbox = outbox
        self._recorder = recorder if outbox is not None else None
        self._there: dict[str, dict[str | None, Identity]] = {}
        """By device: it and its modules, as they are by now."""
        self._made: dict[IdentityKey, tuple[Identity, Twin]] = {}
        self._changed: dict[IdentityKey, Identity] = {}
        self._entries: list[Entry] = []
        self.told = False
        """Whether something goes into the outbox."""

    async def open(self, devices: Collection[str], with_modules: Collection[str]) -> None:
        """Lock ``devices`` and read them, and the modules of those ``with_modules``: in a statement begun when they are
        locked, for one begun before does not see what others did while it waited."""
        if len(devices) == 1:
            rows = await self._step.fetch(_LOCK, self._hub, *devices)
        else:
            rows = await self._step.fetch(_LOCK_ALL, self._hub, sorted(devices))
        there = {row[0] for row in rows}.intersection(with_modules)
        if there:
            rows += await self._step.fetch(_MODULES, self._hub, list(there))
        for identity in map(identity_of, rows):
            self._there.setdefault(identity.device_id, {})[identity.module_id] = identity

    def standing(self, key: IdentityKey) -> Standing:
        """How things stand. Raises ``HubError`` 404001 for a module without a device."""
        there = self._there.get(key.device_id, {})
        if key.module_id is None:
            return Standing(there.get(None))
        if None not in there:
            raise HubError(DEVICE_NOT_FOUND, key.device_id)
        return Standing(there.get(key.module_id), there[None], len(there) - 1)

    def has(self, key: IdentityKey) -> bool:
        """Whether the identity is there."""
        return key.module_id in self._there.get(key.device_id, {})

    def twin_made(self, key: IdentityKey) -> Twin | None:
        """The twin of an identity that is not written yet."""
        made = self._made.get(key)
        return made and made[1]

    def put_twin(self, key: IdentityKey, twin: Twin) -> bool:
        """Give an identity that is not written yet another twin; whether it is such a one."""
        made = self._made.get(key)
        if made is not None:
            self._made[key] = made[0], twin
        return made is not None

    def tell(self, entries: Sequence[Entry]) -> bool:
        """Put ``entries`` into the outbox, if there is one; whether anything goes there by that."""
        if self._outbox is None or not entries:
            return False
        self._entries += entries
        self.told = True
        return True

    def put(self, before: Identity | None, after: Identity, twin: Twin = EMPTY) -> bool:
        """Have ``after`` in the place of ``before``, a new one with ``twin``; whether there is something to be told."""
        key = after.key
        self._there.setdefault(key.device_id, {})[key.module_id] = after
        if before is None or key in self._made:
            self._made[key] = after, (twin if before is None else self._made[key][1])
        else:
            self._changed[key] = after
        self._count(before, after)
        return before is None and self._tell(after, twin, created=True)

    async def delete(self, before: Identity, *, whole: bool) -> tuple[list[Identity], bool]:
        """Delete an identity and all that goes with it: what has gone, a device's modules first, and whether there is
        something to be told. Modules are among it if the outbox or, by ``whole``, the caller wants to know them."""
        await self.write()
        step, hub, (device_id, module_id) = self._step, self._hub, before.key
        going = [before]
        if module_id is None and (whole or self._recorder is not None):
            going = [*map(identity_of, await step.fetch(_MODULES, hub, [device_id])), before]
        told = False
        if self._recorder is not None:
            for one in going:
                told |= self._tell(one, await lock_twin(step, hub, one.key) or EMPTY, created=False)
        for statement in _DELETE_DEVICE if module_id is None else _DELETE:
            await step.write(statement, hub, device_id, *([] if module_id is None else [module_id]))
        await forget_queues(step, hub, before.key)
        there = self._there.pop(device_id)
        if module_id is not None:
            del there[module_id]
            self._there[device_id] = there
        self._count(before, None)
        return going, told

    async def write(self) -> None:
        """Write what was put. Raises ``asyncpg.SerializationError`` when another node has just made one of them."""
        step, hub = self._step, self._hub
        if self._made:
            made = list(self._made.values())
            if await step.write(_INSERT, hub, *zip(*(row_of(one) for one, _ in made), strict=True)) < len(made):
                raise asyncpg.SerializationError("another node has made one of them meanwhile")
            await insert_twins(step, hub, [(one.key, twin) for one, twin in made])
        if self._changed:
            rows = [(hub, *row_of(one)) for one in self._changed.values()]
            await (step.write(_CHANGE, *rows[0]) if len(rows) == 1 else step.write_many(_CHANGE, rows))
        if self._outbox is not None:
            await self._outbox.keep(step, self._entries)
        for written in (self._made, self._changed, self._entries):
            written.clear()

    def _tell(self, identity: Identity, twin: Twin, *, created: bool) -> bool:
        if self._recorder is None:
            return False
        return self.tell(self._recorder.identity_changed(identity, twin, created=created))

    def _count(self, before: Identity | None, after: Identity | None) -> None:
        for identity, by in ((before, -1), (after, 1)):
            if identity is not None and identity.module_id is None:
                self._step.count(self._hub, identity.status, by)
