"""A device's attempt to register, and what proving who it is gives it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from muster.core.errors import UNAUTHORIZED, HubError
from muster.core.values import value
from muster.identity.keys import Credentials


@value(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A device asks to be registered, or what became of that.

    ``transport`` is a short name that begins with ``dps-``; ``registration_id`` is as the device wrote it.
    ``token`` is what came where a SAS token belongs, ``None`` for nothing; ``certificates`` (DER, the device's own
    first) what it sent in a TLS handshake that proved that it has the key: they count only when no token came.
    ``endorsement_key`` and ``storage_root_key`` are a TPM's, as TPM2B_PUBLIC, ``csr`` a PKCS#10 request for
    a certificate in DER; each is empty when it did not come. ``renews``: the certificate that is shown was issued here.
    ``named`` is the registration id in the body, empty when there was none; ``payload`` the device's own JSON.
    """

    transport: str
    peer: str
    id_scope: str
    registration_id: str
    api_version: str
    token: str | None = field(default=None, repr=False)
    certificates: Sequence[bytes] = field(default=(), repr=False)
    tls_version: str = ""
    endorsement_key: bytes = b""
    storage_root_key: bytes = b""
    csr: bytes = b""
    renews: bool = False
    named: str = ""
    payload: Any = None


@value(frozen=True, slots=True)
class Attested:
    """A device has proven who it is.

    ``credentials`` are what its hub will know it by. ``told`` is what the device is told of its proof, by the kind of
    attestation (provisioning.md 5.2), and ``context`` what a webhook is told of it. ``authority`` is the SHA-256
    thumbprint of the registered authority that its certificate leads to, empty for none: a hub that trusts that
    one takes any certificate of it.
    """

    credentials: Credentials
    told: Mapping[str, Any]
    context: Mapping[str, Any]
    authority: str = ""


class ChallengedError(HubError):
    """The device has to prove first that its TPM is the one that is enrolled: ``key`` is what to sign with, in the form
    that only that one can take in (``attestation.activation``)."""

    def __init__(self, key: bytes, tracking_id: str) -> None:
        super().__init__(UNAUTHORIZED, "Authorization required", tracking_id=tracking_id)
        self.key = key
