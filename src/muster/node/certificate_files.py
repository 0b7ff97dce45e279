"""A certificate that the operator brings: read from files, and judged before any client sees it.

What would fail at the clients, one by one and with a message that says little, is told here at once with what to do.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from muster.core.ambient import iso
from muster.identity.certificates import BROKEN_DIGESTS, Certificate, CertificateError, read_certificate
from muster.identity.chains import key_fault
from muster.identity.sas import host_name

_MOST_BYTES = 1_000_000
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


class CertificateFileError(Exception):
    """What is wrong with the files, and what to do. Holds nothing of the key."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the operator keeps the hub's certificate, with its issuers behind it, and its private key; both PEM."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Supplied:
    """What the files hold. ``chain`` is what clients are sent: the hub's own first, a root left out. ``anchor`` is
    what they have to trust; ``rooted``: whether that is a root, and not merely the last one that is known."""

    chain: tuple[Certificate, ...]
    anchor: Certificate
    rooted: bool
    key: CertificateIssuerPrivateKeyTypes = field(repr=False)

    def covers(self, name: str) -> bool:
        """Whether the certificate is for the host or address ``name``, as clients compare them (RFC 6125)."""
        return covers(self.chain[0], name)


def load(files: CertificateFiles, names: Sequence[str], now: float, roots: Callable[[], bytes]) -> Supplied:
    """What is in ``files``, if it will do for a hub of ``names`` at ``now`` (seconds since 1970).

    ``roots`` gives the system's trusted certificates (PEM), among which the issuer may be. Raises
    ``CertificateFileError``.
    """
    chain = _certificates(files.certificate)
    key = _private_key(files.key)
    _check_pair(chain, key, files)
    _check_order(chain, files)
    _check_uses(chain[0])
    for one in chain:
        _check_good(one, now)
    missing = [name for name in names if not covers(chain[0], name)]
    if missing:
        hosts, addresses = _names(chain[0])
        held = ", ".join([*hosts, *addresses]) or "no name at all (its common name does not count)"
        raise CertificateFileError(
            f"the certificate in {files.certificate} is not for {', '.join(missing)}: it is for {held}; "
            "start with --hostname and a name that it is for, or have one issued for all names"
        )
    sent = chain if len(chain) == 1 or not chain[-1].signed_by(chain[-1]) else chain[:-1]
    anchor = chain[-1] if chain[-1].signed_by(chain[-1]) else _issuer(chain[-1], roots())
    return Supplied(sent, anchor or chain[-1], anchor is not None, key)


# --- reading


def _content(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise CertificateFileError(f"the {what} {path} cannot be read: {error.strerror or error}") from None
    if len(content) > _MOST_BYTES:
        raise CertificateFileError(f"the {what} {path} has more than {_MOST_BYTES} bytes; it is another file")
    return content


def _certificates(path: Path) -> tuple[Certificate, ...]:
    content = _content(path, "certificate file")
    found = [match[0] for match in _PEM.finditer(content)]
    if not found:
        raise CertificateFileError(
            f"the certificate file {path} holds no certificate in PEM; put the hub's own there, then those of its "
            "issuers (openssl x509 -inform der turns DER into PEM)"
        )
    read = []
    for number, pem in enumerate(found, 1):
        try:
            read.append(read_certificate(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)))
        except (CertificateError, ValueError) as error:
            told = str(error) if isinstance(error, CertificateError) else "it is not well-formed"
            raise CertificateFileError(f"certificate {number} in {path} cannot be read: {told}") from None
    return tuple(dict.fromkeys(read))


def _private_key(path: Path) -> CertificateIssuerPrivateKeyTypes:
    content = _content(path, "key file")
    try:
        return load_pem_private_key(content, None)  # type: ignore[return-value]
    except TypeError:
        raise CertificateFileError(
            f"the key in {path} is encrypted; decrypt it (openssl pkey -in KEY -out PLAIN) and protect the file instead"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateFileError(f"the key file {path} holds no private key in PEM that can be read") from None


# --- judging


def _check_pair(chain: Sequence[Certificate], key: CertificateIssuerPrivateKeyTypes, files: CertificateFiles) -> None:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    at = [number for number, one in enumerate(chain, 1) if _public_bytes(one) == public]
    if not at:
        raise CertificateFileError(
            f"the key in {files.key} is not that of the certificate in {files.certificate} ({chain[0].subject_text}); "
            "give the two that belong together"
        )
    if at[0] != 1:
        raise CertificateFileError(
            f"the certificates in {files.certificate} are in the wrong order: the hub's own, "
            f"{chain[at[0] - 1].subject_text}, is number {at[0]}; put it first, then its issuer, then that one's issuer"
        )


def _public_bytes(one: Certificate) -> bytes:
    try:
        return one.parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _check_order(chain: Sequence[Certificate], files: CertificateFiles) -> None:
    for one, issuer in pairwise(chain):
        if one.issuer != issuer.subject:
            raise CertificateFileError(
                f"the certificates in {files.certificate} are in the wrong order, or one is missing: "
                f"{one.subject_text} was issued by {one.issuer_text}, and {issuer.subject_text} comes next"
            )
        if issuer.authority is False:
            raise CertificateFileError(f"{issuer.subject_text} in {files.certificate} is no authority (CA:FALSE)")
        if one.digest not in BROKEN_DIGESTS and not one.signed_by(issuer):
            raise CertificateFileError(
                f"{one.subject_text} in {files.certificate} is not signed with the key of the {issuer.subject_text} "
                "that comes next; give the issuer's present certificate"
            )


def _check_uses(leaf: Certificate) -> None:
    if leaf.signs is False:
        raise CertificateFileError(f"the key of {leaf.subject_text} may not sign; have digitalSignature in its usage")
    for extension in leaf.parsed.extensions:
        value = extension.value
        if isinstance(value, x509.ExtendedKeyUsage) and not any(purpose in value for purpose in _PURPOSES):
            raise CertificateFileError(f"{leaf.subject_text} is not for servers; have serverAuth in its extended usage")


def _check_good(one: Certificate, now: float) -> None:
    weak = key_fault(one)
    if weak is not None:
        raise CertificateFileError(f"the key is too weak: {weak.seen}; use {weak.expected}")
    if one.digest in BROKEN_DIGESTS and not one.names_itself:
        raise CertificateFileError(
            f"{one.subject_text} is signed with {one.digest.upper()}; have it signed with SHA-256"
        )
    if now > one.not_after:
        raise CertificateFileError(f"{one.subject_text} has expired at {iso(one.not_after)}; renew it")
    if now < one.not_before:
        raise CertificateFileError(
            f"{one.subject_text} is not valid before {iso(one.not_before)}; compare this machine's clock"
        )


# --- names and issuers


def _names(leaf: Certificate) -> tuple[Sequence[str], Sequence[str]]:
    """The host names in ``leaf``, in lower case, and the addresses."""
    for extension in leaf.parsed.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            hosts = [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
            return hosts, [str(one) for one in extension.value.get_values_for_type(x509.IPAddress)]
    return (), ()


def covers(leaf: Certificate, name: str) -> bool:
    """Whether a client that calls the hub ``name`` takes ``leaf``."""
    (hosts, addresses), wanted = _names(leaf), host_name(name).rstrip(".")
    try:
        return str(ipaddress.ip_address(wanted)) in addresses
    except ValueError:
        _, dot, parent = wanted.partition(".")
        return wanted in hosts or bool(dot and f"*.{parent}" in hosts)


def _issuer(top: Certificate, roots: bytes) -> Certificate | None:
    """Who issued ``top``, if the system trusts him."""
    for match in _PEM.finditer(roots):
        try:
            one = x509.load_pem_x509_certificate(match[0])
            if one.subject.public_bytes() == top.issuer:
                issuer = read_certificate(one.public_bytes(Encoding.DER))
                if top.signed_by(issuer):
                    return issuer
        except (CertificateError, ValueError):
            continue
    return None
