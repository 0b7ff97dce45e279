"""Certificate authorities as resources, with proof of possession: of a hub, and of the provisioning service, which
trusts those of the first hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from muster.dialect.arm import PROVIDER, list_body
from muster.dialect.certificate_bodies import certificate_body, read_upload_body, read_verification_body
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.authorities import Authorities
from muster.identity.authority_contract import Authority

_ALL = "/certificates"
_ONE = f"{_ALL}/{{name}}"


class Trusting(Protocol):
    """A resource that has authorities."""

    @property
    def authorities(self) -> Authorities:
        """Those that it trusts."""
        ...


CertificateHandler = Callable[[Call, Trusting], Awaitable[Response]]


class CertificateRow(Protocol):
    """Makes a row of the operation table; see ``heads.arm.answers.ArmRows``."""

    def __call__(self, method: str, path: str, handler: CertificateHandler, changes: str = "") -> Operation: ...


class CertificateResources:
    """The authorities of a kind of resource, ``kind`` below the provider; ``made`` is the status of a new one."""

    def __init__(self, kind: str, made: int) -> None:
        self._type = f"{PROVIDER}/{kind}/Certificates"
        self._made = made

    def table(self, row: CertificateRow) -> list[Operation]:
        """The rows for the operation table, each by ``row``."""
        return [
            row("GET", _ALL, self.list),
            row("GET", _ONE, self.get),
            row("PUT", _ONE, self.put, "certificate.put"),
            row("DELETE", _ONE, self.delete, "certificate.delete"),
            row("POST", f"{_ONE}/generateVerificationCode", self.generate_code, "certificate.code"),
            row("POST", f"{_ONE}/verify", self.verify, "certificate.verify"),
        ]

    async def list(self, call: Call, of: Trusting) -> Response:
        """``{"value": [...]}``: all, by name."""
        path = call.path.rstrip("/")
        every = [certificate_body(one, f"/{path}/{one.name}", self._type) for one in of.authorities.all()]
        return json_answer(list_body(every))

    async def get(self, call: Call, of: Trusting) -> Response:
        """One. Raises ``HubError`` 404008."""
        return self._answer(call, of.authorities.get(call.parameters["name"]))

    async def put(self, call: Call, of: Trusting) -> Response:
        """Register or replace: 201 or 200. Raises as ``Authorities.put``."""
        content, verified = read_upload_body(await call.json_object())
        made, new = await of.authorities.put(
            call.parameters["name"], content, call.if_match(), verified=verified, by=call.act
        )
        return self._answer(call, made, status=self._made if new else 200)

    async def delete(self, call: Call, of: Trusting) -> Response:
        """Remove: 204, also when it is not there (the resource manager's rule). Raises ``HubError`` 412001."""
        name = call.parameters["name"]
        if any(one.name.lower() == name.lower() for one in of.authorities.all()):
            await of.authorities.delete(name, call.if_match(), call.act)
        return Response(status=204)

    async def generate_code(self, call: Call, of: Trusting) -> Response:
        """Make the code to be signed, and tell it. Raises as ``Authorities.generate_code``."""
        made = await of.authorities.generate_code(call.parameters["name"], call.if_match(), call.act)
        return self._answer(call, made, with_code=True, above=1)

    async def verify(self, call: Call, of: Trusting) -> Response:
        """Take the certificate that proves possession. Raises as ``Authorities.verify``."""
        proof = read_verification_body(await call.json_object())
        made = await of.authorities.verify(call.parameters["name"], proof, call.if_match(), call.act)
        return self._answer(call, made, above=1)

    def _answer(
        self, call: Call, one: Authority, *, status: int = 200, with_code: bool = False, above: int = 0
    ) -> Response:
        """``one`` as the body; ``above``: how many parts of the path come behind the resource's own."""
        parts = call.path.rstrip("/").split("/")
        resource = "/" + "/".join(parts[: len(parts) - above])
        body = certificate_body(one, resource, self._type, with_code=with_code)
        return json_answer(body, status, etag=body["etag"])
