"""Answers of the REST data plane, in the service's shapes (service.md 2.1 to 2.3)."""

from __future__ import annotations

from typing import Any

from muster.core.ambient import shown_id
from muster.core.errors import HubError
from muster.dialect.json_body import compact
from muster.heads.http.messages import Response
from muster.heads.http.operations import MethodNotAllowed

JSON_TYPE = "application/json; charset=utf-8"
SERVER = "Microsoft-HTTPAPI/2.0"


def json_answer(body: Any, status: int = 200, *, etag: str | None = None, **headers: str) -> Response:
    """``body`` as JSON; ``etag`` goes quoted into the ``ETag`` header. In names of ``headers``, ``_`` means ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Content-Type"] = JSON_TYPE
    if etag is not None:
        named["ETag"] = f'"{etag}"'
    return Response(body=compact(body), status=status, headers=named)


def error_answer(error: HubError, tracking_id: str) -> Response:
    """A refusal in shape A, its name in ``iothub-errorcode`` too, as C# needs it."""
    body = {
        "Message": f"ErrorCode:{error.row.name};{error.message}",
        "ExceptionMessage": f"Tracking ID:{tracking_id}",
    }
    answer = json_answer(body, error.row.status)
    answer.headers["iothub-errorcode"] = error.row.name
    if isinstance(error, MethodNotAllowed):
        answer.headers["Allow"] = error.allow
    return answer


def signature(request_id: str) -> str:
    """Header lines that every answer has. ``x-ms-request-id`` is ``request_id``, 32 hex digits, as a UUID."""
    return f"Server: {SERVER}\r\nVary: Origin\r\nx-ms-request-id: {shown_id(request_id)}\r\n"
