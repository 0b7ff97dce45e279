"""Answers of the REST data plane, in the service's shapes (service.md 2.1 to 2.3)."""

from __future__ import annotations

import uuid
from typing import Any

from aiohttp import web

from muster.core.errors import HubError
from muster.dialect.json_body import compact
from muster.heads.http.operations import MethodNotAllowed

JSON_TYPE = "application/json; charset=utf-8"
SERVER = "Microsoft-HTTPAPI/2.0"


def json_answer(body: Any, status: int = 200, *, etag: str | None = None, **headers: str) -> web.Response:
    """``body`` as JSON; ``etag`` goes quoted into the ``ETag`` header. In names of ``headers``, ``_`` means ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named["Content-Type"] = JSON_TYPE
    if etag is not None:
        named["ETag"] = f'"{etag}"'
    return web.Response(body=compact(body), status=status, headers=named)


def error_answer(error: HubError, tracking_id: str) -> web.Response:
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


def request_id_of(tracking_id: str) -> str:
    """The tracking id's digits as a UUID, as the service writes it in ``x-ms-request-id``."""
    return str(uuid.UUID(tracking_id[:32]))


def sign(answer: web.StreamResponse, tracking_id: str) -> None:
    """Headers that every answer has."""
    answer.headers["Server"] = SERVER
    answer.headers["Vary"] = "Origin"
    answer.headers["x-ms-request-id"] = request_id_of(tracking_id)
