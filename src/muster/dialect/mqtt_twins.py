"""How devices ask for their twin over MQTT, and how they are answered (device.md 3.7 and 3.8)."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import unquote

from muster.core.errors import INVALID_OPERATION, HubError
from muster.identity.mistakes import shown

TWIN_TOPICS = b"$iothub/twin/"
"""What every topic of a twin request begins with."""

_GET, _PATCH = "$iothub/twin/GET/", "$iothub/twin/PATCH/properties/reported/"
_LONGEST_RID = 1024


class TwinRequest(NamedTuple):
    """A request: read the twin, or patch its reported properties.

    ``rid`` goes back verbatim; without one (``None``) there is no answer. ``version`` is the text of the precondition
    on the reported properties, ``None`` for none.
    """

    patch: bool
    rid: str | None
    version: str | None


def parse_twin_topic(topic: bytes) -> TwinRequest:
    """Read ``$iothub/twin/GET/?$rid=..`` or ``$iothub/twin/PATCH/properties/reported/?$rid=..[&$version=..]``.

    Raises ``HubError`` 400003 for any other topic, as parts of a twin cannot be asked for, and for a ``$rid`` that is
    longer than any SDK's.
    """
    text = topic.decode()
    for prefix, patch in ((_GET, False), (_PATCH, True)):
        rest = text.removeprefix(prefix)
        if rest != text and (not rest or rest.startswith("?")):
            items = [item.partition("=") for item in rest[1:].split("&")]
            found = {unquote(name): value for name, _, value in reversed(items)}
            rid = found.get("$rid", "")
            if len(rid) > _LONGEST_RID:
                raise HubError(INVALID_OPERATION, f"$rid has {len(rid)} characters, {_LONGEST_RID} are allowed.")
            return TwinRequest(patch, rid or None, found.get("$version") or None)
    raise HubError(
        INVALID_OPERATION,
        f"There is no twin operation {shown(text)!r}. Publish to {_GET} or {_PATCH}, then ?$rid=...",
    )


def response_topic(status: int, rid: str, version: int | None = None) -> str:
    """Where an answer goes; with ``version`` that of the reported properties. The SDKs need literal ``$`` signs, and
    ``$rid`` first."""
    topic = f"$iothub/twin/res/{status}/?$rid={rid}"
    return topic if version is None else f"{topic}&$version={version}"


def desired_topic(version: int) -> str:
    """Where a change of the desired properties goes."""
    return f"$iothub/twin/PATCH/properties/desired/?$version={version}"
