"""Which certificates are revoked: lists (CRL, RFC 5280) and answers of responders (OCSP, RFC 6960), read and judged.

Knows no network: bytes in, facts out. Both come from elsewhere, so nothing counts before its signature was verified
with the key of the certificate's issuer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from muster.core.certificate_limits import CERTIFICATE_CLOCK_SKEW, REVOCATION_LIST_BYTES
from muster.identity.certificates import UNREADABLE, Certificate, CertificateError, read_certificate

_PEM = re.compile(rb"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----")
_UNREADABLE = (*UNREADABLE, InvalidSignature)
_SKEW = CERTIFICATE_CLOCK_SKEW.open


@dataclass(frozen=True, slots=True, eq=False)
class RevocationList:
    """A list as it was read; ``next_update`` is ``None`` where it does not say when the next one comes."""

    issuer: bytes
    issuer_text: str
    this_update: float
    next_update: float | None
    serials: frozenset[int] = field(repr=False)
    der: bytes = field(repr=False)
    parsed: x509.CertificateRevocationList = field(repr=False)
    _signers: dict[str, bool] = field(default_factory=dict, repr=False)

    def by(self, issuer: Certificate) -> bool:
        """Whether ``issuer`` has signed it, and may."""
        known = self._signers.get(issuer.sha256)
        if known is None:
            known = self._signers[issuer.sha256] = issuer.subject == self.issuer and self._signed(issuer)
        return known

    def _signed(self, issuer: Certificate) -> bool:
        try:
            usage = issuer.parsed.extensions.get_extension_for_class(x509.KeyUsage).value
            if not usage.crl_sign:
                return False
        except x509.ExtensionNotFound:
            pass
        try:
            return self.parsed.is_signature_valid(issuer.parsed.public_key())  # type: ignore[arg-type]
        except _UNREADABLE:
            return False

    def current(self, now: float) -> bool:
        """Whether it is not overdue at ``now``."""
        return self.next_update is None or now <= self.next_update + _SKEW


def read_list(content: bytes) -> RevocationList:
    """The list in ``content``, PEM or DER. May take a while for a long one. Raises ``CertificateError``."""
    if len(content) > REVOCATION_LIST_BYTES.open:
        raise CertificateError(f"it has {len(content)} bytes, {REVOCATION_LIST_BYTES.open} are taken")
    found = _PEM.search(content)
    try:
        der = base64.b64decode(found[1]) if found is not None else content
        parsed = x509.load_der_x509_crl(der)
        _require_whole(parsed)
        following = parsed.next_update_utc
        return RevocationList(
            issuer=parsed.issuer.public_bytes(),
            issuer_text=parsed.issuer.rfc4514_string(),
            this_update=parsed.last_update_utc.timestamp(),
            next_update=None if following is None else following.timestamp(),
            serials=frozenset(entry.serial_number for entry in parsed),
            der=der,
            parsed=parsed,
        )
    except (*UNREADABLE, binascii.Error) as error:
        told = str(error) if isinstance(error, CertificateError) else f"not well-formed ({type(error).__name__})"
        raise CertificateError(told) from error


def _require_whole(parsed: x509.CertificateRevocationList) -> None:
    """Only a list of all that its issuer has revoked is of use; parts and changes of one are not."""
    for extension in parsed.extensions:
        value = extension.value
        if isinstance(value, x509.DeltaCRLIndicator):
            raise CertificateError("a delta list; give the whole one")
        if isinstance(value, x509.IssuingDistributionPoint):
            if value.indirect_crl or value.only_some_reasons or value.only_contains_attribute_certs:
                raise CertificateError("a list of some certificates or reasons only; give the whole one")
        elif extension.critical and not isinstance(value, x509.AuthorityKeyIdentifier | x509.CRLNumber):
            raise CertificateError(
                f"a list with a critical extension that is not known ({extension.oid.dotted_string})"
            )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a responder said of one certificate: revoked or good, and until when that counts."""

    revoked: bool
    until: float


def request_for(issuer: Certificate, serial: int) -> bytes:
    """The request (DER) that asks for the certificate ``serial`` of ``issuer``."""
    name_hash, key_hash = _hashes(issuer)
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name_hash, key_hash, serial, hashes.SHA1())  # noqa: S303 - what responders take
    return builder.build().public_bytes(Encoding.DER)


def read_answer(content: bytes, issuer: Certificate, serial: int, now: float, longest: float) -> Answer:
    """What ``content`` says of that certificate; counts for ``longest`` seconds at most.

    Raises ``CertificateError`` when it says nothing, is of another certificate, is out of date, or is not signed by
    the issuer or by somebody whom the issuer has made its responder.
    """
    try:
        response = ocsp.load_der_ocsp_response(content)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise CertificateError(f"the responder answered {response.response_status.name.lower()}")
        name_hash, key_hash = _hashes(issuer, response.hash_algorithm)
        if (response.serial_number, response.issuer_name_hash, response.issuer_key_hash) != (
            serial, name_hash, key_hash,
        ):  # fmt: skip
            raise CertificateError("the responder answered for another certificate")
        if not any(_signed_by(response, key) for key in _signers(response, issuer, now)):
            raise CertificateError("the answer is not signed by the authority or its responder")
        following = response.next_update_utc
        if response.this_update_utc.timestamp() > now + _SKEW:
            raise CertificateError("the answer is from the future; compare the clocks")
        until = now + longest if following is None else min(following.timestamp(), now + longest)
        if until + _SKEW < now:
            raise CertificateError("the answer is out of date")
        if response.certificate_status is ocsp.OCSPCertStatus.UNKNOWN:
            raise CertificateError("the responder does not know the certificate")
        return Answer(response.certificate_status is ocsp.OCSPCertStatus.REVOKED, max(until, now))
    except UNREADABLE as error:
        told = str(error) if isinstance(error, CertificateError) else f"not well-formed ({type(error).__name__})"
        raise CertificateError(told) from error


_SHA1 = hashes.SHA1()  # noqa: S303 - names a certificate, protects nothing


def _hashes(issuer: Certificate, algorithm: hashes.HashAlgorithm = _SHA1) -> tuple[bytes, bytes]:
    """How OCSP names an issuer: digests of its name and of its key's bits."""
    bits = _key_bits(issuer)
    return hashlib.new(algorithm.name, issuer.subject).digest(), hashlib.new(algorithm.name, bits).digest()


def _key_bits(issuer: Certificate) -> bytes:
    """The content of the bit string of SubjectPublicKeyInfo, without the DER around it."""
    key = issuer.parsed.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return key.public_bytes(Encoding.Raw, PublicFormat.Raw)
    raise CertificateError("the issuer's key is of a kind that is not taken")


def _signers(response: ocsp.OCSPResponse, issuer: Certificate, now: float) -> Sequence[Certificate]:
    """The issuer, and the responders with a certificate in the answer that the issuer has made for that."""
    delegates = []
    for one in response.certificates[:4]:
        delegate = read_certificate(one.public_bytes(Encoding.DER))
        if delegate.responder and delegate.not_before - _SKEW <= now <= delegate.not_after + _SKEW:
            delegates.append(delegate)
    return [issuer, *(one for one in delegates if one.signed_by(issuer))]


def _signed_by(response: ocsp.OCSPResponse, signer: Certificate) -> bool:
    key, digest = signer.parsed.public_key(), response.signature_hash_algorithm
    signature, signed = response.signature, response.tbs_response_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and digest is not None:
            key.verify(signature, signed, padding.PKCS1v15(), digest)
        elif isinstance(key, ec.EllipticCurvePublicKey) and digest is not None:
            key.verify(signature, signed, ec.ECDSA(digest))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, signed)
        else:
            return False
    except _UNREADABLE:
        return False
    return digest is None or digest.name not in {"md5", "sha1"}
