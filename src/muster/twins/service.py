"""The twins of a hub: read and changed by services and by the devices themselves.

Knows no protocol: parsed JSON in, twins out, refusals as ``HubError``. Every change is durable when it is answered,
and every read after that sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from muster.core.ambient import Ambient
from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.limits import TWIN_PROPERTIES, TWIN_TAGS
from muster.identity.changes import not_found
from muster.identity.model import IdentityKey
from muster.twins import document, rules
from muster.twins.contract import Change, DesiredListener, TwinStore
from muster.twins.document import Content, Twin


class Twins:
    """The twins of ``hub``."""

    def __init__(self, hub: str, store: TwinStore, listener: DesiredListener, ambient: Ambient) -> None:
        self._hub = hub
        self._store = store
        self._listener = listener
        self._ambient = ambient

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
        await self._store.edit(self._hub, key, lambda twin: twin, _ignore)
        return await self.get(key)  # not what the edit saw: later changes may have been told of by now

    async def patch(self, key: IdentityKey, tags: Any, desired: Any, revision: int | None = None) -> Twin:
        """Merge a service's tags and desired properties into the twin (``None``: not given); the new twin.

        ``revision``: the twin must have it. ``$metadata`` and ``$version`` in ``desired`` are passed over, so that
        a twin that was read can be sent back (service.md 2.9). A connected device is told. Raises ``HubError``
        404001, 404010, 412001, 400004 with the path of what is wrong, 413001.
        """
        new_tags, new_desired = _checked(tags, desired)
        now = self._ambient.now()

        def change(twin: Twin) -> Twin:
            return document.patch_twin(twin, new_tags, new_desired, now)

        return await self._edit(key, change, revision, new_desired, told=bool(new_desired))

    async def replace(self, key: IdentityKey, tags: Any, desired: Any, revision: int | None = None) -> Twin:
        """Put a service's tags and desired properties in the place of the twin's; ``None`` empties. See ``patch``."""
        new_tags, new_desired = _checked(tags, desired)
        now = self._ambient.now()

        def change(twin: Twin) -> Twin:
            return document.replace_twin(twin, new_tags, new_desired, now)

        return await self._edit(key, change, revision, document.merge({}, new_desired), told=True)

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

        return await self._store.edit(self._hub, key, change, _ignore)

    async def _edit(
        self, key: IdentityKey, change: Change, revision: int | None, desired: Content, *, told: bool
    ) -> Twin:
        def checked(twin: Twin) -> Twin:
            if revision is not None and revision != twin.revision:
                raise HubError(PRECONDITION_FAILED)
            after = change(twin)
            rules.check_size(rules.TAGS, after.tags, TWIN_TAGS)
            rules.check_size(rules.DESIRED, after.desired.values, TWIN_PROPERTIES)
            return after

        def tell(twin: Twin) -> None:
            self._listener.desired_changed(key, desired, twin.desired.version)

        then: Callable[[Twin], None] = tell if told else _ignore
        return await self._store.edit(self._hub, key, checked, then)


def _checked(tags: Any, desired: Any) -> tuple[Content, Content]:
    new_tags = {} if tags is None else rules.check_content(rules.TAGS, tags)
    if isinstance(desired, dict):
        desired = {name: value for name, value in desired.items() if name not in {"$metadata", "$version"}}
    return new_tags, {} if desired is None else rules.check_content(rules.DESIRED, desired)


def _ignore(_: Twin) -> None:
    return None
