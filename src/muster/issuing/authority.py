"""The built-in certificate authority: itself and the server's certificate, as PEM bytes.

Pure functions of their arguments; writing files (the keys with mode 0600) is the caller's part. ECDSA P-256
throughout: every client seen takes it (clients.md 1.8, section 2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.identity.hub import ALWAYS
from muster.identity.sas import host_name

AUTHORITY_DAYS = 30 * 365
SERVER_DAYS = 820
"""Some systems refuse server certificates of more than 825 days, private authorities' included."""
_BACKDATED = timedelta(days=1)  # the clocks of devices differ
_CURVE = ec.SECP256R1()
_CURVE_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its private key, each as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def make_authority(ambient: Ambient) -> Credentials:
    """A new self-signed certificate authority, good for 30 years.

    Its name ends in part of its key's fingerprint, so that the authorities of several hubs can lie in one
    trust store.
    """
    key = _new_key(ambient)
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    name = _name(f"Muster CA {identifier.digest[:4].hex()}")
    now = _now(ambient)
    certificate = (
        _builder(ambient, name, name, public, (now, now + timedelta(days=AUTHORITY_DAYS)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _credentials(certificate, key)


def issue_server_certificate(authority: Credentials, names: Sequence[str], ambient: Ambient) -> Credentials:
    """A server certificate for ``names`` and the names that every hub has (``identity.hub.ALWAYS``), with a new key.

    Args:
        authority: who signs, from ``make_authority``.
        names: host names and IP addresses; the first becomes the common name.
        ambient: time and randomness.

    Raises:
        HubError: 400004, a name is neither a host name nor an address.
    """
    alternatives = _alternatives(names)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    key = _new_key(ambient)
    public = key.public_key()
    now = _now(ambient)
    end = min(now + timedelta(days=SERVER_DAYS), issuer.not_valid_after_utc)
    common_name = str(alternatives[0].value)
    certificate = (
        _builder(
            ambient, _name(common_name if len(common_name) <= 64 else "Muster"), issuer.subject, public, (now, end)
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_issuer_identifier(issuer), critical=False)
        .sign(_load_key(authority.key), hashes.SHA256())
    )
    return _credentials(certificate, key)


def still_serves(server: Credentials, authority: Credentials, names: Sequence[str], ambient: Ambient) -> bool:
    """Whether the server certificate can stay: by this authority, for exactly these names, not past half its life."""
    certificate = x509.load_pem_x509_certificate(server.certificate)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    begun = certificate.not_valid_before_utc <= _now(ambient)
    return set(held) == set(_alternatives(names)) and begun and ambient.now() < half_life(server)


def half_life(server: Credentials) -> float:
    """When half the life of a certificate is over, in seconds since 1970."""
    certificate = x509.load_pem_x509_certificate(server.certificate)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return (start + (end - start) / 2).timestamp()


def _alternatives(names: Sequence[str]) -> list[x509.DNSName | x509.IPAddress]:
    return [_alternative(name) for name in dict.fromkeys(host_name(name) for name in (*names, *ALWAYS))]


def _alternative(name: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(name):
        raise HubError(
            ARGUMENT_INVALID,
            f"hostname {name[:80]!r} is neither a host name nor an address, use letters, digits, '-', '_' and dots; "
            "an international name in its xn-- form.",
        )
    return x509.DNSName(name)


def _builder(
    ambient: Ambient,
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    life: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(int.from_bytes(b"\x01" + ambient.random_bytes(16)))
        .not_valid_before(life[0] - _BACKDATED)
        .not_valid_after(life[1])
    )


def _new_key(ambient: Ambient) -> ec.EllipticCurvePrivateKey:
    """A key from the ambient's randomness: 64 bits more than needed, reduced (FIPS 186-5, A.2.1)."""
    return ec.derive_private_key(int.from_bytes(ambient.random_bytes(40)) % (_CURVE_ORDER - 1) + 1, _CURVE)


def _load_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise HubError(ARGUMENT_INVALID, "the authority's key is not an EC key, use the one it was made with.")
    return key


def _issuer_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


def _key_usage(*, authority: bool) -> x509.KeyUsage:
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


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Muster"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def _now(ambient: Ambient) -> datetime:
    return datetime.fromtimestamp(int(ambient.now()), UTC)


def _credentials(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Credentials:
    return Credentials(
        certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
