"""The twin of a device or module, and how it changes: pure functions on JSON values.

A twin has tags, which only services see, desired properties, which services write, and reported properties, which
the device writes. Nothing here is changed in place: a change shares what it does not touch with what was before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import Any

from muster.core.ambient import iso
from muster.core.json_text import JsonObject, plain
from muster.core.values import value

Content = Mapping[str, Any]
"""A JSON object; a ``core.json_text.JsonObject`` where it comes from a store or goes there."""

LAST_UPDATED, LAST_UPDATED_VERSION = "$lastUpdated", "$lastUpdatedVersion"
NEVER_UPDATED = "0001-01-01T00:00:00Z"
"""``$lastUpdated`` of properties that nobody has written yet."""


@value(frozen=True, slots=True)
class Properties:
    """Desired or reported properties.

    ``metadata`` mirrors the objects in ``values``: at each level, and for each member that is no object, when it
    was last updated, and for desired properties by which ``version``. ``version`` begins at 1 and grows by one
    with each change (service.md 2.4).
    """

    values: Content = field(default_factory=dict)
    metadata: Content = field(default_factory=lambda: {LAST_UPDATED: NEVER_UPDATED})
    version: int = 1


@value(frozen=True, slots=True)
class Twin:
    """The twin of one identity.

    ``version`` counts every change, beginning at 2, the two sets of properties being 1 each. ``revision`` counts
    what services change, beginning at 1: the ETag is made from it, so that a device's reports do not get in the way
    of a service's conditional update. ``model_id`` is the digital twin model that the device announced when it
    last connected, ``None`` when it announced none; no version counts it.
    """

    tags: Content = field(default_factory=dict)
    desired: Properties = field(default_factory=Properties)
    reported: Properties = field(default_factory=Properties)
    version: int = 2
    revision: int = 1
    model_id: str | None = None


EMPTY = Twin()
"""The twin that a new identity has."""


def merge(values: Content, patch: Content) -> dict[str, Any]:
    """``values`` with ``patch`` merged in, as RFC 7386 has it: null removes, objects merge, all else replaces."""
    merged = dict(plain(values))
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        elif isinstance(change, dict):
            present = merged.get(name)
            merged[name] = merge(present if isinstance(present, dict) else {}, change)
        else:
            merged[name] = change
    return merged


def patch_properties(properties: Properties, patch: Content, now: float, *, versioned: bool) -> Properties:
    """``properties`` after ``patch`` at ``now`` (seconds since 1970); an empty patch changes nothing.

    ``versioned``: the metadata says by which version too, as that of desired properties does.
    """
    if not patch:
        return properties
    version = properties.version + 1
    stamp = _stamp(now, version if versioned else None)
    values, metadata = plain(properties.values), plain(properties.metadata)
    merged = _merge_metadata(values, metadata, patch, stamp)
    return Properties(JsonObject(None, merge(values, patch)), JsonObject(None, merged), version)


def replace_properties(properties: Properties, values: Content, now: float, *, versioned: bool) -> Properties:
    """``values`` in the place of ``properties``, at ``now``; members that are null are left out."""
    version = properties.version + 1
    stamp = _stamp(now, version if versioned else None)
    metadata = _merge_metadata({}, {}, values, stamp)
    return Properties(JsonObject(None, merge({}, values)), JsonObject(None, metadata), version)


def patch_twin(twin: Twin, tags: Content, desired: Content, now: float) -> Twin:
    """``twin`` after a service's patch; one that is empty changes nothing."""
    if not tags and not desired:
        return twin
    return Twin(
        JsonObject(members=merge(twin.tags, tags)) if tags else twin.tags,
        patch_properties(twin.desired, desired, now, versioned=True),
        twin.reported,
        twin.version + 1,
        twin.revision + 1,
        twin.model_id,
    )


def replace_twin(twin: Twin, tags: Content, desired: Content, now: float) -> Twin:
    """``twin`` with a service's tags and desired properties in the place of what it had."""
    return replace(
        twin,
        tags=JsonObject(members=merge({}, tags)),
        desired=replace_properties(twin.desired, desired, now, versioned=True),
        version=twin.version + 1,
        revision=twin.revision + 1,
    )


def report(twin: Twin, patch: Content, now: float) -> Twin:
    """``twin`` after a device's patch of its reported properties; one that is empty changes nothing."""
    if not patch:
        return twin
    reported = patch_properties(twin.reported, patch, now, versioned=False)
    return replace(twin, reported=reported, version=twin.version + 1)


def metadata_of(patch: Content, metadata: Content) -> dict[str, Any]:
    """The part of ``metadata`` that is about what ``patch`` names; what it has removed has none."""
    found = {name: text for name, text in metadata.items() if name in (LAST_UPDATED, LAST_UPDATED_VERSION)}
    for name, change in patch.items():
        known = metadata.get(name)
        if known is not None:
            found[name] = metadata_of(change if isinstance(change, Mapping) else {}, known)
    return found


def _stamp(now: float, version: int | None) -> Content:
    at = iso(now)
    return {LAST_UPDATED: at} if version is None else {LAST_UPDATED: at, LAST_UPDATED_VERSION: version}


def _merge_metadata(values: Content, metadata: Content, patch: Content, stamp: Content) -> dict[str, Any]:
    """The metadata of ``merge(values, patch)``: ``stamp`` on all that the patch names and on the way to it."""
    merged = {**metadata, **stamp}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        elif isinstance(change, dict):
            present = values.get(name)
            if isinstance(present, dict):
                merged[name] = _merge_metadata(present, merged[name], change, stamp)
            else:
                merged[name] = _merge_metadata({}, {}, change, stamp)
        else:
            merged[name] = stamp
    return merged
