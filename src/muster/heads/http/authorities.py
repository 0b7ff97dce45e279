"""Certificate authorities in the shape of Azure's resource manager, on the hub's own port: any subscription and group,
and a token of iothubowner in place of Azure's own. Besides, under ``/$muster``, what Azure does not have: revocation.
"""

from __future__ import annotations

from collections.abc import Sequence

from muster.access.roles import ManagementAction
from muster.core.errors import NOT_FOUND, HubError
from muster.dialect.certificate_bodies import (
    arm_error_body,
    authority_body,
    certificate_body,
    list_body,
    read_list_body,
    read_rules,
    read_upload_body,
    read_verification_body,
)
from muster.dialect.etag import read_if_match
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.authorities import Authorities
from muster.identity.authority_contract import Authority
from muster.identity.hub import Hub, hub_name
from muster.identity.policies import BUILT_IN, OWNER
from muster.identity.trust import Trust

_ALL = "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Devices/IotHubs/{hub}/certificates"
_ONE = f"{_ALL}/{{name}}"


class AuthorityOperations:
    """The authorities of one hub. Only the owner may see and change whom the hub trusts."""

    def __init__(self, authorities: Authorities, trust: Trust, hub: Hub) -> None:
        self._authorities = authorities
        self._trust = trust
        self._names = {hub.name.lower(), *(hub_name(host).lower() for host in hub.hosts)}

    def table(self) -> Sequence[Operation]:
        """The rows for the operation table."""
        right, refuse = BUILT_IN[OWNER], _refuse
        read, write = (ManagementAction.READ,), (ManagementAction.WRITE,)
        code = f"{_ONE}/generateVerificationCode"
        return [
            Operation("GET", _ALL, right, self.list, refuse=refuse, actions=read),
            Operation("GET", _ONE, right, self.get, refuse=refuse, actions=read),
            Operation("PUT", _ONE, right, self.put, refuse=refuse, actions=write, changes="certificate.put"),
            Operation("DELETE", _ONE, right, self.delete, refuse=refuse, actions=write, changes="certificate.delete"),
            Operation(
                "POST", code, right, self.generate_code, refuse=refuse, actions=write, changes="certificate.code"
            ),
            Operation(
                "POST", f"{_ONE}/verify", right, self.verify, refuse=refuse, actions=write, changes="certificate.verify"
            ),
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

    async def list(self, call: Call) -> Response:
        """``{"value": [...]}``: all, by name."""
        self._check_hub(call)
        path = call.path.rstrip("/")
        return json_answer({"value": [certificate_body(one, f"/{path}/{one.name}") for one in self._authorities.all()]})

    async def get(self, call: Call) -> Response:
        """One. Raises ``HubError`` 404008."""
        return _answer(call, self._authorities.get(self._name(call)))

    async def put(self, call: Call) -> Response:
        """Register or replace: 201 or 200. Raises as ``Authorities.put``."""
        name = self._name(call)
        content, verified = read_upload_body(await call.json_object())
        match = read_if_match(call.request.said.if_match)
        made, new = await self._authorities.put(name, content, match, verified=verified, by=call.act)
        return _answer(call, made, status=201 if new else 200)

    async def delete(self, call: Call) -> Response:
        """Remove: 204, also when it is not there (the resource manager's rule). Raises ``HubError`` 412001."""
        name = self._name(call)
        if any(one.name.lower() == name.lower() for one in self._authorities.all()):
            await self._authorities.delete(name, read_if_match(call.request.said.if_match), call.act)
        return Response(status=204)

    async def generate_code(self, call: Call) -> Response:
        """Make the code to be signed, and tell it. Raises as ``Authorities.generate_code``."""
        match = read_if_match(call.request.said.if_match)
        return _answer(
            call, await self._authorities.generate_code(self._name(call), match, call.act), with_code=True, above=1
        )

    async def verify(self, call: Call) -> Response:
        """Take the certificate that proves possession. Raises as ``Authorities.verify``."""
        name = self._name(call)
        proof = read_verification_body(await call.json_object())
        match = read_if_match(call.request.said.if_match)
        return _answer(call, await self._authorities.verify(name, proof, match, call.act), above=1)

    # --- what Azure does not have

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

    # --- within

    def _name(self, call: Call) -> str:
        self._check_hub(call)
        return call.parameters["name"]

    def _check_hub(self, call: Call) -> None:
        """The hub in the path must be this one: its host up to the first dot."""
        if call.parameters["hub"].lower() not in self._names:
            raise HubError(
                NOT_FOUND,
                f"There is no hub {call.parameters['hub'][:64]!r} here, its name is the host up to the first dot.",
            )


def _refuse(error: HubError, tracking_id: str) -> Response:
    return json_answer(arm_error_body(error, tracking_id), error.row.status)


def _answer(call: Call, one: Authority, *, status: int = 200, with_code: bool = False, above: int = 0) -> Response:
    """``one`` as the body; ``above``: how many parts of the path come behind the resource's own."""
    parts = call.path.rstrip("/").split("/")
    resource = "/" + "/".join(parts[: len(parts) - above])
    body = certificate_body(one, resource, with_code=with_code)
    return json_answer(body, status, etag=body["etag"])
