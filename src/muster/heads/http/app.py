"""The HTTP application: every request finds its operation, is judged, and gets an answer in the service's shape.

The method may stand in a header (``X-HTTP-Method-Override``, which Java uses), ids hold any of ``%``, ``+``, ``#`` and
``?`` percent-encoded, and every refusal, 404 and 405 included, has the service's shape.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import lru_cache
from math import ceil
from typing import Any

from muster.core.ambient import Ambient
from muster.core.audit import Act
from muster.core.errors import SERVER_ERROR, UNAUTHORIZED, ErrorRow, HubError
from muster.core.meters import Meters
from muster.core.throttle_errors import ThrottledError
from muster.core.throttles import Charge, Throttle
from muster.dialect.api_version import check_api_version
from muster.dialect.device_http import read_calling_module
from muster.heads.back_off import hold_by
from muster.heads.http.answers import error_answer, signature
from muster.heads.http.auth import Gate, authorize, authorize_device
from muster.heads.http.connection import App
from muster.heads.http.devices import DeviceOperations
from muster.heads.http.health import HealthOperations
from muster.heads.http.messages import Request, Response, Said, StreamResponse, parse_query
from muster.heads.http.modules import ModuleOperations
from muster.heads.http.network import check_network
from muster.heads.http.openapi import OpenApiOperations
from muster.heads.http.operations import Call, Operation, OperationTable
from muster.heads.http.statistics import StatisticsOperations
from muster.identity.back_off import BackOff
from muster.identity.mistakes import shown
from muster.identity.network_access import NetworkAccess
from muster.identity.registry import Registry
from muster.identity.verdict import Right

log = logging.getLogger("muster.http")

Refused = Callable[[str, Act, str, ErrorRow], None]
"""Hears that an act on a subject of a scope (see ``core.audit.Draft``) was refused with an error."""


def build_app(
    *,
    registry: Registry,
    gate: Gate,
    ambient: Ambient,
    ready: Callable[[], bool],
    more: Iterable[Operation] = (),
    meters: Meters | None = None,
    network: NetworkAccess | None = None,
    back_off: BackOff | None = None,
    refused: Refused | None = None,
    hub: str = "",
) -> App:
    """The application for port 443.

    Args:
        registry: the hub's identities.
        gate: judges callers, services and devices; an ``identity.authenticator.Authenticator``.
        ready: whether every listener of the node serves, for ``/health/ready``.
        more: operations besides those of the registry and of health.
        meters: count, and throttle, operations that have a rate; without, nobody looks at the counts.
        network: from where it may be called; without, from everywhere.
        back_off: how long refusals wait; without, not at all.
        refused: hears of refused changes.
        hub: its name, for the audit log.
    """
    rows = [
        *HealthOperations(ready).table(),
        *DeviceOperations(registry).table(),
        *ModuleOperations(registry).table(),
        *StatisticsOperations(registry).table(),
        *more,
    ]
    operations = OperationTable([*rows, *OpenApiOperations(rows).table()])
    found = Meters(ambient) if meters is None else meters
    return _Dispatcher(
        operations, gate, ambient, found, network=network, back_off=back_off, refused=refused, hub=hub
    ).answer


def build_open_app(
    operations: Iterable[Operation],
    ambient: Ambient,
    refuse: Callable[[HubError, str], Response],
    refused: Refused | None = None,
) -> App:
    """An application of ``operations`` that judge their callers themselves; ``refuse`` shapes every refusal,
    ``refused`` hears of those of changes."""
    return _Dispatcher(
        OperationTable(operations), None, ambient, Meters(ambient), refuse=refuse, refused=refused
    ).answer


class _Dispatcher:
    def __init__(
        self,
        operations: OperationTable,
        gate: Gate | None,
        ambient: Ambient,
        meters: Meters,
        *,
        network: NetworkAccess | None = None,
        back_off: BackOff | None = None,
        refused: Refused | None = None,
        hub: str = "",
        refuse: Callable[[HubError, str], Response] = error_answer,
    ) -> None:
        self._operations = operations
        self._gate = gate
        self._ambient = ambient
        self._meters = meters
        self._network = network
        self._back_off = back_off
        self._refused = refused
        self._hub = hub
        self._refuse = refuse

    def answer(self, request: Request) -> Coroutine[Any, Any, Response | StreamResponse]:
        """Every request comes here."""
        call, said, method = Call(request, self._ambient, self._hub), request.said, request.method
        request.signature = signature(call.request_id) + said.client_line
        try:
            operation = call.find(self._operations, _meant(method, said) if method in _MEANS_ANOTHER else method)
        except HubError as error:
            return self._answer(call, error)
        # to judge a module, or a bearer token, may need a task
        request.direct = operation.direct and said.module is None and not said.bearer
        return self._answer(call)

    async def _answer(self, call: Call, fault: HubError | None = None) -> Response | StreamResponse:
        """An operation that fails in the midst of a stream can only break it off."""
        request = call.request
        try:
            if fault is not None:
                raise fault
            operation = call.operation
            assert operation is not None, "it was found"
            judged = self._judge(call, operation)
            if judged is not None:
                await judged
            answer = await self._begin(call, operation)
            if operation.throttle is not None and self._meters.charges:
                self._charge(operation.throttle, request, answer)
            return answer
        except HubError as error:
            refusal, told = error, error.tracking_id or call.tracking_id
            log.debug("%s %s: %s (%s)", request.method, shown(request.raw_path), error, told)
        except ConnectionError:
            raise
        except Exception:
            log.exception("%s %s failed (%s)", request.method, shown(request.raw_path), call.tracking_id)
            refusal = HubError(SERVER_ERROR, "The hub failed, see its log under the tracking id.")
        operation = call.operation
        if self._refused is not None and operation is not None and operation.changes:
            self._refused(call.scope, _refused_act(call, refusal), call.subject, refusal.row)
        if refusal.row.status == UNAUTHORIZED.status and self._back_off is not None and not request.answered:
            await self._hold(call, self._back_off)
        if request.answered:
            raise ConnectionAbortedError(f"an answer had begun when its operation failed ({call.tracking_id})")
        told = refusal.tracking_id or call.tracking_id
        request.signature = signature(told[:32]) + request.said.client_line
        refuse = None if operation is None else operation.refuse
        answer = (refuse or self._refuse)(refusal, told)
        if isinstance(refusal, ThrottledError):
            answer.headers["Retry-After"] = str(ceil(refusal.retry_after))
        return answer

    async def _hold(self, call: Call, back_off: BackOff) -> None:
        verdict, peer = call.verdict, call.peer
        principal = call.parameters.get("registration_id", "") if verdict is None else verdict.principal
        call.request.cancel_when_lost = True
        await hold_by(back_off, peer, principal)

    def _begin(self, call: Call, operation: Operation) -> Awaitable[Response | StreamResponse]:
        """Count a call that may be made, and let the operation begin."""
        by_device = operation.right is Right.DEVICE_CONNECT
        if not by_device and operation.right is not None:
            self._meters.take_principal(call.caller)
        call.request.cancel_when_lost = operation.waits
        if operation.throttle is not None:
            self._meters.take(operation.throttle, call.identity.device_id if by_device else None)
        return operation.handler(call)

    def _charge(self, throttle: Throttle, request: Request, answer: Response | StreamResponse) -> None:
        if throttle.charge is Charge.REQUEST:
            self._meters.charge(request.said.length)
        elif throttle.charge is Charge.ANSWER and isinstance(answer, Response):
            self._meters.charge(len(answer.body))

    def _judge(self, call: Call, operation: Operation) -> Awaitable[None] | None:
        """Judge the caller; what is to be awaited for that, if it is no service whose token is a policy's."""
        right = operation.right
        if self._network is not None and self._network.watches and not operation.anywhere:
            check_network(call, self._network)
        if right is None:
            return None
        assert self._gate is not None, "operations of an open app have no right"
        module = call.request.said.module if operation.by_modules else None
        if module is not None:  # Node names no api-version then
            return authorize_device(call, self._gate, read_calling_module(module), call.identity)
        _check_query(call.request.raw_query)
        if right is Right.DEVICE_CONNECT:
            return authorize_device(call, self._gate, call.identity)
        known = self._gate.proven(call.request.said.authorization, right)  # as a rule
        if known is not None:
            call.caller = known
            return None
        return authorize(call, right, self._gate, operation.actions)


def _refused_act(call: Call, refusal: HubError) -> Act:
    """What was refused, by whom if that is proven, under the tracking id that the caller is told."""
    verdict, caller = call.verdict, call.caller
    if not caller and verdict is not None and verdict.signed:
        caller = verdict.principal
    return call.act._replace(caller=caller, tracking_id=(refusal.tracking_id or call.tracking_id)[:32])


@lru_cache(64)
def _check_query(raw: str) -> None:
    """See ``check_api_version``: the clients of a hub send few queries beside their paths."""
    check_api_version(parse_query(raw).get("api-version"))


_MEANS_ANOTHER = ("POST", "HEAD")


def _meant(method: str, said: Said) -> str:
    """The method meant: Java sends ``POST`` and names the one it means in a header (service.md 0.3)."""
    if method == "POST":
        method = said.method or method
    return "GET" if method == "HEAD" else method
