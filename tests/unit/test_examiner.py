"""The verdict on devices that register, where sockets do not reach: floods, many groups, the profile of the cloud."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path

import pytest
from provisioning_parts import GROUP_KEY, SCOPE, FakeHub, Steps, attempt_of, service

from muster.core.errors import HubError
from muster.core.provisioning_limits import ENROLLMENT_GROUPS, GROUPS_SEARCHED, REFUSED_ATTEMPTS_WRITTEN
from muster.identity import sas
from muster.provisioning.attempt import Attempt
from muster.provisioning.model import EnrollmentKey, EnrollmentKind
from muster.provisioning.rules import Draft, DraftedKeys


def signed(name: str, key: str) -> Attempt:
    secret = sas.decode_key(key)
    assert secret is not None
    token = sas.make(f"{SCOPE}/registrations/{name}", 4_000_000_000, secret, "registration")
    return Attempt(
        transport="dps-test", peer="here", id_scope=SCOPE, registration_id=name, api_version="2021-10-01", token=token
    )


async def test_with_many_groups_a_flood_of_refusals_buys_little_work(tmp_path: Path) -> None:
    async with service(tmp_path, [FakeHub("a.example", Steps())]) as running:
        for number in range(GROUPS_SEARCHED.open + 1):
            key = EnrollmentKey(EnrollmentKind.GROUP, f"g{number}")
            text = base64.b64encode(bytes([number]) * 32).decode()
            await running.enrollments.put(Draft(key=key, attestation=DraftedKeys(text, text)))
        causes = []
        for _ in range(20):
            with pytest.raises(HubError):
                await running.registrar.register(signed("dev", base64.b64encode(bytes([3]) * 32).decode()))
            causes.append((await running.refusals.newest("dev", 1))[0].report["cause"])
    assert causes[0] == "group-key-used"
    assert causes.count("derived-key-unknown") > 10, "most are refused without a search"


async def test_a_flood_of_refusals_is_counted_and_not_all_of_it_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_most = REFUSED_ATTEMPTS_WRITTEN._replace(open=1e-9)  # type: ignore[arg-type]
    monkeypatch.setattr("muster.provisioning.timeline.REFUSED_ATTEMPTS_WRITTEN", at_most)
    monkeypatch.setattr("muster.provisioning.timeline._BURST_SECONDS", 3e9)
    async with service(tmp_path, [FakeHub("a.example", Steps())]) as running:
        await running.group()
        for number in range(9):
            with pytest.raises(HubError):
                await running.registrar.register(signed(f"dev{number}", GROUP_KEY))
        counted = running.timeline.counts()["attestationAttempts"]
        assert counted == [{"protocol": "dps-test", "status": "group-key-used", "count": 9}]
        assert len(await running.timeline.newest(None, 99)) == 3
        await running.register("good")
        async with asyncio.timeout(30):  # the end is on disk before the log has heard of it
            while len(entries := await running.timeline.newest("good", 9)) < 2:
                await asyncio.sleep(0.01)
        assert [one.report["entry"] for one in entries] == ["assignment", "attempt"]


async def test_one_group_too_many_is_refused_and_kinds_are_counted_apart(tmp_path: Path) -> None:
    async with service(tmp_path, [FakeHub("a.example", Steps())]) as running:
        for number in range(ENROLLMENT_GROUPS.open):
            await running.group(f"g{number}")
        with pytest.raises(HubError) as refused:
            await running.group("one-more")
        assert refused.value.row.code == 403202
        await running.group("g7")
        assert (await running.register("dev")).assigned_hub == "a.example"


async def test_too_many_at_once_are_told_to_come_back(tmp_path: Path) -> None:
    async with service(tmp_path, [FakeHub("a.example", Steps())]) as running:
        await running.group()
        running.registrar._most = 0
        with pytest.raises(HubError) as refused:
            await running.registrar.register(attempt_of("dev"))
        assert refused.value.row.code == 429001
