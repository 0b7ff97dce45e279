"""How Azure spells direct methods in MQTT topics (device.md 3.9)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import unquote

from muster.core.errors import ARGUMENT_INVALID, HubError

REQUESTS = "$iothub/methods/POST/"
ANSWERS = b"$iothub/methods/"
"""What topics of answers begin with; the whole is ``$iothub/methods/res/{status}/?$rid={rid}``."""

_USUAL = re.compile(rb"\$iothub/methods/res/([0-9]{1,9})/\?\$rid=([0-9a-f]+)")
_ANSWER = re.compile(r"\$iothub/methods/res/([^/]+)/\?\$rid=([^&]+)(?:&.*)?", re.DOTALL)
_STATUS = re.compile(r"-?[0-9]{1,10}")
_SHOWN = 80


class AnswerTopic(NamedTuple):
    """What the topic of an answer says."""

    status: int
    request_id: str


def request_topic(name: str, request_id: str) -> str:
    """The topic of a request; it ends with the request id, as C# needs (device.md 1 rule 5)."""
    return f"{REQUESTS}{name}/?$rid={request_id}"


def read_answer(topic: bytes) -> AnswerTopic:
    """Read a topic that begins with ``ANSWERS``. Raises ``HubError`` 400004 when it has another form.

    Python percent-encodes both parts. The status may be any whole number of 32 bits.
    """
    usual = _USUAL.fullmatch(topic)
    if usual is not None:
        return AnswerTopic(int(usual[1]), usual[2].decode())
    found = _ANSWER.fullmatch(topic.decode())
    status = None if found is None else _STATUS.fullmatch(unquote(found[1]))
    if found is None or status is None or not -(2**31) <= int(status[0]) < 2**31:
        shown = topic[:_SHOWN].decode(errors="replace")
        raise HubError(ARGUMENT_INVALID, f"{shown!r} is not $iothub/methods/res/{{status}}/?$rid={{request id}}.")
    return AnswerTopic(int(status[0]), unquote(found[2]))


def methods_taken(filters: Iterable[str]) -> Callable[[str], bool] | None:
    """Whether a device with these topic filters takes a method, by its name; ``None`` when it takes none."""
    relevant = [name.split("/") for name in filters if name.startswith(REQUESTS)]
    if not relevant:
        return None
    if any(levels[3:] == ["#"] for levels in relevant):
        return _every
    return lambda name: any(_matches(levels, request_topic(name, "0").split("/")) for levels in relevant)


def _every(_name: str) -> bool:
    return True


def _matches(levels: list[str], topic: list[str]) -> bool:
    """MQTT 3.1.1 section 4.7; a request id is not known before, so only wildcards match it."""
    for position, level in enumerate(levels):
        if level == "#":
            return True
        if position >= len(topic) or level not in {"+", topic[position]}:
            return False
    return len(levels) == len(topic)
