"""How Azure spells hub ideas in MQTT: the user name of CONNECT, topics, topic filters (device.md 3.1 and 3.7)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote

from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, HubError
from muster.core.limits import MODEL_ID_CHARACTERS
from muster.dialect.property_bag import parse_bag
from muster.identity.mistakes import shown
from muster.identity.model import IdentityKey

_USERNAME_FORM = "{host}/{deviceId}[/{moduleId}]/?api-version=2021-04-12"
_SLASHED_QUERY = "/api-version=2017-06-30/DeviceClientType="


class Login(NamedTuple):
    """What a CONNECT's user name says. ``api_version`` and ``model_id`` are ``None`` when absent or blank."""

    host: str
    key: IdentityKey
    api_version: str | None
    model_id: str | None
    client_type: str


def parse_username(text: str) -> Login:
    """Read ``{host}/{deviceId}[/{moduleId}]/?k=v&k=v``.

    The query is the last segment if it begins with ``?`` or, as older clients have it, holds ``api-version=``. It may
    be missing altogether, for some clients leave it out and the caller has a better word for that. Values are
    percent-decoded, ``+`` is itself, the first of equal keys counts, unknown keys are ignored (device.md 3.1).
    Raises ``HubError`` 400004 when the name has another shape.
    """
    # An old .NET client joins the query's items with a slash, and its agent has one inside too.
    head, slashed, agent = text.partition(_SLASHED_QUERY)
    segments = head.split("/")
    if slashed:
        segments.append(f"api-version=2017-06-30&DeviceClientType={agent}")
    query = ""
    if len(segments) > 2 and (segments[-1].startswith("?") or "api-version=" in segments[-1]):
        query = segments.pop().removeprefix("?")
    ids = [segment.strip() for segment in segments[1:]]
    if not segments[0]:
        raise _malformed(text, "it does not begin with the hub's host name")
    if not ids:
        raise _malformed(text, "it names no device")
    if len(ids) > 2:
        raise _malformed(text, f"it has {len(ids) + 1} parts before the query, where 2 or 3 belong")
    if not all(ids):
        raise _malformed(text, "the device or module id is empty")
    items = _query(query)
    model_id = items.get("model-id", "").strip() or None
    if model_id is not None and len(model_id) > MODEL_ID_CHARACTERS.open:
        raise _malformed(text, f"its model-id has {len(model_id)} characters, {MODEL_ID_CHARACTERS.open} are allowed")
    return Login(
        segments[0],
        IdentityKey(ids[0], ids[1] if len(ids) == 2 else None),
        items.get("api-version", "").strip() or None,
        model_id,
        items.get("DeviceClientType", ""),
    )


def _query(text: str) -> dict[str, str]:
    items: dict[str, str] = {}
    for item in text.strip().split("&"):
        key, _, value = item.partition("=")
        items.setdefault(key, unquote(value))
    return items


def _malformed(text: str, why: str) -> HubError:
    return HubError(ARGUMENT_INVALID, f"The user name {shown(text)!r} is malformed: {why}. Send {_USERNAME_FORM}")


# --- publishing


def telemetry_properties(topic: bytes, key: IdentityKey) -> tuple[dict[str, str], dict[str, str | None]]:
    """The system (by neutral name) and application properties that ``topic`` carries, both fresh.

    ``topic`` must be the telemetry topic of ``key`` itself: ``devices/{d}[/modules/{m}]/messages/events``, with or
    without a bag behind it, with or without one slash at the end. A will's topic obeys the same rule.
    Raises ``HubError`` 400003 for any other topic, 400004 for a bad bag (see ``property_bag.parse_bag``).
    """
    prefix = f"{_root(key)}/messages/events".encode()
    if not topic.startswith(prefix):
        raise _foreign(topic, key)
    bag = topic[len(prefix) :]
    if len(bag) < 2:
        if bag not in {b"", b"/"}:
            raise _foreign(topic, key)
        return {}, {}
    if not bag.startswith(b"/"):
        raise _foreign(topic, key)
    return parse_bag(bag[1:].removesuffix(b"/").decode())


def _root(key: IdentityKey) -> str:
    if key.module_id is None:
        return f"devices/{key.device_id}"
    return f"devices/{key.device_id}/modules/{key.module_id}"


def _foreign(topic: bytes, key: IdentityKey) -> HubError:
    return HubError(
        INVALID_OPERATION,
        f"{key} may not publish to {shown(topic.decode(errors='replace'))!r}. "
        f"Publish telemetry to {_root(key)}/messages/events/",
    )


# --- subscribing


class SubscriptionKind(StrEnum):
    """What a device asks for with a topic filter (device.md 3.7)."""

    COMMANDS = "commands"
    METHODS = "methods"
    TWIN_RESPONSES = "twin-responses"
    DESIRED_PROPERTIES = "desired-properties"
    CREDENTIALS = "credentials"
    INPUTS = "inputs"
    MODULE = "module"
    """All below the module, as the C# and C SDKs ask; it brings inputs and commands, nothing else."""


_HUB_FILTERS = (
    ("$iothub/methods/POST/", SubscriptionKind.METHODS),
    ("$iothub/twin/res/", SubscriptionKind.TWIN_RESPONSES),
    ("$iothub/twin/PATCH/properties/desired/", SubscriptionKind.DESIRED_PROPERTIES),
    ("$iothub/credentials/res/", SubscriptionKind.CREDENTIALS),
)


def subscription_kind(topic_filter: str, key: IdentityKey) -> SubscriptionKind | None:
    """What ``topic_filter`` subscribes ``key`` to; ``None`` when it is not for this identity or not known.

    The ``$iothub`` filters and a module's inputs may be narrower than the usual ``#``.
    """
    for prefix, kind in _HUB_FILTERS:
        if topic_filter.startswith(prefix) and len(topic_filter) > len(prefix):
            return kind
    root = _root(key)
    if topic_filter == f"{root}/messages/devicebound/#":
        return SubscriptionKind.COMMANDS
    if key.module_id is not None:
        if topic_filter == f"{root}/#":
            return SubscriptionKind.MODULE
        inputs = f"{root}/inputs/"
        if topic_filter.startswith(inputs) and len(topic_filter) > len(inputs):
            return SubscriptionKind.INPUTS
    return None
