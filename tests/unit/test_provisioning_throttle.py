"""The rate of registrations at the provisioning service."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from provisioning_parts import FakeHub, Steps, attempt_of, service

from muster.core.errors import HubError
from muster.core.meters import Meters
from muster.core.throttle_errors import ThrottledError
from muster.core.throttles import REGISTRATIONS, Plan, Tier
from muster.dialect.registration_addresses import RegistrationAddress
from muster.dialect.registration_messages import refusal
from muster.heads.registration_requests import Asker, Proof, RegistrationRequests
from muster.testing.clock import VirtualAmbient


async def test_above_the_rate_a_device_is_told_when_to_come_again_and_a_stranger_is_a_stranger(tmp_path: Path) -> None:
    clock = VirtualAmbient()
    meters = Meters(clock, Plan(Tier.S1))
    async with service(tmp_path, [FakeHub("hub.example", Steps())], meters) as running:
        await running.group()
        for number in range(1500):  # the burst, and the reserve of devices within their share
            meters.take(REGISTRATIONS, f"other-{number}")
        with pytest.raises(ThrottledError) as refused:
            await running.registrar.register(attempt_of("dev"))
        assert refused.value.row.status == 429
        with pytest.raises(HubError) as stranger:
            await running.registrar.register(replace(attempt_of("dev"), token=None))
        assert stranger.value.row.status == 401
        clock.advance(refused.value.retry_after + 0.001)
        assert (await running.register("dev")).assigned_hub == "hub.example"


async def test_over_mqtt_and_amqp_the_answer_is_429_with_the_pause(tmp_path: Path) -> None:
    clock = VirtualAmbient()
    meters = Meters(clock, Plan(Tier.S1))
    async with service(tmp_path, [FakeHub("hub.example", Steps())], meters) as running:
        await running.group()
        for number in range(1500):
            meters.take(REGISTRATIONS, f"other-{number}")
        attempt = attempt_of("dev")
        requests = RegistrationRequests(running.registrar, running.refusals, clock)
        address = RegistrationAddress(attempt.id_scope, "dev", "2019-03-31")
        asker = Asker("dps-mqtt", "peer", address, Proof(attempt.token))
        answer = await requests.answer(asker, None, b"")
        assert (answer.status, answer.retry_after >= 1) == (429, True)
        assert json.loads(answer.body)["errorCode"] in (429001, 429005)
        assert answer.error is not None
        info = refusal(answer.error.row, answer.body, answer.retry_after).info
        assert info is not None
        assert info["retry-after"] == info["Retry-After"] == answer.retry_after
        clock.advance(answer.retry_after)
        assert (await requests.answer(asker, None, b"")).status == 202
