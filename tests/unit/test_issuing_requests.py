"""Certificate signing requests: what is taken, and what each refusal names."""

from __future__ import annotations

from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.issuing.requests import name_in, read_request

P256 = ec.generate_private_key(ec.SECP256R1())


def made(key=P256, name: str = "d1", *extensions: x509.ExtensionType) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


MADE = made()


@pytest.mark.parametrize("key", [P256, ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)])
def test_keys_that_are_taken(key) -> None:
    assert read_request(made(key), "d1") == ("d1", key.public_key())


@pytest.mark.parametrize(
    ("der", "named"),
    [
        (made(name="other"), "common name"),
        (made(ec.generate_private_key(ec.SECP521R1())), "key is"),
        (made(rsa.generate_private_key(65537, 1024)), "key is"),
        (made(P256, "d1", x509.BasicConstraints(ca=True, path_length=None)), "CA:true"),
        (made()[:-1] + bytes([made()[-1] ^ 1]), "csr"),
        (bytes(8193), "8193 bytes"),
        (b"", "no PKCS#10"),
    ],
)
def test_refusals_name_the_field(der: bytes, named: str) -> None:
    with pytest.raises(HubError, match=named) as refused:
        read_request(der, "d1")
    assert refused.value.row.code == 400004


@given(st.binary(max_size=9000))
def test_any_bytes_are_refused_clearly(content: bytes) -> None:
    with pytest.raises(HubError, match="csr"):
        read_request(content, "d1")


@given(st.integers(min_value=0), st.integers(min_value=0, max_value=255))
@example(MADE.index(b"\x02\x01\x00") + 2, 127)  # the version
def test_a_request_with_another_byte_is_taken_or_refused_clearly(at: int, byte: int) -> None:
    content = bytearray(MADE)
    content[at % len(content)] = byte
    with suppress(HubError):
        assert read_request(bytes(content), "d1").name == "d1"
    assert len(name_in(bytes(content))) <= len(content)
