"""What all certificates that we make have in common.

ECDSA P-256 throughout: every client seen takes it (clients.md 1.8, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, HubError

BACKDATED = timedelta(days=1)  # the clocks of devices differ
_CURVE = ec.SECP256R1()
_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its private key, each as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def builder(
    ambient: Ambient,
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    life: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    """A certificate begun: names, key, serial and life, the beginning a day earlier than said."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(int.from_bytes(b"\x01" + ambient.random_bytes(16)))
        .not_valid_before(life[0] - BACKDATED)
        .not_valid_after(life[1])
    )


def new_key(ambient: Ambient) -> ec.EllipticCurvePrivateKey:
    """A key from the ambient's randomness: 64 bits more than needed, reduced (FIPS 186-5, A.2.1)."""
    return ec.derive_private_key(int.from_bytes(ambient.random_bytes(40)) % (_CURVE_ORDER - 1) + 1, _CURVE)


def load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key in ``pem``. Raises ``HubError`` 400004 when it is no EC key."""
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise HubError(ARGUMENT_INVALID, "the authority's key is not an EC key, use the one it was made with.")
    return key


def load_signing_key(pem: bytes) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    """The private key of an authority that others made. Raises ``HubError`` 400004 for a kind that is not taken."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise HubError(
            ARGUMENT_INVALID, "the authority's key cannot be read, give it as PEM without a password."
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise HubError(ARGUMENT_INVALID, "the authority's key is neither EC nor RSA.")
    return key


def digest_for(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> hashes.SHA256 | hashes.SHA384:
    """What ``key`` signs: a longer curve takes a longer digest."""
    return hashes.SHA384() if isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size > 256 else hashes.SHA256()


def issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The authority key identifier of what ``issuer`` issues."""
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        identifier = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def key_usage(*, authority: bool) -> x509.KeyUsage:
    """What an authority's key may do, or another's."""
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def name_of(common_name: str) -> x509.Name:
    """A name of ours."""
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Muster"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def now_of(ambient: Ambient) -> datetime:
    """The ambient's moment, in whole seconds."""
    return datetime.fromtimestamp(int(ambient.now()), UTC)


def credentials_of(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Credentials:
    """Both as PEM."""
    return Credentials(
        certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


def pem_of(der: bytes) -> bytes:
    """A certificate as PEM."""
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
