"""What holds on every transport, sentence by sentence: commands, twins, methods; see ``test_every_transport``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from every_hub import TRANSPORTS, EveryHub, every_hub, key_of
from hub_rest import Answer
from transports import Ability, RefusedError, Transport, from_and_to, over

IDENTITIES = pytest.mark.parametrize("name", ["d", "d/m"])
FULL = {"iothub-ack": "full"}


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[EveryHub]:
    async with every_hub(tmp_path) as hub:
        yield hub


# --- 4. commands


@over(TRANSPORTS)
@IDENTITIES
async def test_4_1_a_command_arrives_with_its_properties_and_is_completed(
    hub: EveryHub, transport: Transport, name: str
) -> None:
    device = await hub.connect(transport, name)
    await device.take_commands()
    await hub.commands.send(b"\x00\xff", device=name, message_id="m", application={**FULL, "a": "b c"})
    got = await device.command()
    assert (got.body, got.message_id, got.properties) == (b"\x00\xff", "m", {"a": "b c"})
    assert await hub.commands.depth(name) == 1, "it is there until the device says so"
    await device.complete(got)
    await hub.commands.emptied(name)
    assert await hub.commands.statuses() == [("m", "Success")]


@over(TRANSPORTS)
async def test_4_2_commands_wait_for_the_device_and_come_in_order(hub: EveryHub, transport: Transport) -> None:
    bodies = [b"%d" % number for number in range(10)]
    await hub.commands.send(*bodies)
    device = await hub.connect(transport)
    await device.take_commands()
    for body in bodies:
        got = await device.command()
        assert got.body == body
        await device.complete(got)
    await hub.commands.emptied()


@over(TRANSPORTS)
async def test_4_3_an_expired_command_does_not_come(hub: EveryHub, transport: Transport) -> None:
    expiry = int((hub.ambient.now() + 10) * 1000)
    await hub.commands.send(b"old", message_id="m", absolute_expiry_time=expiry, application=FULL)
    await hub.commands.advance(11)
    await hub.commands.send(b"new")
    device = await hub.connect(transport)
    await device.take_commands()
    assert (await device.command()).body == b"new"
    assert await hub.commands.statuses() == [("m", "Expired")]


@over(TRANSPORTS, Ability.GIVES_BACK)
async def test_4_4_an_abandoned_command_comes_again_until_it_has_come_too_often(
    hub: EveryHub, transport: Transport
) -> None:
    device = await hub.connect(transport)
    await device.take_commands()
    await hub.commands.send(b"x", message_id="m", application=FULL)
    for _ in range(10):
        await device.abandon(await device.command())
    await hub.commands.emptied()
    assert await hub.commands.statuses() == [("m", "DeliveryCountExceeded")]


@over(TRANSPORTS, Ability.GIVES_BACK)
async def test_4_5_a_rejected_command_does_not_come_again(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await device.take_commands()
    await hub.commands.send(b"x", message_id="m", application=FULL)
    await device.reject(await device.command())
    await hub.commands.emptied()
    assert await hub.commands.statuses() == [("m", "Rejected")]


@over(TRANSPORTS)
async def test_4_6_a_command_that_was_not_completed_comes_again_after_a_cut(
    hub: EveryHub, transport: Transport
) -> None:
    await comes_again(hub, transport, transport)


@from_and_to(TRANSPORTS)
async def test_4_7_also_when_the_device_comes_back_on_another_transport(
    hub: EveryHub, transport: Transport, other: Transport
) -> None:
    await comes_again(hub, transport, other)


async def comes_again(hub: EveryHub, transport: Transport, other: Transport) -> None:
    device = await hub.connect(transport)
    await device.take_commands()
    await hub.commands.send(b"x", b"y", message_id="m", application=FULL)
    assert (await device.command()).body == b"x"
    await hub.let_go(transport, device)
    again = await hub.connect(other)
    await again.take_commands()
    for body in (b"x", b"y"):
        got = await again.command()
        assert got.body == body
        await again.complete(got)
    await hub.commands.emptied()
    assert await hub.commands.statuses() == [("m", "Success")] * 2


@from_and_to(TRANSPORTS, Ability.SESSION)
async def test_4_8_a_takeover_hands_the_commands_over(hub: EveryHub, transport: Transport, other: Transport) -> None:
    device = await hub.connect(transport)
    await device.take_commands()
    await hub.commands.send(b"x")
    await device.command()
    again = await hub.connect(other)
    await device.ended()
    await again.take_commands()
    got = await again.command()
    assert got.body == b"x"
    await again.complete(got)
    await hub.commands.emptied()


# --- 5. twins


@over(TRANSPORTS, Ability.TWIN)
@IDENTITIES
async def test_5_1_a_device_gets_its_twin_and_reads_what_it_wrote(
    hub: EveryHub, transport: Transport, name: str
) -> None:
    device = await hub.connect(transport, name)
    await device.take_twin()
    await hub.twins.patch(key_of(name), {"tag": 1}, {"rate": {"s": 5}})
    for number in (2, 3):
        assert await device.report({"n": number}) == number
        assert await device.twin() == {
            "desired": {"rate": {"s": 5}, "$version": 2}, "reported": {"n": number, "$version": number},
        }  # fmt: skip
    assert (await hub.twins.get(key_of(name))).reported.values == {"n": 3}


@over(TRANSPORTS, Ability.TWIN)
async def test_5_2_changes_of_desired_properties_come_in_order(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await device.take_twin()
    for number in range(20):
        await hub.twins.patch(key_of("d"), None, {"n": number, "gone": None})
    for number in range(20):
        assert await device.desired() == {"n": number, "gone": None, "$version": number + 2}


@over(TRANSPORTS, Ability.TWIN)
async def test_5_3_a_bad_patch_is_refused_and_changes_nothing(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await device.take_twin()
    with pytest.raises(RefusedError, match="400"):
        await device.report({"a b.c": 1})
    assert await device.twin() == {"desired": {"$version": 1}, "reported": {"$version": 1}}


@from_and_to(TRANSPORTS, Ability.TWIN)
async def test_5_4_a_twin_is_the_same_on_another_transport(
    hub: EveryHub, transport: Transport, other: Transport
) -> None:
    one = await hub.connect(transport)
    await one.take_twin()
    await one.report({"by": transport.name})
    two = await hub.connect(other)
    await two.take_twin()
    assert (await two.twin())["reported"] == {"by": transport.name, "$version": 2}
    await hub.twins.patch(key_of("d"), None, {"n": 1})
    assert await two.desired() == {"n": 1, "$version": 2}


# --- 6. methods


@over(TRANSPORTS, Ability.METHODS)
@IDENTITIES
async def test_6_1_a_device_is_asked_and_its_answer_reaches_the_caller(
    hub: EveryHub, transport: Transport, name: str
) -> None:
    device = await hub.connect(transport, name)
    await device.take_methods()
    call = hub.begin_call(name, payload={"in": [1, "\u20ac"]})
    asked = await device.asked()
    assert (asked.name, json.loads(asked.payload)) == ("reboot", {"in": [1, "\u20ac"]})
    await device.answer(asked, 207, b'{"took": 3}')
    answer = await call
    assert (answer.status, answer.json) == (200, {"status": 207, "payload": {"took": 3}})


@over(TRANSPORTS, Ability.METHODS)
async def test_6_2_answers_may_come_in_any_order(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await device.take_methods()
    calls = [hub.begin_call(payload=number) for number in range(5)]
    for asked in reversed([await device.asked() for _ in calls]):
        await device.answer(asked, 200, asked.payload)
    assert [(await call).json["payload"] for call in calls] == list(range(5))


@over(TRANSPORTS)
async def test_6_3_who_does_not_take_methods_is_not_online_for_them(hub: EveryHub, transport: Transport) -> None:
    await (await hub.connect(transport)).send(b"x")
    assert error_of(await hub.begin_call()) == (404, 404103)


@over(TRANSPORTS, Ability.METHODS)
async def test_6_4_a_device_that_goes_ends_the_call_that_it_was_asked(hub: EveryHub, transport: Transport) -> None:
    device = await hub.connect(transport)
    await device.take_methods()
    call = hub.begin_call()
    await device.asked()
    await device.cut()
    assert error_of(await call) == (404, 404104)


@over(TRANSPORTS, Ability.METHODS)
async def test_6_5_one_that_comes_while_the_caller_waits_is_asked(hub: EveryHub, transport: Transport) -> None:
    await hub.identity()
    call = hub.begin_call(connectTimeoutInSeconds=60)
    await hub.mqtt.settled(lambda: hub.mqtt.methods.in_flight == 1)
    device = await hub.connect(transport)
    await device.take_methods()
    await device.answer(await device.asked(), 200, b"null")
    assert (await call).json == {"status": 200, "payload": None}


@from_and_to(TRANSPORTS, Ability.METHODS)
async def test_6_6_calls_go_to_where_the_device_is_now(hub: EveryHub, transport: Transport, other: Transport) -> None:
    old = await hub.connect(transport)
    await old.take_methods()
    lost = hub.begin_call()
    await old.asked()
    new = await hub.connect(other)
    assert error_of(await lost) == (404, 404104)
    await new.take_methods()
    call = hub.begin_call()
    await new.answer(await new.asked(), 201, b'"new"')
    assert (await call).json == {"status": 201, "payload": "new"}


def error_of(answer: Answer) -> tuple[int, int]:
    """HTTP status and error code of a refusal."""
    return answer.status, json.loads(answer.json["Message"])["errorCode"]
