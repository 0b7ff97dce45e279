"""Rates and the daily quota over MQTT, sentence by sentence, on real sockets with a clock that stands still."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_hub import EVENTS, MqttHub, alive, mqtt_hub
from test_twins_mqtt import GET, PATCH, RESPONSES, ask, subscribe

from muster.core.errors import CONNACK_REFUSED, CONNACK_UNAVAILABLE
from muster.core.meters import Reading
from muster.core.throttle_errors import ThrottledError
from muster.core.throttle_limits import THROTTLE_BACKLOG
from muster.core.throttles import CONNECTIONS, TELEMETRY, TWIN_READS, TWIN_UPDATES, Plan, Quota, Throttle, Tier
from muster.heads.mqtt import MqttConnection
from muster.heads.mqtt_throttled import ThrottledMqttConnection
from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey, Status
from muster.testing.mqtt import DISCONNECT, PINGREQ, MqttClient, publish

DAY = 86_400


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        yield hub


def reading(hub: MqttHub, throttle: Throttle) -> Reading:
    return next(one for one in hub.meters.look() if one.throttle is throttle)


def use_up(hub: MqttHub, throttle: Throttle, device: str = "d", *, all_of_it: bool = False) -> None:
    """Have ``device`` do as much as passes at once, or as may wait too."""
    while not (wait := hub.meters.shape(throttle, device)):
        pass
    while all_of_it:
        try:
            wait = hub.meters.shape(throttle, device)
        except ThrottledError:
            return
    hub.ambient.advance(wait)


def held(hub: MqttHub, device: str = "d") -> list[Any]:
    """What waits for its turn on the connection of the device."""
    session = next(session for session in hub.sessions.all() if session.key.device_id == device)
    assert isinstance(session.sink, ThrottledMqttConnection)
    return session.sink._waiting


def messages(*numbers: int, qos: int = 1, device: str = "d") -> bytes:
    topic = f"devices/{device}/messages/events/"
    return b"".join(publish(topic, b"%d" % number, qos=qos, packet_id=number) for number in numbers)


async def acknowledged(client: MqttClient, *numbers: int) -> None:
    assert [(await client.expect("PUBACK")).packet_id for _ in numbers] == list(numbers)


# --- 1. telemetry


async def test_101_telemetry_above_the_rate_is_late_and_keeps_its_order(hub: MqttHub) -> None:
    client = await hub.device("d")
    use_up(hub, TELEMETRY)
    await client.send(messages(1, 2, 3), PINGREQ)
    await hub.settled(lambda: len(held(hub)) == 4)
    hub.ambient.advance(0.011)
    await acknowledged(client, 1)
    assert len(held(hub)) == 3
    hub.ambient.advance(0.011)
    await acknowledged(client, 2)
    hub.ambient.advance(0.011)
    await client.expect("PINGRESP")
    await acknowledged(client, 3)
    assert await hub.message_bodies("d", 3) == ["1", "2", "3"]
    hub.ambient.advance(1)
    await client.send(messages(4))
    await acknowledged(client, 4)
    assert reading(hub, TELEMETRY).delayed >= 3
    assert await hub.last_cause() == ""


async def test_102_meanwhile_the_device_is_not_read_from(hub: MqttHub) -> None:
    client = await hub.device("d")
    use_up(hub, TELEMETRY)
    await client.send(messages(1))
    await hub.settled(lambda: len(held(hub)) == 1)
    client.writer.write(b"".join([publish(EVENTS, bytes(60_000), packet_id=number) for number in range(2, 102)]))
    await alive(await hub.device("other"))
    assert sum(len(packet.payload) for packet in held(hub, "d")) < 200_000, "six million bytes wait on the wire"
    for number in range(1, 102):
        hub.ambient.advance(0.011)
        await acknowledged(client, number)


async def test_103_what_would_wait_too_long_ends_the_connection_and_says_why(hub: MqttHub) -> None:
    client = await hub.device("d")
    use_up(hub, TELEMETRY, all_of_it=True)
    await client.send(messages(1))
    assert await client.expect_end() == b""
    assert await hub.last_cause() == "throttle"
    assert reading(hub, TELEMETRY).refused >= 1
    hub.ambient.advance(THROTTLE_BACKLOG.open)
    again = await hub.device("d")
    await again.send(messages(1))
    await acknowledged(again, 1)


async def test_104_a_device_within_its_share_does_not_notice_that_another_floods(hub: MqttHub) -> None:
    quiet, flooding = await hub.device("quiet"), await hub.device("flooding")
    await quiet.send(messages(1, device="quiet"))
    await acknowledged(quiet, 1)
    use_up(hub, TELEMETRY, "flooding", all_of_it=True)
    await flooding.send(messages(1, device="flooding"))
    assert await flooding.expect_end() == b""
    assert await hub.last_cause() == "throttle"
    for number in range(2, 50):
        await quiet.send(messages(number, device="quiet"))
        await acknowledged(quiet, number)


async def test_105_a_connection_that_ends_while_its_message_waits_has_not_sent_it(hub: MqttHub) -> None:
    client = await hub.device("d")
    use_up(hub, TELEMETRY)
    await client.send(messages(1))
    await hub.settled(lambda: len(held(hub)) == 1)
    again = await hub.device("d")
    hub.ambient.advance(1)
    await again.send(messages(2))
    await acknowledged(again, 2)
    assert await hub.message_bodies("d", 1) == ["2"]


async def test_106_who_says_goodbye_behind_waiting_messages_has_sent_them(hub: MqttHub) -> None:
    client = await hub.device("d")
    use_up(hub, TELEMETRY)
    await client.send(messages(1, 2, qos=0), DISCONNECT)
    await hub.settled(lambda: len(held(hub)) == 3)
    hub.ambient.advance(1)
    assert await client.expect_end() == b""
    assert await hub.message_bodies("d", 2) == ["1", "2"]


async def test_107_a_slow_disk_and_a_full_rate_together_lose_nothing(hub: MqttHub) -> None:
    client = await hub.device("d")
    use_up(hub, TELEMETRY)
    hub.log.held = True
    large = [publish(EVENTS, bytes(200_000), packet_id=number) for number in range(1, 21)]
    client.writer.write(b"".join(large))

    def congested_in_time() -> bool:
        hub.ambient.advance(0.011)
        return hub.telemetry.congested

    await hub.settled(congested_in_time)
    hub.log.release()
    for number in range(1, 21):
        await acknowledged(client, number)
        hub.ambient.advance(0.011)
    assert len(await hub.message_bodies("d", 20)) == 20


# --- 2. connections


async def test_201_connections_above_the_rate_are_let_in_late(hub: MqttHub) -> None:
    use_up(hub, CONNECTIONS)
    client = await hub.open()
    before = reading(hub, CONNECTIONS).delayed
    await client.send(await hub.connect_packet("d"))
    await hub.settled(lambda: reading(hub, CONNECTIONS).delayed == before + 1)
    assert hub.sessions.connected_count() == 0
    hub.ambient.advance(0.011)
    assert (await client.expect("CONNACK")).body == bytes(2)
    await alive(client)


async def test_202_then_they_are_told_that_the_server_is_unavailable(hub: MqttHub) -> None:
    use_up(hub, CONNECTIONS, all_of_it=True)
    client = await hub.open()
    assert await client.connect(*await hub.login("d")) == (False, CONNACK_UNAVAILABLE)
    assert await client.expect_end() == b""
    assert await hub.last_cause() == "throttle"
    hub.ambient.advance(THROTTLE_BACKLOG.open)
    await hub.device("d")


async def test_203_who_loses_his_ground_while_he_waits_is_refused(hub: MqttHub) -> None:
    use_up(hub, CONNECTIONS)
    client = await hub.open()
    before = reading(hub, CONNECTIONS).delayed
    await client.send(await hub.connect_packet("d"))
    await hub.settled(lambda: reading(hub, CONNECTIONS).delayed == before + 1)
    await hub.registry.update(Draft(key=IdentityKey("d"), status=Status.DISABLED), ANY)
    hub.ambient.advance(0.011)
    assert (await client.expect("CONNACK")).body == bytes((0, CONNACK_REFUSED))


async def test_204_who_is_refused_anyway_uses_nothing_of_the_rate(hub: MqttHub) -> None:
    name, user, _ = await hub.login("d")
    for _ in range(3):
        client = await hub.open()
        assert await client.connect(name, user, "no token") == (False, CONNACK_REFUSED)
    assert reading(hub, CONNECTIONS).accepted == 0


# --- 3. twins


@pytest.mark.parametrize(("throttle", "topic", "done"), [(TWIN_READS, GET, 200), (TWIN_UPDATES, PATCH, 204)])
async def test_301_twin_requests_above_the_rate_are_answered_429(
    hub: MqttHub, throttle: Throttle, topic: str, done: int
) -> None:
    client = await hub.device("d")
    await subscribe(client, RESPONSES)
    while True:
        try:
            hub.meters.take(throttle, "d")
        except ThrottledError as error:
            wait = error.retry_after
            break
    answered, body = await ask(client, topic + "1", b"{}")
    assert answered == "$iothub/twin/res/429/?$rid=1"
    assert body["errorCode"] == 429001
    hub.ambient.advance(wait + 0.001)
    answered, _ = await ask(client, topic + "2", b"{}")
    assert answered.startswith(f"$iothub/twin/res/{done}/?$rid=2")


# --- 4. the day's quota


async def test_401_with_the_quota_used_up_devices_are_cut_and_kept_out_until_midnight(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path, plan=Plan(Tier.F1), quota=Quota(4, 512)) as hub:
        client = await hub.device("d")
        await subscribe(client, RESPONSES)
        await client.send(publish(EVENTS, bytes(1024), packet_id=1), publish(EVENTS, packet_id=2))
        await acknowledged(client, 1, 2)
        assert (await ask(client, GET + "1"))[0] == "$iothub/twin/res/200/?$rid=1"
        answered, body = await ask(client, GET + "2")
        assert (answered, body["errorCode"]) == ("$iothub/twin/res/403/?$rid=2", 403002)
        await client.send(messages(3))
        assert await client.expect_end() == b""
        assert await hub.last_cause() == "quota"
        again = await hub.open()
        assert await again.connect(*await hub.login("d")) == (False, CONNACK_UNAVAILABLE)
        hub.ambient.advance(DAY)
        client = await hub.device("d")
        await client.send(messages(3))
        await acknowledged(client, 3)
        assert len(await hub.messages("d")) == 3


async def test_402_properties_count_with_the_body(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path, plan=Plan(Tier.F1), quota=Quota(100, 512)) as hub:
        client = await hub.device("d")
        await client.send(publish(f"{EVENTS}name={'v' * 507}", b"1", packet_id=1))
        await acknowledged(client, 1)
        quota = hub.meters.quota()
        assert quota is not None
        assert quota.used == 2


# --- 5. without a plan


async def test_501_in_the_open_profile_nothing_is_throttled_and_all_is_counted(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path) as hub:
        hub.meters.count_by(TELEMETRY, lambda: hub.telemetry.messages)
        client = await hub.device("d")
        assert type(hub.connections[-1]) is MqttConnection
        await subscribe(client, RESPONSES)
        for first in range(0, 20_000, 1000):
            await client.send(messages(*range(first + 1, first + 1001)))
            await acknowledged(client, *range(first + 1, first + 1001))
        for first in range(0, 300, 50):  # more may not be in progress at once, throttled or not
            for number in range(first, first + 50):
                await client.send(publish(GET + str(number), qos=0))
            for _ in range(50):
                assert b"/res/200/" in (await client.expect("PUBLISH")).body
        assert reading(hub, TELEMETRY)[1:] == (20_000, 0, 0, None, None)
        assert reading(hub, TWIN_READS).accepted == 300
        assert reading(hub, CONNECTIONS).accepted == 1
        assert json.dumps(hub.meters.quota()) == "null"
