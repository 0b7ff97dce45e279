"""The built-in certificate authority: itself and the server's certificate, as PEM bytes.

Pure functions of their arguments; writing files (the keys with mode 0600) is the caller's part. ECDSA P-256
throughout: every client seen takes it (clients.md 1.8, section 2).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.identity.hub import ALWAYS
from muster.identity.sas import host_name
from muster.issuing.making import (
    Credentials,
    builder,
    credentials_of,
    issuer_identifier,
    key_usage,
    load_key,
    name_of,
    new_key,
    now_of,
)

__all__ = ["Credentials", "issue_server_certificate", "make_authority", "still_serves"]

AUTHORITY_DAYS = 30 * 365
SERVER_DAYS = 820
"""Some systems refuse server certificates of more than 825 days, private authorities' included."""
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*", re.ASCII)


def make_authority(ambient: Ambient) -> Credentials:
    """A new self-signed certificate authority, good for 30 years.

    Its name ends in part of its key's fingerprint, so that the authorities of several hubs can lie in one
    trust store.
    """
    key = new_key(ambient)
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    name = name_of(f"Muster CA {identifier.digest[:4].hex()}")
    now = now_of(ambient)
    certificate = (
        builder(ambient, name, name, public, (now, now + timedelta(days=AUTHORITY_DAYS)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return credentials_of(certificate, key)


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
    key = new_key(ambient)
    public = key.public_key()
    now = now_of(ambient)
    end = min(now + timedelta(days=SERVER_DAYS), issuer.not_valid_after_utc)
    common_name = str(alternatives[0].value)
    certificate = (
        builder(
            ambient, name_of(common_name if len(common_name) <= 64 else "Muster"), issuer.subject, public, (now, end)
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(issuer_identifier(issuer), critical=False)
        .sign(load_key(authority.key), hashes.SHA256())
    )
    return credentials_of(certificate, key)


def still_serves(server: Credentials, authority: Credentials, names: Sequence[str], ambient: Ambient) -> bool:
    """Whether the server certificate can stay: by this authority, for exactly these names, not past half its life."""
    certificate = x509.load_pem_x509_certificate(server.certificate)
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    begun = certificate.not_valid_before_utc <= now_of(ambient)
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
