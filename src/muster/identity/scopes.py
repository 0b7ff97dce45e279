"""Edge hierarchies: the scope that an edge device has, and the parents that scopes name (service.md 2.5)."""

from __future__ import annotations

from muster.core.errors import ARGUMENT_INVALID, INVALID_DEVICE_SCOPE, HubError
from muster.identity.model import Identity

PREFIX = "ms-azure-iot-edge://"
DEEPEST = 32
"""Levels of a hierarchy; bounds the walk that looks for a device among its own ancestors."""


def edge_scope(device_id: str, ticks: int) -> str:
    """The scope of an edge device made at ``ticks``; it stays while the device is an edge device."""
    return f"{PREFIX}{device_id}-{ticks}"


def device_of(scope: str) -> str:
    """The id of the edge device that ``scope`` names; 400028 when it has not the form of a scope."""
    device_id, dash, ticks = scope.removeprefix(PREFIX).rpartition("-")
    if not scope.startswith(PREFIX) or not dash or not device_id or not ticks.isascii() or not ticks.isdigit():
        raise HubError(
            INVALID_DEVICE_SCOPE,
            f"A device scope looks like {PREFIX}<device id>-<number>, copy deviceScope from the parent.",
        )
    return device_id


def wanted_parent(iot_edge: bool, device_scope: str | None, parent_scopes: tuple[str, ...]) -> str | None:
    """The scope of the parent that a request asks for, ``None`` for no parent.

    A leaf names it by its device scope, where empty means none whatever the parent scopes still say (the CLI
    takes a child away like that), or by its parent scopes alone; an edge device by its parent scopes.
    """
    if len(parent_scopes) > 1:
        raise HubError(ARGUMENT_INVALID, "parentScopes has more than one entry, a device has one parent at most.")
    if not iot_edge and device_scope is not None:
        return device_scope or None
    return (parent_scopes[0] or None) if parent_scopes else None


def settle(
    device_id: str, ticks: int, present: Identity | None, *, iot_edge: bool, device_scope: str | None,
    parent: str | None, keeps_scope: bool = False,
) -> tuple[str | None, tuple[str, ...]]:  # fmt: skip
    """Device scope and parent scopes of a device that is written over ``present``.

    An edge device keeps the scope it got when it became one; asking for another is refused with 400004,
    while on creation a scope given is ignored, as the service generates it, unless the device ``keeps_scope``: then
    it must be one of this device (400028). When an edge device becomes a
    leaf, its own old scope is no parent.
    """
    own = present.device_scope if present is not None and present.iot_edge else None
    if iot_edge:
        if own is not None and device_scope and device_scope != own:
            raise HubError(
                ARGUMENT_INVALID,
                "deviceScope of an edge device cannot be changed, leave it out and name a parent in parentScopes.",
            )
        if own is None and keeps_scope and device_scope:
            if device_of(device_scope) != device_id:
                raise HubError(INVALID_DEVICE_SCOPE, "The device scope names another device, leave it out.")
            own = device_scope
        return own or edge_scope(device_id, ticks), (parent,) if parent else ()
    if parent is not None and parent == own:
        parent = None
    if parent is not None and device_of(parent) == device_id:
        raise HubError(INVALID_DEVICE_SCOPE, "The device scope names the device itself, name another edge device.")
    return parent, (parent,) if parent else ()
