"""Direct methods as the REST data plane spells them (service.md 2.3 and 2.11)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from muster.core.ambient import iso
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.json_text import encode
from muster.dialect.json_body import Members
from muster.messages.methods import DEFAULT_RESPONSE_SECONDS, Invocation, MethodAnswer, MethodTimeoutError


class MethodCall(NamedTuple):
    """What a body asks for. ``payload`` is JSON text, timeouts are in seconds."""

    name: str
    payload: bytes
    connect_timeout: int
    response_timeout: int


def read_call(body: Members) -> MethodCall:
    """Read ``{"methodName", "payload", "connectTimeoutInSeconds", "responseTimeoutInSeconds"}``.

    Only the name must be there (400005); a payload that is missing is ``null``. Clients before 2016-11-14 say
    ``timeoutInSeconds``. Raises ``HubError`` 400004 for a value of a wrong kind.
    """
    name = body.needed_text("methodName")
    response = body.whole_number("responseTimeoutInSeconds")
    if response is None:
        response = body.whole_number("timeoutInSeconds")
    return MethodCall(
        name,
        payload_text(body.any("payload")),
        body.whole_number("connectTimeoutInSeconds") or 0,
        DEFAULT_RESPONSE_SECONDS if response is None else response,
    )


def payload_text(value: Any) -> bytes:
    """A service's payload as JSON text. Raises ``HubError`` 400004 for one that cannot be written as such."""
    try:
        return encode(value).encode()
    except UnicodeEncodeError:
        raise HubError(ARGUMENT_INVALID, "payload holds half of a surrogate pair.") from None
    except (ValueError, RecursionError):
        raise HubError(ARGUMENT_INVALID, "payload is nested too deeply or holds a number too large.") from None


def answer_body(answer: MethodAnswer) -> bytes:
    """``{"status", "payload"}``; the payload goes through as the device wrote it."""
    return b'{"status":%d,"payload":%b}' % answer


def error_body(error: HubError, tracking_id: str, now: float) -> dict[str, str]:
    """A refusal in shape B: JSON within JSON. ``info`` has the time that was given, where it was a matter of time."""
    info = {"timeout": timespan(error.seconds)} if isinstance(error, MethodTimeoutError) else {}
    told = {
        "errorCode": error.row.code,
        "trackingId": tracking_id,
        "message": error.message,
        "info": info,
        "timestampUtc": iso(now),
    }
    return {"Message": json.dumps(told, ensure_ascii=False, separators=(",", ":")), "ExceptionMessage": ""}


def timespan(seconds: float) -> str:
    """A .NET ``TimeSpan`` of whole seconds: ``hh:mm:ss``."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"


def history_body(one: Invocation) -> dict[str, Any]:
    """A call of the past; it has a ``status`` when the device answered, else an ``error``."""
    answered = isinstance(one.outcome, int)
    return {
        "at": iso(one.at),
        "seconds": round(one.seconds, 6),
        "deviceId": one.key.device_id,
        "moduleId": one.key.module_id,
        "methodName": one.name,
        "status": one.outcome if answered else None,
        "error": None if answered else one.outcome,
        "caller": one.caller,
        "trackingId": one.tracking_id,
    }
