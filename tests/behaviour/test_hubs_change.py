"""Hubs added to a running node and removed from it: without a restart, and for the restarts to come."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amqp_client import AmqpClient, partition
from two_hubs import EAST, WEST, TwoHubs, settings_of, two_hubs

from muster.core.errors import SERVER_ERROR, HubError
from muster.identity.sas import make
from muster.node.deployment import Eraser
from muster.node.node import Node
from muster.testing.mqtt import MqttClient
from muster.wire.amqp.performatives import Close


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[TwoHubs]:
    async with two_hubs(tmp_path, second=False) as hubs:
        yield hubs


async def add(hubs: TwoHubs, **members: Any) -> int:
    body = {"hostNames": [hubs.addresses[WEST], "west.example"], **members}
    return (await hubs.call(EAST, "PUT", f"/$muster/hubs/{WEST}", body)).status


async def remove(hubs: TwoHubs) -> int:
    return (await hubs.call(EAST, "DELETE", f"/$muster/hubs/{WEST}")).status


async def restarted(hubs: TwoHubs) -> None:
    """Stop the node and start another one on its data."""
    directory = hubs.node.settings.data
    assert directory is not None
    await hubs.node.stop()
    hubs.node = Node(settings_of(directory, hubs.addresses))
    await hubs.node.start()


async def test_01_a_hub_that_is_added_serves_at_once_and_after_a_restart(hubs: TwoHubs) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await MqttClient.open(
            hubs.addresses[EAST], hubs.node.facts["ports"]["mqtt"], hubs.trust, server_name="west.example"
        )
    assert await add(hubs, partitions=3) == 201
    key = await hubs.add_device(WEST, "d")
    await hubs.send(WEST, "d", key, b"one")  # the certificate is for the new names now
    assert (await hubs.stored(EAST), await hubs.stored(WEST)) == (0, 1)
    facts = hubs.facts(WEST)
    await restarted(hubs)
    assert (
        hubs.facts(WEST)["HUB_CONNECTION_STRING"].partition(":")[0] == facts["HUB_CONNECTION_STRING"].partition(":")[0]
    )
    assert hubs.owner(WEST).key in facts["HUB_CONNECTION_STRING"]
    assert hubs.hub(WEST).parts.telemetry.partitions == 3
    await hubs.send(WEST, "d", key, b"two")
    assert await hubs.stored(WEST) == 2
    listed = (await hubs.call(EAST, "GET", "/$muster/hubs")).json["hubs"]
    assert [(one["name"], one["first"], one["declared"], one["devices"]) for one in listed] == [
        (hubs.hub(EAST).name, True, True, 0), (WEST, False, False, 1),
    ]  # fmt: skip


async def test_02_a_hub_that_is_removed_ends_all_that_hangs_on_it(hubs: TwoHubs) -> None:
    await add(hubs)
    east_key, key = await hubs.add_device(EAST, "d"), await hubs.add_device(WEST, "d")
    stays, _ = await hubs.connect(EAST, "d", east_key)
    goes, code = await hubs.connect(WEST, "d", key)
    assert code == 0
    loop = asyncio.get_running_loop()
    plain, owner = hubs.node.facts["ports"]["amqp_plain"], hubs.owner(WEST)

    def read_until_closed(ready: asyncio.Event) -> str:
        with AmqpClient(plain, host=hubs.addresses[WEST], hostname=hubs.addresses[WEST]) as client:
            client.put_token(owner.key, policy="iothubowner", audience=f"sb://{hubs.addresses[WEST]}/{WEST}")
            client.credit(client.attach(source=partition(0, entity=WEST)), 10)
            loop.call_soon_threadsafe(ready.set)
            return str(client.wait_for(Close).body.error.condition)

    ready = asyncio.Event()
    reader = asyncio.create_task(asyncio.to_thread(read_until_closed, ready))
    await ready.wait()
    token = {"Authorization": hubs.token(WEST)}
    async with hubs.session.get(hubs.url(WEST, "/$muster/monitor"), headers=token, ssl=hubs.trust) as monitor:
        assert monitor.status == 200
        assert await remove(hubs) == 204
        await monitor.read()  # what streams has ended too
    assert await goes.expect_end() == b""
    assert await reader == "com.microsoft:server-busy", "as when a hub stops"
    await stays.send(b"\xc0\x00")
    await stays.expect("PINGRESP")
    await stays.close()


async def test_03_nothing_is_left_of_a_hub_that_is_removed(hubs: TwoHubs) -> None:
    await add(hubs)
    key = await hubs.add_device(WEST, "d")
    await hubs.send(WEST, "d", key, b"one")
    owner = hubs.owner(WEST)
    _, code = await hubs.connect(WEST, "d", "AAAA")
    assert code == 5
    directory = hubs.node.settings.data
    assert directory is not None
    before = await hubs.rows(WEST)
    assert (await hubs.stored(WEST), len(before["identities"])) == (1, 1)
    assert any("west/" in row for row in before["settings"])
    assert await remove(hubs) == 204
    assert [path.name for path in directory.iterdir() if "west" in path.name] == []
    left = await hubs.rows(WEST)
    assert not any("west/" in row for row in left.pop("settings"))
    assert [table for table, rows in left.items() if rows] == []
    _, code = await hubs.connect(EAST, "d", key, user_host="west.example")
    assert code == 5
    assert await hubs.causes(EAST) == ["host-unknown"]
    assert WEST not in hubs.node.facts["hubs"]
    assert await add(hubs) == 201
    assert hubs.owner(WEST).key != owner.key
    assert (await hubs.call(WEST, "GET", "/devices/d")).status == 404
    assert await hubs.stored(WEST) == 0


async def test_03_1_a_request_to_a_hub_that_is_removed_does_nothing_to_a_later_one(
    hubs: TwoHubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner of the earlier hub, whose key counts no more, has begun to make a device and not sent its body."""
    monkeypatch.setattr("muster.node.node.DRAIN_SECONDS", 0.1)
    await add(hubs)
    body = b'{"deviceId": "late"}'
    reader, writer = await asyncio.open_connection(
        hubs.addresses[WEST], hubs.node.facts["ports"]["https"], ssl=hubs.trust, server_hostname=hubs.addresses[WEST]
    )
    writer.write(
        f"PUT /devices/late?api-version=2021-04-12 HTTP/1.1\r\nHost: {hubs.addresses[WEST]}\r\n"
        f"Authorization: {hubs.token(WEST)}\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    )
    assert (await reader.readline()).startswith(b"HTTP/1.1 100")
    assert await remove(hubs) == 204
    assert await add(hubs) == 201
    with contextlib.suppress(ConnectionError):
        writer.write(body)
        await reader.read()
    writer.close()
    assert (await hubs.call(WEST, "GET", "/devices/late")).status == 404


async def test_04_a_removal_that_was_cut_short_is_finished_at_the_next_start(
    hubs: TwoHubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(hubs)
    await hubs.add_device(WEST, "d")

    async def fails(self: Eraser, name: str) -> None:
        raise HubError(SERVER_ERROR, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Eraser, "erase", fails)
        assert await remove(hubs) == 500
    await restarted(hubs)
    assert WEST not in hubs.node.facts["hubs"]
    directory = hubs.node.settings.data
    assert directory is not None
    assert not (directory / "telemetry-west.db").exists()
    assert await add(hubs) == 201
    assert (await hubs.call(WEST, "GET", "/devices/d")).status == 404


@pytest.mark.parametrize(
    ("name", "members", "said"),
    [
        ("West", {}, "cannot be named"),
        ("messages", {}, "cannot be named"),
        ("a" * 51, {}, "cannot be named"),
        ("two", {"hostNames": []}, "hostNames is empty"),
        ("two", {"hostNames": ["localhost"]}, "a name of every hub"),
        ("two", {"hostNames": ["EAST.example"]}, "east.example is a name of the hub"),
        ("two", {"hostNames": ["west.example:443"]}, "west.example is a name of the hub west"),
        ("west", {"hostNames": ["other.example"]}, "a hub named west already"),
        ("two", {"hostNames": ["not a host"]}, "neither a host name nor an address"),
        ("two", {"partitions": 33}, "partitions must be from 1 to 32"),
        ("two", {"retentionDays": 0}, "retentionDays must be from 1"),
    ],
)
async def test_05_a_hub_that_cannot_be_is_refused_and_changes_nothing(
    hubs: TwoHubs, name: str, members: dict[str, Any], said: str
) -> None:
    await add(hubs)
    facts = hubs.node.facts
    answer = await hubs.call(EAST, "PUT", f"/$muster/hubs/{name}", {"hostNames": ["two.example"], **members})
    assert answer.status == 400
    assert said in answer.text
    assert hubs.node.facts == facts
    await restarted(hubs)
    assert list(hubs.node.facts["hubs"]) == [hubs.hub(EAST).name, WEST]


async def test_06_only_the_owner_of_the_first_hub_changes_hubs(hubs: TwoHubs) -> None:
    await add(hubs)
    for method, path in (("GET", ""), ("PUT", "/two"), ("DELETE", "/west")):
        assert (await hubs.call(WEST, method, f"/$muster/hubs{path}", {})).status == 404
        service = next(one for one in hubs.hub(EAST).facts.policies.values() if one.name == "service")
        token = make(hubs.addresses[EAST], 2_000_000_000, service.primary_key.encode(), "service")
        assert (await hubs.call(EAST, method, f"/$muster/hubs{path}", {}, token=token)).status == 401
    assert (await hubs.call(EAST, "DELETE", "/$muster/hubs/none")).status == 404
    assert (await hubs.call(EAST, "DELETE", f"/$muster/hubs/{hubs.hub(EAST).name}")).status == 404


async def test_07_a_hub_of_the_settings_is_removed_there(tmp_path: Path) -> None:
    async with two_hubs(tmp_path) as hubs:
        answer = await hubs.call(EAST, "DELETE", f"/$muster/hubs/{WEST}")
        assert answer.status == 400
        assert "in the settings of muster serve" in answer.text
        key = await hubs.add_device(WEST, "d")
        await restarted(hubs)
        _, code = await hubs.connect(EAST, "d", key, user_host="west.example")
        assert code == 5, "it is not open any more"
        assert await add(hubs, partitions=3) == 201
        client, code = await hubs.connect(WEST, "d", key)
        assert code == 0, "what it had was kept"
        await client.close()


async def test_08_hubs_come_and_go_while_devices_send(hubs: TwoHubs) -> None:
    key = await hubs.add_device(EAST, "d")

    async def changes() -> None:
        for _ in range(3):
            assert await add(hubs) == 201
            west = await hubs.add_device(WEST, "d")
            with contextlib.suppress(EOFError, ConnectionError):
                await hubs.send(WEST, "d", west, b"x")
            assert await remove(hubs) == 204

    changing = asyncio.create_task(changes())
    sent = 0
    while not changing.done():
        await hubs.send(EAST, "d", key, b"y")
        sent += 1
    await changing
    assert await hubs.stored(EAST) == sent
