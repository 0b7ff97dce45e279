"""What a hub's certificate authorities have that Azure's do not, under ``/$muster``: revocation. They themselves are
resources of the management API (``heads.arm.certificates``)."""

from __future__ import annotations

from collections.abc import Sequence

from muster.access.roles import ManagementAction
from muster.dialect.certificate_bodies import authority_body, list_body, read_list_body, read_rules
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.authorities import Authorities
from muster.identity.policies import BUILT_IN, OWNER
from muster.identity.trust import Trust


class AuthorityOperations:
    """The authorities of one hub. Only the owner may see and change whom the hub trusts."""

    def __init__(self, authorities: Authorities, trust: Trust) -> None:
        self._authorities = authorities
        self._trust = trust

    def table(self) -> Sequence[Operation]:
        """The rows for the operation table."""
        right = BUILT_IN[OWNER]
        read, write = (ManagementAction.READ,), (ManagementAction.WRITE,)
        return [
            Operation("GET", "/$muster/authorities", right, self.overview, actions=read),
            Operation(
                "PUT",
                "/$muster/authorities/{name}/rules",
                right,
                self.set_rules,
                actions=write,
                changes="certificate.rules",
            ),
            Operation(
                "PUT",
                "/$muster/authorities/{name}/list",
                right,
                self.put_list,
                actions=write,
                changes="certificate.list",
            ),
        ]

    async def overview(self, _: Call) -> Response:
        """``{"authorities": [...]}``: rules and lists of each."""
        every = [authority_body(one, self._trust.lists_of(one.name)) for one in self._authorities.all()]
        return json_answer({"authorities": every})

    async def set_rules(self, call: Call) -> Response:
        """Where to look for what was revoked. Raises as ``Authorities.set_rules``."""
        made = await self._authorities.set_rules(
            call.parameters["name"], read_rules(await call.json_object()), call.act
        )
        return json_answer(authority_body(made, self._trust.lists_of(made.name)))

    async def put_list(self, call: Call) -> Response:
        """Load a revocation list. Raises as ``Authorities.put_list``."""
        content = read_list_body(await call.json_object())
        return json_answer(list_body(await self._authorities.put_list(call.parameters["name"], content, call.act)))
