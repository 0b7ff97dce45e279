"""X.509 certificates as values: read once from DER, with every fact that a verdict looks at.

The bytes come from whoever connects. Reading them costs bounded time and memory, and whatever they are, nothing
but ``CertificateError`` is raised.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypedDict

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.core.certificate_limits import CERTIFICATE_BYTES, CHAIN_CERTIFICATES
from muster.identity.mistakes import shown

UNREADABLE = (
    ValueError, TypeError, OverflowError, AttributeError, UnsupportedAlgorithm, x509.InvalidVersion,
    x509.DuplicateExtension, x509.ExtensionNotFound, x509.UnsupportedGeneralNameType,
)  # fmt: skip
"""What cryptography raises for bytes that are no good."""
# What cryptography merely warns of (serials of zero, country codes of three letters) strangers could fill a log with.
warnings.filterwarnings("ignore", category=UserWarning, module=r"muster\.identity\.(certificates|revocation)$")
_PEM = re.compile(
    rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END (?:X509 |TRUSTED )?CERTIFICATE-----"
)
_MOST_KEY_BITS = 8192
BROKEN_DIGESTS = frozenset({"md5", "sha1", "unknown"})
"""Of signatures that prove nothing any more."""
_PURPOSES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)


class CertificateError(ValueError):
    """Bytes that are no certificate that can be judged. ``str()`` says why, without what is in them."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The kind of a key (``RSA``, ``EC``, ``Ed25519``, ``Ed448``, ``other``) and its size in bits."""

    kind: str
    bits: int
    curve: str = ""

    def __str__(self) -> str:
        if self.kind == "EC":
            return f"EC {self.curve}"
        return f"RSA {self.bits}" if self.kind == "RSA" else self.kind


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Certificate:
    """One certificate. ``subject`` and ``issuer`` are DER names, thumbprints upper-case hex, times seconds since 1970.

    ``authority`` and ``path_length`` are its basic constraints, ``None`` where it has none; ``signs_certificates``
    and ``signs`` its key usage, ``authenticates`` whether its extended key usage allows TLS clients: ``None`` where
    it does not say. ``digest`` is that of its signature, empty where the algorithm has none of its own.
    """

    der: bytes = field(repr=False)
    sha1: str
    sha256: str
    subject: bytes
    issuer: bytes
    subject_text: str
    issuer_text: str
    common_names: tuple[str, ...]
    serial: int
    not_before: float
    not_after: float
    key: PublicKey
    digest: str
    authority: bool | None
    path_length: int | None
    signs_certificates: bool | None
    signs: bool | None
    authenticates: bool | None
    responder: bool
    parsed: x509.Certificate = field(repr=False)

    @property
    def names_itself(self) -> bool:
        """Whether issuer and subject are the same: self-signed, or meant to be."""
        return self.subject == self.issuer

    def names_as_issuer(self, issuer: Certificate) -> bool:
        """Whether ``issuer`` bears the issuer's name, and is worth the work of verifying a signature."""
        return (
            self.issuer == issuer.subject
            and self.digest not in BROKEN_DIGESTS
            and issuer.key.bits <= _MOST_KEY_BITS
            and issuer.key.kind != "other"
        )

    def signed_by(self, issuer: Certificate) -> bool:
        """Whether ``issuer`` is named as the issuer and its key signed, with a digest that is not broken."""
        if not self.names_as_issuer(issuer):
            return False
        try:
            self.parsed.verify_directly_issued_by(issuer.parsed)
        except (*UNREADABLE, InvalidSignature):
            return False
        return True


def read_certificate(der: bytes) -> Certificate:
    """The certificate in ``der``. Raises ``CertificateError``."""
    if len(der) > CERTIFICATE_BYTES.open:
        raise CertificateError(f"it has {len(der)} bytes, {CERTIFICATE_BYTES.open} are taken")
    try:
        parsed = x509.load_der_x509_certificate(der)
        return _certificate(der, parsed)
    except UNREADABLE as error:
        raise CertificateError(f"it is not well-formed ({type(error).__name__})") from error


def read_chain(chain: Sequence[bytes]) -> tuple[Certificate, ...]:
    """What a client sent, its own certificate first, each once. Raises ``CertificateError``."""
    if len(chain) > CHAIN_CERTIFICATES.open:
        raise CertificateError(f"there are {len(chain)} certificates, {CHAIN_CERTIFICATES.open} are taken")
    if not chain:
        raise CertificateError("there is none")
    leaf, *others = dict.fromkeys(chain)
    return (read_certificate(leaf), *map(_read_issuer, others))


_read_issuer = lru_cache(maxsize=512)(read_certificate)
"""Devices send the same intermediates; reading one costs a tenth of a millisecond."""


def read_upload(content: bytes) -> Certificate:
    """The one certificate that a user uploads: PEM, DER, or either in base64. Raises ``CertificateError``."""
    for der in _candidates(content):
        return read_certificate(der)
    raise CertificateError("it is neither PEM nor DER nor either of them in base64")


def _candidates(content: bytes, *, again: bool = True) -> Iterable[bytes]:
    found = _PEM.search(content[: 4 * CERTIFICATE_BYTES.open])
    if found is not None:
        try:
            yield base64.b64decode(found[1])
        except binascii.Error:
            return
    elif content[:1] == b"\x30":
        yield content
    elif again:
        try:
            yield from _candidates(base64.b64decode(b"".join(content.split()), validate=True), again=False)
        except binascii.Error:
            return


def thumbprint_digits(text: str) -> str:
    """The hex digits of a thumbprint however it is written: in any case, with colons, blanks or dashes between."""
    return re.sub(r"[\s:\-\u200e]", "", text).upper()


def _certificate(der: bytes, parsed: x509.Certificate) -> Certificate:
    subject, issuer = parsed.subject, parsed.issuer
    facts = _extensions(parsed.extensions)
    return Certificate(
        der=der,
        sha1=hashlib.sha1(der, usedforsecurity=False).hexdigest().upper(),
        sha256=hashlib.sha256(der).hexdigest().upper(),
        subject=subject.public_bytes(),
        issuer=issuer.public_bytes(),
        subject_text=shown(subject.rfc4514_string()),
        issuer_text=shown(issuer.rfc4514_string()),
        common_names=tuple(str(part.value) for part in subject.get_attributes_for_oid(NameOID.COMMON_NAME)),
        serial=parsed.serial_number,
        not_before=parsed.not_valid_before_utc.timestamp(),
        not_after=parsed.not_valid_after_utc.timestamp(),
        key=_key(parsed),
        digest=_digest(parsed),
        parsed=parsed,
        **facts,
    )


class _Facts(TypedDict):
    authority: bool | None
    path_length: int | None
    signs_certificates: bool | None
    signs: bool | None
    authenticates: bool | None
    responder: bool


def _extensions(extensions: x509.Extensions) -> _Facts:
    facts = _Facts(
        authority=None, path_length=None, signs_certificates=None, signs=None, authenticates=None, responder=False
    )
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints):
            facts["authority"], facts["path_length"] = value.ca, value.path_length
        elif isinstance(value, x509.KeyUsage):
            facts["signs_certificates"], facts["signs"] = value.key_cert_sign, value.digital_signature
        elif isinstance(value, x509.ExtendedKeyUsage):
            facts["authenticates"] = any(purpose in value for purpose in _PURPOSES)
            facts["responder"] = ExtendedKeyUsageOID.OCSP_SIGNING in value
    return facts


def _key(parsed: x509.Certificate) -> PublicKey:
    try:
        key = parsed.public_key()
    except UNREADABLE:
        return PublicKey("other", 0)
    if isinstance(key, rsa.RSAPublicKey):
        return PublicKey("RSA", key.key_size)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return PublicKey("EC", key.key_size, key.curve.name)
    if isinstance(key, ed25519.Ed25519PublicKey):
        return PublicKey("Ed25519", 256)
    return PublicKey("Ed448", 456) if isinstance(key, ed448.Ed448PublicKey) else PublicKey("other", 0)


def _digest(parsed: x509.Certificate) -> str:
    try:
        algorithm = parsed.signature_hash_algorithm
    except UNREADABLE:
        return "unknown"
    return "" if algorithm is None else algorithm.name
