"""Attestation by TPM where no chip is needed: which public keys are taken, and how long a challenge is good."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from muster.core.provisioning_limits import TPM_CHALLENGE_VALIDITY
from muster.identity import sas
from muster.identity.examination import Examination
from muster.provisioning.attempt import Attempt
from muster.provisioning.attestation import from_stored, tpm
from muster.provisioning.attestation.activation import TpmKeyError, read_key, wrap
from muster.provisioning.attestation.tpm import EndorsementKey

HEAD = bytes.fromhex("0001000b")
STORAGE = bytes.fromhex("00030472")
PARAMETERS = bytes.fromhex("00060080004300100800") + bytes(4)
NUMBERS = rsa.generate_private_key(65_537, 2048).public_key().public_numbers()


def public(
    head: bytes = HEAD, attributes: bytes = STORAGE, policy: bytes = b"", parameters: bytes = PARAMETERS,
    modulus: bytes = NUMBERS.n.to_bytes(256),
) -> bytes:  # fmt: skip
    area = head + attributes + len(policy).to_bytes(2) + policy + parameters + len(modulus).to_bytes(2) + modulus
    return len(area).to_bytes(2) + area


KEY = public(policy=bytes(32))
HELD = EndorsementKey(KEY, b"secret")
ATTEMPT = Attempt(
    transport="dps-https", peer="here", id_scope="scope", registration_id="Dev", api_version="2021-10-01",
    endorsement_key=KEY, storage_root_key=public(),
)  # fmt: skip


def test_a_storage_key_is_read_with_and_without_a_policy() -> None:
    assert read_key(KEY).public.public_numbers() == read_key(public()).public.public_numbers() == NUMBERS
    assert read_key(KEY).name != read_key(public()).name


@pytest.mark.parametrize(
    ("blob", "why"),
    [
        (b"", "size"),
        (KEY[:-1], "size"),
        (KEY + b"x", "size"),
        (bytes(2), "size"),
        (b"\x04\x00" + bytes(1024), "size"),
        (public(head=bytes.fromhex("0023000b")), "RSA"),
        (public(head=bytes.fromhex("00010004")), "SHA-256"),
        (public(attributes=bytes.fromhex("00040472")), "storage key"),
        (public(attributes=bytes.fromhex("00030440")), "stays there"),
        (public(parameters=bytes.fromhex("00060100004300100800") + bytes(4)), "AES-128"),
        (public(parameters=bytes.fromhex("00060080004300100c00") + bytes(4)), "2048"),
        (public(modulus=bytes(256)), "2048 bits"),
        (public(modulus=(NUMBERS.n + 1).to_bytes(256)), "even"),
        (public(parameters=PARAMETERS[:-1] + b"\x03"), "exponent"),
        (public(modulus=NUMBERS.n.to_bytes(256) + b"x"), "2048"),
        (b"\x00\x0a" + HEAD + STORAGE + b"\xff\xff", "2048"),
    ],
)
def test_what_is_no_storage_key_is_refused_with_the_reason(blob: bytes, why: str) -> None:
    with pytest.raises(TpmKeyError) as refused:
        read_key(blob)
    assert why in str(refused.value)


@given(st.integers(0, len(KEY) - 1), st.integers(0, 255), st.binary(max_size=40))
def test_whatever_comes_is_read_or_refused(place: int, value: int, more: bytes) -> None:
    blob = KEY[:place] + bytes([value]) + more + KEY[place + 1 :]
    for one in (blob, len(blob[2:]).to_bytes(2) + blob[2:]):
        with suppress(TpmKeyError):
            wrap(b"key", read_key(one), read_key(one), bytes)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are not wrapped: what only a chip can read is seen."""
    monkeypatch.setattr(tpm, "wrap", lambda secret, *_: secret)


def signed(key: bytes) -> sas.SasToken:
    return sas.parse(sas.make("scope/registrations/Dev", 4_000_000_000, key, "registration"))


def keys_of(attempt: Attempt = ATTEMPT, held: EndorsementKey = HELD) -> tuple[tpm.TpmKey, tpm.TpmKey]:
    found = tpm.check_keys(Examination(), held, attempt)
    assert found is not None
    return found


@pytest.mark.usefixtures("bare")
@pytest.mark.parametrize(("later", "good"), [(0.0, True), (1.0, True), (1.999, True), (2.0, False), (-1.0, False)])
def test_a_challenge_is_good_for_an_hour_at_least_and_two_at_most(later: float, good: bool) -> None:
    hour = TPM_CHALLENGE_VALIDITY.open
    made_at = 1000.0 * hour
    key = tpm.challenge(HELD, keys_of(), ATTEMPT, made_at, bytes)
    assert tpm.check_signature(Examination(), HELD, "dev", signed(key), made_at + later * hour) is good


@pytest.mark.usefixtures("bare")
def test_keys_differ_by_enrollment_registration_and_use() -> None:
    others = (
        (HELD, ATTEMPT),
        (replace(HELD, secret=b"other"), ATTEMPT),
        (HELD, replace(ATTEMPT, registration_id="dev2")),
        (replace(HELD, public=public(policy=b"x" * 32)), replace(ATTEMPT, endorsement_key=public(policy=b"x" * 32))),
    )
    made = [tpm.challenge(held, keys_of(attempt, held), attempt, 0.0, bytes) for held, attempt in others]
    for held, attempt in (*others, (HELD, replace(ATTEMPT, storage_root_key=KEY))):
        credentials = tpm.attested(held, keys_of(attempt, held), attempt, bytes).credentials
        assert credentials.primary_key == credentials.secondary_key
        made.append(base64.b64decode(credentials.primary_key or ""))
    assert len(set(made)) == len(made) == 9


def test_what_is_stored_comes_back_and_the_secret_is_not_shown() -> None:
    held = EndorsementKey(KEY, b"secret", public())
    assert from_stored("tpm", held.stored()) == held
    assert "secret" not in repr(held)
