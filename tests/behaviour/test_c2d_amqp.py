"""``/messages/devicebound``: what a service may send, how it is answered, and what it is refused."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from command_hub import DEVICEBOUND, CommandHub, aside, command, command_hub, got
from hub_rest import POLICIES

from muster.core.errors import (
    ARGUMENT_INVALID,
    DEVICE_NOT_FOUND,
    INVALID_EXPIRY,
    INVALID_OPERATION,
    MESSAGE_TOO_LARGE,
    MODULE_NOT_FOUND,
    QUEUE_DEPTH,
    SERVER_ERROR,
    UNAUTHORIZED,
    ErrorRow,
    HubError,
)
from muster.core.limit import Profile
from muster.core.queue_limits import COMMAND_BYTES, COMMANDS_ARRIVING
from muster.identity.sas import make
from muster.messages.commands import Command, check, command_rules
from muster.testing.mqtt import puback
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import Accepted, Attach, Disposition, Flow, Rejected, Transfer
from muster.wire.amqp.sasl import SaslInit
from muster.wire.amqp.values import Timestamp, UInt


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[CommandHub]:
    async with command_hub(tmp_path) as made:
        await made.mqtt.key("d")
        await made.mqtt.key("d", "m")
        yield made


def refused(outcome: Any, row: ErrorRow) -> str:
    """``outcome`` is a refusal as ``row`` says, with a tracking id; its text."""
    assert isinstance(outcome, Rejected), outcome
    assert outcome.error is not None
    info = outcome.error.info or {}
    assert (outcome.error.condition, info["com.microsoft:error-code"]) == (row.condition, row.code)
    assert info["com.microsoft:tracking-id"] in (outcome.error.description or "")
    return outcome.error.description or ""


# --- 1. Links


@pytest.mark.parametrize(
    "address",
    ["/messages/devicebound", "messages/deviceBound", "amqps://localhost/messages/devicebound",
     "amqps://localhost:5671/Messages/DEVICEBOUND", "amqps://user:secret@localhost/messages/devicebound"],
)  # fmt: skip
async def test_1_1_the_address_is_a_path_or_a_uri_in_any_case(hub: CommandHub, address: str) -> None:
    service = await hub.service()
    link = await aside(service.sender, address)
    assert isinstance(await aside(service.send_message, link, command()), Accepted)
    assert await hub.depth() == 1


async def test_1_2_a_service_does_not_receive_there(hub: CommandHub) -> None:
    service = await hub.service()
    service.attach(source=DEVICEBOUND)
    assert (await aside(service.refusal)).condition == INVALID_OPERATION.condition


@pytest.mark.parametrize(("policy", "status"), [("device", 200), ("registryReadWrite", 401)])
async def test_1_3_a_policy_without_the_right_opens_no_link(hub: CommandHub, policy: str, status: int) -> None:
    """That of devices is good for their links only."""
    service = await hub.service(policy=policy)
    assert service.granted == status
    service.attach(target=DEVICEBOUND)
    assert (await aside(service.refusal)).condition == UNAUTHORIZED.condition


async def test_1_4_without_a_token_there_is_no_link(hub: CommandHub) -> None:
    service = await hub.service(policy="")
    service.attach(target=DEVICEBOUND)
    assert (await aside(service.refusal)).condition == UNAUTHORIZED.condition


async def test_1_5_sasl_plain_lets_in_too(hub: CommandHub) -> None:
    token = make("localhost", int(hub.ambient.now()) + 600, POLICIES["service"].primary_key.encode(), "service")
    login = f"\0service@sas.root.localhost\0{token}".encode()
    service = await hub.service(policy="", sasl=SaslInit("PLAIN", login, "localhost"))
    assert isinstance(await aside(service.send_command), Accepted)


async def test_1_6_credit_is_bounded_and_comes_anew_as_messages_are_stored(hub: CommandHub) -> None:
    service = await hub.service()
    link = service.attach(target=DEVICEBOUND)
    await aside(service.wait_for, Attach)
    assert (await aside(service.wait_for, Flow)).body.link_credit == COMMANDS_ARRIVING.open
    for _ in range(3 * COMMANDS_ARRIVING.open):
        assert isinstance(await aside(service.send_message, link, command()), Accepted)
    assert await hub.depth() == 3 * COMMANDS_ARRIVING.open


async def test_1_7_the_token_that_runs_out_ends_the_link(hub: CommandHub) -> None:
    service = await hub.service()
    await aside(service.sender)
    hub.ambient.advance(4000)
    assert (await aside(service.refusal)).condition == UNAUTHORIZED.condition


# --- 2. Recipients


@pytest.mark.parametrize(
    ("to", "queue"),
    [
        ("/devices/d/messages/devicebound", "d"),
        ("devices/d/Messages/deviceBound", "d"),
        ("/Devices/%64/messages/devicebound", "d"),
        ("amqps://localhost/devices/d/messages/devicebound", "d"),
        ("/devices/d/modules/m/messages/devicebound", "d/m"),
    ],
)
async def test_2_1_properties_to_names_the_recipient(hub: CommandHub, to: str, queue: str) -> None:
    service = await hub.service()
    assert isinstance(await aside(service.send_command, to=to), Accepted)
    assert await hub.depth(queue) == 1


async def test_2_2_ids_of_every_allowed_character_are_reached_encoded(hub: CommandHub) -> None:
    name = "a-:.+_#*?!(),=@;$'Z9"
    await hub.mqtt.key(name)
    service = await hub.service()
    encoded = "a-:.%2B_%23*%3F!()%2C%3D%40%3B%24'Z9"
    for written in (name, encoded):
        assert isinstance(await aside(service.send_command, device=written), Accepted)
    assert await hub.depth(name) == 2


@pytest.mark.parametrize(
    "to", ["", "/devices/d", "/devices//messages/devicebound", "d", 7, "/devices/d/messages/events"]
)
async def test_2_3_without_a_device_in_it_the_message_is_refused(hub: CommandHub, to: Any) -> None:
    service = await hub.service()
    text = refused(await aside(service.send_command, to=to), INVALID_OPERATION)
    assert text.startswith("Amqp Message.Properties.To must contain the device identifier")


@pytest.mark.parametrize(
    ("device", "row", "message"),
    [("n", DEVICE_NOT_FOUND, "n"), ("d/modules/n", MODULE_NOT_FOUND, "d/n"), ("n/modules/m", DEVICE_NOT_FOUND, "n")],
)
async def test_2_4_unknown_identities_are_refused(hub: CommandHub, device: str, row: ErrorRow, message: str) -> None:
    service = await hub.service()
    assert refused(await aside(service.send_command, device=device), row).startswith(f"{message} ")


async def test_2_5_an_id_that_is_none_is_refused(hub: CommandHub) -> None:
    service = await hub.service()
    refused(await aside(service.send_command, device="a%20b"), ARGUMENT_INVALID)


# --- 3. Contents


async def test_3_1_values_of_other_types_become_text(hub: CommandHub) -> None:
    device = await hub.device()
    name = uuid.uuid4()
    application = {
        "int": 7,
        "yes": True,
        "half": 0.5,
        "uuid": name,
        "time": Timestamp(1_800_000_000_000),
        "bytes": b"b",
    }
    await hub.send(b"", message_id=name, correlation_id=UInt(9), application=application)
    one = (await got(device)).properties
    assert (one["$.mid"], one["$.cid"]) == (str(name), "9")
    written = ["7", "true", "0.5", str(name), "2027-01-15T08:00:00.0000000Z", "b"]
    assert [one[key] for key in application] == written


async def test_3_2_several_data_sections_are_one_body(hub: CommandHub) -> None:
    device = await hub.device()
    service = await hub.service()
    message = Message(properties=Properties(to="/devices/d/messages/devicebound"), data=(b"ab", b"", b"c"))
    assert isinstance(await aside(service.send_message, await aside(service.sender), message), Accepted)
    assert (await got(device)).body == b"abc"


@pytest.mark.parametrize(("name", "ack"), [("iothub-ack", "FULL"), ("ack", "negative"), ("iothub-ack", "none")])
async def test_3_3_the_wish_for_feedback_is_told_to_the_device(hub: CommandHub, name: str, ack: str) -> None:
    device = await hub.device()
    await hub.send(b"", application={name: ack})
    one = (await got(device)).properties
    assert (one.get("iothub-ack"), "ack" in one) == (ack.lower(), False)


async def test_3_4_a_property_named_ack_with_another_value_is_just_that(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"", application={"ack": "yes please"})
    one = (await got(device)).properties
    assert (one["ack"], "iothub-ack" in one) == ("yes please", False)


@pytest.mark.parametrize(
    ("fields", "row", "named"),
    [
        ({"application": {"iothub-ack": "maybe"}}, ARGUMENT_INVALID, "iothub-ack is 'maybe'"),
        ({"message_id": "a b"}, ARGUMENT_INVALID, "message-id holds ' ' at position 1"),
        ({"correlation_id": "x" * 129}, ARGUMENT_INVALID, "correlation-id has 129 characters, 128 are allowed"),
        ({"user_id": b"\xff"}, ARGUMENT_INVALID, "user-id is not UTF-8"),
        ({"application": {"": "x"}}, ARGUMENT_INVALID, "has no name"),
        ({"application": {"list": [1]}}, ARGUMENT_INVALID, "list is a list"),
        ({"application": {str(n): "" for n in range(1001)}}, ARGUMENT_INVALID, "1001 application properties"),
        ({"application": {"a": "x" * 16_384}}, MESSAGE_TOO_LARGE, "16385 bytes, 16384 are allowed"),
        ({"absolute_expiry_time": 1_840_000_000_000}, INVALID_EXPIRY, "absolute-expiry-time is more than"),
        ({"body": bytes(COMMAND_BYTES.open + 1)}, MESSAGE_TOO_LARGE, "65537 bytes"),
        ({"body": bytes(COMMAND_BYTES.open), "message_id": "m"}, MESSAGE_TOO_LARGE, "65537 bytes with its properties"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_3_5_what_cannot_be_carried_is_refused_by_name_and_the_link_goes_on(
    hub: CommandHub, fields: dict[str, Any], row: ErrorRow, named: str
) -> None:
    service = await hub.service()
    link = await aside(service.sender)
    assert named in refused(await aside(service.send_message, link, command(**{"body": b"", **fields})), row)
    assert isinstance(await aside(service.send_message, link, command()), Accepted)
    assert await hub.depth() == 1


async def test_3_6_the_largest_message_passes(hub: CommandHub) -> None:
    device = await hub.device()
    application = {"a": "\u20ac" * ((16_384 - 4) // 3), "b": ""}
    body = bytes(COMMAND_BYTES.open - 2 - 3 * len(application["a"]))
    await hub.send(body, application=application)
    one = await got(device)
    assert (one.body, one.properties["a"]) == (body, application["a"])


async def test_3_7_another_kind_of_body_is_refused(hub: CommandHub) -> None:
    service = await hub.service()
    link = await aside(service.sender)
    to = Properties(to="/devices/d/messages/devicebound")
    for message in (Message(properties=to, value="text"), Message(properties=to, sequences=([1],))):
        assert "Data sections" in refused(await aside(service.send_message, link, message), ARGUMENT_INVALID)


async def test_3_8_what_is_no_message_is_refused(hub: CommandHub) -> None:
    service = await hub.service()
    link = await aside(service.sender)
    for payload in (b"junk", b"\x00\x53\x75\xa0\xff", encode_message(command())[:-1]):
        outcome = await aside(service.send_message, link, payload)
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert outcome.error.condition == "amqp:decode-error"
    assert isinstance(await aside(service.send_message, link, command()), Accepted)


async def test_3_9_an_expiry_that_has_passed_ends_the_message_at_once(hub: CommandHub) -> None:
    await hub.send(b"", message_id="m", absolute_expiry_time=1000, application={"ack": "full"})
    await hub.advance(0)
    assert await hub.depth() == 0
    assert await hub.statuses() == [("m", "Expired")]


async def test_3_10_an_expiry_of_zero_counts_as_none(hub: CommandHub) -> None:
    await hub.send(b"", absolute_expiry_time=0)
    await hub.advance(10)
    assert await hub.depth() == 1


# --- 4. The azure profile


def test_4_1_the_azure_profile_is_as_narrow_as_the_cloud() -> None:
    with pytest.raises(HubError) as caught:
        check(Command(body=b"", properties={"a": "b c"}), 0, Profile.AZURE)
    assert caught.value.row is ARGUMENT_INVALID
    assert "'a' holds ' ' at position 1" in caught.value.message
    with pytest.raises(HubError) as caught:
        check(Command(body=b"", properties={"\u00e4": ""}), 0, Profile.AZURE)
    with pytest.raises(HubError) as caught:
        check(Command(body=b"", expires=172_801), 0, Profile.AZURE)
    assert caught.value.row is INVALID_EXPIRY
    check(Command(body=b"", expires=172_800, properties={"!#$%&'*+-.^_`|~aZ9": "", "b": None}), 0, Profile.AZURE)
    assert command_rules(Profile.AZURE).most == 50


async def test_4_2_a_full_queue_refuses_until_there_is_room(hub: CommandHub) -> None:
    hub.queues._identities = command_rules(Profile.AZURE)
    await hub.send(*[b""] * 50)
    service = await hub.service()
    assert "50 are allowed" in refused(await aside(service.send_command), QUEUE_DEPTH)
    device = await hub.device()
    await device.send(puback((await got(device)).packet_id))
    await hub.queued(49)
    assert isinstance(await aside(service.send_command), Accepted)


# --- 5. Settled after it is durable, cut at any moment


async def test_5_1_a_sender_cut_before_its_disposition_has_lost_nothing(hub: CommandHub) -> None:
    for number in range(10):
        service = await hub.service()
        link = await aside(service.sender)
        await aside(service.post, link, command(b"%d" % number))
        service.socket.close()
    await hub.queued(10)


async def test_5_2_a_sender_cut_in_the_midst_of_a_message_sends_none_of_it(hub: CommandHub) -> None:
    service = await hub.service()
    link = await aside(service.sender)
    whole = encode_message(command(bytes(50_000)))
    await aside(service.send, Transfer(link, 1, b"1", 0, False, True), whole[:30_000])
    service.socket.close()
    await hub.until(lambda: not hub.mqtt.amqp.connections)
    assert await hub.depth() == 0


async def test_5_3_a_presettled_message_is_stored_too_and_nothing_is_said(hub: CommandHub) -> None:
    service = await hub.service()
    link = await aside(service.sender)
    await aside(service.post, link, command(), settled=True)
    await aside(service.post, link, command(device="nobody"), settled=True)
    assert await aside(service.silent, 0.15, Disposition)
    assert await hub.depth() == 1


async def test_5_4_messages_sent_at_once_are_kept_in_order_and_each_is_settled(hub: CommandHub) -> None:
    device = await hub.device()
    service = await hub.service()
    link = await aside(service.sender)

    def burst() -> list[int]:
        sent = [service.post(link, command(b"%d" % number)) for number in range(30)]
        settled = [service.wait_for(Disposition).body.first for _ in sent]
        assert sent == settled
        return sent

    await aside(burst)
    for number in range(30):
        one = await got(device)
        assert one.body == b"%d" % number
        await device.send(puback(one.packet_id))


async def test_5_5_a_store_that_fails_refuses_the_message(hub: CommandHub, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await hub.service()
    link = await aside(service.sender)

    async def broken(*_: object) -> None:
        raise HubError(SERVER_ERROR, "disk")

    with monkeypatch.context() as patch:
        patch.setattr(hub.commands, "send", broken)
        refused(await aside(service.send_message, link, command()), SERVER_ERROR)

    async def defect(*_: object) -> None:
        raise KeyError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(hub.commands, "send", defect)
        assert "secret" not in refused(await aside(service.send_message, link, command()), SERVER_ERROR)
    assert isinstance(await aside(service.send_message, link, command()), Accepted)


async def test_5_6_several_services_at_once_lose_nothing(hub: CommandHub) -> None:
    async def one(name: int) -> None:
        service = await hub.service()
        link = await aside(service.sender)
        for number in range(10):
            assert isinstance(await aside(service.send_message, link, command(b"%d-%d" % (name, number))), Accepted)

    await asyncio.gather(*(one(name) for name in range(5)))
    assert await hub.depth() == 50
