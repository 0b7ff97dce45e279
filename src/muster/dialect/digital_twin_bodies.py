"""Digital twins as the REST data plane spells them (service.md 2.10): the JSON Patch of an update."""

from __future__ import annotations

from typing import Any

from muster.core.errors import INVALID_DIGITAL_TWIN_JSON_PATCH, INVALID_DIGITAL_TWIN_PATCH_PATH, HubError
from muster.dialect.json_body import kind_of
from muster.identity.mistakes import shown
from muster.twins.digital import Operation

_OPERATIONS = ("add", "replace", "remove")


def read_operations(body: Any) -> list[Operation]:
    """The operations of a JSON Patch (RFC 6902), as far as digital twins take them.

    Raises ``HubError``: 400505 when ``body`` is no such patch, 400508 for a path that is no JSON pointer; the message
    names the operation by its place.
    """
    if not isinstance(body, list):
        raise HubError(
            INVALID_DIGITAL_TWIN_JSON_PATCH, f"The body must be an array of operations, it is {kind_of(body)}."
        )
    return [_read(f"[{position}]", item) for position, item in enumerate(body)]


def _read(place: str, item: Any) -> Operation:
    if not isinstance(item, dict):
        raise HubError(INVALID_DIGITAL_TWIN_JSON_PATCH, f"{place} must be an object, it is {kind_of(item)}.")
    operation, path = item.get("op"), item.get("path")
    if operation not in _OPERATIONS:
        raise HubError(INVALID_DIGITAL_TWIN_JSON_PATCH, f"{place}.op must be one of {', '.join(_OPERATIONS)}.")
    if not isinstance(path, str):
        raise HubError(INVALID_DIGITAL_TWIN_JSON_PATCH, f"{place}.path must be a string, it is {kind_of(path)}.")
    if not path.startswith("/"):
        raise HubError(INVALID_DIGITAL_TWIN_PATCH_PATH, f"{place}.path {shown(path)!r} does not begin with a slash.")
    names = tuple(name.replace("~1", "/").replace("~0", "~") for name in path[1:].split("/"))
    if operation == "remove":
        return Operation(names, removes=True)
    if "value" not in item:
        raise HubError(INVALID_DIGITAL_TWIN_JSON_PATCH, f"{place}.value is missing, {operation} needs it.")
    return Operation(names, item["value"])
