"""What is said on a device's AMQP links beside telemetry: commands, twins, direct methods (device.md 4.5 to 4.7)."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.mqtt_commands import devicebound
from muster.identity.mistakes import shown
from muster.identity.model import IdentityKey
from muster.messages.commands import Received
from muster.messages.methods import MethodRequest
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.values import Int, Symbol, Timestamp, UByte, ULong

REPORTED, DESIRED = "/properties/reported", "/properties/desired"
NOTIFICATIONS = "/notifications/twin/properties/desired"

METHOD_NAME, METHOD_STATUS = "IoThub-methodname", "IoThub-status"

_SHOWN = 80


def command_message(key: IdentityKey, received: Received) -> bytes:
    """A command as its device gets it. Times are in milliseconds; the lock token is text, as C# reads no other."""
    command = received.command
    annotations: dict[Any, Any] = {
        Symbol("x-opt-sequence-number"): ULong(received.number),
        Symbol("x-opt-lock-token"): str(received.token),
        Symbol("iothub-enqueuedtime"): _moment(received.enqueued),
        Symbol("iothub-deliverycount"): UByte(min(received.deliveries, 255)),
    }
    properties = Properties(
        message_id=command.message_id,
        user_id=None if command.user_id is None else command.user_id.encode(),
        to=f"/{devicebound(key)}",
        correlation_id=command.correlation_id,
        content_type=command.content_type,
        content_encoding=command.content_encoding,
        absolute_expiry_time=None if command.expires is None else _moment(command.expires),
        creation_time=None if command.created is None else _moment(command.created),
    )
    application: dict[Any, Any] = dict(command.properties)
    if command.ack is not None:
        application["iothub-ack"] = str(command.ack)
    return encode_message(
        Message(
            message_annotations=annotations,
            properties=properties,
            application_properties=application or None,
            data=(command.body,),
        )
    )


def _moment(seconds: float) -> Timestamp:
    return Timestamp(int(seconds * 1000))


# --- twins


class TwinRequest(NamedTuple):
    """What a device asks of its twin. ``correlation`` goes back with its very type.

    ``operation`` is ``GET``, ``PATCH`` (of the reported properties, on the condition ``version`` if that is given),
    ``PUT`` (begin to tell of desired changes) or ``DELETE`` (cease to).
    """

    operation: str
    correlation: Any
    version: int | None
    body: bytes


_RESOURCES = {"GET": ("",), "PATCH": (REPORTED,), "PUT": (NOTIFICATIONS,), "DELETE": (NOTIFICATIONS,)}


def correlation_of(message: Message) -> Any:
    """The correlation id. Raises ``HubError`` 400004 when there is none, for then nothing can be answered."""
    correlation = None if message.properties is None else message.properties.correlation_id
    if correlation is None:
        raise HubError(ARGUMENT_INVALID, "The message has no correlation-id, give it one.")
    return correlation


def read_twin_request(message: Message) -> TwinRequest:
    """Read a request. Raises ``HubError`` 400004 for an operation, resource or version that makes no sense."""
    annotations = message.message_annotations or {}
    operation = str(annotations.get("operation") or "").upper()
    resource = str(annotations.get("resource") or "").lower()
    wanted = _RESOURCES.get(operation)
    if wanted is None:
        known = ", ".join(_RESOURCES)
        raise HubError(ARGUMENT_INVALID, f"The operation is {shown(operation[:_SHOWN])!r}, send one of {known}.")
    if resource.rstrip("/") not in wanted:
        raise HubError(
            ARGUMENT_INVALID, f"The resource of {operation} is {shown(resource)!r}, send {wanted[0] or 'none'!r}."
        )
    version = annotations.get("version")
    if version is not None and (not isinstance(version, int) or isinstance(version, bool)):
        raise HubError(ARGUMENT_INVALID, "version is no number, send that of the reported properties.")
    return TwinRequest(operation, correlation_of(message), version, message.body)


def twin_answer(correlation: Any, status: int, body: bytes, version: int | None = None) -> bytes:
    """The answer to a request; ``version`` is that of the reported properties after a change."""
    annotations: dict[Any, Any] = {Symbol("status"): Int(status)}
    if version is not None:
        annotations[Symbol("version")] = version
    return encode_message(
        Message(message_annotations=annotations, properties=Properties(correlation_id=correlation), data=(body,))
    )


def desired_change(body: bytes) -> bytes:
    """A change of the desired properties; that it answers nothing is how devices know it."""
    return encode_message(
        Message(message_annotations={Symbol("resource"): DESIRED}, properties=Properties(), data=(body,))
    )


# --- methods


def method_request(request: MethodRequest) -> bytes:
    """A method request; its id is an AMQP uuid, or the C SDK refuses it."""
    return encode_message(
        Message(
            properties=Properties(correlation_id=UUID(hex=request.request_id)),
            application_properties={METHOD_NAME: request.name},
            data=(request.payload,),
        )
    )


class MethodReply(NamedTuple):
    """What a device answered to the request ``request_id`` (hex digits)."""

    request_id: str
    status: int
    payload: bytes


def read_method_answer(message: Message) -> MethodReply:
    """Read an answer. Raises ``HubError`` 400004 without a correlation id that is one, or without a status."""
    correlation = correlation_of(message)
    try:
        request_id = correlation if isinstance(correlation, UUID) else UUID(str(correlation))
    except ValueError:
        raise HubError(ARGUMENT_INVALID, "The correlation-id is not that of a method request.") from None
    status = (message.application_properties or {}).get(METHOD_STATUS)
    if not isinstance(status, int) or isinstance(status, bool):
        raise HubError(ARGUMENT_INVALID, f"{METHOD_STATUS} is no whole number, send the method's status.")
    return MethodReply(request_id.hex, int(status), message.body)
