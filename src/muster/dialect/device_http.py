"""How Azure spells what devices say over HTTPS, and hear: headers, batches, lock tokens (device.md 5.1 to 5.5)."""

from __future__ import annotations

import base64
import binascii
import json
import string
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote
from uuid import UUID

from muster.core.ambient import iso
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.queue_limits import HTTP_COMMAND_LOCK
from muster.dialect.json_body import Members, check_text, kind_of, parse_json
from muster.identity.model import IdentityKey
from muster.messages.commands import Received

BATCH_TYPE: Final = "application/vnd.microsoft.iothub.json"
"""The ``Content-Type`` of a body that holds many messages."""
LOCK_TIMEOUT: Final = "iothub-messagelocktimeout"
"""How long the device wants to hold what it receives, in seconds: a header of Java, in the query of C#."""

CALLING_MODULE: Final = "x-ms-edge-moduleId"
"""Says which module calls, where a module may call what else services do."""

APPLICATION: Final = "iothub-app-"
"""Goes before the name of an application property."""

_SYSTEM: Final = {
    "iothub-messageid": "message-id",
    "iothub-correlationid": "correlation-id",
    "iothub-userid": "user-id",
    "iothub-to": "to",
    "iothub-expiry": "absolute-expiry-time",
    "iothub-contenttype": "content-type",
    "iothub-contentencoding": "content-encoding",
    "iothub-creationtimeutc": "creation-time-utc",
    "iothub-creation-time-utc": "creation-time-utc",
    "iothub-app-iothub-creation-time-utc": "creation-time-utc",
    "iothub-messageschema": "schema",
    "iothub-interface-id": "interface-id",
    "dt-subject": "component",
    "iothub-operation": "",
}
"""Wire name to neutral name, as ``property_bag.SYSTEM_NAMES``; empty: taken and dropped, it says what the path says."""

_ACK: Final = "iothub-ack"
_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F)))
_TOKEN: Final = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"


class Sent(NamedTuple):
    """A message as a device sent it: system properties by neutral name, application properties, body."""

    system: dict[str, str]
    application: dict[str, str | None]
    body: bytes


# --- from devices


def read_message(headers: Iterable[tuple[str, str]], body: bytes) -> Sent:
    """A message by itself: its properties are ``headers``, those that are none are passed over.

    The name of an application property keeps the case in which it came. Of a repeated header the last counts. Raises
    ``HubError`` 400004 for a header of the message that is not UTF-8.
    """
    sent = Sent({}, {}, body)
    for name, value in headers:
        lowered = name.lower()
        if lowered in _SYSTEM or lowered.startswith(APPLICATION) or lowered == _ACK:
            if not value.isascii() and any("\udc80" <= character <= "\udcff" for character in value):
                raise HubError(ARGUMENT_INVALID, f"The header {name} is not UTF-8, encode its value.")
            _put(sent, name, lowered, value)
    return sent


def read_batch(body: bytes) -> list[Sent]:
    """The messages of a batch: ``[{"body": "...", "base64Encoded": true, "properties": {"iothub-app-x": "..."}}]``.

    Without ``base64Encoded`` the body is base64. Names of properties are those of headers; one that is none of these
    is an application property. Raises ``HubError`` as ``parse_json``, and 400004, 400005 with the place of what is
    wrong.
    """
    items = parse_json(body)
    if not isinstance(items, list):
        raise HubError(ARGUMENT_INVALID, f"The body must be an array of messages, it is {kind_of(items)}.")
    return [_batched(item, f"[{number}]") for number, item in enumerate(items)]


def _batched(item: Any, place: str) -> Sent:
    message = Members.of(item, place, f"{place}.")
    text, encoded = message.needed_text("body"), message.raw("base64Encoded")
    if encoded is None or message.flag("base64Encoded"):
        try:
            body = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            hint = 'encode it, or say "base64Encoded": false'
            raise HubError(ARGUMENT_INVALID, f"{place}.body is not base64, {hint}.") from None
    else:
        body = text.encode()
    sent = Sent({}, {}, body)
    properties = message.raw("properties")
    if properties is None:
        return sent
    if not isinstance(properties, dict):
        raise HubError(ARGUMENT_INVALID, f"{place}.properties must be an object, it is {kind_of(properties)}.")
    for name, value in properties.items():
        check_text(name, f"A name in {place}.properties")
        _put(sent, name, name.lower(), _text_of(value, f"{place}.properties.{name[:64]}"))
    return sent


def _text_of(value: Any, place: str) -> str | None:
    """A property's value as text; numbers and booleans as JSON writes them, ``None`` for null."""
    if value is None:
        return None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return check_text(value, place)


def _put(sent: Sent, name: str, lowered: str, value: str | None) -> None:
    known = _SYSTEM.get(lowered)
    if known is None:
        if lowered.startswith(APPLICATION):
            name = name[len(APPLICATION) :]
        elif lowered == _ACK:
            name = _ACK
        sent.application[name] = value
    elif known and value is not None:
        sent.system[known] = value


# --- to devices


def command_headers(key: IdentityKey, received: Received) -> dict[str, str]:
    """The headers that a command goes out with; the ETag is its lock token, quoted.

    What a header cannot hold (a blank at its end, what is not printable ASCII; in a name also punctuation that HTTP
    uses itself) is percent-encoded as UTF-8. The cloud, and the ``azure`` profile, refuse such properties when sent.
    """
    command = received.command
    module = "" if key.module_id is None else f"/modules/{quote(key.module_id, safe='')}"
    headers = {
        "Content-Type": "application/octet-stream",
        "ETag": f'"{received.token}"',
        "iothub-sequencenumber": str(received.number),
        "iothub-enqueuedtime": iso(received.enqueued),
        "iothub-deliverycount": str(received.deliveries),
        "iothub-to": f"/devices/{quote(key.device_id, safe='')}{module}/messages/deviceBound",
    }
    for name, value in (
        ("iothub-messageid", command.message_id),
        ("iothub-correlationid", command.correlation_id),
        ("iothub-userid", command.user_id),
        ("iothub-expiry", None if command.expires is None else iso(command.expires)),
        ("iothub-creationtimeutc", None if command.created is None else iso(command.created)),
        ("iothub-contenttype", command.content_type),
        ("iothub-contentencoding", command.content_encoding),
        ("ContentType", command.content_type),  # C reads these two, Java those above
        ("ContentEncoding", command.content_encoding),
        (_ACK, command.ack),
    ):
        if value is not None:
            headers[name] = _header_value(value)
    for name, value in command.properties.items():
        headers[APPLICATION + quote(name, safe=_TOKEN)] = _header_value(value or "")
    return headers


def _header_value(text: str) -> str:
    kept = text.strip(" ")
    start, _, end = text.partition(kept) if kept else (text, "", "")
    return quote(start) + quote(kept, safe=_PRINTABLE) + quote(end)


# --- settling


def read_lock_token(text: str) -> UUID:
    """The token in a path, quoted or not. Raises ``HubError`` 400004 when it is none."""
    try:
        return UUID(text.strip('"'))
    except ValueError:
        raise HubError(ARGUMENT_INVALID, "The lock token is no UUID, send the ETag of what was received.") from None


def read_lock_seconds(header: str | None, query: str | None) -> float | None:
    """For how long the device wants to hold what it receives; ``None`` when it does not say.

    Raises ``HubError`` 400004 for what is no number of seconds from 1 to the most.
    """
    text = query if header is None else header
    if text is None:
        return None
    most = HTTP_COMMAND_LOCK.open
    digits = text.strip()
    if not digits.isascii() or not digits.isdigit() or not 1 <= int(digits[:9]) <= most:
        raise HubError(ARGUMENT_INVALID, f"{LOCK_TIMEOUT} is not a number of seconds from 1 to {most}, give one.")
    return float(digits[:9])


def rejects(query: Mapping[str, str]) -> bool:
    """Whether a DELETE gives the message up: ``&reject``, and as Java writes it, ``&%3Freject=true``."""
    return any(query.get(name, "false").lower() != "false" for name in ("reject", "?reject"))


# --- modules that call methods


def read_calling_module(header: str) -> IdentityKey:
    """The module that calls, as ``x-ms-edge-moduleId`` names it: ``device/module``. 400004 for any other form."""
    device_id, _, module_id = header.strip().partition("/")
    if not device_id or not module_id or "/" in module_id:
        raise HubError(
            ARGUMENT_INVALID, f"{CALLING_MODULE} must be the caller's device id, a slash, and its module id."
        )
    return IdentityKey(device_id, module_id)
