"""Bodies of the provisioning service: whatever comes is read or refused by name, and what was written can be read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.dialect.enrollment_bodies import enrollment_body, read_bulk, read_enrollment
from muster.dialect.json_body import Members
from muster.dialect.registration_bodies import read_registration
from muster.provisioning import rules
from muster.provisioning.allocation import custom
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.attestation.tpm import EndorsementKey
from muster.provisioning.attestation.x509 import Role, X509Certificates
from muster.provisioning.contract import WebhookError
from muster.provisioning.ids import is_id, normal
from muster.provisioning.model import (
    AllocationKind,
    Attestation,
    CustomAllocation,
    DeviceData,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    ReprovisionPolicy,
)
from tests.certificate_maker import Maker
from tests.tpm import ENDORSEMENT_KEY

GROUP, ONE = EnrollmentKind.GROUP, EnrollmentKind.INDIVIDUAL
CERTIFICATE = Maker(time.time()).root().der
KEY = "cHJpbWFyeSBrZXkgb2YgMTY="

words = st.sampled_from([
    "registrationId", "enrollmentGroupId", "attestation", "type", "symmetricKey", "x509", "tpm", "primaryKey",
    "clientCertificates", "signingCertificates", "caReferences", "primary", "secondary", "certificate",
    "storageRootKey", "endorsementKey", "iotHubs", "capabilities", "iotEdge", "initialTwin", "tags", "properties",
    "desired", "reprovisionPolicy", "mode",
    "updateHubAssignment", "allocationPolicy", "customAllocationDefinition", "webhookUrl", "apiVersion", "etag",
    "provisioningStatus", "enrollments", "payload", "csr", "iotHubHostName", "initialTwin", "dev", "create", "custom",
])  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)
bodies = st.dictionaries(words, values, max_size=6)


def status_of(read: Callable[[], object]) -> int:
    """200, or that of the refusal; what else is raised is a defect."""
    try:
        read()
    except HubError as error:
        return error.row.status
    return 200


@pytest.mark.parametrize(("kind", "name"), [(ONE, "registrationId"), (GROUP, "enrollmentGroupId")])
@given(body=bodies)
def test_any_body_is_read_or_refused_by_a_row_of_the_catalogue(
    kind: EnrollmentKind, name: str, body: dict[str, Any]
) -> None:
    def enroll() -> None:
        draft = read_enrollment(Members({**body, name: "dev"}, ""), EnrollmentKey(kind, "dev"))
        rules.check(draft, {"dev"})
        rules.settle(draft, None, (KEY, KEY))

    assert status_of(enroll) in {200, 400, 413}
    assert status_of(lambda: read_bulk(Members(body, ""), kind)) in {200, 400}
    assert status_of(lambda: read_registration(Members(body, ""))) in {200, 400}


@given(values | st.fixed_dictionaries({"iotHubHostName": words, "initialTwin": values, "payload": values}))
async def test_any_answer_of_a_webhook_is_taken_or_refused(answer: Any) -> None:
    async def webhook(_url: str, _body: bytes) -> bytes:
        return json.dumps(answer).encode()

    with pytest.raises(HubError) as refused:
        await custom.ask(webhook, CustomAllocation("https://x", "2021-10-01"), {}, [])
    assert refused.value.row.code == 400207
    with suppress(WebhookError):
        custom.read_twin(answer)


attestations: st.SearchStrategy[Attestation] = st.one_of(
    st.just(SymmetricKeys(KEY, KEY)),
    st.just(X509Certificates(Role.REFERENCES, b"root", b"other")),
    st.sampled_from(
        [EndorsementKey(ENDORSEMENT_KEY, b"secret"), EndorsementKey(ENDORSEMENT_KEY, b"secret", ENDORSEMENT_KEY)]
    ),
)
contents = st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | st.text("xyz", max_size=3), max_size=3)
enrollments = st.builds(
    Enrollment,
    key=st.builds(EnrollmentKey, st.sampled_from(EnrollmentKind), st.sampled_from(["dev", "a:b_c.d-"])),
    attestation=attestations,
    enabled=st.booleans(),
    iot_edge=st.booleans(),
    hubs=st.sampled_from([(), ("a.example",), ("a.example", "b.example")]),
    allocation=st.none() | st.sampled_from(AllocationKind),
    custom=st.none() | st.just(CustomAllocation("https://f.example/api", "2021-10-01")),
    reprovision=st.none() | st.builds(ReprovisionPolicy, st.booleans(), st.booleans()),
    initial_twin=st.none() | st.builds(DeviceData, contents, contents, st.just({})),
    information=st.none() | contents,
    credential_policy=st.sampled_from(["", "policy"]),
)


@given(enrollments)
def test_what_was_read_can_be_sent_back_and_changes_nothing(one: Enrollment) -> None:
    body = json.loads(json.dumps(enrollment_body(one)))
    assert rules.settle(read_enrollment(Members(body, ""), one.key), one, ("", "")) == one


@pytest.mark.parametrize("role", [Role.CLIENT, Role.SIGNING])
def test_certificates_that_were_read_stay(role: Role) -> None:
    kind = ONE if role is Role.CLIENT else GROUP
    held = X509Certificates(role, CERTIFICATE, CERTIFICATE)
    one = Enrollment(key=EnrollmentKey(kind, "dev"), attestation=held)
    body = json.loads(json.dumps(enrollment_body(one)))
    assert rules.settle(read_enrollment(Members(body, ""), one.key), one, ("", "")).attestation == held


@given(st.text("aB3-._: ü/", max_size=5))
def test_ids_are_letters_digits_and_four_marks_and_end_well(text: str) -> None:
    marks = set("-._:")
    fine = bool(text) and all((letter.isascii() and letter.isalnum()) or letter in marks for letter in text)
    assert is_id(text) == (fine and (text[-1].isalnum() or text[-1] == "-"))
    assert normal(text) == text.lower()


def test_ids_have_128_characters_at_most() -> None:
    assert is_id("x" * 128)
    assert not is_id("x" * 129)
