"""A two-tier authority for devices, for people who have none: a root, an issuing authority below it, certificates.

Pure functions; writing files is the caller's part. The root's key is needed only to make another issuing authority,
and is best kept elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.identity.model import IdentityKey
from muster.issuing.making import (
    BACKDATED,
    Credentials,
    builder,
    credentials_of,
    digest_for,
    issuer_identifier,
    key_usage,
    load_key,
    load_signing_key,
    name_of,
    new_key,
    now_of,
)

ROOT_DAYS, ISSUING_DAYS = 20 * 365, 10 * 365
LIST_DAYS = 365
DeviceKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey
"""What a device may ask a certificate for."""
_LONGEST_NAME = 64
"""A common name holds no more characters (RFC 5280, ub-common-name)."""


class DeviceAuthorities(NamedTuple):
    """Both tiers."""

    root: Credentials
    issuing: Credentials


def make_device_authorities(ambient: Ambient) -> DeviceAuthorities:
    """New authorities: the root good for 20 years, the issuing one, which may have none below it, for 10."""
    root_key = new_key(ambient)
    identifier = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    mark, now = identifier.digest[:4].hex(), now_of(ambient)
    root_name = name_of(f"Muster Device Root {mark}")
    root = (
        builder(ambient, root_name, root_name, root_key.public_key(), (now, now + timedelta(days=ROOT_DAYS)))
        .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    made = credentials_of(root, root_key)
    return DeviceAuthorities(made, make_issuing_authority(made, ambient))


def make_issuing_authority(root: Credentials, ambient: Ambient) -> Credentials:
    """An authority below ``root``, good for 10 years at most, with a name of its own: lists of what was revoked are
    known by their issuer's name.

    Raises ``HubError`` 400004 for a key that is not the root's, or a root that has expired.
    """
    issuer, root_key = x509.load_pem_x509_certificate(root.certificate), load_key(root.key)
    if root_key.public_key() != issuer.public_key():
        raise HubError(ARGUMENT_INVALID, "The key is not the root's, give the one that muster ca init made with it.")
    key, now = new_key(ambient), now_of(ambient)
    end = min(now + timedelta(days=ISSUING_DAYS), issuer.not_valid_after_utc)
    if end <= now:
        raise HubError(ARGUMENT_INVALID, "The root has expired, make new authorities in another data directory.")
    public = key.public_key()
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    name = name_of(f"Muster Device Issuing {identifier.digest[:4].hex()}")
    issuing = (
        builder(ambient, name, issuer.subject, public, (now, end))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(issuer_identifier(issuer), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return credentials_of(issuing, key)


def issue_device_certificate(issuing: Credentials, key: IdentityKey, days: int, ambient: Ambient) -> Credentials:
    """A certificate for the identity ``key`` with a new private key, good for ``days`` at most; its PEM holds the
    issuing authority's too, as devices are to send both.

    Raises ``HubError`` 400004 for an id that is too long for a common name, or an authority that has expired.
    """
    own = new_key(ambient)
    made = credentials_of(sign_for_device(issuing, str(key), own.public_key(), days, ambient), own)
    return Credentials(made.certificate + issuing.certificate, made.key)


def sign_for_device(
    issuing: Credentials, name: str, public: DeviceKey, days: int, ambient: Ambient
) -> x509.Certificate:
    """A certificate with the common name ``name`` for the public key of a device, good for ``days`` at most. The first
    certificate in ``issuing`` is the authority's own. Raises ``HubError`` as ``issue_device_certificate``.
    """
    if len(name) > _LONGEST_NAME:
        raise HubError(
            ARGUMENT_INVALID,
            f"{name[:80]} has {len(name)} characters and a certificate's name holds {_LONGEST_NAME}, use a shorter id "
            "or --auth x509-thumbprint.",
        )
    issuer, key = x509.load_pem_x509_certificate(issuing.certificate), load_signing_key(issuing.key)
    now = now_of(ambient)
    end = min(now + timedelta(days=days), issuer.not_valid_after_utc)
    if end <= now:
        raise HubError(ARGUMENT_INVALID, "The issuing authority has expired, make a new one: muster ca rotate.")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        builder(ambient, subject, issuer.subject, public, (now, end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(issuer_identifier(issuer), critical=False)
        .sign(key, digest_for(key))
    )


def prove_possession(authority: Credentials, code: str, ambient: Ambient) -> bytes:
    """The certificate (PEM) that proves to a hub that one has the key of ``authority``: issued for its ``code``."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    now = now_of(ambient)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, code)])
    public = new_key(ambient).public_key()
    proof = builder(ambient, subject, issuer.subject, public, (now, now + timedelta(days=1)))
    return proof.sign(load_key(authority.key), hashes.SHA256()).public_bytes(Encoding.PEM)


def revoke(issuing: Credentials, serials: Iterable[int], number: int, ambient: Ambient) -> bytes:
    """The list (PEM) of all certificates that ``issuing`` has revoked; ``number`` grows from list to list."""
    issuer = x509.load_pem_x509_certificate(issuing.certificate)
    now = now_of(ambient)
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - BACKDATED)
        .next_update(now + timedelta(days=LIST_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(issuer_identifier(issuer), critical=False)
    )
    for serial in sorted(set(serials)):
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
        made = made.add_revoked_certificate(entry.build())
    return made.sign(load_key(issuing.key), hashes.SHA256()).public_bytes(Encoding.PEM)
