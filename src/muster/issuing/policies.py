"""Credential policies: by whom and for how long a device's certificate is issued (provisioning.md 8.3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from muster.core.ambient import Ambient
from muster.core.certificate_limits import ISSUED_DAYS_UNSAID
from muster.issuing.devices import sign_for_device
from muster.issuing.making import Credentials
from muster.issuing.requests import Request

BUILT_IN = "default"
"""The policy of the built-in authority."""


class Policy(NamedTuple):
    """The authority that issues, its certificate first and its issuers behind it, and for how many days."""

    authority: Credentials
    days: int = ISSUED_DAYS_UNSAID.open


CredentialPolicies = Callable[[str], Policy | None]
"""The policy of a name, at this moment; ``None`` when there is none. Raises ``HubError`` when it cannot be read."""


def issue(policy: Policy, request: Request, ambient: Ambient) -> tuple[bytes, ...]:
    """The certificate for what ``request`` asks, and the chain behind it, leaf first, in DER.

    Raises ``HubError`` 400004 for a name that is too long, or an authority that has expired.
    """
    leaf = sign_for_device(policy.authority, request.name, request.key, policy.days, ambient)
    chain = x509.load_pem_x509_certificates(policy.authority.certificate)
    return tuple(one.public_bytes(Encoding.DER) for one in (leaf, *chain))
