"""The twins of a hub: read and changed by services and by the devices themselves.

Knows no protocol: parsed JSON in, twins out, refusals as ``HubError``. Every change is durable when it is answered,
and every read after that sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from muster.core.ambient import Ambient
from muster.core.audit import BY_THE_HUB, Act, Draft
from muster.core.errors import DEVICE_NOT_FOUND, MODULE_NOT_FOUND, PRECONDITION_FAILED, HubError
from muster.core.json_text import JsonObject
from muster.core.limits import TWIN_PROPERTIES, TWIN_TAGS
from muster.core.outbox import Entry
from muster.identity.account import subject_of
from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.twins import digital, document, rules
from muster.twins.account import patched, replaced
from muster.twins.contract import DesiredListener, Record, TwinRecorder, TwinStore, TwinUpdate
from muster.twins.document import Content, Twin


class Twins:
    """The twins of ``hub``."""

    def __init__(
        self,
        hub: str,
        store: TwinStore,
        listener: DesiredListener,
        ambient: Ambient,
        recorder: TwinRecorder | None = None,
        *,
        epoch_of: Callable[[IdentityKey], int] | None = None,
    ) -> None:
        """``recorder`` makes what is to be told of changes; nothing is told without one. ``epoch_of`` tells the epoch
        of an identity's session on this node, 0 without one, where a newer one may begin on another node."""
        self._epoch_of = epoch_of
        self._hub = hub
        self._store = store
        self._listener = listener
        self._ambient = ambient
        self._recorder = recorder

    async def get(self, key: IdentityKey) -> Twin:
        """The twin; 404001 when there is no such device, 404010 when the device has no such module."""
        twin = await self._store.get(self._hub, key)
        if twin is None:
            if key.module_id is not None:
                await self.get(IdentityKey(key.device_id))
            raise not_found(key)
        return twin

    async def get_after_changes(self, key: IdentityKey) -> Twin:
        """The twin as it is when every change that was asked for before this call is made. Raises as ``get``."""
        await self._settle(key)
        return await self.get(key)  # not what the edit saw: later changes may have been told of by now

    async def settled(self, keys: Iterable[IdentityKey]) -> None:
        """Return when every change that was asked for before this call is made, or has failed."""
        await asyncio.gather(*map(self._settle, keys), return_exceptions=True)

    async def _settle(self, key: IdentityKey) -> None:
        await self._store.edit(self._hub, key, lambda twin: twin, _ignore)

    # --- for services

    def patch(
        self, key: IdentityKey, tags: Any, desired: Any, revision: int | None = None, by: Act = BY_THE_HUB
    ) -> Awaitable[Twin]:
        """Merge a service's tags and desired properties into the twin (``None``: not given); the new twin.

        ``revision``: the twin must have it. ``$metadata`` and ``$version`` in ``desired`` are passed over, so that
        a twin that was read can be sent back (service.md 2.9). The change is put on record as what ``by`` does. A
        connected device is told. Raises ``HubError``
        404001, 404010, 412001, 400004 with the path of what is wrong, 413001.
        """
        new_tags, new_desired = _checked(tags, desired)
        now = self._ambient.now()

        def change(twin: Twin) -> Twin:
            if revision is not None:
                _require(twin, revision)
            return _sized(twin, document.patch_twin(twin, new_tags, new_desired, now))

        record = None
        if self._recorder is not None:
            record = self._update_recorded(key, TwinUpdate(now, tags=new_tags, desired=new_desired))
        parts: dict[str, JsonObject] = {}
        then: Callable[[Twin], None] = _ignore
        if new_tags:
            parts["tags"] = JsonObject(members=new_tags)
        if new_desired:
            parts["desired"] = told = JsonObject(members=new_desired)  # encoded once, for the record and the device
            then = partial(self._tell, key, told)
        note = patched(self._hub, by, subject_of(key), now, parts)
        return self._store.edit(self._hub, key, change, then, record, note=note)

    def replace(
        self, key: IdentityKey, tags: Any, desired: Any, revision: int | None = None, by: Act = BY_THE_HUB
    ) -> Awaitable[Twin]:
        """Put a service's tags and desired properties in the place of the twin's; ``None`` empties. See ``patch``."""
        new_tags, new_desired = _checked(tags, desired)
        now = self._ambient.now()

        def change(twin: Twin) -> Twin:
            if revision is not None:
                _require(twin, revision)
            return _sized(twin, document.replace_twin(twin, new_tags, new_desired, now))

        recorder = self._recorder
        record = None if recorder is None else lambda before, after: recorder.twin_replaced(key, before, after, now)
        then = partial(self._tell, key, JsonObject(members=document.merge({}, new_desired)))
        note = replaced(self._hub, by, subject_of(key), now)
        return self._store.edit(self._hub, key, change, then, record, note=note)

    def patch_digital(
        self,
        key: IdentityKey,
        operations: Sequence[digital.Operation],
        revision: int | None = None,
        by: Act = BY_THE_HUB,
    ) -> Awaitable[Twin]:
        """Apply a service's changes of the digital twin to the desired properties; the new twin.

        Raises ``HubError`` as ``patch`` and as ``digital.desired_patch``.
        """
        now = self._ambient.now()
        desired: dict[str, Any] = {}

        def change(twin: Twin) -> Twin:
            nonlocal desired
            if revision is not None:
                _require(twin, revision)
            desired = rules.check_content(rules.DESIRED, digital.desired_patch(twin, operations))
            return _sized(twin, document.patch_twin(twin, {}, desired, now))

        def record(before: Twin, after: Twin) -> Sequence[Entry]:
            recorded = self._update_recorded(key, TwinUpdate(now, desired=desired))
            return () if recorded is None else recorded(before, after)

        def then(twin: Twin) -> None:
            if desired:
                self._tell(key, JsonObject(members=desired), twin)

        def note(before: Twin, after: Twin) -> Draft:
            parts = {"desired": JsonObject(members=desired)} if desired else {}
            return patched(self._hub, by, subject_of(key), now, parts)(before, after)

        return self._store.edit(self._hub, key, change, then, record, note=note)

    # --- for devices

    async def report(self, key: IdentityKey, patch: Any, version: int | None = None) -> Twin:
        """Merge a device's ``patch`` into its reported properties; the new twin.

        ``version``: the reported properties must have it. Raises ``HubError`` as ``patch``.
        """
        content = rules.check_content(rules.REPORTED, patch)
        now = self._ambient.now()

        def change(twin: Twin) -> Twin:
            if version is not None and version != twin.reported.version:
                raise HubError(
                    PRECONDITION_FAILED,
                    f"The reported properties have version {twin.reported.version}, not {version}. Get the twin again.",
                )
            after = document.report(twin, content, now)
            rules.check_size(rules.REPORTED, after.reported.values, TWIN_PROPERTIES)
            return after

        record = self._update_recorded(key, TwinUpdate(now, reported=content))
        epoch = None if self._epoch_of is None else self._epoch_of(key)
        return await self._store.edit(self._hub, key, change, _ignore, record, epoch=epoch)

    async def announce(self, key: IdentityKey, model_id: str | None) -> bool:
        """Keep the model that a device names as it connects, ``None`` for none; whether there was anything to do.

        What the twin has already is not written again. An identity that has just gone counts as something to do:
        whoever asks has to look at it again in either case. Raises ``HubError`` 500001.
        """
        if await self._store.model_id(self._hub, key) == model_id:
            return False
        now, recorder = self._ambient.now(), self._recorder

        def change(twin: Twin) -> Twin:
            return twin if twin.model_id == model_id else replace(twin, model_id=model_id)

        record = None if recorder is None else lambda before, after: recorder.model_announced(key, before, after, now)
        try:
            await self._store.edit(self._hub, key, change, _ignore, record)
        except HubError as error:
            if error.row not in (DEVICE_NOT_FOUND, MODULE_NOT_FOUND):
                raise
        return True

    # --- within

    def _tell(self, key: IdentityKey, desired: Content, twin: Twin) -> None:
        self._listener.desired_changed(key, desired, twin.desired.version)

    def _update_recorded(self, key: IdentityKey, update: TwinUpdate) -> Record | None:
        recorder = self._recorder
        if recorder is None:
            return None
        return lambda before, after: recorder.twin_updated(key, before, after, update)


def _require(twin: Twin, revision: int) -> None:
    if revision != twin.revision:
        raise HubError(PRECONDITION_FAILED)


def _sized(before: Twin, after: Twin) -> Twin:
    """``after``, if what a service has changed in it is not too large."""
    if after.tags is not before.tags:
        rules.check_size(rules.TAGS, after.tags, TWIN_TAGS)
    if after.desired is not before.desired:
        rules.check_size(rules.DESIRED, after.desired.values, TWIN_PROPERTIES)
    return after


def _checked(tags: Any, desired: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    new_tags = {} if tags is None else rules.check_content(rules.TAGS, tags)
    if isinstance(desired, dict) and ("$metadata" in desired or "$version" in desired):
        desired = {name: value for name, value in desired.items() if name not in {"$metadata", "$version"}}
    return new_tags, {} if desired is None else rules.check_content(rules.DESIRED, desired)


def _ignore(_: Twin) -> None:
    return None
