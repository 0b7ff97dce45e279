"""Answers in the resource manager's shape, and rows of the operation table that refuse in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from muster.core.errors import HubError
from muster.dialect.api_version import check_api_version
from muster.dialect.arm import HUBS, arm_error_body, resource_id
from muster.heads.arm.access import Access
from muster.heads.arm.managed import ManagedHub, ManagedService
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, MethodNotAllowed, Operation

SUBSCRIPTION = "/subscriptions/{subscription}/providers/Microsoft.Devices"
GROUP = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Devices"
HUB = f"{GROUP}/IotHubs/{{hub}}"
SERVICE = f"{GROUP}/provisioningServices/{{service}}"

Handler = Callable[[Call], Awaitable[Response]]
HubHandler = Callable[[Call, ManagedHub], Awaitable[Response]]
ServiceHandler = Callable[[Call, ManagedService], Awaitable[Response]]


class ArmRows:
    """Makes rows of the operation table; each asks ``access`` first. ``changes`` names it in the audit log, where it is
    one that changes something."""

    def __init__(self, access: Access) -> None:
        self._access = access

    def of_hub(self, method: str, path: str, handler: HubHandler, changes: str = "") -> Operation:
        """An operation on one hub, below its own path."""
        return _row(method, HUB + path, partial(self._with_hub, handler), changes)

    def of_service(self, method: str, path: str, handler: ServiceHandler, changes: str = "") -> Operation:
        """An operation on the provisioning service, below its own path."""
        return _row(method, SERVICE + path, partial(self._with_service, handler), changes, self._access.scope)

    def of_trust(self, method: str, path: str, handler: ServiceHandler, changes: str = "") -> Operation:
        """One on its authorities, which are the first hub's, as its records are."""
        return _row(method, SERVICE + path, partial(self._with_service, handler), changes, self._access.first)

    def of_services(self, method: str, path: str, handler: Handler, changes: str = "") -> Operation:
        """One about provisioning services that names none, or perhaps another one."""
        return _row(method, path, partial(self._with_services, handler), changes, self._access.scope)

    def of_node(self, method: str, path: str, handler: Handler, changes: str = "") -> Operation:
        """One that only who manages all may call."""
        return _row(method, path, partial(self._with_all, handler), changes)

    def judged(self, method: str, path: str, handler: Handler, changes: str = "") -> Operation:
        """One that judges its caller itself."""
        return _row(method, path, handler, changes)

    async def _with_hub(self, handler: HubHandler, call: Call) -> Response:
        return await handler(call, await self._access.hub(call))

    async def _with_service(self, handler: ServiceHandler, call: Call) -> Response:
        return await handler(call, await self._access.service(call))

    async def _with_services(self, handler: Handler, call: Call) -> Response:
        await self._access.services(call)
        return await handler(call)

    async def _with_all(self, handler: Handler, call: Call) -> Response:
        await self._access.everything(call)
        return await handler(call)


def _row(method: str, path: str, handler: Handler, changes: str, scope: str | None = None) -> Operation:
    async def checked(call: Call) -> Response:
        check_api_version(call.query("api-version"))
        return await handler(call)

    return Operation(method, path, None, checked, refuse=refuse, changes=changes, scope=scope)


def refuse(error: HubError, tracking_id: str) -> Response:
    """A refusal."""
    answer = json_answer(arm_error_body(error, tracking_id), error.row.status)
    answer.headers["x-ms-error-code"] = error.row.name
    if isinstance(error, MethodNotAllowed):
        answer.headers["Allow"] = error.allow
    return answer


def hub_id(call: Call, name: str) -> str:
    """The resource id of the hub ``name`` in the subscription and the group of the path."""
    return resource_id(call.parameters["subscription"], call.parameters["group"], HUBS, name)
