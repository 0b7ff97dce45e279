"""Certificates of every kind, good and bad, made when a test needs them: recipes, no files."""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CLIENT, SERVER, ANY = (
    ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
)  # fmt: skip
_RSA_WITH_SHA256, _RSA_WITH_SHA1 = bytes.fromhex("06092a864886f70d01010b"), bytes.fromhex("06092a864886f70d010105")
_serials = itertools.count(1000)
_MAKERS: dict[str, Any] = {
    "p224": lambda: ec.generate_private_key(ec.SECP224R1()),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
}


@dataclass(frozen=True)
class Pair:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return bytes(self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

    @property
    def sha1(self) -> str:
        return hashlib.sha1(self.der).hexdigest().upper()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest().upper()


@cache
def kept_key(kind: str, number: int = 0) -> Any:
    """A key that tests share: making RSA keys takes long."""
    return _MAKERS[kind]()


class Maker:
    """Makes certificates that are good around the moment ``now`` (seconds since 1970)."""

    def __init__(self, now: float) -> None:
        self.now = datetime.fromtimestamp(now, UTC)

    def root(self, name: str = "Root", **options: Any) -> Pair:
        return self.issue(name, None, **{"authority": True, **options})

    def intermediate(self, name: str, issuer: Pair, **options: Any) -> Pair:
        return self.issue(name, issuer, **{"authority": True, **options})

    def issue(
        self,
        name: str | Sequence[str] | None,
        issuer: Pair | None,
        *,
        kind: str = "p256",
        key: Any = None,
        authority: bool | None = None,
        path_length: int | None = None,
        usage: Sequence[str] | None = None,
        purposes: Sequence[x509.ObjectIdentifier] = (),
        days: tuple[float, float] = (-10, 300),
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        plain: bool = False,
    ) -> Pair:
        """A certificate for ``name`` by ``issuer``, or by itself; ``plain``: without any extension of its own."""
        key = key or _MAKERS[kind]()
        subject = _name(name)
        signer = issuer.key if issuer is not None else key
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if issuer is None else issuer.certificate.subject)
            .public_key(key.public_key())
            .serial_number(next(_serials))
            .not_valid_before(self.now + timedelta(days=days[0]))
            .not_valid_after(self.now + timedelta(days=days[1]))
        )
        if authority is not None and not plain:
            builder = builder.add_extension(x509.BasicConstraints(authority, path_length if authority else None), True)
        if usage is None and authority:
            usage = ("key_cert_sign", "crl_sign")
        if usage is not None and not plain:
            builder = builder.add_extension(_usage(usage), True)
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), False)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return Pair(builder.sign(signer, _digest(signer)), key)

    def revoked(self, issuer: Pair, *gone: Pair, days: tuple[float, float] = (-1, 30)) -> bytes:
        """The revocation list of ``issuer``, DER."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(issuer.certificate.subject)
            .last_update(self.now + timedelta(days=days[0]))
            .next_update(self.now + timedelta(days=days[1]))
        )
        for one in gone:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(one.certificate.serial_number)
                .revocation_date(self.now + timedelta(days=days[0]))
                .build()
            )
        return builder.sign(issuer.key, _digest(issuer.key)).public_bytes(Encoding.DER)


def with_sha1(pair: Pair, issuer_key: rsa.RSAPrivateKey) -> Pair:
    """``pair`` signed with SHA-1, which cryptography does not do by itself; the issuer's key must be RSA."""
    body = pair.certificate.tbs_certificate_bytes.replace(_RSA_WITH_SHA256, _RSA_WITH_SHA1)
    signature = issuer_key.sign(body, padding.PKCS1v15(), hashes.SHA1())
    der = pair.der.replace(pair.certificate.tbs_certificate_bytes, body)
    der = der.replace(_RSA_WITH_SHA256, _RSA_WITH_SHA1).replace(pair.certificate.signature, signature)
    return Pair(x509.load_der_x509_certificate(der), pair.key)


def altered(pair: Pair) -> Pair:
    """``pair`` with another signature than its issuer made."""
    der = bytearray(pair.der)
    der[-1] ^= 1
    return Pair(x509.load_der_x509_certificate(bytes(der)), pair.key)


def only_network(address: str) -> tuple[x509.ExtensionType, bool]:
    """Name constraints that allow only names within a network."""
    return x509.NameConstraints([x509.IPAddress(ipaddress.ip_network(address))], None), True


def address(text: str) -> tuple[x509.ExtensionType, bool]:
    return x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(text))]), False


UNKNOWN_CRITICAL = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.7"), b"\x05\x00"), True)


def _name(name: str | Sequence[str] | None) -> x509.Name:
    if name is None:
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme")])
    names = [name] if isinstance(name, str) else name
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, one) for one in names])


def _usage(allowed: Sequence[str]) -> x509.KeyUsage:
    fields = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: name in allowed for name in fields})


def _digest(key: Any) -> hashes.HashAlgorithm | None:
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
