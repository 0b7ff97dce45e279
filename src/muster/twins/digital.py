"""The digital twin of a device: its twin seen by the plug and play conventions, and changes of that view. Pure.

The conventions (docs iot/concepts-convention and iot/howto-manage-digital-twin): a component is an object marked
``"__t": "c"`` among the desired or reported properties; a device answers a desired value by reporting ``{value, ac,
av, ad}``. The hub does not know the model, so every property counts as writable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from muster.core.errors import (
    ARGUMENT_INVALID,
    INVALID_DIGITAL_TWIN_PATCH,
    INVALID_DIGITAL_TWIN_PATCH_PATH,
    INVALID_DIGITAL_TWIN_PAYLOAD,
    HubError,
)
from muster.core.limits import DIGITAL_TWIN_DEPTH
from muster.twins.document import LAST_UPDATED, LAST_UPDATED_VERSION, Content, Properties, Twin

MARKER, COMPONENT = "__t", "c"
METADATA, MODEL, ID = "$metadata", "$model", "$dtId"

_ACK = {"value", "ac", "av", "ad"}
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_]{0,62}[A-Za-z0-9])?")
_SHOWN = 100
_encoder = json.JSONEncoder(sort_keys=True)

View = dict[str, Any]
"""A digital twin as services see it."""


class Operation(NamedTuple):
    """One change: ``value`` is what the property or component at ``path`` shall be; ``removes``: it shall not be."""

    path: tuple[str, ...]
    value: Any = None
    removes: bool = False

    def __str__(self) -> str:
        text = "".join(f"/{name}" for name in self.path)
        shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        return shown.encode("utf-8", "backslashreplace").decode()


# --- reading


def view(device_id: str, twin: Twin) -> View:
    """The digital twin: values as the device has reported them, and in each ``$metadata`` how they stand."""
    root: View = {ID: device_id}
    metadata: View = {MODEL: twin.model_id or ""}
    desired, reported = twin.desired, twin.reported
    for name in dict.fromkeys((*reported.values, *desired.values)):
        if name == MARKER:
            continue
        if _marked(desired.values.get(name)) or _marked(reported.values.get(name)):
            root[name] = _component(_below(desired, name), _below(reported, name))
        else:
            _property(root, metadata, name, desired, reported)
    root[METADATA] = metadata
    return root


def _component(desired: Properties, reported: Properties) -> View:
    component: View = {}
    metadata: View = {}
    for name in dict.fromkeys((*reported.values, *desired.values)):
        if name != MARKER:
            _property(component, metadata, name, desired, reported)
    component[METADATA] = metadata
    return component


def _below(properties: Properties, name: str) -> Properties:
    """The members of a component; none when it is not there, or no object."""
    values = properties.values.get(name)
    return Properties(values, properties.metadata[name]) if isinstance(values, Mapping) else Properties()


def _property(values: View, metadata: View, name: str, desired: Properties, reported: Properties) -> None:
    """Put the property ``name`` into ``values`` if it was reported, and what is known of it into ``metadata``."""
    known: View = {}
    if name in desired.values:
        known["desiredValue"] = desired.values[name]
        known["desiredVersion"] = desired.metadata[name][LAST_UPDATED_VERSION]
    if name in reported.values:
        value = reported.values[name]
        if _acknowledges(value):
            acks = (("ackVersion", "av"), ("ackCode", "ac"), ("ackDescription", "ad"))
            known |= {long: value[short] for long, short in acks if short in value}
            value = value["value"]
        values[name] = value
        known["lastUpdateTime"] = reported.metadata[name][LAST_UPDATED]
    metadata[name] = known


def _marked(value: Any) -> bool:
    return isinstance(value, Mapping) and value.get(MARKER) == COMPONENT


def _acknowledges(value: Any) -> bool:
    return isinstance(value, Mapping) and "value" in value and "ac" in value and _ACK.issuperset(value)


# --- changing


@dataclass(slots=True)
class _Draft:
    """Desired properties on their way. ``touched`` has, by component (``""``: the root), what was set or removed."""

    twin: Twin
    values: dict[str, Any]
    touched: dict[str, set[str]] = field(default_factory=dict)
    owned: set[str] = field(default_factory=set)
    """Components whose members are this draft's own, so that they may be changed in place."""

    def touch(self, component: str, names: Sequence[str]) -> None:
        self.touched.setdefault(component, set()).update(names)

    def members(self, component: str) -> dict[str, Any]:
        """The members of a component, which is made if need be."""
        if component not in self.owned:
            present = self.values.get(component)
            self.values[component] = {**(present if isinstance(present, Mapping) else {}), MARKER: COMPONENT}
            self.owned.add(component)
        found: dict[str, Any] = self.values[component]
        return found


def desired_patch(twin: Twin, operations: Sequence[Operation]) -> dict[str, Any]:
    """The patch of the desired properties that does what ``operations`` say, one after the other.

    Setting replaces a value whole; a component loses the desired values that it is not given. To remove what is
    not there is no error, and neither is it to replace it. Raises ``HubError``: 400508 for a path that cannot be
    written, 400507 for a component without its ``$metadata`` marker, 400506 for a value that a property cannot have,
    400004 when what stands in the twin keeps to other conventions.
    """
    draft = _Draft(twin, dict(twin.desired.values))
    for operation in operations:
        _check_path(operation)
        if len(operation.path) == 2:
            _apply_in_component(draft, operation)
        elif operation.removes:
            _remove(draft, operation.path[0])
        elif isinstance(operation.value, Mapping) and METADATA in operation.value:
            _set_component(draft, operation)
        else:
            _set_property(draft, operation)
    return _difference(draft)


def _check_path(operation: Operation) -> None:
    for name in operation.path:
        if not _NAME.fullmatch(name):
            raise HubError(
                INVALID_DIGITAL_TWIN_PATCH_PATH,
                f"{operation} names no property: names have 1 to 64 letters, digits and underscores, begin with a "
                "letter and do not end with an underscore.",
            )
    if len(operation.path) not in {1, 2}:
        raise HubError(
            INVALID_DIGITAL_TWIN_PATCH_PATH,
            f"{operation} is no path of a property or component, send /property, /component or /component/property.",
        )


def _set_property(draft: _Draft, operation: Operation) -> None:
    (name,) = operation.path
    if _marked(draft.values.get(name)) or _marked(draft.twin.reported.values.get(name)):
        raise HubError(
            INVALID_DIGITAL_TWIN_PATCH,
            f'{operation} is a component: send it as an object with "$metadata": {{}}, or one property of it.',
        )
    _check_value(str(operation), operation.value, 0)
    draft.values[name] = operation.value
    draft.touch("", [name])


def _set_component(draft: _Draft, operation: Operation) -> None:
    (name,) = operation.path
    if operation.value[METADATA] != {}:
        raise HubError(INVALID_DIGITAL_TWIN_PATCH, f'{operation} has "$metadata" that is not empty, send {{}}.')
    _check_conforms(draft, name)
    wanted = {member: value for member, value in operation.value.items() if member != METADATA}
    for member, value in wanted.items():
        _check_member(f"{operation}", member)
        _check_value(f"{operation}/{member}", value, 0)
    members = draft.members(name)
    draft.touch(name, [*members, *wanted])
    members.clear()
    members.update({MARKER: COMPONENT, **wanted})


def _apply_in_component(draft: _Draft, operation: Operation) -> None:
    component, name = operation.path
    _check_conforms(draft, component)
    if operation.removes:
        if component not in draft.values:
            return
        members = draft.members(component)
        members.pop(name, None)
        draft.touch(component, [name])
        if members.keys() <= {MARKER}:
            _remove(draft, component)
        return
    _check_value(str(operation), operation.value, 0)
    draft.members(component)[name] = operation.value
    draft.touch(component, [name, MARKER])


def _remove(draft: _Draft, name: str) -> None:
    draft.values.pop(name, None)
    draft.owned.discard(name)
    draft.touched.pop(name, None)
    draft.touch("", [name])


def _check_conforms(draft: _Draft, name: str) -> None:
    """What the twin has under a component's name must be one."""
    for values in (draft.values, draft.twin.reported.values):
        if name in values and not _marked(values[name]):
            raise HubError(
                ARGUMENT_INVALID,
                f"'{name}' exists within the device twin and is not digital twin conformant property. Please refer to "
                'aka.ms/dtpatch to update this to be conformant: a component is an object with "__t": "c".',
            )


def _check_member(place: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        shown = name[:_SHOWN].encode("utf-8", "backslashreplace").decode()
        raise HubError(
            INVALID_DIGITAL_TWIN_PAYLOAD,
            f"{place} has a member {shown!r}: names have 1 to 64 letters, digits and underscores, begin with a letter "
            "and do not end with an underscore.",
        )


def _check_value(place: str, value: Any, depth: int) -> None:
    """A property is no array and no null, and has members with names of the definition language, not too deep."""
    if value is None:
        raise HubError(INVALID_DIGITAL_TWIN_PAYLOAD, f"{place} is null, remove the property instead.")
    if isinstance(value, list):
        raise HubError(INVALID_DIGITAL_TWIN_PAYLOAD, f"{place} holds an array, which properties cannot have.")
    if isinstance(value, Mapping):
        if depth >= DIGITAL_TWIN_DEPTH.open:
            raise HubError(
                INVALID_DIGITAL_TWIN_PAYLOAD,
                f"{place} has objects nested deeper than {DIGITAL_TWIN_DEPTH.open} levels.",
            )
        for name, member in value.items():
            _check_member(place, name)
            _check_value(place, member, depth + 1)


def _difference(draft: _Draft) -> dict[str, Any]:
    """The patch that makes of the twin's desired properties what the draft has."""
    before, after = draft.twin.desired.values, draft.values
    patch: dict[str, Any] = {}
    for name in draft.touched.get("", ()):
        patch |= _step(before, after, name)
    for component, names in draft.touched.items():
        if not component or component in patch or component not in after:
            continue
        members, present = after[component], before.get(component)
        if not isinstance(present, Mapping):
            patch[component] = members
            continue
        inner: dict[str, Any] = {MARKER: COMPONENT}
        for name in names:
            inner |= _step(present, members, name)
        patch[component] = inner
    return patch


def _step(before: Content, after: Content, name: str) -> dict[str, Any]:
    if name in after:
        return {name: _replacing(before.get(name), after[name])}
    return {name: None} if name in before else {}


def _replacing(before: Any, after: Any) -> Any:
    """What, merged into ``before``, makes it ``after``: all of it, and null for what it has no more."""
    if not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        return after
    gone = {name: None for name in before if name not in after}
    return gone | {name: _replacing(before.get(name), value) for name, value in after.items()}


# --- what has changed


def changes(before: View, after: View) -> list[dict[str, Any]]:
    """A JSON Patch (RFC 6902) that makes ``after`` of ``before``; at each level ``$metadata`` goes first."""
    return list(_changes("", before, after))


def _changes(path: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name in sorted(before.keys() | after.keys()):
        place = f"{path}/{name.replace('~', '~0').replace('/', '~1')}"
        if name not in after:
            yield {"op": "remove", "path": place}
        elif name not in before:
            yield {"op": "add", "path": place, "value": after[name]}
        elif isinstance(before[name], Mapping) and isinstance(after[name], Mapping):
            yield from _changes(place, before[name], after[name])
        elif _encoder.encode(before[name]) != _encoder.encode(after[name]):
            yield {"op": "replace", "path": place, "value": after[name]}
