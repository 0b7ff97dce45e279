"""Devices with a TPM that may not register, or not yet: what each hears over HTTPS and AMQP, and what it is called."""

from __future__ import annotations

import base64
import itertools
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from muster.testing.hub import HubProcess
from muster.wire.amqp.composite import encode_composite
from muster.wire.amqp.frames import SASL, SASL_HEADER, FrameBuffer, encode_frame
from muster.wire.amqp.sasl import SaslChallenge, SaslInit, SaslOutcome, SaslResponse, decode_sasl
from tests.certificate_maker import Maker
from tests.provisioning_client import Answer, Provisioning
from tests.tpm import Tpm, enroll, needs_tpm, prove, provision, tpm

pytestmark = needs_tpm

_names = itertools.count()


@pytest.fixture(scope="module")
def chip(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    with tpm(tmp_path_factory.mktemp("chip")) as made:
        yield made


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tpm]:
    with tpm(tmp_path_factory.mktemp("other")) as made:
        yield made


@pytest.fixture
def dps(hub: HubProcess) -> Provisioning:
    return Provisioning(hub)


@pytest.fixture
def name() -> str:
    return f"chip-{next(_names)}"


def ask(dps: Provisioning, name: str, token: str = "", **keys: str) -> Answer:
    return dps.register(name, token, body={"registrationId": name, "tpm": keys})


def changed(key: str, place: int, value: int) -> str:
    content = bytearray(base64.b64decode(key))
    content[place] = value
    return base64.b64encode(content).decode()


Keys = Callable[[Tpm, Tpm], dict[str, str]]
WRONG: dict[str, tuple[Keys, str]] = {
    "the endorsement key of another chip": (lambda chip, other: other.keys, "endorsement-key-differs"),
    "an endorsement key of one bit less": (
        lambda chip, _: chip.keys | {"endorsementKey": changed(chip.keys["endorsementKey"], -1, 0)},
        "endorsement-key-differs",
    ),
    "no storage root key": (
        lambda chip, _: {"endorsementKey": chip.keys["endorsementKey"]},
        "storage-root-key-malformed",
    ),
    "a storage root key that is none": (
        lambda chip, _: chip.keys | {"storageRootKey": "bm8ga2V5"},
        "storage-root-key-malformed",
    ),
    "a storage root key that need not be in a chip": (
        lambda chip, _: chip.keys | {"storageRootKey": changed(chip.keys["storageRootKey"], 9, 0x60)},
        "storage-root-key-malformed",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_1_keys_that_are_not_those_of_the_enrolled_chip_are_not_challenged(
    dps: Provisioning, chip: Tpm, other: Tpm, name: str, what: str
) -> None:
    keys, cause = WRONG[what]
    enroll(dps, chip, name)
    answer = ask(dps, name, **keys(chip, other))
    assert (answer.status, answer.body["errorCode"], "authenticationKey" in answer.body) == (401, 401002, False)
    assert dps.why(name) == cause


def test_2_who_is_not_enrolled_is_not_challenged(dps: Provisioning, chip: Tpm, name: str) -> None:
    answer = ask(dps, name, **chip.keys)
    assert (answer.status, "authenticationKey" in answer.body, dps.why(name)) == (401, False, "enrollment-unknown")


def test_3_a_chip_for_an_enrollment_of_another_kind(dps: Provisioning, chip: Tpm, name: str) -> None:
    key = dps.enroll(name)["attestation"]["symmetricKey"]["primaryKey"]
    for token in ("", dps.token(name, key)):
        answer = ask(dps, name, token, **chip.keys)
        assert (answer.status, "authenticationKey" in answer.body) == (401, False)
        assert dps.why(name) == "tpm-for-other-enrollment"


def test_4_a_token_that_the_chip_did_not_sign(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    answer = ask(dps, name, dps.token(name, base64.b64encode(bytes(32)).decode()), **chip.keys)
    assert (answer.status, dps.why(name)) == (401, "challenge-key-differs")


def test_5_a_challenge_of_another_registration_is_of_no_use(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    enroll(dps, chip, f"{name}-more")
    prove(dps, chip, f"{name}-more")
    answer = ask(dps, name, chip.token(f"{dps.scope}/registrations/{name}"), **chip.keys)
    assert (answer.status, dps.why(name)) == (401, "challenge-key-differs")


def test_6_a_token_without_the_keys_is_told_what_is_missing(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    answer = ask(dps, name, prove(dps, chip, name))
    assert (answer.status, answer.body["errorCode"]) == (400, 400005)
    assert "tpm.endorsementKey" in answer.body["message"]


@pytest.mark.parametrize("member", ["endorsementKey", "storageRootKey"])
def test_7_what_is_not_base64_is_named(dps: Provisioning, chip: Tpm, name: str, member: str) -> None:
    answer = ask(dps, name, **(chip.keys | {member: "%"}))
    assert (answer.status, f"tpm.{member}" in answer.body["message"]) == (400, True)


def test_8_a_disabled_enrollment_is_told_to_whom_it_belongs_only(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name, provisioningStatus="disabled")
    answer = ask(dps, name, prove(dps, chip, name), **chip.keys)
    assert (answer.status, answer.body["status"]) == (200, "disabled")


def test_9_a_stranger_who_asks_in_its_name_displaces_nothing(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    token = prove(dps, chip, name)
    for _ in range(3):
        assert ask(dps, name, **chip.keys).status == 401
    assert dps.provision(name, token, body={"registrationId": name, "tpm": chip.keys})["status"] == "assigned"


def test_10_the_chip_is_known_when_the_service_was_killed_meanwhile(
    make_hub: Callable[..., HubProcess], chip: Tpm, name: str
) -> None:
    with make_hub() as hub:
        dps = Provisioning(hub)
        enroll(dps, chip, name)
        token = prove(dps, chip, name)
        hub.kill()
        hub.start()
        begun = ask(dps, name, token, **chip.keys)
        assert begun.status == 202
        hub.kill()
        hub.start()
        state = dps.poll(name, begun.body["operationId"], token)
        assert (state["status"], "authenticationKey" in state["tpm"]) == ("assigned", True)


def test_11_only_the_device_is_told_the_key_and_only_once_it_is_assigned(
    dps: Provisioning, chip: Tpm, name: str
) -> None:
    enroll(dps, chip, name)
    token = prove(dps, chip, name)
    begun = ask(dps, name, token, **chip.keys)
    assert "tpm" not in begun.body["registrationState"]
    assert "authenticationKey" in dps.poll(name, begun.body["operationId"], token)["tpm"]
    assert "tpm" not in dps.call("GET", f"/registrations/{name}").body
    held = dps.call("GET", f"/enrollments/{name}").body
    assert held["attestation"] == {"type": "tpm", "tpm": {"endorsementKey": chip.keys["endorsementKey"]}}


def test_12_the_log_tells_of_the_challenge_and_the_refusals_do_not(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    provision(dps, chip, name)
    told = [entry.get("cause", entry["entry"]) for entry in reversed(dps.log(name, 3))]
    assert told == ["tpm-challenged", "", "assignment"]
    assert dps.why(name) == ""


def test_13_an_enrollment_keeps_its_chip_where_the_key_is_left_out_and_a_group_takes_none(
    dps: Provisioning, chip: Tpm, other: Tpm, name: str
) -> None:
    dps.enroll(name, {"type": "tpm", "tpm": chip.keys})
    token = prove(dps, chip, name)
    assert dps.enroll(name, {"type": "tpm"}, deviceId=f"{name}-at-hub")["attestation"]["tpm"] == chip.keys
    state = dps.provision(name, token, body={"registrationId": name, "tpm": chip.keys})
    assert state["deviceId"] == f"{name}-at-hub"
    enroll(dps, other, name)
    assert (ask(dps, name, token, **chip.keys).status, dps.why(name)) == (401, "endorsement-key-differs")
    for keys, what in (({}, "missing"), ({"endorsementKey": "%"}, "base64"), ({"endorsementKey": "AAA="}, "size")):
        body = {"registrationId": f"{name}-new", "attestation": {"type": "tpm", "tpm": keys}}
        answer = dps.call("PUT", f"/enrollments/{name}-new", body)
        assert (answer.status, what in answer.body["message"]) == (400, True), answer
    body = {"enrollmentGroupId": name, "attestation": {"type": "tpm", "tpm": chip.keys}}
    assert dps.call("PUT", f"/enrollmentGroups/{name}", body).status == 400


# --- SASL


class Sasl:
    """A client of the mechanism TPM that says exactly what it is told to."""

    def __init__(self, dps: Provisioning, init: bytes) -> None:
        plain = socket.create_connection((dps.hub.address, dps.hub.port("amqp")), 30)
        self.socket = dps.hub.trust().wrap_socket(plain, server_hostname=dps.hub.address)
        self._buffer = FrameBuffer(1 << 16)
        self.socket.sendall(SASL_HEADER)
        self._say(SaslInit("TPM", init))
        while self._buffer.header() is None:
            self._buffer.feed(self.socket.recv(4096))
        self._hear()

    def __enter__(self) -> Sasl:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _say(self, body: Any) -> None:
        self.socket.sendall(encode_frame(0, encode_composite(body), SASL))

    def _hear(self) -> Any:
        while (frame := self._buffer.frame()) is None:
            data = self.socket.recv(4096)
            assert data, "the service hung up"
            self._buffer.feed(data)
        assert len(frame[2]) <= 512
        return decode_sasl(frame[2], frame[3], frame[4])

    def challenge(self) -> bytes:
        heard = self._hear()
        assert isinstance(heard, SaslChallenge), heard
        return heard.challenge

    def outcome(self) -> int:
        heard = self._hear()
        assert isinstance(heard, SaslOutcome), heard
        return heard.code

    def respond(self, response: bytes) -> None:
        self._say(SaslResponse(response))


def init_of(dps: Provisioning, name: str, chip: Tpm) -> bytes:
    return b"\0" + dps.scope.encode() + b"\0" + name.encode() + b"\0" + chip.endorsement_key


def test_14_the_conversation_to_the_letter(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    with Sasl(dps, init_of(dps, name, chip)) as client:
        assert client.challenge() == b"\0"
        client.respond(b"\0" + chip.storage_root_key)
        first = client.challenge()
        client.respond(b"\0")
        last = client.challenge()
        assert (first[0], last[0]) == (0x80, 0xC1)
        chip.activate(first[1:] + last[1:])
        client.respond(b"\0" + chip.token(f"{dps.scope}/registrations/{name}", policy="registration").encode())
        assert client.outcome() == 0


def test_15_a_token_of_another_key_is_an_outcome_of_failure(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    with Sasl(dps, init_of(dps, name, chip)) as client:
        client.challenge()
        client.respond(b"\0" + chip.storage_root_key)
        client.challenge()
        client.respond(b"\0")
        client.challenge()
        client.respond(b"\0" + dps.token(name, base64.b64encode(bytes(32)).decode()).encode())
        assert (client.outcome(), dps.why(name)) == (1, "challenge-key-differs")


def test_16_another_chip_is_not_challenged(dps: Provisioning, chip: Tpm, other: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    with Sasl(dps, init_of(dps, name, other)) as client:
        client.challenge()
        client.respond(b"\0" + other.storage_root_key)
        assert (client.outcome(), dps.why(name)) == (1, "endorsement-key-differs")


@pytest.mark.parametrize(
    "responses", [[b""], [b"\0scope\0dev"], [b"x\0s\0d\0e"], [b"\0s\0\xff\0e"], [b"\0s\0d\0e", b"x"]]
)
def test_17_what_is_malformed_is_refused_by_name(dps: Provisioning, responses: list[bytes]) -> None:
    with Sasl(dps, responses[0]) as client:
        for response in responses[1:]:
            client.challenge()
            client.respond(response)
        assert client.outcome() == 1
    _, kept = dps.hub.request("GET", "/$muster/why")
    assert kept["refusals"][0]["cause"] == "sasl-tpm"


def test_18_a_certificate_for_a_chip(dps: Provisioning, chip: Tpm, name: str) -> None:
    enroll(dps, chip, name)
    leaf = Maker(time.time()).issue(name, None)
    assert dps.register(name, chain=[leaf]).status == 401
    assert dps.why(name) == "certificate-for-tpm-enrollment"
