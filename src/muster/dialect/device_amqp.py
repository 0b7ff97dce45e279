"""How Azure spells a device's side of AMQP: link addresses, link properties, tokens, user names (device.md 4)."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple
from urllib.parse import unquote

from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, HubError
from muster.core.limits import MODEL_ID_CHARACTERS
from muster.dialect.amqp import PutToken, address_path
from muster.identity import sas
from muster.identity.model import IdentityKey
from muster.wire.amqp.performatives import Attach

_CHANNEL = "com.microsoft:channel-correlation-id"
_MODEL = "com.microsoft:model-id"
_LONGEST_CHANNEL = 256
_AT_HUB, _AT_ROOT = "@sas.", "@sas.root."


class Part(StrEnum):
    """What a link of a device is for. The names are those of Azure's fault injection, where it has one."""

    TELEMETRY = "D2CLink"
    COMMANDS = "C2DLink"
    INPUTS = "InputsLink"
    TWIN_REQUESTS = "TwinLinkReq"
    TWIN_ANSWERS = "TwinLinkResp"
    METHOD_REQUESTS = "MethodReqLink"
    METHOD_ANSWERS = "MethodRespLink"


_PARTS: dict[tuple[str, ...], tuple[Part | None, Part | None]] = {
    ("messages", "events"): (Part.TELEMETRY, Part.INPUTS),
    ("messages", "devicebound"): (None, Part.COMMANDS),
    ("twin",): (Part.TWIN_REQUESTS, Part.TWIN_ANSWERS),
    ("methods", "devicebound"): (Part.METHOD_ANSWERS, Part.METHOD_REQUESTS),
}
"""The end of an address to what a client sends there, and what it receives."""


class DeviceAddress(NamedTuple):
    """Whose address it is, and its end in lower case."""

    key: IdentityKey
    end: tuple[str, ...]


def device_address(path: tuple[str, ...]) -> DeviceAddress | None:
    """Read ``/devices/{d}[/modules/{m}]/...``, ids percent-decoded already; ``None`` for what begins otherwise."""
    words = tuple(segment.lower() for segment in path)
    if len(path) < 3 or words[0] != "devices":
        return None
    if len(path) > 4 and words[2] == "modules":
        return DeviceAddress(IdentityKey(path[1], path[3]), words[4:])
    return DeviceAddress(IdentityKey(path[1]), words[2:])


def part_of(address: DeviceAddress, *, sends: bool) -> Part | None:
    """What a link at ``address`` is for, by whether the client ``sends``; ``None`` when there is nothing there.

    Raises ``HubError`` 400003 when the link can only be attached the other way round.
    """
    parts = _PARTS.get(address.end)
    if parts is None:
        return None
    part = parts[not sends]
    if part is None or (part is Part.INPUTS and address.key.module_id is None):
        end = "/".join(address.end)
        verb = "send to" if sends else "receive from"
        raise HubError(INVALID_OPERATION, f"{address.key} cannot {verb} {end}, attach the link the other way round.")
    return part


def channel_of(attach: Attach) -> str:
    """What pairs a link with that of the other direction; empty when the client did not say."""
    return str((attach.properties or {}).get(_CHANNEL, ""))[:_LONGEST_CHANNEL]


def model_of(attach: Attach) -> str | None:
    """The model that a device announces on a link. Raises ``HubError`` 400004 when it is too long."""
    text = str((attach.properties or {}).get(_MODEL) or "").strip()
    if len(text) > MODEL_ID_CHARACTERS.open:
        raise HubError(
            ARGUMENT_INVALID, f"{_MODEL} has {len(text)} characters, {MODEL_ID_CHARACTERS.open} are allowed."
        )
    return text or None


# --- who logs in


def identity_path(key: IdentityKey) -> tuple[str, ...]:
    """The path of an identity below the host."""
    device = ("devices", key.device_id)
    return device if key.module_id is None else (*device, "modules", key.module_id)


def token_identity(asked: PutToken) -> IdentityKey | None:
    """The identity whose own token was put; ``None`` when the token is a policy's, or no device is meant.

    The token's ``sr`` decides, for the name that comes with it is wrong in Java. Where the two agree in some reading
    the name's spelling counts: an ``sr`` may be in lower case, or encoded twice (C#). Of what is no token at all the
    name says whose it would be.
    """
    try:
        token = sas.parse(asked.token)
    except sas.SasError:
        return _key_in(asked.audience)
    if token.policy is not None:
        return None
    once = unquote(token.resource)
    readings = [reading.path for reading in token.readings]
    for spelled in (asked.audience, _path(once), _path(unquote(once)), _path(token.resource), *readings):
        key = _key_in(spelled)
        if key is not None and tuple(segment.lower() for segment in spelled) in readings:
            return key
    return None


def token_audience(asked: PutToken) -> tuple[str, ...]:
    """What a policy's token was put for: what it is good for, when that is below ``devices``, else what was asked."""
    try:
        readings = sas.parse(asked.token).readings
    except sas.SasError:
        return asked.audience
    return next((one.path for one in readings if one.path[:1] == ("devices",)), asked.audience)


def _path(resource: str) -> tuple[str, ...]:
    """The path of an ``sr`` that is decoded, its old suffix left out as ``sas`` does."""
    rest = resource.partition("://")[2] if "://" in resource else resource
    path = [segment for segment in rest.split("/")[1:] if segment]
    if path and path[-1].lower().startswith("api-version="):
        path.pop()
    return tuple(path)


def _key_in(path: tuple[str, ...]) -> IdentityKey | None:
    words = [segment.lower() for segment in path]
    if len(path) < 2 or words[0] != "devices":
        return None
    return IdentityKey(path[1], path[3] if len(path) > 3 and words[2] == "modules" else None)


def plain_identity(user: str) -> tuple[IdentityKey, str] | None:
    """Of SASL PLAIN's user name ``{deviceId}[/modules/{moduleId}]@sas.{hub}``: the identity, and the hub's name.

    ``None`` when a service logs in (``{policy}@sas.root.{hub}``), or it is none of these.
    """
    ids, separator, hub = user.rpartition(_AT_HUB)
    if not separator or _AT_ROOT in user.lower():
        return None
    path = address_path(f"/devices/{ids}")
    key = _key_in(path)
    return None if key is None else (key, hub)
