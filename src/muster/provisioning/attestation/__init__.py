"""Attestation: how devices prove who they are, a kind per file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.attestation.tpm import EndorsementKey
from muster.provisioning.attestation.x509 import X509Certificates
from muster.provisioning.model import Attestation, AttestationKind

_KINDS: dict[AttestationKind, Callable[[Mapping[str, Any]], Attestation]] = {
    AttestationKind.SYMMETRIC_KEY: SymmetricKeys.from_stored,
    AttestationKind.X509: X509Certificates.from_stored,
    AttestationKind.TPM: EndorsementKey.from_stored,
}


def from_stored(kind: str, content: Mapping[str, Any]) -> Attestation:
    """The attestation of ``kind`` whose ``stored`` gave ``content``."""
    return _KINDS[AttestationKind(kind)](content)
