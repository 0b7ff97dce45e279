"""Credential policies as a node has them: ``default`` is the authority of ``muster ca init`` in the data directory, the
others are files that the operator names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cryptography import x509

from muster.core.certificate_limits import ISSUED_DAYS_UNSAID
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.identity.certificates import CertificateError, read_upload
from muster.issuing.making import Credentials, load_signing_key
from muster.issuing.policies import BUILT_IN, Policy
from muster.node.device_authority import ROOT, DeviceAuthorityFiles

log = logging.getLogger("muster.provisioning")


class PolicyFiles(NamedTuple):
    """Where a policy's issuing certificate is, with its issuers behind it, and its private key; both PEM."""

    name: str
    certificate: Path
    key: Path
    days: int = ISSUED_DAYS_UNSAID.open


class PolicyBook:
    """See ``issuing.policies``. Files that were named are read once, those of ``muster ca`` each time: they may be made
    and rotated while the hub runs."""

    def __init__(self, data: Path, named: Sequence[PolicyFiles]) -> None:
        """Raises ``HubError`` 400004 for files that will not do."""
        self._files = DeviceAuthorityFiles(data)
        self._named = {one.name: _read(one) for one in named}

    def __call__(self, name: str) -> Policy | None:
        known = self._named.get(name)
        if known is not None or name != BUILT_IN:
            return known
        try:
            issuing = self._files.issuing()
            root = (self._files.path / f"{ROOT}.pem").read_bytes()
        except (HubError, OSError) as error:
            log.warning("the credential policy %s cannot be used: %s", name, error)
            return None
        return Policy(Credentials(issuing.certificate + root, issuing.key))


def _read(files: PolicyFiles) -> Policy:
    try:
        chain, key = files.certificate.read_bytes(), files.key.read_bytes()
        issuing = read_upload(chain)
        parsed = x509.load_pem_x509_certificates(chain)
    except (OSError, CertificateError, ValueError) as error:
        raise _wrong(files, f"cannot be read: {error}") from None
    if not issuing.authority:
        raise _wrong(files, f"{files.certificate} begins with no authority's certificate (basicConstraints CA:TRUE)")
    if load_signing_key(key).public_key() != parsed[0].public_key():
        raise _wrong(files, f"{files.key} is not the key of the first certificate in {files.certificate}")
    return Policy(Credentials(chain, key), files.days)


def _wrong(files: PolicyFiles, what: str) -> HubError:
    return HubError(ARGUMENT_INVALID, f"the credential policy {files.name}: {what}.")
