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
from muster.heads.registration_requests import Answer, Asker, Proof, RegistrationRequests
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


async def test_a_device_may_ask_five_times_in_ten_seconds_and_another_too(tmp_path: Path) -> None:
    clock = VirtualAmbient()
    async with service(tmp_path, [FakeHub("hub.example", Steps())], Meters(clock, Plan(Tier.S1)), clock) as running:
        await running.group()
        operations = {name: (await running.register(name)).operation_id for name in ("dev", "dev2")}
        requests = RegistrationRequests(running.registrar, running.refusals, clock)

        async def ask(name: str, **wrong: str) -> Answer:
            attempt = replace(attempt_of(name), **wrong)
            address = RegistrationAddress(attempt.id_scope, name, "2019-03-31")
            return await requests.answer(Asker("t", "peer", address, Proof(attempt.token)), operations["dev"], b"")

        for _ in range(9):
            assert (await ask("dev", token="SharedAccessSignature sr=x")).status == 401, "strangers use nothing up"
        for _ in range(4):
            assert (await ask("dev")).status == 200
            clock.advance(1)
        assert (await running.registrar.lookup(attempt_of("DEV"))).registration is not None, "that is a question too"
        refused = await ask("dev")
        assert (refused.status, refused.retry_after, json.loads(refused.body)["errorCode"]) == (429, 6, 429001)
        with pytest.raises(ThrottledError):
            await running.registrar.lookup(attempt_of("dev"))
        assert (await ask("dev2")).status == 404, "it has had none yet"
        clock.advance(5.9)
        assert ((await ask("dev")).status, (await ask("dev")).retry_after) == (429, 1)
        clock.advance(0.2)
        assert [(await ask("dev")).status for _ in range(2)] == [200, 429]


async def test_where_nothing_is_throttled_a_device_may_ask_as_often_as_it_likes(tmp_path: Path) -> None:
    clock = VirtualAmbient()
    async with service(tmp_path, [FakeHub("hub.example", Steps())], ambient=clock) as running:
        await running.group()
        operation = (await running.register("dev")).operation_id
        for _ in range(50):
            assert (await running.registrar.status(attempt_of("dev"), operation)).registration is not None
