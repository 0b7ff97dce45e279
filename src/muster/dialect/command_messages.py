"""Cloud-to-device messages as services send them over AMQP, and what services are sent (service.md 3.3 to 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from muster.core.ambient import iso
from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, HubError
from muster.dialect.amqp import address_path
from muster.dialect.json_body import compact
from muster.identity.ids import check_key
from muster.identity.mistakes import shown
from muster.identity.model import IdentityKey
from muster.messages.commands import Ack, Command, FeedbackRecord
from muster.messages.queue import Entry, Outcome
from muster.wire.amqp.message import NO_VALUE, Message, Properties, encode_message
from muster.wire.amqp.values import Symbol, Timestamp, UByte, ULong

FEEDBACK_TYPE = "application/vnd.microsoft.iothub.feedback.json"
FILE_NOTIFICATION_TYPE = "application/vnd.microsoft.iothub.filenotification.json"

ACK, BARE_ACK = "iothub-ack", "ack"
"""The application property that asks for feedback. The second is how users of the Python SDK write it; with another
value it is a property like any other."""

_STATUS = {
    Outcome.COMPLETED: "Success",
    Outcome.EXPIRED: "Expired",
    Outcome.EXHAUSTED: "DeliveryCountExceeded",
    Outcome.REJECTED: "Rejected",
    Outcome.PURGED: "Purged",
}


def read_command(message: Message) -> tuple[IdentityKey, Command]:
    """For whom ``message`` is, and what it says.

    Raises ``HubError`` 400003 when ``to`` names no device, 400004 with the name of a field that cannot be carried.
    """
    given = message.properties or Properties()
    key = _recipient(given.to)
    if message.sequences or message.value is not NO_VALUE:
        raise HubError(ARGUMENT_INVALID, "The body is no binary data, send it as Data sections.")
    properties = {str(name): _text(str(name), value) for name, value in (message.application_properties or {}).items()}
    command = Command(
        body=message.body,
        message_id=_text("message-id", given.message_id),
        correlation_id=_text("correlation-id", given.correlation_id),
        user_id=_text("user-id", given.user_id),
        content_type=given.content_type,
        content_encoding=given.content_encoding,
        expires=_moment(given.absolute_expiry_time),
        created=_moment(given.creation_time),
        ack=_ack(properties),
        properties=properties,
    )
    return key, command


def _recipient(to: object) -> IdentityKey:
    """``/devices/{id}[/modules/{id}]/messages/devicebound``, ids percent-encoded or not."""
    path = address_path(to)
    match [segment.lower() for segment in path]:
        case ["devices", _, "messages", "devicebound"]:
            key = IdentityKey(path[1])
        case ["devices", _, "modules", _, "messages", "devicebound"]:
            key = IdentityKey(path[1], path[3])
        case _:
            seen = f", it is {shown(to)!r}" if isinstance(to, str) else ""
            raise HubError(
                INVALID_OPERATION,
                f"Amqp Message.Properties.To must contain the device identifier{seen}. "
                "Send /devices/{deviceId}/messages/devicebound",
            )
    check_key(key)
    return key


def _text(name: str, value: object) -> str | None:
    """A value as the text that a device gets; ``None`` for null."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case Timestamp():
            return iso(_seconds(value))
        case str() | int() | float() | UUID():
            return str(value)
        case bytes():
            try:
                return value.decode()
            except UnicodeDecodeError:
                raise HubError(ARGUMENT_INVALID, f"{shown(name)} is not UTF-8, send text.") from None
        case _:
            raise HubError(ARGUMENT_INVALID, f"{shown(name)} is a {type(value).__name__}, send text.")


def _moment(milliseconds: int | None) -> float | None:
    """Seconds since 1970; a time that is zero or before counts as not given, for some clients always send one."""
    return None if milliseconds is None or milliseconds <= 0 else _seconds(milliseconds)


def _seconds(milliseconds: int) -> float:
    latest = datetime.max.replace(tzinfo=UTC).timestamp() - 1
    return min(max(milliseconds / 1000, 0.0), latest)


def _ack(properties: dict[str, str | None]) -> Ack | None:
    """The feedback asked for, taken out of ``properties``."""
    wanted = properties.pop(ACK, None)
    if wanted is None:
        bare = (properties.get(BARE_ACK) or "").lower()
        if bare not in set(Ack):
            return None
        del properties[BARE_ACK]
        return Ack(bare)
    try:
        return Ack(wanted.lower())
    except ValueError:
        message = f"{ACK} is {shown(wanted)!r}, it must be one of {', '.join(Ack)}."
        raise HubError(ARGUMENT_INVALID, message) from None


def feedback_body(records: Sequence[FeedbackRecord]) -> bytes:
    """The body of a feedback message."""
    return compact([_feedback(record) for record in records])


def _feedback(record: FeedbackRecord) -> dict[str, str]:
    status = _STATUS[record.outcome]
    said = {
        "originalMessageId": record.message_id,
        "description": status,
        "deviceGenerationId": record.generation_id,
        "deviceId": record.key.device_id,
        "enqueuedTimeUtc": iso(record.at),
        "statusCode": status,
    }
    if record.key.module_id is not None:
        said["moduleId"] = record.key.module_id
    return said


def service_message(entry: Entry, body: bytes, content_type: str, hub: str) -> bytes:
    """A message of a service queue as its receivers get it. C# reads ``user-id`` and the enqueued time unasked."""
    annotations: dict[Any, Any] = {
        Symbol("iothub-enqueuedtime"): Timestamp(int(entry.enqueued * 1000)),
        Symbol("iothub-deliverycount"): UByte(min(entry.deliveries, 255)),
        Symbol("x-opt-sequence-number"): ULong(entry.number),
    }
    properties = Properties(user_id=hub.encode(), content_type=content_type)
    return encode_message(Message(message_annotations=annotations, properties=properties, data=(body,)))
