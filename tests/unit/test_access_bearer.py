"""Bearer tokens: what counts, and every known attack, refused at the step that is its own."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from muster.access.bearer import (
    ALGORITHMS,
    MOST_CHARACTERS,
    BearerError,
    check_audience,
    check_beginning,
    check_expiry,
    check_signature,
    read,
)

ISSUER, HUBS, NOW = "https://issuer.test/", "https://iothubs.azure.net", 1_800_000_000.0
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": HUBS, "exp": NOW + 3600, "nbf": NOW, "roles": ["IoT Hub Data Reader"]}
RSA_KEY, OTHER, WEAK = (rsa.generate_private_key(65537, bits) for bits in (2048, 2048, 1024))
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
KEYS: dict[str, Any] = {
    **dict.fromkeys(ALGORITHMS, RSA_KEY),
    **{n: ec.generate_private_key(c) for n, c in CURVES.items()},
}


def jwk(algorithm: str, key: Any = None) -> dict[str, Any]:
    public = (key or KEYS[algorithm]).public_key()
    maker = ECAlgorithm if algorithm.startswith("ES") else RSAAlgorithm
    return dict(json.loads(maker.to_jwk(public)))


def token(algorithm: str = "RS256", key: Any = None, **claims: Any) -> str:
    said = {name: value for name, value in (CLAIMS | claims).items() if value is not None}
    return jwt.encode(said, KEYS[algorithm] if key is None else key, algorithm, {"kid": "k1"})


def judge(text: str, key: dict[str, Any] | None = None, now: float = NOW) -> None:
    said = read(text)
    check_signature(said, key or jwk("RS256"))
    check_audience(said, frozenset({HUBS}))
    check_expiry(said, now)
    check_beginning(said, now)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_that_counts(algorithm: str) -> None:
    judge(token(algorithm), jwk(algorithm))


@pytest.mark.parametrize("aud", [HUBS, HUBS + "/", ["https://other.test", HUBS]])
def test_audience_with_and_without_slash_and_among_others(aud: object) -> None:
    judge(token(aud=aud))


def test_clock_skew_at_both_ends() -> None:
    judge(token(), now=NOW - 299)
    judge(token(), now=NOW + 3600 + 299)


def hs_signed_with_the_public_key() -> str:
    import base64
    import hashlib
    import hmac

    pem = RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    parts = [base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=") for one in ({"alg": "HS256"}, CLAIMS)]
    mac = hmac.new(pem, b".".join(parts), hashlib.sha256).digest()
    return b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()


def tampered() -> str:
    head, _, mac = token().split(".")
    return ".".join((head, token(roles=["IoT Hub Data Contributor"]).split(".")[1], mac))


@pytest.mark.parametrize(
    ("text", "key", "now", "step", "cause"),
    [
        ("x" * (MOST_CHARACTERS + 1), None, NOW, "token", "bearer-too-long"),
        ("a.b.c", None, NOW, "token", "bearer-malformed"),
        ("", None, NOW, "token", "bearer-malformed"),
        ("é.é.é", None, NOW, "token", "bearer-malformed"),
        (token(exp=None), None, NOW, "token", "bearer-malformed"),
        (token(exp=1e300), None, NOW, "token", "bearer-malformed"),
        (jwt.encode(CLAIMS, None, "none"), None, NOW, "signature", "bearer-algorithm"),
        (hs_signed_with_the_public_key(), None, NOW, "signature", "bearer-algorithm"),
        (token("ES256"), None, NOW, "signature", "bearer-algorithm"),
        (token(), jwk("RS256") | {"alg": "PS256"}, NOW, "signature", "bearer-algorithm"),
        (token(), jwk("RS256") | {"use": "enc"}, NOW, "signature", "bearer-algorithm"),
        (token("ES256"), jwk("ES384"), NOW, "signature", "bearer-algorithm"),
        (token(key=WEAK), jwk("RS256", WEAK), NOW, "signature", "bearer-key-weak"),
        (token(key=OTHER), None, NOW, "signature", "bearer-signature"),
        (tampered(), None, NOW, "signature", "bearer-signature"),
        (token(), {"kty": "RSA", "n": "!", "e": "AQAB"}, NOW, "signature", "bearer-signature"),
        (token(aud="https://eventhubs.azure.net"), None, NOW, "audience", "bearer-audience"),
        (token(aud=None), None, NOW, "audience", "bearer-audience"),
        (token(), None, NOW + 3600 + 300, "expiry", "bearer-expired"),
        (token(), None, NOW - 301, "not-before", "bearer-too-early"),
    ],
)
def test_attacks(text: str, key: dict[str, Any] | None, now: float, step: str, cause: str) -> None:
    with pytest.raises(BearerError) as refused:
        judge(text, key, now)
    assert (refused.value.step, refused.value.cause) == (step, cause)
