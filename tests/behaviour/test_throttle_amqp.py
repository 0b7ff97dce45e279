"""Rates and the daily quota for devices on AMQP, sentence by sentence, with a clock that stands still."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amqp_device import TWIN, Device, DeviceHub
from command_hub import aside, command_hub
from test_throttle_mqtt import reading, use_up

from muster.core.throttle_errors import ThrottledError
from muster.core.throttle_limits import THROTTLE_BACKLOG, THROTTLED_AMQP_CREDIT
from muster.core.throttles import CONNECTIONS, TELEMETRY, TWIN_READS, TWIN_UPDATES, Plan, Quota, Throttle, Tier
from muster.heads.device_telemetry import TelemetryLink
from muster.wire.amqp.message import Message, encode_message
from muster.wire.amqp.performatives import Accepted, Detach, Flow, Rejected

EVENTS = "messages/events"
THROTTLED, SPENT = "com.microsoft:device-container-throttled", "com.microsoft:quota-exceeded"
DAY = 86_400


@contextlib.asynccontextmanager
async def device_hub(directory: Path, **limits: Any) -> AsyncIterator[DeviceHub]:
    async with command_hub(directory, **limits) as commands:
        hub = DeviceHub(commands)
        try:
            yield hub
        finally:
            hub.close()


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHub]:
    async with device_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        yield hub


def message(number: int) -> bytes:
    return encode_message(Message(data=(b"%d" % number,)))


def waiting(hub: DeviceHub) -> int:
    """How many messages wait for their turn."""
    return sum(
        len(handler._waiting)
        for connection in hub.mqtt.amqp.connections
        for session in connection.nodes["devices"].sessions.values()
        for handler in session._links
        if hasattr(handler, "_waiting")
    )


def refusal(outcome: Any, condition: str, code: int) -> None:
    assert isinstance(outcome, Rejected)
    assert outcome.error is not None
    assert (outcome.error.condition, (outcome.error.info or {})["com.microsoft:error-code"]) == (condition, code)


async def test_1_telemetry_above_the_rate_is_settled_late_and_keeps_its_order(hub: DeviceHub) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    use_up(hub.mqtt, TELEMETRY)
    numbers = [device.transfer(link, message(number)) for number in range(5)]
    await hub.mqtt.settled(lambda: waiting(hub) == 5)
    assert await hub.mqtt.messages("d") == []
    for number in numbers:
        hub.ambient.advance(0.011)
        assert isinstance(await aside(device.settlement, number), Accepted)
    assert await hub.bodies("d", 5) == ["0", "1", "2", "3", "4"]


async def test_2_meanwhile_credit_is_withheld(hub: DeviceHub) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    credit = next(came.body.link_credit for came in reversed(device.came) if isinstance(came.body, Flow))
    assert credit == THROTTLED_AMQP_CREDIT.open
    use_up(hub.mqtt, TELEMETRY)
    for number in range(credit):
        device.transfer(link, message(number))
    await hub.mqtt.settled(lambda: waiting(hub) == credit)
    assert device.silent(kind=Flow)
    hub.ambient.advance(0.2)
    flow = await aside(device.wait_for, Flow)
    assert flow.body.link_credit == credit
    assert isinstance(await aside(device.telemetry, link, b"more"), Accepted)
    assert len(await hub.bodies("d", credit + 1)) == credit + 1


async def test_3_other_devices_of_the_connection_go_on(hub: DeviceHub) -> None:
    device = await hub.device("d")
    assert (await aside(device.put, await hub.token("quiet")))[0] == 200
    link, quiet = await aside(device.link, "d", EVENTS), await aside(device.link, "quiet", EVENTS)
    assert isinstance(await aside(device.telemetry, quiet, b"1"), Accepted)
    use_up(hub.mqtt, TELEMETRY)
    device.transfer(link, message(1))
    await hub.mqtt.settled(lambda: waiting(hub) == 1)
    assert isinstance(await aside(device.telemetry, quiet, b"2"), Accepted)
    assert waiting(hub) == 1


async def test_4_what_would_wait_too_long_is_rejected_and_the_link_goes_on(hub: DeviceHub) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    use_up(hub.mqtt, TELEMETRY, all_of_it=True)
    for _ in range(THROTTLED_AMQP_CREDIT.open + 2):
        refusal(await aside(device.telemetry, link, b"x"), THROTTLED, 429002)
    assert await hub.mqtt.last_cause() == "throttle"
    hub.ambient.advance(THROTTLE_BACKLOG.open)
    assert isinstance(await aside(device.telemetry, link, b"y"), Accepted)
    assert await hub.bodies("d", 1) == ["y"]


async def test_5_a_link_that_ends_while_its_messages_wait_has_not_sent_them(hub: DeviceHub) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    use_up(hub.mqtt, TELEMETRY)
    device.transfer(link, message(1))
    await hub.mqtt.settled(lambda: waiting(hub) == 1)
    device.send(Detach(link, True))
    await aside(device.wait_for, Detach)
    hub.ambient.advance(1)
    again = await aside(device.link, "d", EVENTS)
    assert isinstance(await aside(device.telemetry, again, b"2"), Accepted)
    assert await hub.bodies("d", 1) == ["2"]


# --- connections


async def test_6_new_sessions_above_the_rate_begin_late(hub: DeviceHub) -> None:
    device = await hub.device()
    use_up(hub.mqtt, CONNECTIONS)
    before = reading(hub.mqtt, CONNECTIONS).delayed
    device.ask("d", EVENTS)
    await hub.mqtt.settled(lambda: reading(hub.mqtt, CONNECTIONS).delayed == before + 1)
    assert not hub.connected("d")
    hub.ambient.advance(0.011)
    assert await aside(device.attached) is None
    await aside(device.link, "d", TWIN)
    assert reading(hub.mqtt, CONNECTIONS).delayed == before + 1, "further links are the same session's"


async def test_7_then_their_links_are_refused(hub: DeviceHub) -> None:
    device = await hub.device()
    use_up(hub.mqtt, CONNECTIONS, all_of_it=True)
    device.ask("d", EVENTS)
    error = await aside(device.attached)
    assert (error.condition, error.info["com.microsoft:error-code"]) == (THROTTLED, 429002)
    assert await hub.mqtt.last_cause() == "throttle"
    hub.ambient.advance(THROTTLE_BACKLOG.open)
    await aside(device.link, "d", EVENTS)


# --- twins


@pytest.mark.parametrize(
    ("throttle", "operation", "resource", "done"),
    [(TWIN_READS, "GET", None, 200), (TWIN_UPDATES, "PATCH", "/properties/reported", 204)],
)
async def test_8_twin_requests_above_the_rate_are_answered_429(
    hub: DeviceHub, throttle: Throttle, operation: str, resource: str | None, done: int
) -> None:
    device = await hub.device()
    link = await aside(device.pair, "d", TWIN)
    with contextlib.suppress(ThrottledError):
        while True:
            hub.mqtt.meters.take(throttle, "d")
    status, _, body = await aside(device.twin, link, operation, b"{}", resource=resource)
    assert status == 429
    assert b"429001" in body
    hub.ambient.advance(1)
    status, _, _ = await aside(device.twin, link, operation, b"{}", resource=resource)
    assert status == done


# --- the day's quota


async def test_9_with_the_quota_used_up_messages_are_rejected_and_new_links_refused(tmp_path: Path) -> None:
    async with device_hub(tmp_path, plan=Plan(Tier.F1), quota=Quota(3, 512)) as hub:
        device = await hub.device()
        link = await aside(device.link, "d", EVENTS)
        assert isinstance(await aside(device.telemetry, link, bytes(1024)), Accepted)
        assert isinstance(await aside(device.telemetry, link, bytes(512)), Accepted)
        refusal(await aside(device.telemetry, link, b""), SPENT, 403002)
        assert await hub.mqtt.last_cause() == "quota"
        other = await hub.device("other")
        other.ask("other", EVENTS)
        assert (await aside(other.attached)).condition == SPENT
        hub.ambient.advance(DAY)
        device = await hub.device()
        assert isinstance(await aside(device.telemetry, await aside(device.link, "d", EVENTS), b""), Accepted)


async def test_10_each_message_of_a_batch_is_charged_and_the_batch_counts_once_for_the_rate(tmp_path: Path) -> None:
    async with device_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        device = await hub.device()
        link = await aside(device.link, "d", EVENTS)
        parts = tuple(encode_message(Message(data=(bytes(size),))) for size in (10, 4096, 4097))
        batch = encode_message(Message(data=parts))
        number = device.transfer(link, batch, message_format=0x80013700)
        assert isinstance(await aside(device.settlement, number), Accepted)
        assert isinstance(await aside(device.telemetry, link, bytes(300_000)), Rejected)
        assert isinstance(await aside(device.settlement, device.transfer(link, b"rubbish")), Rejected)
        quota = hub.mqtt.meters.quota()
        assert quota is not None
        assert quota.used == 1 + 1 + 2, "what is rejected is not charged"
        assert reading(hub.mqtt, TELEMETRY).accepted == 1 + 2


async def test_10_1_what_is_no_amqp_where_nobody_looks_is_rejected_and_costs_nothing(hub: DeviceHub) -> None:
    device = await hub.device()
    link = await aside(device.link, "d", EVENTS)
    use_up(hub.mqtt, TELEMETRY)
    broken = b"\x00\x53\x70\xc0\x05\x02\xff\xff\xff\xff" + message(1)  # a header
    numbers = [device.transfer(link, one) for one in (message(0), broken, message(2))]
    await hub.mqtt.settled(lambda: waiting(hub) == 3)
    for number, outcome in zip(numbers, (Accepted, Rejected, Accepted), strict=True):
        hub.ambient.advance(0.011)
        assert isinstance(await aside(device.settlement, number), outcome)
    assert await hub.bodies("d", 2) == ["0", "2"]
    quota = hub.mqtt.meters.quota()
    assert quota is not None
    assert quota.used == 2


# --- without a plan


async def test_11_in_the_open_profile_links_know_nothing_of_it(tmp_path: Path) -> None:
    async with device_hub(tmp_path) as hub:
        device: Device = await hub.device()
        link = await aside(device.link, "d", EVENTS)
        (connection,) = hub.mqtt.amqp.connections
        (session,) = connection.nodes["devices"].sessions.values()
        assert {type(handler) for handler in session._links} == {TelemetryLink}
        for number in range(150):
            device.transfer(link, message(number))
        await hub.bodies("d", 150)
        assert reading(hub.mqtt, CONNECTIONS).accepted == 1
