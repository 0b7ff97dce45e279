"""Messages of the provisioning service's device API over AMQP (provisioning.md 3.3)."""

from __future__ import annotations

from typing import Any, NamedTuple

from muster.core.errors import ARGUMENT_INVALID, ErrorRow, HubError
from muster.wire.amqp.message import NO_VALUE, Message, Properties, encode_message
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.values import Int, Symbol

_TYPE, _OPERATION = "iotdps-operation-type", "iotdps-operation-id"
_REGISTER, _STATUS = "iotdps-register", "iotdps-get-operationstatus"
_LATER = ("retry-after", "Retry-After")
"""C# looks for the second, all others for the first."""


class Asked(NamedTuple):
    """A request: ``operation_id`` is ``None`` for a registration, whose JSON is ``body``, perhaps empty."""

    operation_id: str | None
    body: bytes
    correlation_id: Any


def read_request(message: Message) -> Asked:
    """Read a request. ``iotdps-forceRegistration`` does not count: who registers is always judged and assigned anew.

    Raises ``HubError`` 400004 that names the property that is wrong.
    """
    properties = message.application_properties or {}
    wanted, operation_id = properties.get(_TYPE), properties.get(_OPERATION)
    correlation_id = None if message.properties is None else message.properties.correlation_id
    if wanted == _REGISTER:
        return Asked(None, _body(message), correlation_id)
    if wanted != _STATUS:
        raise HubError(ARGUMENT_INVALID, f"The property {_TYPE} must be {_REGISTER} or {_STATUS}.")
    if not isinstance(operation_id, str) or not operation_id:
        raise HubError(ARGUMENT_INVALID, f"The property {_OPERATION} is missing, it is in the answer to {_REGISTER}.")
    return Asked(operation_id, b"", correlation_id)


def _body(message: Message) -> bytes:
    if message.value is NO_VALUE:
        return message.body
    if isinstance(message.value, str):
        return message.value.encode()
    if message.value is None or isinstance(message.value, bytes):
        return message.value or b""
    raise HubError(ARGUMENT_INVALID, "The body must be JSON, in a data section or as text.")


def reply(asked: Asked, body: bytes, retry_after: int) -> bytes:
    """The answer, in a data section: C takes no other."""
    correlated = None if asked.correlation_id is None else Properties(correlation_id=asked.correlation_id)
    later = {name: Int(retry_after) for name in _LATER} if retry_after else None
    return encode_message(Message(properties=correlated, application_properties=later, data=(body,)))


def refusal(row: ErrorRow, body: bytes, retry_after: int) -> Error:
    """A refusal for the outcome ``rejected``: C# reads the JSON in its description."""
    info: dict[Any, Any] = {Symbol("com.microsoft:error-code"): Int(row.code)}
    if retry_after:
        info |= {Symbol(name): Int(retry_after) for name in _LATER}
    return Error(row.condition, body.decode(), info)
