"""An assignment carried out so that a kill in the midst of it leaves no device in two hubs, and none lost.

The intent is on disk before the first step and goes with the last. In between the device is made in its new hub, with
its data, and only then removed from the old one. Each step may be repeated, and after a start all unfinished ones are,
from the first step on: until the last one the device has not been told of its new hub, so what is copied a second
time cannot have changed there. What the old hub does not have any more was copied before.

An enrollment that is deleted or disabled meanwhile ends the assignment, and what was begun is taken back; but once the
old hub has forgotten the device the assignment is finished, for the device would be nowhere.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from muster.core.errors import HubError
from muster.core.provisioning_errors import HUB_REFUSED, NO_HUB
from muster.provisioning.contract import DeviceDraft, LinkedHub
from muster.provisioning.model import DeviceData, Intent

log = logging.getLogger("muster.provisioning")

_FAULTS = 500
"""From this HTTP status on an error is the hub's own and passes: the assignment is tried again."""


Stands = Callable[[], Awaitable[None]]
"""Raises ``HubError`` when the enrollment that let the device in is deleted or disabled by now."""


class Postponed(Exception):
    """No error: a hub cannot do its part at the moment. The intent stays."""


async def carry_out(intent: Intent, hubs: Mapping[str, LinkedHub], stands: Stands) -> None:
    """Do what ``intent`` says, as long as the enrollment ``stands``.

    Raises ``HubError`` when the new hub does not take the device, or the enrollment stands no more: then it is where it
    was. ``Postponed`` when it must be tried again.
    """
    hub = hubs.get(intent.hub)
    if hub is None:
        raise HubError(NO_HUB, f"The hub {intent.hub} is not linked any more.")
    old = hubs.get(intent.previous) if intent.moves else None
    await _require(stands, intent, hub, old)  # an earlier run may have got far, and long ago
    try:
        data, fresh = await _data(intent, hub, old)
        await hub.put(DeviceDraft(intent.device_id, intent.credentials, intent.iot_edge, data if fresh else None))
    except HubError as error:
        if error.row.status >= _FAULTS:
            raise Postponed from error
        await _undo(intent, hub, old)
        raise HubError(HUB_REFUSED, f"The hub did not take the device: {error.message}") from error
    # Who deleted the enrollment meanwhile may have looked at the hub before the device came.
    await _require(stands, intent, hub, old)
    if old is None:
        if intent.moves:
            log.warning("%s: %s is linked no more, the device stays there too", intent.device_id, intent.previous)
        return
    try:
        await old.remove(intent.previous_device)
    except HubError as error:
        raise Postponed from error


async def _require(stands: Stands, intent: Intent, hub: LinkedHub, old: LinkedHub | None) -> None:
    """End an assignment whose enrollment stands no more, unless the device would be lost by that."""
    try:
        await stands()
    except HubError as error:
        if error.row.status >= _FAULTS:
            raise Postponed from error
        if await _undo(intent, hub, old):
            raise


async def _data(intent: Intent, hub: LinkedHub, old: LinkedHub | None) -> tuple[DeviceData | None, bool]:
    """What the new hub shall have of the device, and whether it is to be written at all."""
    if not intent.migrate:
        return intent.data, intent.fresh
    kept = None if old is None else await old.data_of(intent.previous_device)
    if kept is not None:
        return kept, True
    copied_before = not intent.there and await hub.has(intent.device_id)
    return intent.data, not copied_before


async def _undo(intent: Intent, hub: LinkedHub, old: LinkedHub | None) -> bool:
    """Take back what was begun in a hub that had nothing of the device before.

    ``False`` where that cannot be: the old hub has forgotten the device, what the new one has is all there is of it.
    """
    try:
        if old is not None and not await old.has(intent.previous_device) and await hub.has(intent.device_id):
            return False
        if not intent.there:
            await hub.remove(intent.device_id, intent.credentials)
    except HubError as error:
        raise Postponed from error
    return True
