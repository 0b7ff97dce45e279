"""What holds on every transport, sentence by sentence: who is let in, sessions, telemetry.

A sentence is run on each of MQTT, AMQP, both of them over WebSocket, and HTTPS, where it can apply. What only one of
them has is in that transport's own tests.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from every_hub import TRANSPORTS, EveryHub, every_hub, key_of
from hub_rest import POLICIES
from transports import Ability, RefusedError, Transport, from_and_to, over

from muster.core.errors import UNAVAILABLE
from muster.core.limits import MESSAGE_BYTES
from muster.identity.changes import ANY, Draft
from muster.identity.keys import Credentials
from muster.identity.model import Authentication, AuthenticationType, Status
from tests.behaviour.x509_bench import Bench

WRONG = {
    "key": ("wrong-key", "put-token 401", "401 IotHubUnauthorized"),
    "expired": ("token-expired", "put-token 401", "401 IotHubUnauthorized"),
    "garbage": ("token-malformed", "put-token 401", "401 IotHubUnauthorized"),
    "hub": ("token-for-another-hub", "put-token 401", "401 IotHubUnauthorized"),
    "disabled": ("device-disabled", "put-token 401", "403 DeviceDisabled"),
    "unknown": ("device-unknown", "put-token 404", "404 DeviceNotFound"),
}
"""The cause of a refusal, and what AMQP and HTTPS say; MQTT has one word for all."""
LOSSES = {
    "disable": ("amqp:unauthorized-access", "device-disabled"),
    "delete": ("amqp:not-found", "device-unknown"),
    "keys": ("amqp:unauthorized-access", "wrong-key"),
}
"""What ends a session: what AMQP says, and why the device does not come back."""
IDENTITIES = pytest.mark.parametrize("name", ["d", "d/m"])


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[EveryHub]:
    async with every_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
def bench(hub: EveryHub, tmp_path: Path) -> Bench:
    return Bench(hub.mqtt, tmp_path)


async def said_by(hub: EveryHub, device_id: str = "d") -> tuple[str, str]:
    """The scope and the type of the credential that the newest message came with."""
    method = json.loads((await hub.stored(device_id))[-1]["annotations"]["iothub-connection-auth-method"])
    return method["scope"], method["type"]


async def disable(hub: EveryHub, name: str = "d") -> None:
    await hub.registry.update(Draft(key=key_of(name), status=Status.DISABLED), ANY)


# --- 1. who is let in


@over(TRANSPORTS)
@IDENTITIES
@pytest.mark.parametrize("secondary", [False, True])
async def test_1_1_either_key_of_an_identity_lets_it_in(
    hub: EveryHub, transport: Transport, name: str, secondary: bool
) -> None:
    device = await hub.connect(transport, name, token=await hub.token(name, secondary=secondary))
    await device.send(b"hello")
    assert await hub.bodies() == ["hello"]
    assert await said_by(hub) == ("module" if "/" in name else "device", "sas")


@over(TRANSPORTS)
async def test_1_2_a_policys_token_lets_any_device_in(hub: EveryHub, transport: Transport) -> None:
    for name in ("a", "b"):
        await hub.identity(name)
        await (await hub.connect(transport, name, token=hub.policy_token())).send(b"x")
        assert await said_by(hub, name) == ("hub", "sas")


@over(TRANSPORTS)
async def test_1_3_a_policy_without_the_right_lets_nobody_in(hub: EveryHub, transport: Transport) -> None:
    await hub.identity()
    assert "DeviceConnect" not in str(POLICIES["service"].rights)
    _, cause = await hub.refused(transport, token=hub.policy_token("service"))
    assert cause == "policy-lacks-right"


@over(TRANSPORTS)
async def test_1_4_a_certificate_of_the_registered_thumbprint_lets_in_and_no_other(
    hub: EveryHub, bench: Bench, transport: Transport
) -> None:
    own, foreign = bench.make.issue("d", None), bench.make.issue("d", None)
    await bench.register(key_of("d"), Authentication(AuthenticationType.SELF_SIGNED, secondary_thumbprint=own.sha256))
    device = await hub.connect(transport, token=None, context=bench.context(own))
    await device.send(b"x")
    assert await said_by(hub) == ("device", "x509Certificate")
    _, cause = await hub.refused(transport, token=None, context=bench.context(foreign))
    assert cause == "thumbprint-unknown"


@over(TRANSPORTS)
async def test_1_5_a_certificate_below_a_verified_authority_lets_in_and_no_other(
    hub: EveryHub, bench: Bench, transport: Transport
) -> None:
    _, middle, leaf = await bench.chain()
    device = await hub.connect(transport, "dev", token=None, context=bench.context(leaf, middle))
    await device.send(b"x")
    assert await said_by(hub, "dev") == ("device", "x509Certificate")
    _, cause = await hub.refused(transport, "dev", token=None, context=bench.context(leaf))
    assert cause == "intermediate-missing"


@over(TRANSPORTS)
@IDENTITIES
@pytest.mark.parametrize("wrong", WRONG)
async def test_1_6_a_wrong_credential_is_refused_in_the_words_of_the_wire_and_for_the_same_cause(
    hub: EveryHub, transport: Transport, name: str, wrong: str
) -> None:
    token = await hub.token(name, -1000 if wrong == "expired" else 3600, host="other.hub" if wrong == "hub" else "")
    if wrong == "key":
        token = (await hub.token(name.replace("d", "e"))).replace("devices%2Fe", "devices%2Fd")
    elif wrong == "garbage":
        token = "nonsense"
    elif wrong == "disabled":
        await disable(hub)
    elif wrong == "unknown":
        await hub.registry.delete(key_of("d"))
    cause, amqp, https = WRONG[wrong]
    told = {"mqtt": "CONNACK 5", "amqp": amqp, "https": https}[transport.family]
    assert await hub.refused(transport, name, token=token) == (told, cause)
    assert await hub.bodies() == []


@over(TRANSPORTS)
async def test_1_7_another_devices_token_is_refused(hub: EveryHub, transport: Transport) -> None:
    await hub.identity("d")
    told = {"mqtt": "CONNACK 5", "amqp": "amqp:unauthorized-access", "https": "401 IotHubUnauthorized"}
    answer = await hub.refused(transport, token=await hub.token("other"))
    assert answer == (told[transport.family], "device-mismatch")


@over(TRANSPORTS)
async def test_1_8_a_refused_login_changes_nothing_for_who_is_in(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await hub.refused(transport, token=await hub.token("d", -1000))
    await device.send(b"still here")
    assert await hub.bodies() == ["still here"]


# --- 2. sessions


@over(TRANSPORTS, Ability.SESSION)
async def test_2_1_registry_and_statistics_tell_who_is_connected(hub: EveryHub, transport: Transport) -> None:
    await hub.identity()
    await hub.tells_of("Disconnected", 0)
    device = await hub.connect(transport)
    await hub.tells_of("Connected", 1)
    await device.close()
    await hub.gone()
    await hub.tells_of("Disconnected", 0)


@over(TRANSPORTS)
async def test_2_2_the_registry_tells_when_a_device_was_last_active(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    hub.ambient.advance(10)
    await device.send(b"x")
    activity = await hub.registry.activity(key_of("d"))
    assert activity.connected == transport.can(Ability.SESSION)
    assert hub.ambient.now() - 1 < activity.last_activity <= hub.ambient.now()


@over(TRANSPORTS, Ability.SESSION)
@IDENTITIES
async def test_2_3_a_device_that_reconnects_takes_over_its_old_session(
    hub: EveryHub, transport: Transport, name: str
) -> None:
    await takes_over(hub, transport, transport, name)


@from_and_to(TRANSPORTS, Ability.SESSION)
async def test_2_4_also_when_it_comes_back_on_another_transport(
    hub: EveryHub, transport: Transport, other: Transport
) -> None:
    await takes_over(hub, transport, other, "d")


async def takes_over(hub: EveryHub, transport: Transport, other: Transport, name: str) -> None:
    old = await hub.connect(transport, name)
    new = await hub.connect(other, name)
    assert await old.ended() == {"mqtt": "", "amqp": "amqp:link:stolen"}[transport.family]
    await new.send(b"from the new one")
    assert await hub.bodies() == ["from the new one"]
    assert hub.connected(name)
    assert hub.mqtt.sessions.takeovers == 1


@over(TRANSPORTS, Ability.SESSION)
async def test_2_5_a_device_and_its_module_do_not_take_over_from_each_other(
    hub: EveryHub, transport: Transport
) -> None:
    for name in ("d", "d/m", "d/n"):
        await hub.connect(transport, name)
    assert all(hub.connected(name) for name in ("d", "d/m", "d/n"))
    assert hub.mqtt.sessions.takeovers == 0


@over(TRANSPORTS)
@IDENTITIES
@pytest.mark.parametrize("change", LOSSES)
async def test_2_6_an_identity_that_loses_its_ground_is_cut_off_at_once_and_stays_out(
    hub: EveryHub, transport: Transport, name: str, change: str
) -> None:
    device, token = await hub.connect(transport, name), await hub.token(name)
    await device.send(b"before")
    if change == "disable":
        await disable(hub)
    elif change == "delete":
        await hub.registry.delete(key_of("d"))
    else:
        fresh = [base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2)]
        await hub.registry.update(Draft(key=key_of(name), credentials=Credentials(None, *fresh)), ANY)
    amqp, cause = LOSSES[change]
    if transport.can(Ability.SESSION):
        assert await device.ended() == {"mqtt": "", "amqp": amqp}[transport.family]
        assert not hub.connected(name)
    assert (await hub.refused(transport, name, token=token))[1] == cause
    assert await hub.bodies() == ["before"]


@over(TRANSPORTS, Ability.SESSION)
async def test_2_6_1_a_change_that_takes_no_ground_away_ends_nothing(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport, token=await hub.token(secondary=True))
    held = (await hub.identity()).authentication
    await hub.twins.patch(key_of("d"), {"tag": 1}, {"n": 1})
    draft = Draft(
        key=key_of("d"), status_reason="painted", credentials=Credentials(None, held.primary_key, held.secondary_key)
    )
    await hub.registry.update(draft, ANY)
    await device.send(b"still here")
    assert hub.connected()


@over(TRANSPORTS)
async def test_2_7_a_revoked_certificate_ends_the_session_and_does_not_come_back(
    hub: EveryHub, bench: Bench, transport: Transport
) -> None:
    _, middle, leaf = await bench.chain()
    shown = {"token": None, "context": bench.context(leaf, middle)}
    device = await hub.connect(transport, "dev", **shown)
    await device.send(b"before")
    await hub.mqtt.authorities.put_list("root", bench.make.revoked(middle, leaf))
    if transport.can(Ability.SESSION):
        await device.ended()
        assert await hub.mqtt.last_cause() == "certificate-revoked"
    assert (await hub.refused(transport, "dev", **shown))[1] == "certificate-revoked"


@over(TRANSPORTS, Ability.SESSION)
async def test_2_8_the_end_of_its_token_ends_the_session(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport, token=await hub.token("d", 600))
    hub.ambient.advance(599)
    await device.send(b"in time")
    hub.ambient.advance(302)
    assert await device.ended() == {"mqtt": "", "amqp": "amqp:unauthorized-access"}[transport.family]
    assert await hub.mqtt.last_cause() == "token-expiry"


@over(TRANSPORTS, Ability.RENEWAL)
async def test_2_9_a_token_put_anew_keeps_it(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport, token=await hub.token("d", 600))
    for _ in range(3):
        hub.ambient.advance(500)
        await device.renew(await hub.token("d", 600))
        await device.send(b"x")
    assert len(await hub.bodies()) == 3


@over(TRANSPORTS, Ability.SESSION)
async def test_2_10_connecting_again_with_a_new_token_keeps_it_too(hub: EveryHub, transport: Transport) -> None:
    await hub.connect(transport, token=await hub.token("d", 600))
    hub.ambient.advance(500)
    device = await hub.connect(transport, token=await hub.token("d", 600))
    hub.ambient.advance(500)
    await device.send(b"x")
    assert hub.connected()


@over(TRANSPORTS, Ability.SESSION)
async def test_2_11_a_hub_that_stops_ends_sessions_in_good_order(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await device.send(b"acknowledged")
    hub.mqtt.sessions.end_all(UNAVAILABLE)
    assert await device.ended() == ""
    assert await hub.bodies() == ["acknowledged"]
    await hub.tells_of("Disconnected", 0)


# --- 3. telemetry


@over(TRANSPORTS)
@IDENTITIES
async def test_3_1_a_message_has_its_properties_and_says_who_sent_it(
    hub: EveryHub, transport: Transport, name: str
) -> None:
    device = await hub.connect(transport, name)
    await device.send("21 \u00b0C".encode(), "m-1", room="k 1", empty="")
    [message] = await hub.stored()
    assert message["body"] == "21 \u00b0C"
    assert message["properties"] == {"room": "k 1", "empty": ""}
    assert message["system_properties"] == {"message-id": "m-1"}
    annotations = message["annotations"]
    assert annotations["iothub-connection-device-id"] == "d"
    assert annotations.get("iothub-connection-module-id") == key_of(name).module_id
    assert annotations["iothub-connection-auth-generation-id"] == (await hub.identity(name)).generation_id
    assert annotations["iothub-message-source"] == "Telemetry"


@from_and_to(TRANSPORTS)
async def test_3_2_what_is_stored_does_not_tell_the_transport(
    hub: EveryHub, transport: Transport, other: Transport
) -> None:
    for way in (transport, other):
        await (await hub.connect(way)).send(b"\x00\xff", "m", a="b")
    own = ("sequence_number", "offset", "enqueued_time")
    in_annotations = ("x-opt-sequence-number", "x-opt-offset", "x-opt-enqueued-time", "iothub-enqueuedtime")
    one, two = await hub.stored()
    for message in (one, two):
        for name in own:
            del message[name]
        for name in in_annotations:
            del message["annotations"][name]
    assert one == two


@over(TRANSPORTS)
async def test_3_3_messages_arrive_once_and_in_order(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    bodies = [b"%d" % number for number in range(100)]
    await device.send_many(bodies[:90])
    for body in bodies[90:]:
        await device.send(body)
    assert await hub.bodies() == [str(number) for number in range(100)]


async def test_3_4_also_when_the_device_moves_from_each_to_the_next(hub: EveryHub) -> None:
    ways = [*TRANSPORTS, *reversed(TRANSPORTS)]
    for number, way in enumerate(ways):
        await (await hub.connect(way)).send(b"%d" % number)
    assert await hub.bodies() == [str(number) for number in range(len(ways))]


@over(TRANSPORTS)
async def test_3_5_nothing_is_acknowledged_before_it_is_on_disk(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    hub.mqtt.log.held = True
    sending = asyncio.create_task(device.send(b"x"))
    await hub.mqtt.settled(lambda: len(hub.mqtt.log.waiting) == 1)
    assert not sending.done()
    hub.mqtt.log.release()
    await sending


@over(TRANSPORTS)
async def test_3_6_a_message_of_the_largest_size_goes_through(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await device.send(b"x" * MESSAGE_BYTES.open)
    assert await hub.bodies() == ["x" * MESSAGE_BYTES.open]


@over(TRANSPORTS, Ability.REFUSES_MESSAGES)
async def test_3_7_a_larger_one_is_refused_and_the_next_goes_through(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    with pytest.raises(RefusedError) as refusal:
        await device.send(b"x" * (MESSAGE_BYTES.open + 1))
    told = {"amqp": "amqp:link:message-size-exceeded", "https": "413 MessageTooLarge"}
    assert str(refusal.value) == told[transport.family]
    await device.send(b"next")
    assert await hub.bodies() == ["next"]
