"""The provisioning service's shared access policies, under ``/$muster``: Azure has them in its resource manager."""

from __future__ import annotations

from muster.dialect.policy_bodies import policy_body, read_policy
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.heads.http.provisioning_answers import ProvisioningAnswers
from muster.identity.policies import PROVISIONING_RIGHTS
from muster.provisioning.policies import ServicePolicies

_PATH = "/$muster/provisioning/policies"


class ServicePolicyOperations:
    """Policies listed, shown, written and removed. Who may do that could give himself every right, so he must have
    them all."""

    def __init__(self, policies: ServicePolicies, answers: ProvisioningAnswers) -> None:
        self._policies = policies
        self._answers = answers

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right, operation, one = PROVISIONING_RIGHTS, self._answers.operation, f"{_PATH}/{{policy}}"
        return [
            operation("GET", _PATH, right, self.list),
            operation("PUT", one, right, self.put),
            operation("DELETE", one, right, self.remove),
        ]

    async def list(self, _: Call) -> Response:
        """``{"policies": [{"keyName", "rights"}]}``, without the keys."""
        return json_answer({"policies": [policy_body(one) for one in self._policies.values()]})

    async def put(self, call: Call) -> Response:
        """Add a policy or write over it; the answer shows its keys. Raises ``HubError`` as ``ServicePolicies.put``."""
        made = await self._policies.put(call.parameters["policy"], read_policy(await call.json_object()))
        return json_answer(policy_body(made, with_keys=True))

    async def remove(self, call: Call) -> Response:
        """Remove a policy; 204."""
        await self._policies.remove(call.parameters["policy"])
        return Response(status=204)
