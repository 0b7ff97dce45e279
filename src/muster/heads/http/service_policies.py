"""Shared access policies under ``/$muster``, a hub's or the provisioning service's: Azure has them in its resource
manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from muster.access.roles import ManagementAction
from muster.core.audit import Note
from muster.dialect.policy_bodies import policy_body, read_policy, read_rotation
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.kept_policies import KeptPolicies
from muster.identity.verdict import Right

Make = Callable[[str, str, Right, Callable[[Call], Awaitable[Response]], ManagementAction], Operation]
"""Makes a row of the operation table from method, path, the right that it asks for, the handler, and what the caller of
a bearer token must be allowed."""

HUB_PATH, PROVISIONING_PATH = "/$muster/policies", "/$muster/provisioning/policies"


_SEE, _CHANGE = ManagementAction.READ, ManagementAction.WRITE
"""The caller of a bearer token sees keys only if he may also change them."""


def hub_row(
    method: str, path: str, right: Right, handler: Callable[[Call], Awaitable[Response]], action: ManagementAction
) -> Operation:
    """A row among the operations of a hub."""
    return Operation(method, path, right, handler, actions=(action,))


class PolicyOperations:
    """Policies listed, shown, written, rotated and removed. Who may do that could give himself every right, so he must
    have them all."""

    def __init__(self, policies: KeptPolicies, path: str = HUB_PATH, make: Make = hub_row) -> None:
        self._policies = policies
        self._path = path
        self._make = make

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right, make, one = self._policies.kind.rights, self._make, f"{self._path}/{{policy}}"
        return [
            make("GET", self._path, right, self.list, _SEE),
            make("GET", one, right, self.show, _CHANGE),
            replace(make("PUT", one, right, self.put, _CHANGE), changes="policy.put"),
            replace(make("POST", f"{one}/rotate", right, self.rotate, _CHANGE), changes="policy.rotate"),
            replace(make("DELETE", one, right, self.remove, _CHANGE), changes="policy.delete"),
        ]

    async def list(self, _: Call) -> Response:
        """``{"policies": [{"keyName", "rights"}]}``, without the keys."""
        return json_answer({"policies": [policy_body(one) for one in self._policies.values()]})

    async def show(self, call: Call) -> Response:
        """A policy with its keys. Raises ``HubError`` 404000."""
        return json_answer(policy_body(self._policies.find(call.parameters["policy"]), with_keys=True))

    async def put(self, call: Call) -> Response:
        """Add a policy or write over it; the answer shows its keys. Raises ``HubError`` as ``KeptPolicies.put``."""
        name, draft = call.parameters["policy"], read_policy(await call.json_object(), self._policies.kind.rights)
        made = await self._policies.put(name, draft, self._note(call, name))
        return json_answer(policy_body(made, with_keys=True))

    async def rotate(self, call: Call) -> Response:
        """Make a key anew or swap them, see ``dialect.policy_bodies.read_rotation``; the answer shows the keys."""
        name, what = call.parameters["policy"], read_rotation(await call.json_object())
        made = await self._policies.rotate(name, what, self._note(call, name))
        return json_answer(policy_body(made, with_keys=True))

    async def remove(self, call: Call) -> Response:
        """Remove a policy; 204."""
        name = call.parameters["policy"]
        await self._policies.remove(name, self._note(call, name))
        return Response(status=204)

    def _note(self, call: Call, name: str) -> Note:
        return call.note(f"policies/{name}")
