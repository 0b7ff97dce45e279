"""``/twins``: twins of devices and modules (service.md 2.9)."""

from __future__ import annotations

from muster.access.roles import DataAction
from muster.core.throttles import TWIN_READS, TWIN_UPDATES
from muster.dialect.etag import read_twin_if_match, twin_etag_of
from muster.dialect.twin_bodies import read_twin, twin_body
from muster.heads.http.answers import JSON_TYPE
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.model import Identity
from muster.identity.registry import Activity, Registry
from muster.identity.verdict import Right
from muster.twins.document import Twin
from muster.twins.service import Twins


class TwinOperations:
    """Twins of one hub."""

    def __init__(self, registry: Registry, twins: Twins) -> None:
        self._registry = registry
        self._twins = twins

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        return [
            Operation(
                method,
                path,
                Right.SERVICE_CONNECT,
                handler,
                direct=True,
                throttle=throttle,
                actions=(action,),
                changes=changes,
            )
            for path in ("/twins/{device_id}", "/twins/{device_id}/modules/{module_id}")
            for method, handler, throttle, action, changes in (
                ("GET", self.get, TWIN_READS, DataAction.TWINS_READ, ""),
                ("PATCH", self.patch, TWIN_UPDATES, DataAction.TWINS_WRITE, "twin.patch"),
                ("PUT", self.replace, TWIN_UPDATES, DataAction.TWINS_WRITE, "twin.replace"),
            )
        ]

    async def get(self, call: Call) -> Response:
        """The twin."""
        twin = await self._twins.get(call.identity)
        return _answer(twin, *await self._registry.look(call.identity))

    async def patch(self, call: Call) -> Response:
        """Merge tags and desired properties in; the whole new twin."""
        tags, desired = read_twin(await call.json_object())
        twin = await self._twins.patch(call.identity, tags, desired, _revision(call), call.act)
        return _answer(twin, *await self._registry.look(call.identity))

    async def replace(self, call: Call) -> Response:
        """Put tags and desired properties in the place of those that are there; the whole new twin."""
        tags, desired = read_twin(await call.json_object())
        twin = await self._twins.replace(call.identity, tags, desired, _revision(call), call.act)
        return _answer(twin, *await self._registry.look(call.identity))


def _answer(twin: Twin, identity: Identity, activity: Activity) -> Response:
    body = twin_body(identity, twin, activity)
    return Response(body, headers={"Content-Type": JSON_TYPE, "ETag": f'"{twin_etag_of(twin.revision)}"'})


def _revision(call: Call) -> int | None:
    asked = call.request.said.if_match
    return None if asked is None else read_twin_if_match(asked)
