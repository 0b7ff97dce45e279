"""Devices on AMQP: logging in, links, telemetry, one session for each identity."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from amqp_device import DeviceHub
from command_hub import aside, command_hub

from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey, Status
from muster.identity.sas import sign
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import Accepted, Close, Detach, Rejected
from muster.wire.amqp.sasl import SaslInit
from muster.wire.amqp.values import Symbol, ULong

EVENTS = "messages/events"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHub]:
    async with command_hub(tmp_path) as commands:
        hub = DeviceHub(commands)
        try:
            yield hub
        finally:
            hub.close()


# --- 1. who is let in


@pytest.mark.parametrize("name", ["d", "d/m"])
@pytest.mark.parametrize("mechanism", [None, "ANONYMOUS", "MSSBCBS", "EXTERNAL"])
async def test_1_1_a_token_put_to_cbs_lets_in(hub: DeviceHub, name: str, mechanism: str | None) -> None:
    device = await hub.device(name, sasl=None if mechanism is None else SaslInit(mechanism))
    link = await aside(device.link, name, EVENTS)
    assert hub.connected(name)
    assert isinstance(await aside(device.telemetry, link, b"hello"), Accepted)
    [message] = await hub.mqtt.messages("d")
    assert (message["body"], message["module_id"]) == ("hello", name.partition("/")[2] or None)
    scope = "module" if "/" in name else "device"
    assert f'"scope":"{scope}","type":"sas"' in message["annotations"]["iothub-connection-auth-method"]


@pytest.mark.parametrize("message_id", ["text", uuid.uuid4(), ULong(0), b"bytes"])
async def test_1_2_the_answer_has_the_id_with_its_very_type(hub: DeviceHub, message_id: Any) -> None:
    device = await hub.connect()
    assert (await aside(device.put, await hub.token("d"), message_id=message_id))[0] == 200
    assert (device.correlation, type(device.correlation)) == (message_id, type(message_id))


@pytest.mark.parametrize(
    ("user", "cause"),
    [
        ("d@sas.localhost", ""),
        ("D@sas.localhost", "device-id-case"),
        ("d@sas.elsewhere", "user-mismatch"),
        ("d", "device-token-on-service"),
    ],
)
async def test_1_3_sasl_plain(hub: DeviceHub, user: str, cause: str) -> None:
    login = f"\0{user}\0{await hub.token('d')}".encode()
    device = await hub.connect(sasl=SaslInit("PLAIN", login, "localhost"))
    assert (device.outcome == 0) == (not cause)
    assert await hub.mqtt.last_cause() == cause
    if not cause:
        assert isinstance(await aside(device.telemetry, await aside(device.link, "d", EVENTS), b"x"), Accepted)


async def test_1_4_sasl_plain_of_a_module(hub: DeviceHub) -> None:
    login = f"\0d/modules/m@sas.localhost\0{await hub.token('d/m')}".encode()
    device = await hub.connect(sasl=SaslInit("PLAIN", login, "localhost"))
    assert isinstance(await aside(device.telemetry, await aside(device.link, "d/m", EVENTS), b"x"), Accepted)


@pytest.mark.parametrize(
    ("wrong", "status", "cause"),
    [
        ("key", 401, "wrong-key"),
        ("expired", 401, "token-expired"),
        ("unknown", 404, "device-unknown"),
        ("disabled", 401, "device-disabled"),
        ("garbage", 401, "token-field-missing"),
    ],
)
async def test_1_5_refusals_have_a_status_and_a_named_cause(
    hub: DeviceHub, wrong: str, status: int, cause: str
) -> None:
    token = await hub.token("d", -1000 if wrong == "expired" else 3600)
    if wrong == "key":
        token = (await hub.token("other")).replace("other", "d")
    elif wrong == "unknown":
        token = token.replace("devices%2Fd", "devices%2Fghost")
    elif wrong == "disabled":
        await disable(hub, "d")
    elif wrong == "garbage":
        token = "SharedAccessSignature nonsense"
    device = await hub.connect()
    came, description = await aside(device.put, token, "localhost/devices/d")
    assert came == status
    kept = await hub.mqtt.refusals.find(description.rpartition("TrackingId:")[2])
    assert kept is not None
    assert kept.report["cause"] == cause
    await aside(device.ask, "d", EVENTS)
    error = await aside(device.attached)
    assert error.condition == "amqp:unauthorized-access"
    assert await hub.mqtt.last_cause() == "link-scope"


async def disable(hub: DeviceHub, name: str) -> None:
    await hub.mqtt.registry.update(Draft(key=IdentityKey(name), status=Status.DISABLED), ANY)


async def test_1_6_a_policys_token_lets_many_devices_in_and_no_services(hub: DeviceHub) -> None:
    for name in ("a", "b"):
        await hub.mqtt.key(name)
    gateway = await hub.connect()
    assert (await aside(gateway.put, hub.policy_token()))[0] == 200
    for name in ("a", "b"):
        link = await aside(gateway.link, name, EVENTS)
        assert isinstance(await aside(gateway.telemetry, link, name.encode()), Accepted)
        [message] = await hub.mqtt.messages(name)
        assert '"scope":"hub"' in message["annotations"]["iothub-connection-auth-method"]
    await aside(gateway.attach, target="/messages/devicebound")
    assert (await aside(gateway.refusal)).condition == "amqp:unauthorized-access"
    await aside(gateway.ask, "ghost", EVENTS)
    assert (await aside(gateway.attached)).condition == "amqp:not-found"


async def test_1_7_a_services_token_is_none_of_a_device(hub: DeviceHub) -> None:
    await hub.mqtt.key("d")
    service = await hub.connect()
    assert (await aside(service.put, hub.policy_token("service")))[0] == 200
    await aside(service.ask, "d", EVENTS)
    assert (await aside(service.attached)).condition == "amqp:unauthorized-access"


async def test_1_8_a_devices_token_opens_no_other_devices_links(hub: DeviceHub) -> None:
    await hub.mqtt.key("other")
    device = await hub.device("d")
    await aside(device.ask, "other", EVENTS)
    assert (await aside(device.attached)).condition == "amqp:unauthorized-access"
    assert await hub.mqtt.last_cause() == "device-mismatch"
    for name in ("a", "b", "c"):
        assert (await aside(device.put, await hub.token(name)))[0] == 200
    await aside(device.ask, "other", EVENTS)
    assert (await aside(device.attached)).condition == "amqp:unauthorized-access"
    newest = await hub.mqtt.refusals.last()
    assert newest is not None
    assert newest.report["cause"] == "link-scope"
    assert "devices/a, devices/b, devices/c and 1 more" in str(newest.report)


async def test_1_8_1_a_policys_token_put_for_one_device_opens_no_others_links(hub: DeviceHub) -> None:
    for name in ("a", "b"):
        await hub.mqtt.key(name)
    device = await hub.connect()
    assert (await aside(device.put, hub.policy_token(), "localhost/devices/a"))[0] == 200
    await aside(device.link, "a", EVENTS)
    await aside(device.ask, "b", EVENTS)
    assert (await aside(device.attached)).condition == "amqp:unauthorized-access"
    assert await hub.mqtt.last_cause() == "link-scope"


@pytest.mark.parametrize(
    ("end", "receive"),
    [("messages/devicebound", False), (EVENTS, True)],
)
async def test_1_9_links_go_one_way(hub: DeviceHub, end: str, receive: bool) -> None:
    device = await hub.device("d")
    await aside(device.ask, "d", end, receive=receive)
    assert (await aside(device.refusal)).condition == "amqp:not-allowed"


@pytest.mark.parametrize("address", ["amqps://localhost:5671/devices/d/messages/events", "/Devices/d/Messages/Events"])
async def test_1_10_addresses_are_paths_or_uris_in_any_case(hub: DeviceHub, address: str) -> None:
    device = await hub.device("d")
    handle = await aside(device.attach, target=address)
    assert await aside(device.attached) is None
    assert isinstance(await aside(device.telemetry, handle, b"x"), Accepted)


async def test_1_11_ids_are_encoded_as_each_sdk_likes(hub: DeviceHub) -> None:
    """C# encodes them twice in a token, and once in the name and in addresses."""
    key, expiry = await hub.mqtt.key("dev=1"), str(int(hub.ambient.now()) + 3600)
    resource = "localhost%2Fdevices%2Fdev%253D1"
    signature = quote(base64.b64encode(sign(resource, expiry, key)), safe="")
    device = await hub.connect()
    token = f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}"
    assert (await aside(device.put, token, "localhost/devices/dev%3D1"))[0] == 200
    link = await aside(device.attach, target="amqps://localhost/devices/dev%3D1/messages/events")
    assert await aside(device.attached) is None
    assert isinstance(await aside(device.telemetry, link, b"x"), Accepted)
    assert hub.connected("dev=1")


# --- 2. one session for each identity


async def test_2_1_a_newer_connection_takes_over_and_the_older_ends(hub: DeviceHub) -> None:
    old, new = await hub.device("d"), await hub.device("d")
    await aside(old.link, "d", EVENTS)
    link = await aside(new.link, "d", EVENTS)
    assert (await aside(old.wait_for, Close)).body.error.condition == "amqp:link:stolen"
    assert not [came for came in old.came if isinstance(came.body, Detach)], "Node's client wants one of them"
    assert isinstance(await aside(new.telemetry, link, b"x"), Accepted)


async def test_2_3_the_session_ends_with_the_last_link(hub: DeviceHub) -> None:
    device = await hub.device("d")
    first, second = await aside(device.link, "d", EVENTS), await aside(device.link, "d", EVENTS)
    await aside(device.send, Detach(first, True))
    await aside(device.wait_for, Detach)
    assert hub.connected("d")
    await aside(device.send, Detach(second, True))
    await aside(device.wait_for, Detach)
    assert not hub.connected("d")
    await aside(device.link, "d", EVENTS)
    assert hub.connected("d")
    device.socket.close()
    await hub.mqtt.settled(lambda: not hub.connected("d"))


async def test_2_4_who_loses_its_ground_on_a_gateway_leaves_the_others_alone(hub: DeviceHub) -> None:
    gateway = await hub.device("a")
    assert (await aside(gateway.put, await hub.token("b")))[0] == 200
    await aside(gateway.link, "a", EVENTS)
    link = await aside(gateway.link, "b", EVENTS, channel=1)
    await disable(hub, "a")
    assert (await aside(gateway.refusal)).condition == "amqp:unauthorized-access"
    assert isinstance(await aside(gateway.telemetry, link, b"x", 1), Accepted)
    assert (hub.connected("a"), hub.connected("b")) == (False, True)


async def test_2_5_a_deleted_device_loses_the_connection_that_is_its_own(hub: DeviceHub) -> None:
    device = await hub.device("d")
    await aside(device.link, "d", EVENTS)
    await hub.mqtt.registry.delete(IdentityKey("d"))
    assert (await aside(device.wait_for, Close)).body.error.condition == "amqp:not-found"
    assert await aside(device.hung_up)


async def test_2_5_1_another_ones_token_prolongs_nothing_though_the_letters_are_the_same(hub: DeviceHub) -> None:
    gateway = await hub.connect()
    assert (await aside(gateway.put, await hub.token("Dev", 600)))[0] == 200
    await aside(gateway.link, "Dev", EVENTS)
    assert (await aside(gateway.put, await hub.token("dev", 6000)))[0] == 200
    link = await aside(gateway.link, "dev", EVENTS)
    hub.ambient.advance(600 + 301)
    assert (await aside(gateway.refusal)).condition == "amqp:unauthorized-access"
    assert (hub.connected("Dev"), hub.connected("dev")) == (False, True)
    assert isinstance(await aside(gateway.telemetry, link, b"x"), Accepted)


async def test_2_6_a_token_that_runs_out_ends_the_links_of_its_device(hub: DeviceHub) -> None:
    gateway = await hub.connect()
    assert (await aside(gateway.put, await hub.token("a", 600)))[0] == 200
    assert (await aside(gateway.put, await hub.token("b", 6000)))[0] == 200
    await aside(gateway.link, "a", EVENTS)
    link = await aside(gateway.link, "b", EVENTS)
    hub.ambient.advance(600 + 301)
    assert (await aside(gateway.refusal)).condition == "amqp:unauthorized-access"
    assert await hub.mqtt.last_cause() == "token-expiry"
    assert isinstance(await aside(gateway.telemetry, link, b"x"), Accepted)


async def test_2_7_a_token_put_anew_goes_on(hub: DeviceHub) -> None:
    device = await hub.connect()
    assert (await aside(device.put, await hub.token("d", 600)))[0] == 200
    link = await aside(device.link, "d", EVENTS)
    hub.ambient.advance(500)
    assert (await aside(device.put, await hub.token("d", 600)))[0] == 200
    hub.ambient.advance(600)
    assert isinstance(await aside(device.telemetry, link, b"x"), Accepted)
    hub.ambient.advance(600)
    assert (await aside(device.wait_for, Close)).body.error.condition == "amqp:unauthorized-access"


async def test_2_8_a_model_is_announced_by_a_link_property(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS, properties={Symbol("com.microsoft:model-id"): "dtmi:x;1"})
    await aside(device.telemetry, link, b"x")
    assert (await hub.mqtt.twins.get(IdentityKey("d"))).model_id == "dtmi:x;1"
    [message] = await hub.mqtt.messages("d")
    assert message["annotations"]["dt-dataschema"] == "dtmi:x;1"


@pytest.mark.embedded("the claim is the test's own")
async def test_2_9_no_link_opens_before_an_older_session_on_another_node_has_ended(
    hub: DeviceHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also none that is attached meanwhile: what it brought would be stored without its sender."""
    ended, begin = asyncio.Event(), hub.mqtt.sessions.open

    def waiting(*arguments: Any) -> Any:
        session = begin(*arguments)
        session.claim = SimpleNamespace(granted=ended.wait, epoch=0)
        return session

    device = await hub.device("d")
    monkeypatch.setattr(hub.mqtt.sessions, "open", waiting)
    await aside(device.ask, "d", EVENTS)
    await hub.mqtt.settled(lambda: hub.mqtt.sessions.is_connected(IdentityKey("d")))
    second = await aside(device.ask, "d", EVENTS)
    assert await aside(device.silent, kind=object)
    monkeypatch.undo()
    ended.set()
    assert [await aside(device.attached) for _ in range(2)] == [None, None]
    assert isinstance(await aside(device.telemetry, second, b"x"), Accepted)
    assert await hub.bodies("d", 1) == ["x"]


# --- 3. telemetry


async def test_3_1_what_a_device_says_arrives_and_what_only_the_hub_knows_is_not_taken_from_it(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS)
    outcome = await aside(
        device.telemetry, link, b"{}",
        properties=Properties(message_id=uuid.UUID(int=7), content_type="application/json", user_id=b"u", to="/x"),
        application_properties={
            "n": 5, "t": "x", "none": None, "iothub-outputname": "out", "iothub-connection-device-id": "forged",
        },
        message_annotations={
            Symbol("dt-subject"): "part", Symbol("iothub-connection-device-id"): "forged", Symbol("x"): 1,
        },
    )  # fmt: skip
    assert isinstance(outcome, Accepted)
    [message] = await hub.mqtt.messages("d")
    assert message["properties"] == {"n": 5, "t": "x", "none": None}
    assert message["system_properties"]["message-id"] == str(uuid.UUID(int=7))
    assert message["system_properties"]["content-type"] == "application/json"
    annotations = message["annotations"]
    assert (annotations["iothub-connection-device-id"], annotations["dt-subject"]) == ("d", "part")
    assert annotations["iothub-outputname"] == "out"
    assert "x" not in annotations


async def test_3_2_a_batch_is_stored_whole(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS)
    parts = tuple(encode_message(Message(data=(b"%d" % n,), application_properties={"n": n})) for n in range(3))
    batch = encode_message(Message(data=parts))
    number = await aside(device.transfer, link, batch, message_format=0x80013700)
    assert isinstance(await aside(device.settlement, number), Accepted)
    assert await hub.bodies("d", 3) == ["0", "1", "2"]
    broken = encode_message(Message(data=(parts[0], b"\0")))
    number = await aside(device.transfer, link, broken, message_format=0x80013700)
    assert isinstance(await aside(device.settlement, number), Rejected)
    assert await hub.bodies("d", 3) == ["0", "1", "2"], "all of a batch or none"


@pytest.mark.parametrize(
    ("payload", "condition"),
    [
        (b"\x00", "amqp:decode-error"),
        (encode_message(Message(value="text")), "com.microsoft:argument-error"),
        (encode_message(Message(data=(b"x" * 262_145,))), "amqp:link:message-size-exceeded"),
        (encode_message(Message(application_properties={"a": [1]}, data=(b"",))), "com.microsoft:argument-error"),
    ],
)
async def test_3_3_a_message_that_is_refused_does_not_end_the_link(
    hub: DeviceHub, payload: bytes, condition: str
) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS)
    outcome = await aside(device.settlement, await aside(device.transfer, link, payload))
    assert isinstance(outcome, Rejected)
    assert outcome.error is not None
    assert outcome.error.condition == condition
    assert isinstance(await aside(device.telemetry, link, b"x" * 262_144), Accepted)


async def test_3_4_nothing_is_settled_before_it_is_on_disk(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS)
    hub.mqtt.log.held = True
    numbers = [await aside(device.transfer, link, encode_message(Message(data=(b"x",)))) for _ in range(3)]
    assert await aside(device.silent, kind=object)
    hub.mqtt.log.release()
    for number in numbers[-1:]:
        assert isinstance(await aside(device.settlement, number), Accepted)


async def test_3_5_what_could_not_be_stored_is_rejected(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS)
    hub.mqtt.log.failure = OSError("no room")
    outcome = await aside(device.telemetry, link, b"x")
    assert isinstance(outcome, Rejected)
    assert outcome.error is not None
    assert outcome.error.condition == "amqp:internal-error"
    hub.mqtt.log.failure = None
    assert isinstance(await aside(device.telemetry, link, b"again"), Accepted)
    assert await hub.bodies("d", 1) == ["again"]
