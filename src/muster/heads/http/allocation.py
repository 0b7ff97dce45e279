"""How devices are spread over the linked hubs, under ``/$muster``: Azure has it in its resource manager."""

from __future__ import annotations

from muster.access.roles import ManagementAction
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.settings_store import HubSettingsStore
from muster.dialect.json_body import Members
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.heads.http.provisioning_answers import ProvisioningAnswers
from muster.identity.verdict import Right
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.model import AllocationKind

_PATH = "/$muster/provisioning/allocation"


class AllocationOperations:
    """The default policy and the hubs' weights, spelled as the resource manager has them (provisioning.md 7.6)."""

    def __init__(self, hubs: LinkedHubs, store: HubSettingsStore, answers: ProvisioningAnswers) -> None:
        self._hubs = hubs
        self._store = store
        self._answers = answers

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right, operation = Right.SERVICE_CONFIG, self._answers.operation
        return [
            operation("GET", _PATH, right, self.get, ManagementAction.READ),
            operation("PATCH", _PATH, right, self.patch, ManagementAction.WRITE, changes="allocation.patch"),
        ]

    async def get(self, _: Call) -> Response:
        """``{"allocationPolicy", "iotHubs": [{"name", "allocationWeight", "applyAllocationPolicy"}]}``."""
        hubs = [
            {"name": host, "allocationWeight": weight, "applyAllocationPolicy": weight > 0}
            for host in self._hubs
            for weight in (self._hubs.weight(host),)
        ]
        return json_answer({"allocationPolicy": self._hubs.default.value, "iotHubs": hubs})

    async def patch(self, call: Call) -> Response:
        """Change what the body names, in the shape of ``get``; a weight of 0 takes a hub out. Raises ``HubError``
        400004 as ``LinkedHubs.allocate``."""
        body = await call.json_object()
        weights: dict[str, int] = {}
        for position, item in enumerate(body.items("iotHubs")):
            one = Members.of(item, f"iotHubs[{position}]", f"iotHubs[{position}].")
            weight = one.whole_number("allocationWeight")
            if weight is None:
                raise HubError(ARGUMENT_INVALID, f"iotHubs[{position}].allocationWeight is missing, give 0 to 1000.")
            weights[one.needed_text("name").lower()] = weight
        note = call.note("allocation")
        await self._hubs.allocate(body.choice("allocationPolicy", AllocationKind), weights, self._store, note)
        return await self.get(call)
