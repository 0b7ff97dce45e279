"""MQTT subscriptions, sentence by sentence, on real sockets: they outlive connections, and the hub itself."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from mqtt_hub import EVENTS, MqttHub, alive, mqtt_hub

from muster.core.errors import CONNACK_UNAVAILABLE
from muster.core.throttles import TELEMETRY, Plan, Tier
from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey
from muster.messages.commands import Command
from muster.stores.sqlite.database import Writer
from muster.stores.sqlite.storage import SqliteStorage
from muster.testing.hub import HubProcess
from muster.testing.mqtt import DISCONNECT, PINGREQ, MqttClient, publish, subscribe, unsubscribe
from muster.wire.mqtt.packets import Will

DEVICE = IdentityKey("d")
DESIRED, METHODS = "$iothub/twin/PATCH/properties/desired/#", "$iothub/methods/POST/#"
RESPONSES, COMMANDS = "$iothub/twin/res/#", "devices/d/messages/devicebound/#"
SHORT = 0.2
"""Seconds in which nothing comes, where nothing may come."""

of_the_file = pytest.mark.embedded("looks at what is written into hub.db, or holds it up")


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


def writer_of(hub: MqttHub) -> Writer:
    """What writes ``hub.db``."""
    assert isinstance(hub.storage, SqliteStorage)
    return hub.storage._writer


@pytest.fixture
def slow_disk(hub: MqttHub) -> Callable[[], Callable[[], None]]:
    """Call it to have every commit of ``hub.db`` wait until what it answers is called."""

    def hold() -> Callable[[], None]:
        going_on = threading.Event()
        writer_of(hub).submit(lambda _: going_on.wait(30))
        return going_on.set

    return hold


async def take(client: MqttClient, *filters: str, packet_id: int = 1) -> None:
    await client.send(subscribe(packet_id, [(name, 1) for name in filters]))
    assert (await client.expect("SUBACK")).body[2:] == b"\x01" * len(filters)


async def leave(client: MqttClient) -> None:
    await client.send(DISCONNECT)
    await client.expect_end()


async def comes_back(hub: MqttHub, **options: Any) -> tuple[MqttClient, bool]:
    """Connect again; whether there was a session."""
    client = await hub.open()
    present, code = await client.connect(*await hub.login("d"), **options)
    assert code == 0
    return client, present


async def written(hub: MqttHub) -> int:
    """How many rows of the database were written so far."""
    return await writer_of(hub).submit(apsw.Connection.total_changes)


async def nothing_comes(client: MqttClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(SHORT):
            await client.reader.read(1)


# --- 1. They last


async def test_1_1_a_hub_that_is_started_again_goes_on_with_them(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path) as hub:
        await take(await hub.device("d"), DESIRED, METHODS, COMMANDS)
    async with mqtt_hub(tmp_path) as hub:
        client, present = await comes_back(hub)
        assert present
        await hub.twins.patch(DEVICE, None, {"wanted": 1})
        assert (await client.expect("PUBLISH")).body.endswith(b'{"wanted":1,"$version":2}')
        await hub.messaging.commands.send(DEVICE, Command(body=b"come here"))
        assert (await client.expect("PUBLISH")).body.endswith(b"come here")
        assert hub.sessions.taker(DEVICE, "any") is not None


async def test_1_2_what_it_unsubscribed_from_is_gone_then(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path) as hub:
        client = await hub.device("d")
        await take(client, DESIRED, METHODS)
        await client.send(unsubscribe(2, [METHODS]))
        await client.expect("UNSUBACK")
    async with mqtt_hub(tmp_path) as hub:
        client, present = await comes_back(hub)
        assert present
        assert hub.sessions.taker(DEVICE, "any") is None
        await client.send(unsubscribe(3, [DESIRED]))
        await client.expect("UNSUBACK")
    async with mqtt_hub(tmp_path) as hub:
        assert (await comes_back(hub))[1] is False


@of_the_file
async def test_1_3_who_subscribes_again_to_the_same_writes_nothing(hub: MqttHub) -> None:
    await take(await hub.device("d"), DESIRED, METHODS)
    before = await written(hub)
    for _ in range(2):
        client, present = await comes_back(hub)
        assert present
        await take(client, METHODS)
        await take(client, DESIRED)
    assert await written(hub) == before
    await take(client, RESPONSES)
    assert await written(hub) == before + 1


async def test_1_4_a_device_and_its_module_have_their_own(hub: MqttHub) -> None:
    await hub.key("d")
    module = await hub.device("d", "m")
    await take(module, METHODS)
    await leave(module)
    assert (await comes_back(hub))[1] is False
    again = await hub.open()
    assert await again.connect(*await hub.login("d", "m")) == (True, 0)


# --- 2. They end


@of_the_file
async def test_2_1_a_clean_session_ends_those_of_earlier_ones_and_leaves_none(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path) as hub:
        await take(await hub.device("d"), DESIRED)
        client, present = await comes_back(hub, clean_session=True)
        assert not present
        await hub.twins.patch(DEVICE, None, {"wanted": 1})
        await alive(client)
        before = await written(hub)
        await take(client, METHODS)
        assert await written(hub) == before, "they end with it"
        assert hub.sessions.taker(DEVICE, "any") is not None
    async with mqtt_hub(tmp_path) as hub:
        assert (await comes_back(hub))[1] is False


@of_the_file
async def test_2_2_connack_says_clean_only_when_the_disk_knows(
    hub: MqttHub, slow_disk: Callable[[], Callable[[], None]]
) -> None:
    await take(await hub.device("d"), METHODS)
    login = await hub.login("d")
    go_on, client = slow_disk(), await hub.open()
    connecting = asyncio.create_task(client.connect(*login, clean_session=True))
    await asyncio.wait([connecting], timeout=SHORT)
    assert not connecting.done()
    assert hub.sessions.taker(DEVICE, "any") is None
    go_on()
    assert await connecting == (False, 0)
    assert (await comes_back(hub))[1] is False


@pytest.mark.parametrize("key", [DEVICE, IdentityKey("d", "m")])
async def test_2_3_a_later_identity_of_the_name_has_none(hub: MqttHub, key: IdentityKey) -> None:
    await hub.key("d")
    await take(await hub.device(*key), METHODS)
    await hub.registry.delete(DEVICE, ANY)
    await hub.registry.create(Draft(key=DEVICE))
    client = await hub.open()
    assert await client.connect(*await hub.login(*key)) == (False, 0)


# --- 3. The disk comes first


@of_the_file
async def test_3_1_suback_and_unsuback_come_when_it_is_on_disk_and_what_is_behind_them_after_that(
    hub: MqttHub, slow_disk: Callable[[], Callable[[], None]]
) -> None:
    client = await hub.device("d")
    for packet, answer in ((subscribe(1, [(RESPONSES, 0)]), "SUBACK"), (unsubscribe(2, [RESPONSES]), "UNSUBACK")):
        go_on = slow_disk()
        await client.send(packet, publish("$iothub/twin/GET/?$rid=1", qos=0), PINGREQ)
        await nothing_comes(client)
        await client.send(publish(EVENTS, b"1", packet_id=7))
        go_on()
        expected = [answer, "PINGRESP", "PUBACK"] + (["PUBLISH"] if answer == "SUBACK" else [])
        came = [(await client.receive()).kind for _ in expected]
        assert came[:2] == expected[:2]
        assert sorted(came) == sorted(expected), "a twin's answer finds the subscription that was asked for before it"


@of_the_file
async def test_3_2_who_takes_over_meanwhile_goes_on_with_them(
    hub: MqttHub, slow_disk: Callable[[], Callable[[], None]]
) -> None:
    older, login = await hub.device("d"), await hub.login("d")
    go_on, newer = slow_disk(), await hub.open()
    await older.send(subscribe(1, [(METHODS, 0)]))
    await nothing_comes(older)
    connecting = asyncio.create_task(newer.connect(*login))
    assert await older.expect_end() == b""
    go_on()
    assert await connecting == (True, 0)
    assert hub.sessions.taker(DEVICE, "any") is not None


async def test_3_3_disconnect_right_behind_subscribe_is_heard_and_no_will_told(hub: MqttHub) -> None:
    client = await hub.device("d", will=Will(EVENTS, b"gone", 1, retain=False))
    await client.send(subscribe(1, [(METHODS, 0)]), publish(EVENTS, b"last", qos=0), DISCONNECT)
    assert (await client.expect("SUBACK")).packet_id == 1
    assert await client.expect_end() == b""
    await hub.settled(lambda: not hub.sessions.is_connected(DEVICE))
    await hub.message_bodies("d", 1)
    assert [message["body"] for message in await hub.messages("d")] == ["last"]


@of_the_file
async def test_3_4_what_cannot_be_kept_is_not_acknowledged(hub: MqttHub) -> None:
    client = await hub.device("d")
    await take(client, DESIRED)
    for event in ("INSERT", "DELETE"):
        full = f"CREATE TRIGGER full_{event} BEFORE {event} ON subscriptions BEGIN SELECT raise(ABORT, 'full'); END"
        await writer_of(hub).submit(lambda connection, full=full: connection.execute(full))
    await client.send(subscribe(2, [(METHODS, 0)]), PINGREQ)
    assert await client.expect_end() == b""
    clean = await hub.open()
    assert await clean.connect(*await hub.login("d"), clean_session=True) == (False, CONNACK_UNAVAILABLE)
    assert await clean.expect_end() == b""
    await hub.settled(lambda: not hub.sessions.is_connected(DEVICE))
    for event in ("INSERT", "DELETE"):
        await writer_of(hub).submit(lambda connection, event=event: connection.execute(f"DROP TRIGGER full_{event}"))
    _, present = await comes_back(hub)
    assert present
    assert hub.sessions.taker(DEVICE, "any") is None


async def test_3_5_where_rates_are_enforced_messages_behind_it_count_once(tmp_path: Path) -> None:
    async with mqtt_hub(tmp_path, plan=Plan(Tier.S1)) as hub:
        client = await hub.device("d")
        messages = [publish(EVENTS, b"%d" % number, packet_id=number) for number in (1, 2, 3)]
        await client.send(messages[0], subscribe(1, [(METHODS, 0)]), *messages[1:])
        answers = [await client.receive() for _ in range(4)]
        assert [answer.kind for answer in answers].count("PUBACK") == 3
        shaped = next(one for one in hub.meters.look() if one.throttle is TELEMETRY)
        assert shaped.accepted == 3


# --- 4. In a process of its own


@pytest.mark.parametrize("end", [HubProcess.stop, HubProcess.kill])
async def test_4_1_a_hub_that_stopped_or_was_killed_tells_a_device_of_changes_without_subscribe(
    make_hub: Callable[..., HubProcess], end: Callable[[HubProcess], Any]
) -> None:
    def login() -> tuple[str, str, str]:
        return "d", f"{hub.address}/d/?api-version=2021-04-12", hub.token("devices/d", key)

    hub = make_hub("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0").start()
    key = hub.add_device("d")
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    assert await client.connect(*login()) == (False, 0)
    await take(client, DESIRED, METHODS)
    await asyncio.to_thread(end, hub)
    await client.close()
    await asyncio.to_thread(hub.start)
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    assert await client.connect(*login()) == (True, 0)
    change = {"properties": {"desired": {"wanted": 1}}}
    assert (await asyncio.to_thread(hub.request, "PATCH", "/twins/d", change))[0] == 200
    assert (await client.expect("PUBLISH")).body.endswith(b'{"wanted":1,"$version":2}')
    call = asyncio.create_task(asyncio.to_thread(hub.request, "POST", "/twins/d/methods", {"methodName": "m"}))
    topic = (await client.expect("PUBLISH")).body.decode()
    assert "$iothub/methods/POST/m/" in topic
    request_id = topic.partition("$rid=")[2].partition("null")[0].partition("{")[0]
    await client.send(publish(f"$iothub/methods/res/200/?$rid={request_id}", json.dumps("done").encode(), qos=0))
    assert await call == (200, {"status": 200, "payload": "done"})
    await client.close()
    assert hub.stop() == 0
