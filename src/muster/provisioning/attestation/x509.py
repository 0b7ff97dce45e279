"""X.509: a device presents a certificate, its own enrolled one or one that an enrolled authority has issued
(provisioning.md 6.2).

A certificate that is pasted into a group is itself the anchor: whoever may write enrollments vouches for it. One that
is referred to by name must be a registered authority whose possession was proven.
"""

from __future__ import annotations

import base64
import hmac
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from muster.core.ambient import iso
from muster.core.certificate_limits import CHAINS_REMEMBERED
from muster.core.errors import UNAUTHORIZED
from muster.identity import certificate_checks
from muster.identity.authority_contract import Authority
from muster.identity.certificates import Certificate, CertificateError, read_certificate
from muster.identity.chains import Anchors, Fault, Found, find
from muster.identity.examination import Examination
from muster.identity.keys import Credentials
from muster.identity.mistakes import shown
from muster.identity.model import AuthenticationType
from muster.provisioning.attempt import Attested
from muster.provisioning.ids import normal
from muster.provisioning.model import AttestationKind, Enrollment


class Role(StrEnum):
    """What the certificates of an enrollment are."""

    CLIENT = "clientCertificates"
    SIGNING = "signingCertificates"
    REFERENCES = "caReferences"


@dataclass(frozen=True, slots=True)
class X509Certificates:
    """Certificates, DER, the device's own (``CLIENT``) or of those that issue them (``SIGNING``); or the names of
    registered authorities (``REFERENCES``) as UTF-8. ``secondary`` is empty where there is none."""

    role: Role
    primary: bytes = field(repr=False)
    secondary: bytes = field(default=b"", repr=False)
    kind = AttestationKind.X509

    @property
    def slots(self) -> Sequence[tuple[str, bytes]]:
        """What is there, by ``primary`` and ``secondary``."""
        return [("primary", self.primary), *([("secondary", self.secondary)] if self.secondary else [])]

    def stored(self) -> dict[str, Any]:
        """See ``model.Attestation``."""
        texts = [base64.b64encode(one).decode() for one in (self.primary, self.secondary)]
        return {"role": self.role.value, "primary": texts[0], "secondary": texts[1]}

    @classmethod
    def from_stored(cls, content: Mapping[str, Any]) -> X509Certificates:
        """What ``stored`` gave."""
        return cls(Role(content["role"]), base64.b64decode(content["primary"]), base64.b64decode(content["secondary"]))


class EnrolledAnchors:
    """The certificates that devices' chains may lead to, and by which enrollment. For ``certificate_checks``."""

    def __init__(self, enrollments: Iterable[Enrollment], registered: Sequence[Authority]) -> None:
        """``enrollments`` of X.509 and no client certificates; ``registered`` are all registered authorities."""
        self._enrollments: dict[str, Enrollment] = {}
        self._by_reference: set[str] = set()
        self.missing: list[str] = []
        """Names that are referred to and not registered."""
        verified: dict[str, Certificate] = {}
        unverified: dict[str, Certificate] = {}
        by_name = {one.name.lower(): one for one in registered}
        for enrollment in enrollments:
            held = enrollment.attestation
            assert isinstance(held, X509Certificates)
            for slot, content in held.slots:
                name, der, good = f"{enrollment.key.id} ({slot})", content, True
                if held.role is Role.REFERENCES:
                    authority = by_name.get(content.decode().lower())
                    if authority is None:
                        self.missing.append(content.decode())
                        continue
                    name, der, good = authority.name, authority.certificate, authority.verified
                try:
                    certificate = read_certificate(der)
                except CertificateError:  # of a service that took what this one does not
                    continue
                if good and certificate.sha256 not in self._enrollments:
                    self._enrollments[certificate.sha256] = enrollment
                    verified[name] = certificate
                    if held.role is Role.REFERENCES:
                        self._by_reference.add(certificate.sha256)
                elif not good:
                    unverified[name] = certificate
        self._anchors = Anchors(verified, unverified)
        self._chains: OrderedDict[bytes, Found] = OrderedDict()

    def find(self, sent: Sequence[Certificate]) -> Found | list[Fault]:
        """As ``chains.find``: the way to the enrolled certificate that is nearest to the device's own. A device that
        registers comes back to poll, so what was found is remembered."""
        key = b"".join([bytes.fromhex(one.sha256) for one in sent])
        known = self._chains.get(key)
        if known is not None:
            return known
        found = find(sent, self._anchors)
        if not isinstance(found, Found):
            return [self._named(fault) for fault in found]
        self._chains[key] = found
        if len(self._chains) > CHAINS_REMEMBERED.open:
            self._chains.popitem(last=False)
        return found

    def _named(self, fault: Fault) -> Fault:
        if fault.cause not in {"authority-unknown", "certificate-self-signed"}:
            return fault
        if self.missing:
            return fault._replace(cause="reference-unknown", seen=f"{fault.seen}; unknown: {shown(self.missing[0])}")
        return fault._replace(cause="no-group-for-certificate")

    def name_of(self, certificate: Certificate) -> str:
        """What the anchor ``certificate`` is called."""
        return self._anchors.trusted.get(certificate.sha256, "")

    def enrollment_of(self, found: Found) -> Enrollment:
        """By which enrollment the way ``found`` counts."""
        return self._enrollments[found.path[-1].sha256]

    def authority_of(self, found: Found) -> str:
        """The SHA-256 thumbprint of the registered authority at the end of the way; empty for a pasted certificate."""
        sha256 = found.path[-1].sha256
        return sha256 if sha256 in self._by_reference else ""


def check_common_name(exam: Examination, leaf: Certificate, registration_id: str) -> None:
    """The leaf's common name is the registration id; case does not count."""
    names = leaf.common_names
    if len(names) == 1 and normal(names[0]) == normal(registration_id):
        exam.passed("common-name", "the registration id", "the same")
        return
    cause = "registration-cn-differs" if names else "registration-cn-missing"
    seen = shown(", ".join(names)) if names else f"no common name in {leaf.subject_text}"
    exam.failed("common-name", cause, UNAUTHORIZED, expected=f"CN={shown(registration_id)}", seen=seen)


def check_enrolled(exam: Examination, held: X509Certificates, chain: Sequence[Certificate], now: float) -> None:
    """Whether the leaf is one of the enrolled certificates, and good at ``now``. Who issued it does not count then."""
    leaf = chain[0]
    slot = _slot_of(held, leaf)
    if slot:
        exam.passed("enrolled-certificate", "a certificate of the enrollment", f"the {slot} certificate")
    else:
        issuer = any(_slot_of(held, one) for one in chain[1:])
        exam.failed(
            "enrolled-certificate", "issuer-enrolled-as-device" if issuer else "certificate-not-enrolled", UNAUTHORIZED,
            expected="a certificate of the enrollment", seen=f"{leaf.subject_text}, SHA-256 {leaf.sha256}",
        )  # fmt: skip
    certificate_checks.check_leaf_alone(exam, leaf, now)


def _slot_of(held: X509Certificates, one: Certificate) -> str:
    return next((slot for slot, der in held.slots if hmac.compare_digest(der, one.der)), "")


def attested(chain: Sequence[Certificate], group_id: str, signing: Certificate | None, authority: str) -> Attested:
    """What presenting ``chain`` gives: ``signing`` is the enrolled issuer, ``None`` where the leaf is enrolled itself.

    The hub knows the device by the leaf's thumbprint; by its ``authority``, if the hub trusts that one.
    """
    leaf = chain[0]
    told: dict[str, Any] = {"certificateInfo": information(leaf)}
    if group_id:
        told["enrollmentGroupId"] = group_id
    if signing is not None:
        told["signingCertificateInfo"] = information(signing)
    credentials = Credentials(AuthenticationType.SELF_SIGNED, primary_thumbprint=leaf.sha256)
    return Attested(credentials, {"x509": told}, {"x509": information(leaf)}, authority)


def information(one: Certificate) -> dict[str, Any]:
    """An ``X509CertificateInfo``: all of its members, for Java takes all or none (provisioning.md 5.2)."""
    return {
        "subjectName": one.subject_text,
        "sha1Thumbprint": one.sha1,
        "sha256Thumbprint": one.sha256,
        "issuerName": one.issuer_text,
        "notBeforeUtc": iso(one.not_before),
        "notAfterUtc": iso(one.not_after),
        "serialNumber": f"{one.serial:X}",
        "version": 3,
    }
