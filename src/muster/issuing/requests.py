"""Certificate signing requests of devices (PKCS#10, DER): read and checked, each refusal naming the field.

Pure functions of their arguments. Rules: provisioning.md 8.2 (the common name equals the registration id; P-256, P-384
and RSA are taken).
"""

from __future__ import annotations

from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from muster.core.certificate_limits import REQUEST_BYTES
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.identity.certificates import UNREADABLE

_CURVES = ("secp256r1", "secp384r1")
_RSA_BITS = (2048, 4096)


class Request(NamedTuple):
    """A request that may be granted: whose, and the public key that is to be certified."""

    name: str
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey


def read_request(der: bytes, name: str) -> Request:
    """The request of the device ``name``. Raises ``HubError`` 400004 for anything that is not one, or breaks a rule."""
    if len(der) > REQUEST_BYTES.open:
        raise _refused(f"has {len(der)} bytes, send {REQUEST_BYTES.open} at most")
    try:
        request = x509.load_der_x509_csr(der)
        signed = request.is_signature_valid
        key, extensions = request.public_key(), list(request.extensions)
        names = [str(one.value) for one in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except UNREADABLE:
        raise _refused("is no PKCS#10 request that can be read, make it with openssl req -new -outform DER") from None
    device_key = _checked(key)
    if not signed:
        raise _refused("is not signed with the key in it, sign it with the device's own key")
    if names != [name]:
        raise _refused(f"subject must have one common name, and that the registration id {name}")
    for extension in extensions:
        if isinstance(extension.value, x509.BasicConstraints) and extension.value.ca:
            raise _refused("asks for an authority (basicConstraints CA:true), ask for a device's certificate")
        if isinstance(extension.value, x509.KeyUsage) and (extension.value.key_cert_sign or extension.value.crl_sign):
            raise _refused("asks for an authority's keyUsage, ask for digitalSignature")
    return Request(name, device_key)


def name_in(der: bytes) -> str:
    """The common name that a request asks for, empty where there is none or it cannot be read. Nothing is checked."""
    if len(der) > REQUEST_BYTES.open:
        return ""
    try:
        names = x509.load_der_x509_csr(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except UNREADABLE:
        return ""
    return str(names[0].value) if names else ""


def _checked(key: object) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and _RSA_BITS[0] <= key.key_size <= _RSA_BITS[1]:
        return key
    raise _refused("key is of a kind or size that is not taken, use P-256, P-384 or RSA of 2048 to 4096 bits")


def _refused(why: str) -> HubError:
    return HubError(ARGUMENT_INVALID, f"csr {why}.")
