"""Twins as an import writes them: parts that were read elsewhere are put in the place of what is there. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, NamedTuple

from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.json_text import JsonObject, plain
from muster.core.limits import TWIN_INTEGER, TWIN_PROPERTIES, TWIN_TAGS
from muster.twins import rules
from muster.twins.document import (
    EMPTY,
    LAST_UPDATED,
    LAST_UPDATED_VERSION,
    Content,
    Properties,
    Twin,
    merge,
    replace_properties,
)

_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,20}Z?")


class GivenProperties(NamedTuple):
    """Properties as they were read; ``metadata`` and ``version`` are what stood there, whatever it was."""

    values: Content
    metadata: Any = None
    version: Any = None


class GivenTwin(NamedTuple):
    """The parts of a twin that an import names, ``None`` for one that it does not; ``revision`` (``None``: any) the
    twin must have."""

    tags: Content | None = None
    desired: GivenProperties | None = None
    reported: GivenProperties | None = None
    revision: int | None = None


def check_given(given: GivenTwin) -> None:
    """Refuse what may not stand in a twin. Raises ``HubError`` as ``rules.check_content``."""
    if given.tags is not None:
        rules.check_content(rules.TAGS, given.tags)
    for place, part in ((rules.DESIRED, given.desired), (rules.REPORTED, given.reported)):
        if part is not None:
            rules.check_content(place, part.values)


def restore(twin: Twin, given: GivenTwin, now: float) -> Twin:
    """``twin`` with the parts of ``given`` in the place of its own, at ``now``; the very twin when they are the same.

    What a device has reported is its own word: reported properties are only written into a twin that nobody has
    written yet. Such a twin takes versions and metadata over too, so that a device that moves finds the numbers it
    knows. Raises ``HubError`` 412001 for another revision, 413001 for a part that is too large.
    """
    if given.revision is not None and given.revision != twin.revision:
        raise HubError(PRECONDITION_FAILED)
    new = _untouched(twin)
    tags, desired, reported = twin.tags, twin.desired, twin.reported
    if given.tags is not None:
        tags = _unless_same(tags, given.tags)
    if given.desired is not None:
        desired = _properties(desired, given.desired, now, new=new, versioned=True)
    if given.reported is not None and new:
        reported = _properties(reported, given.reported, now, new=True, versioned=False)
    by_service = tags is not twin.tags or desired is not twin.desired
    if not by_service and reported is twin.reported:
        return twin
    _check_sizes(twin, tags, desired, reported)
    return Twin(tags, desired, reported, twin.version + 1, twin.revision + by_service, twin.model_id)


def _untouched(twin: Twin) -> bool:
    return (twin.version, twin.revision) == (EMPTY.version, EMPTY.revision)


def _check_sizes(twin: Twin, tags: Content, desired: Properties, reported: Properties) -> None:
    if tags is not twin.tags:
        rules.check_size(rules.TAGS, tags, TWIN_TAGS)
    if desired is not twin.desired:
        rules.check_size(rules.DESIRED, desired.values, TWIN_PROPERTIES)
    if reported is not twin.reported:
        rules.check_size(rules.REPORTED, reported.values, TWIN_PROPERTIES)


def _unless_same(present: Content, values: Content) -> Content:
    wanted = merge({}, values)
    return present if plain(present) == wanted else JsonObject(members=wanted)


def _properties(
    present: Properties, given: GivenProperties, now: float, *, new: bool, versioned: bool
) -> Properties:  # fmt: skip
    values = _unless_same(present.values, given.values)
    version = given.version
    known = new and type(version) is int and 1 <= version <= TWIN_INTEGER.open
    if values is present.values and not (known and version != present.version):
        return present
    if known and _mirrors(plain(values), given.metadata, version if versioned else None):
        return Properties(values, JsonObject(members=given.metadata), version)
    before = replace(present, version=version - 1) if known else present
    return replace_properties(before, values, now, versioned=versioned)


def _mirrors(value: Any, metadata: Any, version: int | None) -> bool:
    """Whether ``metadata`` is of the form that the metadata of ``value`` has (``twins.document.Properties``)."""
    if not isinstance(metadata, dict):
        return False
    moment, by = metadata.get(LAST_UPDATED), metadata.get(LAST_UPDATED_VERSION)
    if not isinstance(moment, str) or not _MOMENT.fullmatch(moment):
        return False
    if by is not None and (version is None or type(by) is not int or not 0 < by <= version):
        return False
    members = value if isinstance(value, dict) else {}
    if len(metadata) != len(members) + 1 + (LAST_UPDATED_VERSION in metadata):
        return False
    return all(_mirrors(member, metadata.get(name), version) for name, member in members.items())
