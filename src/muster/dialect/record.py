"""The stored form of a telemetry message: bytes that become the delivered AMQP message without being decoded.

A record is, in this order: a version, the annotations about its sender, those about the message, then the
sections of the bare message (properties, application-properties, data). What only the log knows (sequence
number, offset, enqueued time) is put in front on delivery. Sources: service.md 4.4, device.md section 7.

``record`` and ``deliver`` are on the hot path. Layout, numbers big-endian:

    u8 version = 1 | u8 count | u32 length | that many annotations of the sender, key value key value
                     u8 count | u32 length | annotations of the message | sections
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime
from struct import Struct
from struct import error as StructError
from typing import Any

from muster.core.ambient import iso
from muster.wire.amqp.composite import encode_composite
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.encoding import encode_map, encode_string, encode_symbol
from muster.wire.amqp.message import APPLICATION_PROPERTIES, Message, Properties, decode_message
from muster.wire.amqp.values import Timestamp

_VERSION = 1
_SENDER = Struct(">BBI")
_HEAD = Struct(">BI")
_FRONT = Struct(">4sII24sq22sq22sq15sB")
_MAP = b"\x00\x53\x72\xd1"
_SEQUENCE = encode_symbol("x-opt-sequence-number") + b"\x81"
_ENQUEUED = encode_symbol("x-opt-enqueued-time") + b"\x83"
_HUB_ENQUEUED = encode_symbol("iothub-enqueuedtime") + b"\x83"
_OFFSET = encode_symbol("x-opt-offset") + b"\xa1"
_FRESH_PAIRS = 4
_FRESH_BYTES = _FRONT.size - 12
_YEAR_10000 = 253_402_300_800_000
_DATA8, _DATA32 = Struct(">4sB"), Struct(">4sI")

_ANNOTATIONS = {
    "interface-id": "iothub-interface-id",
    "component": "dt-subject",
    "creation-time-utc": "iothub-creation-time-utc",
    "output": "iothub-outputname",
    "schema": "iothub-message-schema",
    "diagnostic-id": "Diagnostic-Id",
    "diagnostic-context": "Correlation-Context",
}
"""Neutral name of a system property to the annotation that carries it."""


def sender_annotations(
    *, device_id: str, module_id: str | None, auth_method: str, generation_id: str, model_id: str | None = None
) -> bytes:
    """The part of a record that is the same for all messages of a session; made once when it opens.

    ``auth_method`` is the JSON text of ``Verdict.auth_method``, ``model_id`` the digital twin model announced.
    """
    pairs = {
        "iothub-connection-device-id": device_id,
        "iothub-connection-module-id": module_id,
        "iothub-connection-auth-method": auth_method,
        "iothub-connection-auth-generation-id": generation_id,
        "iothub-message-source": "Telemetry",
        "dt-dataschema": model_id,
    }
    return _sender(pairs)


def event_annotations(*, device_id: str, module_id: str | None, source: str) -> bytes:
    """The part of a record that says whom an event of the hub itself is about; ``source`` is its kind."""
    pairs = {
        "iothub-connection-device-id": device_id,
        "iothub-connection-module-id": module_id,
        "iothub-message-source": source,
    }
    return _sender(pairs)


def _sender(pairs: Mapping[str, str | None]) -> bytes:
    present = {name: text for name, text in pairs.items() if text is not None}
    content = _annotations(present)
    return _SENDER.pack(_VERSION, len(present), len(content)) + content


def message_head(system: Mapping[str, str], application: Mapping[str, str | None]) -> bytes:
    """The part of a record between sender and body: all that the properties say. Worth keeping per topic.

    ``system`` is keyed by neutral names (``property_bag.SYSTEM_NAMES``); raises ``KeyError`` for any other. A
    value of ``None`` in ``application`` is sent as null. An ``absolute-expiry-time`` that is no ISO 8601 time
    cannot be an AMQP timestamp and is kept as an annotation of that name, as text.
    """
    annotations: dict[str, str] = {}
    properties: dict[str, Any] = {}
    for name, text in system.items():
        if name in _ANNOTATIONS:
            annotations[_ANNOTATIONS[name]] = text
        elif name == "user-id":
            properties["user_id"] = text.encode()
        elif name == "absolute-expiry-time":
            moment = _milliseconds(text)
            if moment is None:
                annotations[name] = text
            else:
                properties["absolute_expiry_time"] = moment
        else:
            properties[_PROPERTIES[name]] = text
    parts = [annotation_head(annotations)]
    if properties:
        parts.append(encode_composite(Properties(**properties)))
    if application:
        parts.append(APPLICATION_PROPERTIES + encode_map(dict(application)))
    return b"".join(parts)


def annotation_head(annotations: Mapping[str, str]) -> bytes:
    """The beginning of what ``message_head`` makes: annotations by their wire names. The sections follow it."""
    content = _annotations(annotations)
    return _HEAD.pack(len(annotations), len(content)) + content


_PROPERTIES = {
    "message-id": "message_id",
    "correlation-id": "correlation_id",
    "to": "to",
    "content-type": "content_type",
    "content-encoding": "content_encoding",
}


def _annotations(pairs: Mapping[str, str]) -> bytes:
    return b"".join([encode_symbol(name) + encode_string(text) for name, text in pairs.items()])


def _milliseconds(text: str) -> Timestamp | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return Timestamp((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def record(sender: bytes, head: bytes, body: bytes) -> bytes:
    """A record from its parts: what ``sender_annotations`` and ``message_head`` made, and the body as received."""
    length = len(body)
    if length < 256:
        return b"".join((sender, head, _DATA8.pack(b"\x00\x53\x75\xa0", length), body))
    return b"".join((sender, head, _DATA32.pack(b"\x00\x53\x75\xb0", length), body))


def deliver(record: bytes, sequence: int, enqueued_ms: int) -> bytes:
    """``record`` as the AMQP message that a receiver of its partition gets.

    ``sequence`` is its sequence number, and as text its offset; ``enqueued_ms`` (milliseconds since 1970) when
    the log accepted it. Raises ``ValueError`` when ``record`` is none.
    """
    try:
        version, sender_count, sender_length = _SENDER.unpack_from(record)
        middle = 6 + sender_length
        head_count, head_length = _HEAD.unpack_from(record, middle)
    except StructError:
        raise ValueError("what is stored ends before its sender and annotations do") from None
    if version != _VERSION or middle + 5 + head_length > len(record):
        raise ValueError(f"what is stored is no record of version {_VERSION}, or only a part of one")
    offset = b"%d" % sequence
    size = len(offset)
    front = _FRONT.pack(
        _MAP,
        _FRESH_BYTES + 4 + size + sender_length + head_length,
        2 * (_FRESH_PAIRS + sender_count + head_count),
        _SEQUENCE,
        sequence,
        _ENQUEUED,
        enqueued_ms,
        _HUB_ENQUEUED,
        enqueued_ms,
        _OFFSET,
        size,
    )
    return b"".join((front, offset, record[6:middle], record[middle + 5 :]))


def describe(record: bytes, sequence: int, enqueued_ms: int) -> dict[str, Any]:
    """``record`` in words, fit for ``json.dumps``, as ``muster monitor`` shows it.

    Members: ``sequence_number``, ``offset``, ``enqueued_time`` (ISO 8601), ``device_id``, ``module_id`` (or
    None), ``annotations``, ``system_properties`` and ``properties`` by their wire names, and ``body``: text, or
    base64 when ``body_encoding`` says so. Raises ``ValueError`` as ``deliver``, and when the message is none.
    """
    try:
        message = decode_message(deliver(record, sequence, enqueued_ms))
    except AmqpDecodeError as error:
        raise ValueError(f"what is stored is no message: {error}") from None
    annotations = message.message_annotations or {}
    body, encoding = _readable(message)
    return {
        "sequence_number": sequence,
        "offset": str(sequence),
        "enqueued_time": iso(enqueued_ms / 1000),
        "device_id": annotations.get("iothub-connection-device-id"),
        "module_id": annotations.get("iothub-connection-module-id"),
        "annotations": {str(name): _plain(value) for name, value in annotations.items()},
        "system_properties": {
            name.replace("_", "-"): _plain(value)
            for name, value in (message.properties or Properties())._asdict().items()
            if value is not None
        },
        "properties": {str(name): _plain(value) for name, value in (message.application_properties or {}).items()},
        "body": body,
        "body_encoding": encoding,
    }


def _readable(message: Message) -> tuple[str, str]:
    try:
        return message.body.decode(), "utf-8"
    except UnicodeDecodeError:
        return base64.b64encode(message.body).decode(), "base64"


def _plain(value: object) -> object:
    if isinstance(value, Timestamp):
        return iso(value / 1000) if 0 <= value < _YEAR_10000 else int(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if value is None or isinstance(value, (str, int, float)) else str(value)
