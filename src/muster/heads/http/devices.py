"""``/devices``: device identities, one by one and in bulk (service.md 2.5 and 2.6)."""

from __future__ import annotations

from muster.access.roles import DataAction
from muster.core.errors import BULK_FAILURE, KEYS_NOT_REGENERATED, HubError
from muster.core.limits import REGISTRY_PAGE
from muster.core.throttles import REGISTRY
from muster.dialect.bulk_bodies import (
    Problem,
    Rotated,
    bulk_result,
    read_bulk,
    read_regenerate,
    regenerate_result,
)
from muster.dialect.etag import etag_of
from muster.dialect.identity_bodies import device_body, device_draft
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.changes import ANY
from muster.identity.model import Identity, IdentityKey
from muster.identity.registry import BulkItem, Registry
from muster.identity.verdict import Right


class DeviceOperations:
    """Device identities of one hub."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        read, write = Right.REGISTRY_READ, Right.REGISTRY_WRITE
        return [
            Operation(method, path, right, handler, throttle=REGISTRY, actions=tuple(actions), changes=changes)
            for method, path, right, handler, changes, *actions in (
                ("GET", "/devices", read, self.list, "", DataAction.DEVICES_READ),
                (
                    "POST",
                    "/devices",
                    write,
                    self.bulk,
                    "devices.bulk",
                    DataAction.DEVICES_WRITE,
                    DataAction.DEVICES_DELETE,
                ),
                (
                    "POST",
                    "/devices/keys/regenerate",
                    write,
                    self.regenerate,
                    "keys.regenerate",
                    DataAction.DEVICES_WRITE,
                ),
                ("GET", "/devices/{device_id}", read, self.get, "", DataAction.DEVICES_READ),
                ("PUT", "/devices/{device_id}", write, self.put, "device.put", DataAction.DEVICES_WRITE),
                ("DELETE", "/devices/{device_id}", write, self.delete, "device.delete", DataAction.DEVICES_DELETE),
            )
        ]

    async def list(self, call: Call) -> Response:
        """Devices by id; ``top`` from 1 to 1,000, anything else means 1,000."""
        top = call.query("top") or ""
        limit = int(top) if top.isascii() and top.isdigit() and len(top) <= 4 else REGISTRY_PAGE.open
        found = await self._registry.devices(limit)
        activities = await self._registry.activities([identity.key for identity in found])
        return json_answer(list(map(device_body, found, activities)))

    async def get(self, call: Call) -> Response:
        """One device."""
        return await self._answer(await self._registry.get(IdentityKey(call.parameters["device_id"])))

    async def put(self, call: Call) -> Response:
        """Create without ``If-Match``, update with it; both answer 200."""
        draft = device_draft(await call.json_object(), call.parameters["device_id"])
        match = call.if_match()
        registry, by = self._registry, call.act
        return await self._answer(
            await (registry.create(draft, by) if match is None else registry.update(draft, match, by))
        )

    async def delete(self, call: Call) -> Response:
        """Delete; without ``If-Match`` whatever state the device is in."""
        await self._registry.delete(IdentityKey(call.parameters["device_id"]), call.if_match() or ANY, call.act)
        return Response(status=204)

    async def bulk(self, call: Call) -> Response:
        """Create, update and delete up to 100 identities, each by itself: 200, or 400 with what was not done."""
        entries = read_bulk(await call.json())
        readable = [entry for entry in entries if isinstance(entry, BulkItem)]
        outcomes = iter(await self._registry.bulk(readable, call.act))
        problems: list[Problem] = []
        for entry in entries:
            if isinstance(entry, Problem):
                problems.append(entry)
                continue
            refusal = next(outcomes)
            if refusal is not None:
                problems.append(Problem(entry.draft.key, entry.mode, refusal))
        if not problems:
            return json_answer(bulk_result(problems))
        name = BULK_FAILURE.name  # C# takes the answer as a result by the second header
        return json_answer(bulk_result(problems), 400, iothub_errorcode=name, IotHubErrorCode=name)

    async def regenerate(self, call: Call) -> Response:
        """New symmetric keys: 200, 207 when some identities could not have them, 400 when none could."""
        choice, keys = read_regenerate(await call.json_object())
        rotated: list[Rotated] = []
        problems: list[Problem] = []
        for key, outcome in zip(keys, await self._registry.regenerate(keys, choice, call.act), strict=True):
            if isinstance(outcome, HubError):
                problems.append(Problem(key, None, outcome))
            else:
                present = outcome.authentication
                rotated.append(Rotated(key, present.primary_key, present.secondary_key))
        body = regenerate_result(choice, rotated, problems)
        if rotated:
            return json_answer(body, 207 if problems else 200)
        return json_answer(body, 400, iothub_errorcode=KEYS_NOT_REGENERATED.name)

    async def _answer(self, identity: Identity) -> Response:
        body = device_body(identity, await self._registry.activity(identity.key))
        return json_answer(body, etag=etag_of(identity.version))
