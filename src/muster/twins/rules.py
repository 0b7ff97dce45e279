"""What may stand in a twin (device.md 8): keys, values, depth and size, each refusal with the place it is about."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from muster.core.errors import ARGUMENT_INVALID, MESSAGE_TOO_LARGE, HubError
from muster.core.json_text import plain, text_of
from muster.core.limits import TWIN_DEPTH, TWIN_INTEGER, TWIN_KEY_BYTES, TWIN_STRING_BYTES, TWIN_TEXT, Limit

TAGS, DESIRED, REPORTED = "tags", "properties.desired", "properties.reported"
"""Names of the three parts, as errors print them."""

NUMBER_SIZE, BOOLEAN_SIZE = 8, 4

_PLAIN_NAME, _PLAIN_INTEGER = 256, 1 << 31
"""A name of letters, digits and underscores up to this length needs no further look, nor does a smaller integer."""
_FOREIGN = re.compile(r"[\x00-\x20\x7f-\x9f.$]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SHOWN = 200


def check_content(place: str, content: Any) -> dict[str, Any]:
    """``content`` of the part ``place``, which may be written there or merged into what is there.

    Raises ``HubError`` 400004 that names the path: not an object; a key that is empty, over 1 KiB or holds a control
    character, a space, ``.`` or ``$``; a string over 4 KiB; an integer beyond 2^52; a number that is none; null in an
    array; objects and arrays nested deeper than 10 levels. Takes time and memory in proportion to ``content``.
    """
    if not isinstance(content, dict):
        raise _wrong(place, f"must be an object, it is {_kind(content)}")
    _check_members(place, content, 0, in_array=False)
    return content


def check_size(place: str, values: Mapping[str, Any], limit: Limit) -> None:
    """Refuse with 413001 when ``values``, which is what the part ``place`` would become, is over ``limit``,
    or over ``TWIN_TEXT`` as JSON."""
    length = len(text_of(values))
    if length * NUMBER_SIZE > limit.open:  # nothing counts more for its characters than a number of one digit
        size = size_of(plain(values))
        if size > limit.open:
            told = f"{place} would have a size of {size}, {limit.open} is allowed."
            raise HubError(MESSAGE_TOO_LARGE, f"{told} Remove some of it: set members to null.")
    if length > TWIN_TEXT.open:
        raise HubError(
            MESSAGE_TOO_LARGE,
            f"{place} would have {length} characters as JSON, {TWIN_TEXT.open} are allowed. Remove some of it.",
        )


def size_of(value: Any) -> int:
    """The size of a checked value: strings by their characters without control characters, 8 for a number, 4 for a
    boolean, an array or object as its parts, keys included."""
    if isinstance(value, str):
        return _length(value)
    if isinstance(value, dict):
        return sum([_length(name) + size_of(member) for name, member in value.items()])
    if isinstance(value, list):
        return sum(map(size_of, value))
    return BOOLEAN_SIZE if isinstance(value, bool) else NUMBER_SIZE


def _length(text: str) -> int:
    return len(text) if text.isprintable() else len(_CONTROL.sub("", text))


_Path = tuple[Any, str | int]
"""A place: the place it is in (a text at the root) and the member's name or the item's position. Made into text only
for an error, so that long names above many members cost nothing."""


def _check_members(path: str | _Path, members: Mapping[str, Any], depth: int, *, in_array: bool) -> None:
    for name, value in members.items():
        if len(name) > _PLAIN_NAME or not name.isidentifier() or not name.isascii():
            _check_key(path, name)
        kind = type(value)
        if kind is bool or (kind is int and -_PLAIN_INTEGER < value < _PLAIN_INTEGER):
            continue
        _check_value((path, name), value, depth + 1, in_array=in_array)


def _check_key(path: str | _Path, name: str) -> None:
    if not name:
        raise _wrong(path, "has a member with an empty name")
    foreign = _FOREIGN.search(name)
    if foreign is not None:
        raise _wrong(
            (path, name),
            f"holds {foreign.group()!a} in its name; names are without control characters, spaces, '.' and '$'",
        )
    if _SURROGATE.search(name):
        raise _wrong((path, name), "holds half of a surrogate pair in its name")
    size = len(name.encode())
    if size > TWIN_KEY_BYTES.open:
        raise _wrong((path, name), f"has a name of {size} bytes, {TWIN_KEY_BYTES.open} are allowed")


def _check_value(path: _Path, value: Any, depth: int, *, in_array: bool) -> None:
    if isinstance(value, str):
        _check_string(path, value)
    elif value is None:
        if in_array:
            raise _wrong(path, "is null, which is not allowed within an array")
    elif isinstance(value, bool):
        pass
    elif isinstance(value, int):
        if not -TWIN_INTEGER.open - 1 <= value <= TWIN_INTEGER.open:
            raise _wrong(
                path, f"is an integer out of range, allowed are {-TWIN_INTEGER.open - 1} to {TWIN_INTEGER.open}"
            )
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _wrong(path, "is a number too large for a 64-bit floating-point number")
    elif depth > TWIN_DEPTH.open:
        raise _wrong(path, f"is nested deeper than {TWIN_DEPTH.open} levels")
    elif isinstance(value, dict):
        _check_members(path, value, depth, in_array=in_array)
    else:
        for position, item in enumerate(value):
            _check_value((path, position), item, depth + 1, in_array=True)


def _check_string(path: _Path, value: str) -> None:
    if value.isascii():
        size = len(value)
    elif _SURROGATE.search(value):
        raise _wrong(path, "holds half of a surrogate pair")
    else:
        size = len(value.encode())
    if size > TWIN_STRING_BYTES.open:
        raise _wrong(path, f"is a string of {size} bytes, {TWIN_STRING_BYTES.open} are allowed")


def _wrong(path: str | _Path, why: str) -> HubError:
    """A refusal; a path that is long is shown from its end, where the fault is."""
    text = _text(path)
    shown = text if len(text) <= _SHOWN else f"...{text[-_SHOWN:]}"
    return HubError(ARGUMENT_INVALID, f"{shown.encode('utf-8', 'backslashreplace').decode()} {why}.")


def _text(path: str | _Path) -> str:
    steps: list[str] = []
    while not isinstance(path, str):
        path, step = path
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step}")
    return path + "".join(reversed(steps))


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list):
        return "an array"
    return "a boolean" if isinstance(value, bool) else "a number"
