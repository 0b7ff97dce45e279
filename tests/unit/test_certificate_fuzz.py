"""Whatever bytes come as certificates, lists and answers: nothing but the declared error, and never a way in."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.identity.certificates import Certificate, CertificateError, read_certificate, read_chain, read_upload
from muster.identity.chains import Anchors, Found, find
from muster.identity.revocation import read_answer, read_list, request_for
from tests.certificate_maker import CLIENT, Maker, Pair, address, kept_key, only_network

NOW = 1_800_000_000.0
EXAMPLES = 1500


@cache
def make() -> Maker:
    return Maker(NOW)


@cache
def root() -> Pair:
    return make().root(key=kept_key("p256", 50), extensions=[only_network("10.0.0.0/8")], path_length=3)


@cache
def seeds() -> list[bytes]:
    """Certificates of several kinds, with every extension that is looked at."""
    middle = make().intermediate("Middle", root(), key=kept_key("p256", 51))
    leaf = make().issue(
        "dev", middle, key=kept_key("p256", 52), usage=("digital_signature",), purposes=[CLIENT],
        extensions=[address("10.0.0.1")], authority=False,
    )  # fmt: skip
    rsa = make().issue("dev", root(), key=kept_key("rsa2048"))
    edwards = make().issue("dev", root(), kind="ed25519")
    return [one.der for one in (leaf, middle, root(), rsa, edwards)]


def mutated(chance: random.Random, seed: bytes) -> bytes:
    """``seed`` with some bytes changed, cut, doubled or put elsewhere; lengths of DER are a favourite."""
    data = bytearray(seed)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data))
        match chance.randrange(6):
            case 0:
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                data[at] = chance.choice((0, 1, 0x7F, 0x80, 0x81, 0x82, 0x84, 0xFF))
            case 2:
                del data[at : at + chance.randint(1, 20)]
            case 3:
                data[at:at] = data[at : at + chance.randint(1, 20)]
            case 4:
                data[at:at] = chance.randbytes(chance.randint(1, 8))
            case _:
                tags = [index for index, byte in enumerate(data) if byte in (2, 3, 4, 5, 6, 12, 19, 23, 48, 49)]
                if tags:
                    data[chance.choice(tags)] = chance.choice((2, 3, 4, 5, 6, 12, 19, 22, 23, 24, 30, 48, 49, 0xA3))
        if not data:
            return b""
    return bytes(data)


def read_or_refuse(read: Callable[[], Certificate]) -> Certificate | None:
    try:
        return read()
    except CertificateError:
        return None


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 4))
def test_mutated_certificates_are_read_or_refused_and_lead_nowhere(chance: random.Random, which: int) -> None:
    seed = seeds()[which]
    data = mutated(chance, seed)
    certificate = read_or_refuse(lambda: read_certificate(data))
    if certificate is None:
        return
    trusted, middle = read_certificate(seeds()[2]), read_certificate(seeds()[1])
    found = find([certificate, middle, trusted], Anchors({"root": trusted}, {}))
    if isinstance(found, Found):
        assert certificate.parsed.tbs_certificate_bytes == read_certificate(seed).parsed.tbs_certificate_bytes
    else:
        assert all(fault.seen for fault in found)
    find([read_certificate(seeds()[0]), certificate, trusted], Anchors({"root": trusted}, {"other": certificate}))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    for read in (read_certificate, read_upload):
        read_or_refuse(lambda read=read: read(data))  # type: ignore[misc]
    with pytest.raises(CertificateError):
        read_chain([data])
    with pytest.raises(CertificateError):
        read_list(data)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(st.randoms(use_true_random=False))
def test_mutated_lists_are_read_or_refused(chance: random.Random) -> None:
    data = mutated(chance, a_list())
    try:
        made = read_list(data)
    except CertificateError:
        return
    if made.by(read_certificate(root().der)):
        assert made.serials == read_list(a_list()).serials
    made.current(NOW)


@settings(max_examples=EXAMPLES // 3, deadline=None)
@given(st.randoms(use_true_random=False))
def test_mutated_answers_of_responders_are_read_or_refused(chance: random.Random) -> None:
    issuer, serial = read_certificate(root().der), 4711
    assert not read_answer(an_answer(), issuer, serial, NOW, 600).revoked
    try:
        answer = read_answer(mutated(chance, an_answer()), issuer, serial, NOW, 600)
    except CertificateError:
        return
    assert not answer.revoked


@cache
def a_list() -> bytes:
    return make().revoked(root(), make().issue("gone", root()))


@cache
def an_answer() -> bytes:
    asked = ocsp.load_der_ocsp_request(request_for(read_certificate(root().der), 4711))
    now = datetime.fromtimestamp(NOW, UTC)
    return (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            asked.issuer_name_hash, asked.issuer_key_hash, 4711, hashes.SHA1(), ocsp.OCSPCertStatus.GOOD,
            now, now + timedelta(hours=1), None, None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, root().certificate)
        .sign(root().key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )  # fmt: skip


def test_the_seeds_are_good() -> None:
    leaf, middle, trusted, *_ = (read_certificate(seed) for seed in seeds())
    assert isinstance(find([leaf, middle], Anchors({"root": trusted}, {})), Found)
    assert x509.load_der_x509_crl(a_list()).is_signature_valid(root().key.public_key())
