"""What goes on record of a twin that a service changes: the members that it touched, as they were and as they are.

Made in the writer's thread for each desired property that is set, so it encodes no more than that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.core.audit import Act, Draft, hidden
from muster.core.json_text import JsonObject, encode_finite, plain, text_of
from muster.twins.contract import Note
from muster.twins.document import Content, Twin


def patched(hub: str, by: Act, subject: str, at: float, patch: Mapping[str, JsonObject]) -> Note:
    """Makes the record of ``patch``, by part of the twin (``tags``, ``desired``), without parts that are empty."""

    def note(before: Twin, after: Twin) -> Draft:
        was, now = f'{{"version":{before.version}', f'{{"version":{after.version}'
        for part, change in patch.items():
            content = before.tags if part == "tags" else before.desired.values
            was += f',"{part}":{encode_finite(_touched(content, change.plain()))}'
            now += f',"{part}":{change.text}'
        return Draft(hub, by, subject, at, hidden(f"{was}}}"), hidden(f"{now}}}"))

    return note


def replaced(hub: str, by: Act, subject: str, at: float) -> Note:
    """Makes the record of a twin whose tags and desired properties were replaced."""

    def note(before: Twin, after: Twin) -> Draft:
        return Draft(hub, by, subject, at, _whole(before), _whole(after))

    return note


def _touched(content: Content, patch: Content) -> dict[str, Any]:
    """Those members of ``content`` that ``patch`` names."""
    present, touched = plain(content), {}
    for name, value in patch.items():
        if name in present:
            held = present[name]
            nested = isinstance(value, dict) and isinstance(held, dict)
            touched[name] = _touched(held, value) if nested else held
    return touched


def _whole(twin: Twin) -> str:
    tags, desired = twin.tags, twin.desired.values
    return hidden(f'{{"version":{twin.version},"tags":{text_of(tags)},"desired":{text_of(desired)}}}')
