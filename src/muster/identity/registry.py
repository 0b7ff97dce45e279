"""The identity registry of a hub: devices and modules made, read, changed and deleted, one by one and in bulk.

Knows no protocol: drafts in, identities out, refusals as ``HubError``. After every change that a live session
may have to hear of, ``core.bus.IDENTITY_CHANGED`` is published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from struct import iter_unpack
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.audit import BY_THE_HUB, Act
from muster.core.bus import IDENTITY_CHANGED, Bus
from muster.core.errors import (
    ARGUMENT_NULL,
    DEVICE_DEFINED_TWICE,
    INVALID_DEVICE_SCOPE,
    INVALID_OPERATION,
    TOO_MANY_DEVICES,
    HubError,
)
from muster.core.limits import BULK_DEVICES, REGISTRY_PAGE
from muster.identity import changes, scopes
from muster.identity.account import noted
from muster.identity.changes import ANY, Draft, Fresh, ImportMode, KeyChoice, Match, not_found
from muster.identity.contract import Change, Counts, Depths, Edit, IdentityStore, Note, Presence
from muster.identity.ids import SYSTEM_MODULES, check_key
from muster.identity.keys import ANY_CREDENTIALS, Credentials, generate_key, needs_spare
from muster.identity.model import Identity, IdentityKey

_TICKS_AT_1970 = 621_355_968_000_000_000
_TICKS_A_SECOND = 10_000_000
_VERSIONS_AT_ONCE = 256


class Activity(NamedTuple):
    """What is known of an identity's connection, times as ``Presence`` has them, and how many messages wait for it."""

    connected: bool
    connection_changed: float
    last_activity: float
    commands_waiting: int = 0


class BulkItem(NamedTuple):
    """One item of a bulk call. ``match`` (``None``: not given) counts in the conditional modes only."""

    mode: ImportMode
    draft: Draft
    match: Match | None = None


class Registry:
    """The identities of ``hub``. Changes are put on record as what ``by`` does."""

    def __init__(
        self, hub: str, store: IdentityStore, presence: Presence, bus: Bus, ambient: Ambient,
        *, queues: Depths | None = None,
    ) -> None:  # fmt: skip
        """``queues`` of identities are named by their keys."""
        self._hub = hub
        self._queues = queues
        self._store = store
        self._presence = presence
        self._bus = bus
        self._ambient = ambient
        self._last_ticks = 0
        self._versions: list[int] = []
        """To begin with, random."""

    # --- reading

    async def get(self, key: IdentityKey) -> Identity:
        """The identity; 404001 when there is no such device, 404010 when the device has no such module."""
        identity = await self._store.get(self._hub, key)
        if identity is None:
            if key.module_id is not None:
                await self.get(IdentityKey(key.device_id))
            raise not_found(key)
        return identity

    async def devices(self, limit: int = REGISTRY_PAGE.open) -> Sequence[Identity]:
        """Devices in the order of their ids, 1 to 1,000; any other ``limit`` means 1,000 (service.md 2.5)."""
        most = REGISTRY_PAGE.open
        return await self._store.devices(self._hub, limit if 1 <= limit <= most else most)

    async def modules(self, device_id: str) -> Sequence[Identity]:
        """The modules of a device in the order of their ids; 404001 when there is no such device."""
        await self.get(IdentityKey(device_id))
        return await self._store.modules(self._hub, device_id)

    async def counts(self) -> Counts:
        """Devices by status."""
        return await self._store.counts(self._hub)

    async def connected_count(self) -> int:
        """Devices that are connected now."""
        return await self._presence.connected_devices()

    async def activity(self, key: IdentityKey) -> Activity:
        """The identity's connection state."""
        return self._activity_at_hand(key) or (await self.activities([key]))[0]

    async def look(self, key: IdentityKey) -> tuple[Identity, Activity]:
        """``get`` and ``activity`` in one, for each change of a twin asks for both."""
        identity = await self._store.get(self._hub, key) or await self.get(key)
        return identity, self._activity_at_hand(key) or await self.activity(key)

    def _activity_at_hand(self, key: IdentityKey) -> Activity | None:
        if self._presence.shared:
            return None
        waiting = 0 if self._queues is None else self._queues.waiting(str(key))
        return None if waiting is None else Activity(*self._presence.activity(key), waiting)

    async def activities(self, keys: Sequence[IdentityKey]) -> list[Activity]:
        """The connection state of each."""
        depths = [0] * len(keys) if self._queues is None else await self._queues.depths(list(map(str, keys)))
        states = await self._presence.activities(keys)
        return [Activity(*state, depth) for state, depth in zip(states, depths, strict=True)]

    # --- changing

    async def create(self, draft: Draft, by: Act = BY_THE_HUB) -> Identity:
        """Register a new identity.

        Raises ``HubError``: 409001 or 409301 when it exists, 404001 when a module's device does not, 413003,
        401100 for a system module, 400028 for a wrong scope, 400004 or 400005 for a wrong value.
        """
        await self._check(draft)
        note = self._note(by)
        followers = self._system_modules(draft, note, new=True)
        return await self._edit_one(Edit(draft.key, changes.create(draft, self.fresh()), note), followers)

    async def update(self, draft: Draft, match: Match, by: Act = BY_THE_HUB) -> Identity:
        """Write over an existing identity. Raises as ``create`` does, 404001 or 404010, and 412001."""
        await self._check(draft)
        change, note = changes.update(draft, match, self.fresh()), self._note(by)
        identity = await self._edit_one(Edit(draft.key, change, note), self._system_modules(draft, note))
        self.published(draft.key)
        return identity

    async def delete(self, key: IdentityKey, match: Match = ANY, by: Act = BY_THE_HUB) -> None:
        """Remove an identity, a device with its modules. Raises ``HubError`` 404001, 404010, 412001, 401100."""
        _guard(key)
        (outcome,) = await self._store.edit(self._hub, [Edit(key, changes.delete(key, match), self._note(by))])
        if isinstance(outcome, Exception):
            raise outcome
        self.published(key)

    async def bulk(self, items: Sequence[BulkItem], by: Act = BY_THE_HUB) -> list[HubError | None]:
        """Do each item by itself; returns, item by item, why it was refused, or ``None``.

        Raises ``HubError`` for the whole call, doing nothing: 413002 for more than 100 items, 400011 when an
        identity stands in it twice (service.md 2.6).
        """
        check_bulk([item.draft.key for item in items])
        outcomes: list[HubError | None] = [None] * len(items)
        accepted: list[int] = []
        edits: list[Edit] = []
        followers: list[Edit] = []
        note = self._note(by)
        for position, item in enumerate(items):
            try:
                edits.append(Edit(item.draft.key, await self.planned(item), note))
            except HubError as error:
                outcomes[position] = error
            else:
                accepted.append(position)
                if not item.mode.deletes:
                    followers += self._system_modules(item.draft, note, new=item.mode is ImportMode.CREATE)
        results = await self._store.edit(self._hub, edits + followers)
        for position, result in zip(accepted, results, strict=False):
            outcomes[position] = _refusal(result)
            if outcomes[position] is None and items[position].mode is not ImportMode.CREATE:
                self.published(items[position].draft.key)
        return outcomes

    async def planned(self, item: BulkItem) -> Change:
        """The change that ``item`` asks for, once what can be checked beforehand is.

        Raises ``HubError`` as ``create`` does, 400003 for a mode that writes a twin, 400005 without the ETag of a
        conditional mode.
        """
        make = changes.BY_MODE.get(item.mode)
        if make is None:
            raise HubError(
                INVALID_OPERATION,
                f"importMode {item.mode} writes a twin, which bulk calls of this hub do not, PATCH /twins instead.",
            )
        if item.mode.conditional and item.match is None:
            raise HubError(ARGUMENT_NULL, f"eTag is missing, importMode {item.mode} needs it.")
        if item.mode.deletes:
            _guard(item.draft.key)
        else:
            await self._check(item.draft)
        match = item.match if item.mode.conditional and item.match is not None else ANY
        return make(item.draft, match, self.fresh(item.draft.credentials))

    def system_modules(self, device_id: str) -> list[tuple[IdentityKey, Change]]:
        """The changes that give an edge device its system modules, or take them from one that is none.

        They look at the device as it is in their transaction: somebody else may change it meanwhile.
        """
        keys = [IdentityKey(device_id, name) for name in SYSTEM_MODULES]
        return [(key, changes.keep_system_module(key, self.fresh())) for key in keys]

    def published(self, key: IdentityKey) -> None:
        """Tell of a change of an identity that was there."""
        self._bus.publish(IDENTITY_CHANGED, str(key))

    async def regenerate(
        self, keys: Sequence[IdentityKey], choice: KeyChoice, by: Act = BY_THE_HUB
    ) -> list[Identity | HubError]:
        """Make symmetric keys anew; returns, one by one, the identity or why not (404001, 404010, 400036, 401100).

        Raises ``HubError`` as ``bulk`` does.
        """
        check_bulk(keys)
        outcomes: list[Identity | HubError] = []
        note = self._note(by)
        for key in keys:
            try:
                _guard(key)
                identity = await self._edit_one(Edit(key, changes.rotate(key, choice, self.fresh()), note))
            except HubError as error:
                outcomes.append(error)
            else:
                self.published(key)
                outcomes.append(identity)
        return outcomes

    # --- within

    async def _edit_one(self, edit: Edit, followers: Sequence[Edit] = ()) -> Identity:
        outcome, *_ = await self._store.edit(self._hub, [edit, *followers])
        if isinstance(outcome, Exception):
            raise outcome
        assert outcome is not None, "a change that deletes does not come here"
        return outcome

    def _note(self, by: Act) -> Note:
        return noted(self._hub, by, self._ambient.now())

    async def _check(self, draft: Draft) -> None:
        """What a draft must fulfil by itself and against other identities."""
        check_key(draft.key)
        _guard(draft.key)
        if draft.key.module_id is None:
            await self._check_parent(draft)

    async def _check_parent(self, draft: Draft) -> None:
        """The parent that a draft names must be an edge device and not a descendant of the device: else 400028."""
        device_id = draft.key.device_id
        scope = scopes.wanted_parent(draft.iot_edge, draft.device_scope, draft.parent_scopes)
        if scope is None or (not draft.iot_edge and scopes.device_of(scope) == device_id):
            return
        for _ in range(scopes.DEEPEST):
            parent_id = scopes.device_of(scope)
            if parent_id == device_id:
                raise HubError(INVALID_DEVICE_SCOPE, f"{scope} is the device itself or below it, name another parent.")
            parent = await self._store.get(self._hub, IdentityKey(parent_id))
            if parent is None or not parent.iot_edge or parent.device_scope != scope:
                raise HubError(INVALID_DEVICE_SCOPE, f"{scope} is not the scope of an edge device of this hub.")
            if not parent.parent_scopes:
                return
            scope = parent.parent_scopes[0]
        raise HubError(INVALID_DEVICE_SCOPE, f"The hierarchy has more than {scopes.DEEPEST} levels.")

    def _system_modules(self, draft: Draft, note: Note, *, new: bool = False) -> list[Edit]:
        """The edits of ``system_modules``. ``new``: if the draft is written, the device has been made and has no
        modules yet."""
        if draft.key.module_id is not None or (new and not draft.iot_edge):
            return []
        return [Edit(key, change, note) for key, change in self.system_modules(draft.key.device_id)]

    def fresh(self, asked: Credentials = ANY_CREDENTIALS) -> Fresh:
        """What a change cannot make by itself; no two are the same. Keys are made where ``asked`` may need some."""
        ambient = self._ambient
        now = ambient.now()
        self._last_ticks = max(self._last_ticks + 1, _TICKS_AT_1970 + int(now * _TICKS_A_SECOND))
        if not self._versions:
            drawn = ambient.random_bytes(4 * _VERSIONS_AT_ONCE)
            self._versions = [1 + (number >> 2) for (number,) in iter_unpack(">I", drawn)]
        spare = (generate_key(ambient), generate_key(ambient)) if needs_spare(asked) else ("", "")
        return Fresh(now, self._last_ticks, self._versions.pop(), spare)


def check_bulk_size(count: int) -> None:
    """Refuse a bulk call over too many identities (413002)."""
    if count > BULK_DEVICES.open:
        raise HubError(
            TOO_MANY_DEVICES, f"The call names {count} identities, {BULK_DEVICES.open} are allowed. Split it."
        )


def check_bulk(keys: Sequence[IdentityKey]) -> None:
    """As ``check_bulk_size``, and refuse one of the identities twice (400011)."""
    check_bulk_size(len(keys))
    twice = [str(key) for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise HubError(DEVICE_DEFINED_TWICE, f"{twice[0]} stands more than once in the call, name each identity once.")


def _guard(key: IdentityKey) -> None:
    if key.module_id in SYSTEM_MODULES:
        raise changes.belongs_to_runtime(key)


def _refusal(outcome: Identity | Exception | None) -> HubError | None:
    if isinstance(outcome, HubError):
        return outcome
    if isinstance(outcome, Exception):
        raise outcome
    return None
