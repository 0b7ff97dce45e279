"""``/devices/{id}/modules``: module identities (service.md 2.7)."""

from __future__ import annotations

from muster.access.roles import DataAction
from muster.core.errors import MODULE_UNDER_MODULE, HubError
from muster.core.throttles import REGISTRY
from muster.dialect.etag import etag_of
from muster.dialect.identity_bodies import module_body, module_draft
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.changes import ANY
from muster.identity.model import Identity, IdentityKey
from muster.identity.registry import Registry
from muster.identity.verdict import Right


class ModuleOperations:
    """Module identities of one hub."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        read, write = Right.REGISTRY_READ, Right.REGISTRY_WRITE
        module = "/devices/{device_id}/modules/{module_id}"
        return [
            Operation(method, path, right, handler, throttle=REGISTRY, actions=(action,), changes=changes)
            for method, path, right, action, handler, changes in (
                ("GET", "/devices/{device_id}/modules", read, DataAction.DEVICES_READ, self.list, ""),
                ("GET", module, read, DataAction.DEVICES_READ, self.get, ""),
                ("PUT", module, write, DataAction.DEVICES_WRITE, self.put, "module.put"),
                ("DELETE", module, write, DataAction.DEVICES_DELETE, self.delete, "module.delete"),
                ("PUT", f"{module}/modules/{{inner_id}}", write, DataAction.DEVICES_WRITE, self.put_below, ""),
            )
        ]

    async def list(self, call: Call) -> Response:
        """All modules of a device."""
        found = await self._registry.modules(call.parameters["device_id"])
        activities = await self._registry.activities([identity.key for identity in found])
        return json_answer(list(map(module_body, found, activities)))

    async def get(self, call: Call) -> Response:
        """One module."""
        return await self._answer(await self._registry.get(_key(call)))

    async def put(self, call: Call) -> Response:
        """Create without ``If-Match`` (201), update with it (200)."""
        draft = module_draft(await call.json_object(), _key(call))
        match = call.if_match()
        if match is None:
            return await self._answer(await self._registry.create(draft, call.act), 201)
        return await self._answer(await self._registry.update(draft, match, call.act))

    async def delete(self, call: Call) -> Response:
        """Delete; without ``If-Match`` whatever state the module is in."""
        await self._registry.delete(_key(call), call.if_match() or ANY, call.act)
        return Response(status=204)

    async def put_below(self, _: Call) -> Response:
        """A module under a module: always 400301."""
        raise HubError(MODULE_UNDER_MODULE)

    async def _answer(self, identity: Identity, status: int = 200) -> Response:
        body = module_body(identity, await self._registry.activity(identity.key))
        return json_answer(body, status, etag=etag_of(identity.version))


def _key(call: Call) -> IdentityKey:
    return IdentityKey(call.parameters["device_id"], call.parameters["module_id"])
