"""Consumer groups of the built-in endpoint, ``events``."""

from __future__ import annotations

from typing import Any

from muster.core.ambient import iso
from muster.core.audit import Note
from muster.core.errors import HubError
from muster.core.management_errors import RESOURCE_NOT_FOUND
from muster.dialect.arm import list_body
from muster.heads.arm.answers import ArmRows, hub_id
from muster.heads.arm.managed import ManagedHub
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.mistakes import shown
from muster.messages.groups import ConsumerGroup

ENDPOINT = "events"
_ALL = "/eventHubEndpoints/{endpoint}/ConsumerGroups"


class GroupResources:
    """Listed, shown, added and removed. What is added can be read through at once."""

    def table(self, rows: ArmRows) -> list[Operation]:
        """The rows for the operation table."""
        one = f"{_ALL}/{{name}}"
        return [
            rows.of_hub("GET", _ALL, self.list),
            rows.of_hub("GET", one, self.get),
            rows.of_hub("PUT", one, self.put, "group.put"),
            rows.of_hub("DELETE", one, self.delete, "group.delete"),
        ]

    async def list(self, call: Call, hub: ManagedHub) -> Response:
        """All."""
        _check(call)
        return json_answer(list_body([_body(call, hub, one) for one in hub.groups]))

    async def get(self, call: Call, hub: ManagedHub) -> Response:
        """One. Raises ``HubError`` 404310."""
        return json_answer(_body(call, hub, hub.groups.get(_name(call))))

    async def put(self, call: Call, hub: ManagedHub) -> Response:
        """Add one. Raises ``HubError`` as ``ConsumerGroups.add``."""
        return json_answer(_body(call, hub, await hub.groups.add(_name(call), _note(call))))

    async def delete(self, call: Call, hub: ManagedHub) -> Response:
        """Remove one: 200, also when there is none. Raises ``HubError`` 409310."""
        if _name(call) in hub.groups:
            await hub.groups.remove(_name(call), _note(call))
        return Response()


def _name(call: Call) -> str:
    _check(call)
    return call.parameters["name"]


def _note(call: Call) -> Note:
    return call.note(f"consumerGroups/{call.parameters['name'].lower()}")


def _check(call: Call) -> None:
    endpoint = call.parameters["endpoint"]
    if endpoint.lower() != ENDPOINT:
        raise HubError(RESOURCE_NOT_FOUND, f"There is no endpoint {shown(endpoint)}, the built-in one is {ENDPOINT}.")


def _body(call: Call, hub: ManagedHub, one: ConsumerGroup) -> dict[str, Any]:
    place = f"{hub_id(call, hub.name)}/eventHubEndpoints/{ENDPOINT}/ConsumerGroups/{one.name}"
    created = {} if one.created is None else {"created": iso(one.created)}
    return {
        "id": place, "name": one.name, "type": "Microsoft.Devices/IotHubs/EventHubEndpoints/ConsumerGroups",
        "etag": None, "properties": created,
    }  # fmt: skip
