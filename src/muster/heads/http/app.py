"""The HTTP application: every request finds its operation, is judged, and gets an answer in the service's shape.

aiohttp's router is passed by: the method may stand in a header (``X-HTTP-Method-Override``, which Java uses), ids
hold any of ``%``, ``+``, ``#`` and ``?`` percent-encoded, and what it would answer by itself (404, 405, whatever the
target is) must have the service's shape.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web
from aiohttp.typedefs import Handler

from muster.core.ambient import Ambient, tracking_id
from muster.core.errors import BAD_REQUEST, BODY_TOO_LARGE, SERVER_ERROR, HubError
from muster.core.limits import HTTP_BODY_BYTES, HTTP_IDLE
from muster.dialect.api_version import check_api_version
from muster.heads.http.answers import error_answer, sign
from muster.heads.http.auth import Gate, authorize
from muster.heads.http.devices import DeviceOperations
from muster.heads.http.health import HealthOperations
from muster.heads.http.modules import ModuleOperations
from muster.heads.http.operations import Call, Operation, OperationTable
from muster.heads.http.statistics import StatisticsOperations
from muster.heads.http.wire_log import WireLog
from muster.identity.mistakes import shown
from muster.identity.registry import Registry

log = logging.getLogger("muster.http")

_LONGEST_CLIENT_ID = 1024
_TRACKING = web.RequestKey("tracking", str)
_STARTED = web.RequestKey("started", bool)
_OPERATION = web.RequestKey("operation", Operation)


def build_app(
    *,
    registry: Registry,
    gate: Gate,
    ambient: Ambient,
    ready: Callable[[], bool],
    more: Iterable[Operation] = (),
) -> web.Application:
    """The application for port 443.

    Args:
        registry: the hub's identities.
        gate: judges callers, services and devices; an ``identity.authenticator.Authenticator``.
        ready: whether every listener of the node serves, for ``/health/ready``.
        more: operations besides those of the registry and of health.
    """
    operations = OperationTable(
        [
            *HealthOperations(ready).table(),
            *DeviceOperations(registry).table(),
            *ModuleOperations(registry).table(),
            *StatisticsOperations(registry).table(),
            *more,
        ]
    )
    dispatcher = _Dispatcher(operations, gate, ambient)
    app = web.Application(client_max_size=HTTP_BODY_BYTES.open, middlewares=[dispatcher.answer])
    app.on_response_prepare.append(dispatcher.sign)
    return app


def make_runner(app: web.Application, idle_seconds: float = HTTP_IDLE.open) -> web.AppRunner:
    """A runner for ``app``: its ``server``, once it is set up, makes the protocol that takes over a transport.

    A connection without a request for ``idle_seconds`` is closed. Compressed bodies stay as they are: nobody may make
    the hub unpack them, not even to throw them away.
    """
    return web.AppRunner(
        app, access_log=None, handle_signals=False, logger=WireLog(), keepalive_timeout=idle_seconds,
        auto_decompress=False, handler_cancellation=True,
    )  # fmt: skip


class _Dispatcher:
    def __init__(self, operations: OperationTable, gate: Gate, ambient: Ambient) -> None:
        self._operations = operations
        self._gate = gate
        self._ambient = ambient
        self._unfinished: set[asyncio.Future[web.StreamResponse]] = set()

    @web.middleware
    async def answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:  # noqa: ARG002 - its router found none
        """Every request comes here. An operation that fails in the midst of a stream can only break it off."""
        tracking = request[_TRACKING] = tracking_id(self._ambient)
        try:
            return await self._perform(request, tracking)
        except HubError as error:
            refusal, told = error, error.tracking_id or tracking
            log.debug("%s %s: %s (%s)", request.method, shown(request.rel_url.raw_path), error, told)
        except web.HTTPRequestEntityTooLarge:
            message = f"The body has more than {HTTP_BODY_BYTES.open} bytes, split the call."
            refusal = HubError(BODY_TOO_LARGE, message)
        except web.RequestPayloadError:
            message = "The body does not fit its Content-Length or Transfer-Encoding."
            refusal = HubError(BAD_REQUEST, message)
        except ConnectionError:
            raise
        except Exception:
            log.exception("%s %s failed (%s)", request.method, shown(request.rel_url.raw_path), tracking)
            refusal = HubError(SERVER_ERROR, "The hub failed, see its log under the tracking id.")
        if _STARTED in request:
            raise ConnectionAbortedError(f"an answer had begun when its operation failed ({tracking})")
        tracking = request[_TRACKING] = refusal.tracking_id or tracking
        operation = request.get(_OPERATION)
        refuse = error_answer if operation is None or operation.refuse is None else operation.refuse
        return refuse(refusal, tracking)

    async def sign(self, request: web.Request, answer: web.StreamResponse) -> None:
        """An answer begins. One that is not ours is aiohttp's own, to an ``Expect`` that it cannot meet."""
        request[_STARTED] = True
        sign(answer, request.get(_TRACKING) or tracking_id(self._ambient))
        client_id = request.headers.get("x-ms-client-request-id")
        if client_id and client_id.isascii() and client_id.isprintable() and len(client_id) <= _LONGEST_CLIENT_ID:
            answer.headers["x-ms-client-request-id"] = client_id

    async def _perform(self, request: web.Request, tracking: str) -> web.StreamResponse:
        operation, parameters, path = self._operations.find(_method(request), request.rel_url.raw_path)
        request[_OPERATION] = operation
        call = Call(request, path, parameters, tracking)
        if operation.right is not None:
            check_api_version(call.query("api-version"))
            await authorize(call, operation.right, self._gate)
        if operation.waits:
            return await operation.handler(call)
        return await self._whole(request, operation.handler(call))

    async def _whole(self, request: web.Request, work: Awaitable[web.StreamResponse]) -> web.StreamResponse:
        """What was begun is done to its end, also when the caller goes meanwhile; only the hub's stop cancels it."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            if request.transport is None:
                self._unfinished.add(task)
                task.add_done_callback(self._finished)
            else:
                task.cancel()
            raise
        return task.result()

    def _finished(self, task: asyncio.Future[web.StreamResponse]) -> None:
        self._unfinished.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, HubError | ConnectionError):
            log.error("an operation failed whose caller was gone", exc_info=error)


def _method(request: web.Request) -> str:
    """The method meant: Java sends ``POST`` and names the one it means in a header (service.md 0.3)."""
    method = request.method
    if method == "POST":
        method = request.headers.get("X-HTTP-Method-Override", method).strip().upper()
    return "GET" if method == "HEAD" else method
