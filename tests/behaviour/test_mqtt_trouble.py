"""The MQTT head when something goes wrong around it: a store that fails, a slow disk, a slow reader, an ending hub."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from mqtt_hub import EVENTS, MAX_PENDING_BYTES, MqttHub, alive, mqtt_hub

from muster.core.errors import CONNACK_UNAVAILABLE, SERVER_ERROR, HubError
from muster.core.limits import MQTT_FILTER_CHARACTERS, MQTT_SUBSCRIPTIONS
from muster.identity.model import Identity, IdentityKey
from muster.messages.telemetry import Batch
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.testing.mqtt import publish, subscribe
from muster.wire.mqtt.packets import SUBSCRIBE_REFUSED, Will

METHODS = "$iothub/methods/POST/#"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it to have the store of identities fail from then on."""

    async def fail(*_: object) -> Identity | None:
        raise HubError(SERVER_ERROR, "the disk failed")

    def broken() -> None:
        for store in (SqliteIdentityStore, PostgresIdentityStore):
            monkeypatch.setattr(store, "get", fail)

    return broken


async def test_701_a_store_that_fails_is_no_fault_of_the_client(hub: MqttHub, broken: Any) -> None:
    login = await hub.login("d")
    client = await hub.open()
    broken()
    assert await client.connect(*login) == (False, CONNACK_UNAVAILABLE)
    assert await client.expect_end() == b""
    assert await hub.last_cause() == ""


async def test_702_who_cannot_be_judged_again_after_a_change_is_disconnected(hub: MqttHub, broken: Any) -> None:
    client = await hub.device("d")
    broken()
    await hub.registry.delete(IdentityKey("d"))
    assert await client.expect_end() == b""


async def test_703_a_clean_session_leaves_nothing_to_the_one_that_takes_over(hub: MqttHub) -> None:
    older = await hub.device("d", clean_session=True)
    await older.send(subscribe(1, [(METHODS, 1)]))
    await older.expect("SUBACK")
    newer = await hub.open()
    assert await newer.connect(*await hub.login("d"), clean_session=False) == (False, 0)
    assert await older.expect_end() == b""


async def test_704_subscriptions_are_bounded(hub: MqttHub) -> None:
    client = await hub.device("d")
    most = MQTT_SUBSCRIPTIONS.open
    names = [f"{METHODS[:-1]}{number}" for number in range(most + 1)]
    await client.send(subscribe(1, [(name, 1) for name in names]), subscribe(2, [(names[0], 0)]))
    assert (await client.expect("SUBACK")).body[2:] == bytes([1] * most + [SUBSCRIBE_REFUSED])
    assert (await client.expect("SUBACK")).body[2:] == b"\0", "a filter that is there may change"
    await client.send(subscribe(3, [(METHODS[:-1] + "x" * MQTT_FILTER_CHARACTERS.open, 1)]))
    assert (await client.expect("SUBACK")).body[2:] == bytes([SUBSCRIBE_REFUSED])


async def fill(hub: MqttHub, client: Any) -> int:
    """Send until the hub reads no more, for the disk does not write; how many messages that took."""
    hub.log.held = True
    sent = 0
    while not hub.telemetry.congested:
        sent += 1
        await client.send(publish(EVENTS, b"x" * 200_000, qos=1, packet_id=sent))
        await asyncio.sleep(0.01)
        assert sent < 10 * MAX_PENDING_BYTES // 200_000
    return sent


async def test_705_who_is_not_read_is_not_taken_for_silent(hub: MqttHub) -> None:
    client = await hub.device("d", keep_alive=1)
    sent = await fill(hub, client)
    await asyncio.sleep(2.0)
    hub.log.release()
    for _ in range(sent):
        await client.expect("PUBACK")
    await alive(client)


async def test_706_a_client_that_does_not_read_is_not_read_when_the_disk_has_caught_up(hub: MqttHub) -> None:
    client = await hub.device("d")
    connection = hub.connections[-1]
    transport = connection._transport
    sent = await fill(hub, client)
    connection.pause_writing()
    hub.log.release()
    for _ in range(sent):
        await client.expect("PUBACK")
    assert not transport.is_reading()
    connection.resume_writing()
    await alive(client)


async def test_707_who_falls_silent_holds_no_messages(hub: MqttHub) -> None:
    clients = [await hub.device(f"d{number}") for number in range(5)]
    for number, client in enumerate(clients):
        await client.send(publish(f"devices/d{number}/messages/events/", b"x", qos=1, packet_id=1))
        await client.expect("PUBACK")
    gc.collect()
    held = [thing for thing in gc.get_objects() if isinstance(thing, Batch) and any(thing.shares)]
    assert len(held) < len(clients)


async def test_708_a_will_that_comes_too_late_is_no_accident(hub: MqttHub) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    client = await hub.device("d", will=Will(EVENTS, b"farewell", 1, retain=False))
    await hub.telemetry.close()
    client.abort()
    await hub.settled(lambda: not hub.sessions.is_connected(IdentityKey("d")))
    await asyncio.sleep(0)
    assert not problems
