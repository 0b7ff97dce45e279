"""What every ``ProvisioningStore`` and ``TimelineStore`` promises, on each of them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hub_database import Opener, opener_of, postgres_opener, shared

from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType
from muster.provisioning.attestation.symmetric_key import SymmetricKeys
from muster.provisioning.attestation.tpm import EndorsementKey
from muster.provisioning.attestation.x509 import Role, X509Certificates
from muster.provisioning.contract import EnrollmentStanding, Entry, ProvisioningStore, TimelineStore
from muster.provisioning.model import (
    AllocationKind,
    CustomAllocation,
    DeviceData,
    Enrollment,
    EnrollmentKey,
    EnrollmentKind,
    Intent,
    Registration,
    RegistrationStatus,
    ReprovisionPolicy,
    Substatus,
)
from muster.stores.postgres.provisioning import PostgresProvisioningStore
from muster.stores.postgres.timeline import PostgresTimelineStore
from muster.stores.sqlite.provisioning import SqliteProvisioningStore
from muster.stores.sqlite.timeline import SqliteTimelineStore
from tests.postgres import emptied_database

SCOPE = "0ne00000001"
GROUP, ONE = EnrollmentKind.GROUP, EnrollmentKind.INDIVIDUAL
KEYS = SymmetricKeys("a2V5", "eWVr")


def _sqlite(directory: Path) -> Opener[ProvisioningStore]:
    return opener_of(directory, SqliteProvisioningStore)


def _sqlite_timeline(directory: Path) -> Opener[TimelineStore]:
    return opener_of(directory, lambda writer, reader: SqliteTimelineStore(SCOPE, writer, reader))


def _postgres(_: Path) -> Opener[ProvisioningStore]:
    return postgres_opener(emptied_database(), PostgresProvisioningStore)


def _postgres_timeline(_: Path) -> Opener[TimelineStore]:
    return postgres_opener(emptied_database(), partial(PostgresTimelineStore, SCOPE))


@pytest.fixture(params=[_sqlite, shared(_sqlite), _postgres], ids=["sqlite", "shared", "postgres"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[ProvisioningStore]:
    made: Opener[ProvisioningStore] = request.param(tmp_path)
    return made


@pytest.fixture(
    params=[_sqlite_timeline, shared(_sqlite_timeline), _postgres_timeline], ids=["sqlite", "shared", "postgres"]
)
def timeline(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[TimelineStore]:
    made: Opener[TimelineStore] = request.param(tmp_path)
    return made


def enrollment(name: str, kind: EnrollmentKind = ONE) -> Enrollment:
    return Enrollment(key=EnrollmentKey(kind, name), attestation=KEYS, version=7, created=1.5, updated=2.5)


def registration(name: str, key: EnrollmentKey, intent: Intent | None = None) -> Registration:
    status = RegistrationStatus.ASSIGNED if intent is None else RegistrationStatus.ASSIGNING
    return Registration(registration_id=name, key=key, operation_id=f"5.{name}", status=status, intent=intent)


async def put(store: ProvisioningStore, *records: Enrollment | Registration) -> None:
    for one in records:
        if isinstance(one, Enrollment):
            await store.edit_enrollment(SCOPE, one.key, lambda _, one=one: one)
        else:
            await store.edit_registration(SCOPE, one.registration_id, lambda _, one=one: one)


FULL = Enrollment(
    key=EnrollmentKey(GROUP, "full"), attestation=X509Certificates(Role.SIGNING, b"\x30\x00\xff", b"\x30\x01"),
    device_id="dev", enabled=False, iot_edge=True, hubs=("a.example", "b.example"), allocation=AllocationKind.CUSTOM,
    custom=CustomAllocation("https://f.example/api", "2021-10-01"), reprovision=ReprovisionPolicy(True, False),
    initial_twin=DeviceData({"t": [1, None, "ü"]}, {"d": {"x": 1.5}}), information={"made": "in"},
    credential_policy="policy", version=9, created=1.25, updated=2.25,
)  # fmt: skip
INTENT = Intent(
    hub="a.example", device_id="Dev", credentials=Credentials(AuthenticationType.SAS, "p", "s"), iot_edge=True,
    context={"registrationId": "dev", "payload": {"a": [1]}}, previous="b.example", previous_device="dev", migrate=True,
    there=True, fresh=True, data=DeviceData({"a": 1}, {"b": 2}, {"c": 3}), substatus=Substatus.MIGRATED,
)  # fmt: skip


async def test_everything_of_an_enrollment_is_kept_over_reopening(opener: Opener[ProvisioningStore]) -> None:
    references = replace(FULL, key=EnrollmentKey(ONE, "ref"), attestation=X509Certificates(Role.REFERENCES, b"root"))
    chip = replace(FULL, key=EnrollmentKey(ONE, "tpm"), attestation=EndorsementKey(b"\x01", b"\xff", b"\x02"))
    async with opener() as store:
        await put(store, FULL, references, chip, enrollment("plain"))
    async with opener() as store:
        assert await store.enrollment(SCOPE, FULL.key) == FULL
        assert await store.enrollment(SCOPE, references.key) == references
        assert await store.enrollment(SCOPE, chip.key) == chip
        assert await store.enrollment(SCOPE, EnrollmentKey(ONE, "plain")) == enrollment("plain")
        assert await store.enrollment(SCOPE, EnrollmentKey(ONE, "full")) is None
        assert await store.enrollment("other", FULL.key) is None


async def test_everything_of_a_registration_is_kept_over_reopening(opener: Opener[ProvisioningStore]) -> None:
    full = Registration(
        registration_id="dev", key=FULL.key, operation_id="5.ab.cd", status=RegistrationStatus.FAILED,
        substatus=Substatus.RESET, assigned_hub="b.example", device_id="dev", attested={"x509": {"a": 1}},
        payload=[1, {"b": None}], error_code=400207, error_message="no", intent=INTENT, version=3, created=1.0,
        updated=2.0,
    )  # fmt: skip
    async with opener() as store:
        await put(store, full)
    async with opener() as store:
        assert await store.registration(SCOPE, "dev") == full
        assert await store.registration(SCOPE, "other") is None
        assert await store.unfinished(SCOPE) == [full]
        await put(store, replace(full, intent=None))
        assert await store.unfinished(SCOPE) == []


async def test_pages_go_by_id_and_kind(opener: Opener[ProvisioningStore]) -> None:
    async with opener() as store:
        await put(store, *(enrollment(name) for name in ("c", "a", "b")), enrollment("a", GROUP))
        assert [one.key.id for one in await store.enrollments(SCOPE, ONE, "", 2)] == ["a", "b"]
        assert [one.key.id for one in await store.enrollments(SCOPE, ONE, "b", 2)] == ["c"]
        assert [one.key.kind for one in await store.enrollments(SCOPE, GROUP, "", 9)] == [GROUP]
        group = EnrollmentKey(GROUP, "a")
        await put(store, *(registration(name, group) for name in ("z", "x", "y")))
        await put(store, registration("c", EnrollmentKey(ONE, "c")))
        assert [one.registration_id for one in await store.registrations(SCOPE, group, "", 2)] == ["x", "y"]
        assert [one.registration_id for one in await store.registrations(SCOPE, group, "y", 2)] == ["z"]


async def test_a_change_of_a_group_sees_the_other_groups(opener: Opener[ProvisioningStore]) -> None:
    seen: list[EnrollmentStanding] = []

    def look(standing: EnrollmentStanding) -> Enrollment | None:
        seen.append(standing)
        return standing.enrollment

    async with opener() as store:
        await put(store, enrollment("a", GROUP), enrollment("b", GROUP), enrollment("a"))
        await store.edit_enrollment(SCOPE, EnrollmentKey(GROUP, "a"), look)
        await store.edit_enrollment(SCOPE, EnrollmentKey(ONE, "a"), look)
        assert seen == [
            EnrollmentStanding(enrollment("a", GROUP), [enrollment("b", GROUP)]),
            EnrollmentStanding(enrollment("a"), []),
        ]


async def test_a_change_that_refuses_changes_nothing(opener: Opener[ProvisioningStore]) -> None:
    def refuse(_: object) -> None:
        raise HubError(PRECONDITION_FAILED)

    kept = registration("a", EnrollmentKey(ONE, "a"))
    async with opener() as store:
        await put(store, enrollment("a"), kept)
        with pytest.raises(HubError):
            await store.edit_enrollment(SCOPE, EnrollmentKey(ONE, "a"), refuse)
        with pytest.raises(HubError):
            await store.edit_registration(SCOPE, "a", refuse)
        assert await store.enrollment(SCOPE, EnrollmentKey(ONE, "a")) == enrollment("a")
        assert await store.registration(SCOPE, "a") == kept


async def test_with_an_enrollment_go_its_registrations_but_not_those_in_progress(
    opener: Opener[ProvisioningStore],
) -> None:
    group = EnrollmentKey(GROUP, "g")
    async with opener() as store:
        await put(store, enrollment("g", GROUP), enrollment("own"))
        await put(store, registration("settled", group), registration("busy", group, INTENT))
        await put(store, registration("own", EnrollmentKey(ONE, "own")))
        await store.edit_enrollment(SCOPE, group, lambda _: None)
        assert await store.enrollment(SCOPE, group) is None
        assert await store.registration(SCOPE, "settled") is None
        assert await store.registration(SCOPE, "busy") == registration("busy", group, INTENT)
        assert await store.registration(SCOPE, "own") is not None


async def test_the_timeline_is_told_newest_first_at_once_and_after_reopening(timeline: Opener[TimelineStore]) -> None:
    entries = [Entry(float(number), "ab"[number % 2], {"n": number}) for number in range(7)]
    async with timeline() as store:
        for one in entries:
            store.keep(one)
        assert await store.newest(None, 3) == entries[:-4:-1]
        assert await store.newest("b", 9) == entries[5::-2]
        store.flush()
    async with timeline() as store:
        assert await store.newest(None, 99) == entries[::-1]
        assert await store.newest("a", 2) == [entries[6], entries[4]]
