"""The provisioning service as a resource, with its linked hubs and its policies. There is one, always."""

from __future__ import annotations

from typing import Any

from muster.core.ambient import Ambient
from muster.core.errors import HubError
from muster.core.management_errors import NOT_SUPPORTED, RESOURCE_NOT_FOUND
from muster.dialect.arm import SERVICES, list_body, resource_id
from muster.dialect.arm_hubs import read_tags
from muster.dialect.arm_provisioning import read_service, service_body
from muster.dialect.policy_bodies import policy_body
from muster.heads.arm.answers import GROUP, SERVICE, SUBSCRIPTION, ArmRows
from muster.heads.arm.keys import write_policies
from muster.heads.arm.managed import ManagedService
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.mistakes import shown

ONE_SERVICE = "A deployment has one provisioning service, which is always there; for another run another deployment."


class ServiceResources:
    """The provisioning service of a deployment."""

    def __init__(self, service: ManagedService, ambient: Ambient) -> None:
        self._service = service
        self._ambient = ambient

    def table(self, rows: ArmRows) -> list[Operation]:
        """The rows for the operation table."""
        return [
            rows.of_services("GET", f"{SUBSCRIPTION}/provisioningServices", self.list),
            rows.of_services("GET", f"{GROUP}/provisioningServices", self.list),
            rows.of_services("POST", f"{SUBSCRIPTION}/checkProvisioningServiceNameAvailability", self.check_name),
            rows.of_service("GET", "", self.get),
            rows.of_services("PUT", SERVICE, self.put, "service.put"),
            rows.of_service("PATCH", "", self.patch, "service.tags"),
            rows.of_service("GET", "/skus", self.skus),
            rows.of_service("POST", "/listkeys", self.keys),
            rows.of_service("POST", "/keys/{policy}/listkeys", self.key),
        ]

    async def list(self, call: Call) -> Response:
        """The service, in its resource group."""
        own, group = self._service.resource.resource.group, call.parameters.get("group")
        there = group is None or group.lower() == own.lower()
        return json_answer(list_body([self._body(call, own)] if there else []))

    async def get(self, call: Call, service: ManagedService) -> Response:
        """The service."""
        del service
        return json_answer(self._body(call, call.parameters["group"]))

    async def put(self, call: Call) -> Response:
        """Change its allocation, its policies, its tags. Raises ``HubError``: 501310 for another service than the one
        that there is, 400310 for a property that cannot be set, 400004 for a value."""
        if not self._service.called(call.parameters["service"]):
            raise HubError(NOT_SUPPORTED, f"Making a provisioning service is not supported. {ONE_SERVICE}")
        service, body = self._service, await call.json_object()
        changes = read_service(body, self._body(call, call.parameters["group"]), service.network.rules)
        if changes.policy is not None or changes.weights:
            await service.hubs.allocate(changes.policy, changes.weights, service.store, call.note("allocation"))
        if changes.policies is not None:
            await write_policies(service.policies, changes.policies, self._ambient, call.note("policies"))
        if changes.network is not None:
            await service.network.change(changes.network, None, call.note("network"))
        return await self._tagged(call, read_tags(body))

    async def patch(self, call: Call, service: ManagedService) -> Response:
        """Set the tags. Raises ``HubError`` 400004."""
        del service
        return await self._tagged(call, read_tags(await call.json_object()))

    async def skus(self, _: Call, service: ManagedService) -> Response:
        """The tiers: one."""
        del service
        return json_answer(list_body([{"name": "S1"}]))

    async def keys(self, _: Call, service: ManagedService) -> Response:
        """All policies with their keys."""
        return json_answer(list_body([policy_body(one, with_keys=True) for one in service.policies.values()]))

    async def key(self, call: Call, service: ManagedService) -> Response:
        """One. Raises ``HubError`` 404310."""
        found = service.policies.get(call.parameters["policy"])
        if found is None:
            name = shown(call.parameters["policy"])
            raise HubError(RESOURCE_NOT_FOUND, f"The provisioning service has no shared access policy {name}.")
        return json_answer(policy_body(found, with_keys=True))

    async def check_name(self, call: Call) -> Response:
        """No further service can be made under any name."""
        taken = self._service.called((await call.json_object()).needed_text("name"))
        reason = "AlreadyExists" if taken else "Invalid"
        return json_answer({"nameAvailable": False, "reason": reason, "message": ONE_SERVICE})

    async def _tagged(self, call: Call, tags: dict[str, str] | None) -> Response:
        record = self._service.resource
        if tags is not None and tags != record.resource.tags:
            await record.change(call.note("service"), tags=tags)
        return json_answer(self._body(call, call.parameters["group"]))

    def _body(self, call: Call, group: str) -> dict[str, Any]:
        described = self._service.describe()
        return service_body(described, resource_id(call.parameters["subscription"], group, SERVICES, described.name))
