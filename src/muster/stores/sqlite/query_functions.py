"""Functions that queries call from SQL: what SQLite has not, has otherwise, or cannot know.

They run in the reader's thread, and take the interpreter's lock for each row; the common operators do not need them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import apsw

from muster.dialect.etag import etag_of, twin_etag_of
from muster.dialect.identity_bodies import time_text
from muster.identity.contract import Presence
from muster.identity.model import IdentityKey
from muster.identity.registry import Activity

_NUMERIC = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_KEY_CHARACTERS = 200


class Activities:
    """The connection state of identities, as ``Presence`` tells it at the moment it is asked.

    The last answer is kept, so that a row shows the state that it was found by.
    """

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._key: IdentityKey | None = None
        self._activity = Activity(False, 0.0, 0.0)

    def begin(self) -> None:
        """Forget the last answer: another read begins."""
        self._key = None

    def look(self, key: IdentityKey) -> Activity:
        """The state of an identity as it is now."""
        return Activity(*self._presence.activity(key))

    def of(self, device_id: str, module_id: str) -> Activity:
        """The state of an identity; the empty module id means the device."""
        key = IdentityKey(device_id, module_id or None)
        if key != self._key:
            self._activity = self.look(key)
            self._key = key
        return self._activity

    def connection_state(self, device_id: str, module_id: str) -> str:
        """As a twin shows it."""
        return "Connected" if self.of(device_id, module_id).connected else "Disconnected"

    def last_activity(self, device_id: str, module_id: str) -> str:
        """As a twin shows it."""
        return time_text(self.of(device_id, module_id).last_activity)


_BESIDE = """SELECT device_id, module_id FROM identities WHERE hub = ? AND (device_id, module_id) >= (?, ?)
ORDER BY device_id, module_id LIMIT 100"""
_PATIENCE_SECONDS = 10.0


class SharedActivities(Activities):
    """Those on all nodes together, which ``loop`` has to ask about: of an identity and of those that are next to it,
    for most reads go on with these. ``hub`` is set before a read."""

    def __init__(self, presence: Presence, connection: apsw.Connection, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(presence)
        self.hub = ""
        self._connection, self._loop = connection, loop
        self._known: dict[IdentityKey, Activity] = {}

    def begin(self) -> None:
        super().begin()
        self._known.clear()

    def look(self, key: IdentityKey) -> Activity:
        if key not in self._known:
            rows = self._connection.execute(_BESIDE, (self.hub, key.device_id, key.module_id or ""))
            keys = [IdentityKey(device_id, module_id or None) for device_id, module_id in rows]
            asked = asyncio.run_coroutine_threadsafe(self._presence.activities(keys), self._loop)
            found = asked.result(_PATIENCE_SECONDS)
            self._known = {one: Activity(*state) for one, state in zip(keys, found, strict=True)}
        return self._known[key]


def register(connection: apsw.Connection, activities: Activities) -> None:
    """Make the functions known to ``connection``."""
    functions: dict[str, Callable[..., Any]] = {
        "array_contains": _array_contains,
        "ends_with": _ends_with,
        "group_key": _group_key,
        "identity_etag": etag_of,
        "length": _length,
        "lower": _lower,
        "number": _number,
        "substring": _substring,
        "time_text": time_text,
        "twin_etag": twin_etag_of,
        "upper": _upper,
    }
    for name, function in functions.items():
        connection.create_scalar_function(f"q_{name}", function, deterministic=True)
    present: dict[str, Callable[..., Any]] = {
        "connection_state": activities.connection_state,
        "last_activity": activities.last_activity,
    }
    for name, function in present.items():
        connection.create_scalar_function(f"q_{name}", function)


def _array_contains(array: str | None, slot: str, value: Any) -> bool | None:
    if array is None or value is None:
        return None
    items = json.loads(array)
    match slot:
        case "text":
            return any(isinstance(item, str) and item == value for item in items)
        case "number":
            return any(isinstance(item, int | float) and item is not True and item is not False and item == value
                       for item in items)  # fmt: skip
        case "boolean":
            return bool(value) in (item for item in items if isinstance(item, bool))
        case _:
            return None in items


def _ends_with(text: str | None, end: str | None) -> bool | None:
    return None if text is None or end is None else text.endswith(end)


def _length(text: str | None) -> int | None:
    return None if text is None else len(text)


def _lower(text: str | None) -> str | None:
    return None if text is None else text.lower()


def _upper(text: str | None) -> str | None:
    return None if text is None else text.upper()


def _number(text: str | None) -> float | None:
    if text is None or _NUMERIC.fullmatch(text.strip(" \t\r\n")) is None:
        return None
    return float(text)


def _substring(text: str | None, start: float | None, *rest: float | None) -> str | None:
    """Undefined where a position is negative or no whole number; what lies beyond the end is left out."""
    positions = [start, *rest]
    if text is None:
        return None
    whole = []
    for position in positions:
        if position is None or position < 0 or position != position // 1:
            return None
        whole.append(int(min(position, len(text))))
    return text[whole[0] :] if len(whole) == 1 else text[whole[0] : whole[0] + whole[1]]


def _group_key(*parts: Any) -> str:
    """A text for a group, not that of any other; empty for no paths. ``parts``: kind and value of each, in turn."""
    texts = []
    for kind, value in zip(parts[::2], parts[1::2], strict=True):
        shown = repr(float(value) + 0.0) if kind == "number" else str(value)
        texts.append(f"{kind}{len(shown)}:{shown}")
    key = "".join(texts)
    return key if len(key) <= _KEY_CHARACTERS else hashlib.sha256(key.encode()).hexdigest()
