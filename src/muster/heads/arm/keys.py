"""The shared access policies of a hub and their keys (``SharedAccessSignatureAuthorizationRule``)."""

from __future__ import annotations

from collections.abc import Mapping

from muster.core.ambient import Ambient
from muster.core.audit import Note
from muster.core.errors import HubError
from muster.core.management_errors import RESOURCE_NOT_FOUND
from muster.dialect.arm import list_body
from muster.dialect.policy_bodies import policy_body
from muster.heads.arm.answers import ArmRows
from muster.heads.arm.managed import ManagedHub
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.kept_policies import KeptPolicies, PolicyDraft
from muster.identity.keys import generate_key
from muster.identity.mistakes import shown


class KeyResources:
    """Listed and shown, for whoever has every right anyway. They are changed with their hub, as in Azure."""

    def table(self, rows: ArmRows) -> list[Operation]:
        """The rows for the operation table."""
        return [
            rows.of_hub("POST", "/listkeys", self.list),
            rows.of_hub("POST", "/IotHubKeys/{policy}/listkeys", self.get),
        ]

    async def list(self, _: Call, hub: ManagedHub) -> Response:
        """All."""
        return json_answer(list_body([policy_body(one, with_keys=True) for one in hub.policies.values()]))

    async def get(self, call: Call, hub: ManagedHub) -> Response:
        """One. Raises ``HubError`` 404310."""
        name = call.parameters["policy"]
        found = hub.policies.get(name)
        if found is None:
            raise HubError(RESOURCE_NOT_FOUND, f"The hub {hub.name} has no shared access policy {shown(name)}.")
        return json_answer(policy_body(found, with_keys=True))


async def write_policies(
    policies: KeptPolicies, drafts: Mapping[str, PolicyDraft], ambient: Ambient, note: Note
) -> None:
    """Have the policies that ``read_policies`` found and no others. Raises as ``KeptPolicies.replace``."""

    def key(given: str | None) -> str | None:
        return generate_key(ambient) if given == "" else given

    wanted = {name: PolicyDraft(one.rights, *map(key, one[1:])) for name, one in drafts.items()}
    present = {name: PolicyDraft(one.rights, one.primary_key, one.secondary_key) for name, one in policies.items()}
    if wanted != present:
        await policies.replace(wanted, note)
