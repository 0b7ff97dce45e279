"""Enrollment over Secure Transport (RFC 7030, as RFC 8951 clarifies it), on the authorities of the credential policies.

Who enrols proves who he is as for a registration: by the token of one, as the password of HTTP Basic, or by a
certificate in the TLS handshake. Who renews shows the certificate that was issued.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from muster.core.certificate_limits import REQUEST_BYTES
from muster.core.errors import ARGUMENT_INVALID, NOT_FOUND, UNAUTHORIZED, HubError
from muster.heads.client_certificates import tls_credential
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, MethodNotAllowed, Operation
from muster.heads.tls import describe_peer
from muster.issuing.policies import BUILT_IN, CredentialPolicies
from muster.issuing.requests import name_in
from muster.provisioning.attempt import Attempt
from muster.provisioning.registrar import Registrar

_TRANSPORT, _VERSION = "dps-est", "2021-06-01"
_BASE64_PARTS = 4 / 3
_PATH = "/.well-known/est"


class EstOperations:
    """The four calls. A label between path and call names the policy; without it is ``default``."""

    def __init__(self, scope: str, registrar: Registrar, policies: CredentialPolicies) -> None:
        self._scope = scope
        self._registrar = registrar
        self._policies = policies

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        calls = (("GET", "cacerts", self.authorities), ("POST", "simpleenroll", self.enroll),
                 ("POST", "simplereenroll", self.renew))  # fmt: skip
        return [
            Operation(method, f"{_PATH}{label}/{name}", None, handler, refuse=_refuse, anywhere=True)
            for method, name, handler in calls
            for label in ("", "/{label}")
        ]

    async def authorities(self, call: Call) -> Response:
        """The certificates of the authority that issues, and of those above it."""
        policy = self._policies(call.parameters.get("label", BUILT_IN))
        if policy is None:
            raise HubError(NOT_FOUND, "There is no such credential policy; make the default one with muster ca init.")
        return _certificates(x509.load_pem_x509_certificates(policy.authority.certificate))

    async def enroll(self, call: Call) -> Response:
        """A certificate for a device that proves who it is."""
        return await self._issue(call, renews=False)

    async def renew(self, call: Call) -> Response:
        """A certificate for a device that shows the one before."""
        return await self._issue(call, renews=True)

    async def _issue(self, call: Call, *, renews: bool) -> Response:
        request = call.request
        csr = _decoded(await request.body.read(int(REQUEST_BYTES.open * _BASE64_PARTS) + 512))
        name, token = _basic(request.headers.get("Authorization", ""))
        attempt = Attempt(
            transport=_TRANSPORT,
            peer="unknown" if request.transport is None else describe_peer(request.transport),
            id_scope=self._scope,
            registration_id=name or name_in(csr),
            api_version=_VERSION,
            token=token,
            csr=csr,
            renews=renews,
            **({} if request.transport is None else tls_credential(request.transport, without=token)),
        )
        chain = await self._registrar.enroll(attempt, call.parameters.get("label", ""))
        return _certificates([x509.load_der_x509_certificate(der) for der in chain[:1]])


def _basic(header: str) -> tuple[str, str]:
    """User name and password, both empty without."""
    scheme, _, coded = header.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        name, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except ValueError:
        raise HubError(ARGUMENT_INVALID, "The Authorization header is not HTTP Basic of a name and a token.") from None
    return name, password


def _decoded(content: bytes) -> bytes:
    """The DER of a body, which is base64, perhaps in lines."""
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise HubError(ARGUMENT_INVALID, "The body is not base64 of a PKCS#10 request in DER.") from None


def _certificates(held: Sequence[x509.Certificate]) -> Response:
    content = base64.encodebytes(pkcs7.serialize_certificates(list(held), Encoding.DER))
    told = {
        "Content-Type": "application/pkcs7-mime; smime-type=certs-only",
        "Content-Transfer-Encoding": "base64",
    }
    return Response(content, 200, told)


def _refuse(error: HubError, tracking_id: str) -> Response:
    """A refusal as text; 401 says how to prove oneself."""
    told = {"Content-Type": "text/plain; charset=utf-8"}
    if error.row.status == UNAUTHORIZED.status:
        told["WWW-Authenticate"] = 'Basic realm="registration id and its token"'
    if isinstance(error, MethodNotAllowed):
        told["Allow"] = error.allow
    return Response(f"{error.row.code} {error.message} Tracking id: {tracking_id}\n".encode(), error.row.status, told)
