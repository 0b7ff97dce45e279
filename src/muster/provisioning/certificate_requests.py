"""Certificates on registration: a device sends a signing request beside its proof, and the credential policy of its
enrollment says by whom and for how long a certificate is issued (provisioning.md 8.2)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, UNAUTHORIZED, HubError
from muster.identity.certificates import Certificate, read_certificate
from muster.identity.examination import Examination
from muster.identity.keys import Credentials
from muster.identity.mistakes import shown
from muster.identity.model import AuthenticationType
from muster.issuing.policies import CredentialPolicies, Policy, issue
from muster.issuing.requests import Request, read_request
from muster.provisioning.attempt import Attested
from muster.provisioning.model import Enrollment

ISSUED = "issuedCertificateChain"
"""What a device is told of its certificate, among ``Attested.told``."""


class Grant(NamedTuple):
    """A request that is to be granted, and by which policy."""

    policy: Policy
    request: Request


def check(
    exam: Examination, policies: CredentialPolicies, enrollment: Enrollment | None, name: str, request: bytes
) -> Grant | HubError:
    """Whether the device ``name`` may have what it asks for; the refusal is what it hears."""
    if enrollment is None or exam.error is not None:
        exam.skipped("csr", "the device has not proven who it is")
        return HubError(ARGUMENT_INVALID)
    wanted = enrollment.credential_policy
    if not wanted:
        exam.failed(
            "credential-policy", "credential-policy-missing", ARGUMENT_INVALID,
            expected="credentialPolicyName in the enrollment", seen="none",
        )  # fmt: skip
        return HubError(ARGUMENT_INVALID, "csr cannot be granted, the enrollment names no credential policy.")
    policy = policies(wanted)
    if policy is None:
        exam.failed(
            "credential-policy", "credential-policy-unknown", ARGUMENT_INVALID,
            expected="a credential policy of this service", seen=shown(wanted),
        )  # fmt: skip
        return HubError(
            ARGUMENT_INVALID, f"csr cannot be granted, the service has no credential policy {shown(wanted)}."
        )
    exam.passed("credential-policy", "a credential policy of this service", "known")
    try:
        found = read_request(request, name)
    except HubError as error:
        exam.failed(
            "csr", "csr-refused", ARGUMENT_INVALID, expected="a PKCS#10 request of the device", seen=error.message
        )
        return error
    exam.passed("csr", "a PKCS#10 request of the device", "well formed, signed with its key")
    return Grant(policy, found)


def check_issuer(exam: Examination, policy: Policy | None, path: Sequence[Certificate]) -> None:
    """Whether the policy's authority, or another one below the same root, has issued the first one of ``path``."""
    above = [] if policy is None else authorities(policy)
    issuer = path[min(1, len(path) - 1)]
    if len(path) > 1 and any(issuer.sha256 == one.sha256 or issuer.signed_by(one) for one in above):
        exam.passed("issuer", "the authority of the credential policy", "the same")
    else:
        exam.failed(
            "issuer", "certificate-not-issued-here", UNAUTHORIZED,
            expected="the authority of the credential policy", seen=issuer.subject_text,
        )  # fmt: skip


def authorities(policy: Policy) -> list[Certificate]:
    """The certificates of the authority that issues and of those above it."""
    chain = x509.load_pem_x509_certificates(policy.authority.certificate)
    return [read_certificate(one.public_bytes(Encoding.DER)) for one in chain]


def thumbprints(chain: Sequence[bytes]) -> tuple[str, str]:
    """SHA-256, of what was issued and of who issued it."""
    leaf, authority = (hashlib.sha256(der).hexdigest().upper() for der in chain[:2])
    return leaf, authority


def granted(grant: Grant, attested: Attested, ambient: Ambient) -> Attested:
    """``attested`` with a certificate: the hub will know the device by that one, or by its authority if it trusts it.

    Raises ``HubError`` 400004 as ``issuing.policies.issue``.
    """
    chain = issue(grant.policy, grant.request, ambient)
    leaf, authority = thumbprints(chain)
    told = {ISSUED: [base64.b64encode(der).decode() for der in chain]}
    credentials = Credentials(AuthenticationType.SELF_SIGNED, primary_thumbprint=leaf)
    return replace(attested, credentials=credentials, told={**attested.told, **told}, authority=authority)
