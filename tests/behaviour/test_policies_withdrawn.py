"""What a shared access policy has let in ends once its key, its right or the policy is gone, or the hub takes no more
policies; what came by other keys goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from time import time
from typing import Any, TypeVar

import aiohttp
import pytest
from amqp_client import partition
from amqp_device import Device
from two_hubs import API, EAST, TwoHubs, settings_of, two_hubs

from muster.identity.sas import decode_key, make
from muster.node.node import Node
from muster.testing.mqtt import MqttClient
from muster.wire.amqp.performatives import Close, Detach
from muster.wire.amqp.sasl import SaslInit

T = TypeVar("T")


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[TwoHubs]:
    async with two_hubs(tmp_path, second=False) as hubs:
        yield hubs


async def policy(hubs: TwoHubs, method: str, path: str, body: Any = None) -> Any:
    answer = await hubs.call(EAST, method, f"/$muster/policies/{path}", body)
    assert answer.status in (200, 204), answer.text
    return answer.json if answer.text else None


async def switch(hubs: TwoHubs, *, token: str | None = None, **switches: bool) -> int:
    name = hubs.hub(EAST).name
    return (await hubs.call(EAST, "PATCH", f"/$muster/hubs/{name}", switches, token=token)).status


def signed(hubs: TwoHubs, resource: str, key: str, name: str | None = None) -> str:
    host = hubs.addresses[EAST]
    return make(f"{host}/{resource}" if resource else host, int(time()) + 600, decode_key(key) or b"", name)


async def connect(hubs: TwoHubs, device_id: str, token: str) -> tuple[MqttClient, int]:
    address = hubs.addresses[EAST]
    client = await MqttClient.open(address, hubs.node.facts["ports"]["mqtt"], hubs.trust, server_name=address)
    _, code = await client.connect(device_id, f"{address}/{device_id}/?api-version={API}", token)
    return client, code


async def alive(client: MqttClient) -> None:
    await client.send(b"\xc0\x00")
    await client.expect("PINGRESP")


async def aside(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """What blocks, in a thread."""
    return await asyncio.to_thread(partial(call, *arguments, **named))


async def opened(hubs: TwoHubs, **more: Any) -> Device:
    address = hubs.addresses[EAST]
    return await aside(Device, hubs.node.facts["ports"]["amqp_plain"], host=address, hostname=address, **more)


def scope(hubs: TwoHubs, resource: str = "") -> str:
    return f"{hubs.addresses[EAST]}/{resource}" if resource else hubs.addresses[EAST]


async def test_01_an_mqtt_session_ends_with_the_key_that_let_it_in(hubs: TwoHubs) -> None:
    own = await hubs.add_device(EAST, "own")
    await hubs.add_device(EAST, "d1")
    await hubs.add_device(EAST, "d2")
    keys = await policy(hubs, "GET", "device")
    first, _ = await connect(hubs, "d1", signed(hubs, "devices/d1", keys["primaryKey"], "device"))
    second, _ = await connect(hubs, "d2", signed(hubs, "", keys["secondaryKey"], "device"))
    bystander, _ = await connect(hubs, "own", signed(hubs, "devices/own", own))
    await policy(hubs, "POST", "device/rotate", {"key": "primary"})
    assert await first.expect_end() == b""
    assert (await hubs.causes(EAST))[0] == "policy-withdrawn"
    _, code = await connect(hubs, "d1", signed(hubs, "devices/d1", keys["primaryKey"], "device"))
    assert (code, (await hubs.causes(EAST))[0]) == (5, "wrong-key")
    await policy(hubs, "POST", "device/rotate", {"key": "swap"})
    await alive(second)
    await policy(hubs, "PUT", "device", {"rights": "ServiceConnect"})
    assert await second.expect_end() == b""
    await alive(bystander)


async def test_02_an_amqp_service_loses_its_links_and_may_come_back_with_the_new_key(hubs: TwoHubs) -> None:
    made = await policy(hubs, "PUT", "reader", {"rights": "ServiceConnect"})
    client, other = await opened(hubs), await opened(hubs)
    entity = hubs.hub(EAST).name
    assert await aside(client.put, signed(hubs, "", made["primaryKey"], "reader"), scope(hubs)) == (200, "OK")
    assert await aside(other.put, signed(hubs, "", made["secondaryKey"], "reader"), scope(hubs)) == (200, "OK")
    for one in (client, other):
        one.attach(target="/messages/devicebound")
        assert await aside(one.attached) is None
        one.attach(source=partition(0, entity=entity))
        assert await aside(one.attached) is None
    new = await policy(hubs, "POST", "reader/rotate", {"key": "primary"})
    ended = [(await aside(client.wait_for, Detach)).body.error.condition for _ in range(2)]
    assert ended == ["amqp:unauthorized-access"] * 2
    assert (await hubs.causes(EAST))[0] == "policy-withdrawn"
    status, _ = await aside(client.put, signed(hubs, "", made["primaryKey"], "reader"), scope(hubs))
    assert status == 401
    client.attach(target="/messages/devicebound")
    assert await aside(client.attached) is not None, "no token covers it"
    assert await aside(client.put, signed(hubs, "", new["primaryKey"], "reader"), scope(hubs)) == (200, "OK")
    client.attach(target="/messages/devicebound")
    assert await aside(client.attached) is None
    assert await aside(other.silent, 0.05, Detach), "the other key was not rotated"
    await policy(hubs, "DELETE", "reader")
    for one, links in ((client, 1), (other, 2)):
        for _ in range(links):
            assert (await aside(one.wait_for, Detach)).body.error.condition == "amqp:unauthorized-access"


async def test_03_a_gateway_loses_the_devices_of_the_policy_and_keeps_those_with_their_own_key(hubs: TwoHubs) -> None:
    key = await hubs.add_device(EAST, "own")
    await hubs.add_device(EAST, "dev")
    gateway = await opened(hubs)
    old = await policy(hubs, "GET", "device")
    assert (await aside(gateway.put, signed(hubs, "", old["primaryKey"], "device"), scope(hubs)))[0] == 200
    own = scope(hubs, "devices/own")
    assert (await aside(gateway.put, signed(hubs, "devices/own", key), own))[0] == 200
    for name in ("dev", "own"):
        await aside(gateway.link, name, "messages/events")
    await policy(hubs, "POST", "device/rotate", {"key": "primary"})
    assert (await aside(gateway.wait_for, Detach)).body.error.condition == "amqp:unauthorized-access"
    assert (await hubs.causes(EAST))[0] == "policy-withdrawn"
    sessions = hubs.hub(EAST).parts.sessions
    assert [str(session.key) for session in sessions.all()] == ["own"]
    gateway.ask("dev", "messages/events")
    assert await aside(gateway.attached) is not None


async def test_04_a_token_that_was_renewed_with_the_new_key_in_time_loses_nothing(hubs: TwoHubs) -> None:
    await hubs.add_device(EAST, "dev")
    gateway = await opened(hubs)
    keys = await policy(hubs, "GET", "device")
    assert (await aside(gateway.put, signed(hubs, "", keys["primaryKey"], "device"), scope(hubs)))[0] == 200
    await aside(gateway.link, "dev", "messages/events")
    assert (await aside(gateway.put, signed(hubs, "", keys["secondaryKey"], "device"), scope(hubs)))[0] == 200
    await policy(hubs, "POST", "device/rotate", {"key": "primary"})
    assert await aside(gateway.silent, 0.05, Detach)
    assert len(hubs.hub(EAST).parts.sessions.all()) == 1
    await policy(hubs, "POST", "device/rotate", {"key": "secondary"})
    assert await aside(gateway.hung_up), "it had nobody else"
    assert not hubs.hub(EAST).parts.sessions.all()


async def test_05_without_policies_services_are_refused_and_devices_go_on_also_after_a_restart(hubs: TwoHubs) -> None:
    key = await hubs.add_device(EAST, "own")
    await hubs.add_device(EAST, "d1")
    keys = await policy(hubs, "GET", "device")
    by_policy, _ = await connect(hubs, "d1", signed(hubs, "devices/d1", keys["primaryKey"], "device"))
    by_key, _ = await connect(hubs, "own", signed(hubs, "devices/own", key))
    reader = await opened(hubs)
    owner = hubs.owner(EAST)
    token = signed(hubs, "", owner.key, "iothubowner")
    assert (await aside(reader.put, token, scope(hubs)))[0] == 200
    reader.attach(source=partition(0, entity=hubs.hub(EAST).name))
    assert await aside(reader.attached) is None
    assert await switch(hubs, disableLocalAuth=True) == 204
    assert await by_policy.expect_end() == b""
    assert (await aside(reader.wait_for, Detach)).body.error.condition == "amqp:unauthorized-access"
    await alive(by_key)
    for _ in range(2):
        await hubs_refuse(hubs, token)
        await restarted(hubs)
    client, code = await connect(hubs, "own", signed(hubs, "devices/own", key))
    assert code == 0
    local = dict(part.split("=", 1) for part in hubs.facts(EAST)["LOCAL_CONNECTION_STRING"].split(";"))
    commands = signed(hubs, "", local["SharedAccessKey"], local["SharedAccessKeyName"])
    assert await switch(hubs, token=commands, disableLocalAuth=False) == 204
    assert (await hubs.call(EAST, "GET", "/devices/own", token=token)).status == 200
    assert "LOCAL_CONNECTION_STRING" not in hubs.facts(EAST)
    await alive(client)


async def hubs_refuse(hubs: TwoHubs, token: str) -> None:
    """On every way by which a policy's token comes."""
    assert (await hubs.call(EAST, "GET", "/devices/own", token=token)).status == 401
    told = [(await hubs.causes(EAST))[0]]
    client = await opened(hubs)
    status, _ = await aside(client.put, token, scope(hubs))
    assert status == 401
    told.append((await hubs.causes(EAST))[0])
    _, code = await connect(hubs, "d1", token)
    assert code == 5
    told.append((await hubs.causes(EAST))[0])
    entity = hubs.hub(EAST).name
    user = f"iothubowner@sas.root.{entity}"
    plain = await opened(hubs, sasl=SaslInit("PLAIN", f"\0{user}\0{token}".encode(), None))
    assert plain.outcome == 1
    told.append((await hubs.causes(EAST))[0])
    owner = hubs.owner(EAST).key
    reply = await aside(client.put_token, owner, policy="iothubowner", audience=f"sb://{scope(hubs)}/{entity}")
    assert (reply.application_properties or {})["status-code"] == 401, "an Event Hubs client"
    told.append((await hubs.causes(EAST))[0])
    assert told == ["local-auth-disabled"] * 5


async def restarted(hubs: TwoHubs) -> None:
    directory = hubs.node.settings.data
    assert directory is not None
    await hubs.node.stop()
    hubs.node = Node(settings_of(directory, hubs.addresses))
    await hubs.node.start()


async def test_06_sas_tokens_of_devices_and_modules_are_switched_off_each_by_itself(hubs: TwoHubs) -> None:
    key = await hubs.add_device(EAST, "own")
    client, code = await connect(hubs, "own", signed(hubs, "devices/own", key))
    assert code == 0
    link = await opened(hubs)
    other = await hubs.add_device(EAST, "other")
    assert (await aside(link.put, signed(hubs, "devices/other", other), scope(hubs, "devices/other")))[0] == 200
    await aside(link.link, "other", "messages/events")
    assert await switch(hubs, disableModuleSAS=True) == 204
    await alive(client)
    assert await switch(hubs, disableDeviceSAS=True) == 204
    assert await client.expect_end() == b""
    assert (await aside(link.wait_for, Close)).body.error.condition == "amqp:unauthorized-access"
    _, code = await connect(hubs, "own", signed(hubs, "devices/own", key))
    assert (code, (await hubs.causes(EAST))[0]) == (5, "device-sas-disabled")
    listed = (await hubs.call(EAST, "GET", "/$muster/hubs")).json["hubs"][0]
    assert [listed[name] for name in ("disableLocalAuth", "disableDeviceSAS", "disableModuleSAS")] == [
        False,
        True,
        True,
    ]


async def test_07_what_cannot_be_switched_is_refused_by_name(hubs: TwoHubs) -> None:
    for name, body, status, word in (
        ("none", {"disableLocalAuth": True}, 404, "none"),
        (hubs.hub(EAST).name, {"disableLocalAuth": "yes"}, 400, "disableLocalAuth"),
    ):
        answer = await hubs.call(EAST, "PATCH", f"/$muster/hubs/{name}", body)
        assert (answer.status, word in answer.text) == (status, True)


async def test_08_who_listens_over_https_hears_no_more_once_his_key_is_gone(hubs: TwoHubs) -> None:
    made = await policy(hubs, "PUT", "reader", {"rights": "ServiceConnect"})
    url = hubs.url(EAST, "/$muster/monitor")

    def listening(key: str) -> Any:
        headers = {"Authorization": signed(hubs, "", made[key], "reader")}
        return hubs.session.get(url, headers=headers, ssl=hubs.trust)

    async with listening("primaryKey") as goes, listening("secondaryKey") as stays:
        assert (goes.status, stays.status) == (200, 200)
        await policy(hubs, "POST", "reader/rotate", {"key": "primary"})
        with pytest.raises(aiohttp.ClientError):
            await goes.read()
        assert (await hubs.causes(EAST))[0] == "wrong-key"
        device = await hubs.add_device(EAST, "d")
        await hubs.send(EAST, "d", device, b"one")
        while not (line := await stays.content.readline()).strip():
            pass
        assert b'"d"' in line
