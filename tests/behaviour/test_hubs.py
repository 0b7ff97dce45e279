"""Several hubs in one deployment: each client gets to the hub that it names, and neither hub knows of the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from amqp_client import AmqpClient, partition
from amqp_device import Device
from two_hubs import EAST, WEST, TwoHubs, two_hubs

from muster.identity.sas import decode_key, make
from muster.wire.amqp.message import Message
from muster.wire.amqp.performatives import ACCEPTED, Attach, Detach, Flow


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[TwoHubs]:
    async with two_hubs(tmp_path) as hubs:
        yield hubs


async def test_01_one_id_is_two_devices(hubs: TwoHubs) -> None:
    east, west = [await hubs.add_device(name, "d") for name in (EAST, WEST)]
    assert east != west
    await hubs.send(EAST, "d", east, b"to east")
    assert (await hubs.stored(EAST), await hubs.stored(WEST)) == (1, 0)
    await hubs.send(WEST, "d", west, b"to west")
    await hubs.send(WEST, "d", west, b"to west")
    assert (await hubs.stored(EAST), await hubs.stored(WEST)) == (1, 2)
    both = [await hubs.connect(name, "d", key) for name, key in ((EAST, east), (WEST, west))]
    assert [code for _, code in both] == [0, 0]
    assert [hubs.hub(name).parts.sessions.connected_count() for name in (EAST, WEST)] == [1, 1], "no takeover"
    for client, _ in both:
        await client.close()


async def test_02_the_key_of_a_device_is_good_at_its_own_hub_only(hubs: TwoHubs) -> None:
    keys = {name: await hubs.add_device(name, "d") for name in (EAST, WEST)}
    for name, other in ((EAST, WEST), (WEST, EAST)):
        _, code = await hubs.connect(name, "d", keys[other])
        assert code == 5
        assert await hubs.causes(name) == ["wrong-key"]
        _, code = await hubs.connect(name, "d", keys[other], token_host=hubs.addresses[other])
        assert code == 5
        assert await hubs.causes(name) == ["token-for-another-hub", "wrong-key"]
    assert await hubs.stored(EAST) == await hubs.stored(WEST) == 0


async def test_03_mqtt_asks_the_user_names_host(hubs: TwoHubs) -> None:
    key = await hubs.add_device(WEST, "only-west")
    for host in ("west.example", "WEST.example:8883", hubs.addresses[WEST]):
        client, code = await hubs.connect(EAST, "only-west", key, user_host=host, token_host="west.example")
        assert code == 0, host
        await client.close()
    _, code = await hubs.connect(WEST, "only-west", key, user_host="unknown.example", token_host="west.example")
    assert code == 5
    assert await hubs.causes(EAST) == ["host-unknown"], "the first hub refuses what nobody knows"
    assert await hubs.causes(WEST) == []


async def test_04_https_asks_the_token_then_the_host_header(hubs: TwoHubs) -> None:
    await hubs.add_device(WEST, "d")
    assert (await hubs.call(WEST, "GET", "/devices/d")).status == 200
    assert (await hubs.call(EAST, "GET", "/devices/d")).status == 404
    assert (await hubs.call(EAST, "GET", "/devices/d", token=hubs.token(WEST))).status == 200
    shared = hubs.token(WEST, host="localhost")
    assert (await hubs.call(WEST, "GET", "/devices/d", token=shared)).status == 200
    assert (await hubs.call(EAST, "GET", "/devices/d", token=shared)).status == 401
    assert await hubs.causes(EAST) == ["wrong-key"]
    assert (await hubs.call(WEST, "GET", "/devices/d", token=hubs.token(WEST, host="no.example"))).status == 401
    forged = make(hubs.addresses[WEST], int(time.time()) + 60, hubs.owner(EAST).key_bytes, "iothubowner")
    assert (await hubs.call(EAST, "GET", "/devices/d", token=forged)).status == 401
    assert await hubs.causes(WEST) == ["wrong-key", "token-for-another-hub"]


def attached(client: AmqpClient, address: str) -> str:
    """The condition that ends an attach to ``address``, empty when it stays."""
    handle = client.attach(source=address)
    client.wait_for(Attach)
    client.credit(handle, 1, drain=True)
    while (came := client.next()) is not None:
        if isinstance(came.body, Detach):
            return str(came.body.error.condition)
        if isinstance(came.body, Flow) and came.body.handle == handle:
            return ""
    raise AssertionError("nothing came")


@pytest.mark.parametrize(
    ("name", "audience", "entity"),
    [
        ("west.example", "sb://west.example/west", "west"),
        ("localhost", "sb://west.example/west", "west"),
        ("localhost", "sb://localhost/west", "west"),
        ("unknown.example", "sb://localhost/west/ConsumerGroups/$Default", "west"),
    ],
)
async def test_05_amqp_asks_the_token_then_the_entity(hubs: TwoHubs, name: str, audience: str, entity: str) -> None:
    def converse() -> None:
        with AmqpClient(hubs.node.facts["ports"]["amqp_plain"], host=hubs.addresses[EAST], hostname=name) as client:
            answer = client.put_token(hubs.owner(WEST).key, policy="iothubowner", audience=audience)
            assert (answer.application_properties or {})["status-code"] == 200
            assert attached(client, partition(2, entity=entity)) == "", "west has three partitions, east two"
            east = hubs.node.hubs.first.name
            assert attached(client, partition(0, entity=east)) == "amqp:unauthorized-access"

    await asyncio.to_thread(converse)


async def test_06_a_token_of_another_hub_is_named_and_a_connection_stays_with_its_hub(hubs: TwoHubs) -> None:
    def converse() -> None:
        with AmqpClient(hubs.node.facts["ports"]["amqp_plain"], host=hubs.addresses[EAST]) as client:
            for signer, audience, status in (
                (EAST, "sb://west.example/west", 401),
                (WEST, "sb://west.example/west", 200),
                (EAST, "sb://east.example/x", 401),
            ):
                answer = client.put_token(hubs.owner(signer).key, policy="iothubowner", audience=audience)
                assert (answer.application_properties or {})["status-code"] == status

    await asyncio.to_thread(converse)
    assert await hubs.causes(WEST) == ["token-for-another-hub", "wrong-key"]
    assert await hubs.causes(EAST) == []


async def test_07_events_under_the_hubs_own_address_lead_to_its_entity(hubs: TwoHubs) -> None:
    def redirected(name: str) -> tuple[str, str]:
        with AmqpClient(
            hubs.node.facts["ports"]["amqp_plain"], host=hubs.addresses[EAST], hostname=hubs.addresses[name]
        ) as client:
            client.put_token(hubs.owner(name).key, policy="iothubowner", audience=hubs.addresses[name])
            client.attach(source="messages/events/ConsumerGroups/$Default/Partitions/0")
            info = client.wait_for(Detach).body.error.info
            return info["hostname"], info["address"]

    for name in (EAST, WEST):
        host, address = await asyncio.to_thread(redirected, name)
        assert host == hubs.addresses[name]
        assert f"/{hubs.hub(name).name}/" in address


async def test_08_management_speaks_of_its_own_hub(hubs: TwoHubs) -> None:
    def count(name: str, entity: str) -> object:
        with AmqpClient(hubs.node.facts["ports"]["amqp_plain"], host=hubs.addresses[EAST]) as client:
            client.put_token(
                hubs.owner(name).key,
                policy="iothubowner",
                audience=f"sb://{hubs.addresses[name]}/{hubs.hub(name).name}",
            )
            asked = {"operation": "READ", "type": "com.microsoft:eventhub", "name": entity}
            answer = client.request("$management", Message(application_properties=asked, value=None))
            return answer.value["partition_count"] if isinstance(answer.value, dict) else None

    east = hubs.hub(EAST).name
    assert await asyncio.to_thread(count, EAST, east) == 2
    assert await asyncio.to_thread(count, WEST, WEST) == 3
    assert await asyncio.to_thread(count, WEST, east) is None
    assert await asyncio.to_thread(count, EAST, WEST) is None


async def test_09_a_device_on_amqp_is_its_hubs_by_token_and_by_address(hubs: TwoHubs) -> None:
    keys = {name: await hubs.add_device(name, "d") for name in (EAST, WEST)}

    def token(name: str) -> str:
        secret = decode_key(keys[name])
        assert secret is not None
        return make(f"{hubs.addresses[name]}/devices/d", int(time.time()) + 600, secret)

    def converse() -> None:
        plain = hubs.node.facts["ports"]["amqp_plain"]
        with Device(plain, host=hubs.addresses[EAST], hostname=hubs.addresses[EAST]) as client:
            assert client.put(token(WEST), f"{hubs.addresses[WEST]}/devices/d")[0] == 200
            link = client.link("d", "messages/events")
            assert client.telemetry(link, b"to west") == ACCEPTED
            assert client.put(token(EAST), f"{hubs.addresses[EAST]}/devices/d")[0] == 401, "it is west's connection"

    await asyncio.to_thread(converse)
    assert (await hubs.stored(EAST), await hubs.stored(WEST)) == (0, 1)
    assert await hubs.causes(WEST) == ["token-for-another-hub"]


async def test_10_the_name_in_the_handshake_comes_last(hubs: TwoHubs) -> None:
    await hubs.add_device(WEST, "d")

    async def status(host: str, server_name: str) -> int:
        headers = {"Authorization": hubs.token(WEST, host="localhost"), "Host": host}
        async with hubs.session.get(
            hubs.url(EAST, "/devices/d"), headers=headers, ssl=hubs.trust, server_hostname=server_name
        ) as response:
            return response.status

    assert await status("localhost", "west.example") == 200
    assert await status("east.example", "west.example") == 401
    assert await status("west.example", "east.example") == 200
    assert await status("localhost", "localhost") == 401, "the first hub's"
