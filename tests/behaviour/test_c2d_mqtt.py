"""Cloud-to-device messages as an MQTT device gets them, over TLS and a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from command_hub import GATHER, LOCK, TTL, CommandHub, Got, command_hub, got, got_and_acknowledged, take_commands
from mqtt_hub import alive

from muster.core.queue_limits import COMMANDS_IN_FLIGHT
from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey, Status
from muster.messages.queue import Settlement
from muster.messages.queues import taken
from muster.testing.mqtt import DISCONNECT, connect, puback, publish, subscribe, unsubscribe

WINDOW = COMMANDS_IN_FLIGHT.open


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[CommandHub]:
    async with command_hub(tmp_path) as made:
        yield made


# --- 1. The topic


async def test_1_1_a_bare_message_has_a_bag_with_its_address_only(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"\x00\xffbody")
    one = await got(device)
    assert one.topic == "devices/d/messages/devicebound/%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound"
    assert (one.body, one.qos, one.dup) == (b"\x00\xffbody", 1, False)


async def test_1_2_system_properties_come_first_and_all_are_percent_encoded(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(
        b"", message_id="m-1+%", correlation_id="c:1", user_id="\u00fc".encode(), content_type="application/json; v=1",
        content_encoding="utf-8", absolute_expiry_time=1_800_000_100_123, creation_time=1_799_999_999_000,
        application={"a b": "c d+e", "plain": "1", "\u20ac": "\u20ac&=", "empty": "", "null": None,
                     "iothub-ack": "full"},
    )  # fmt: skip
    assert (await got(device)).bag == (
        "%24.to=%2Fdevices%2Fd%2Fmessages%2Fdevicebound&%24.mid=m-1%2B%25&%24.cid=c%3A1&%24.uid=%C3%BC"
        "&%24.ct=application%2Fjson%3B%20v%3D1&%24.ce=utf-8&%24.exp=2027-01-15T08%3A01%3A40.1230000Z"
        "&%24.ctime=2027-01-15T07%3A59%3A59.0000000Z&iothub-ack=full"
        "&a%20b=c%20d%2Be&plain=1&%E2%82%AC=%E2%82%AC%26%3D&empty=&null"
    )


async def test_1_3_a_module_has_its_own_topic_and_queue(hub: CommandHub) -> None:
    await hub.mqtt.key("d")
    device, module = await hub.device(), await hub.device("d", "m")
    await hub.send(b"for m", device="d/m")
    one = await got(module)
    assert one.topic == (
        "devices/d/modules/m/messages/devicebound/%24.to=%2Fdevices%2Fd%2Fmodules%2Fm%2Fmessages%2Fdevicebound"
    )
    await hub.send(b"for d")
    assert (await got(device)).body == b"for d"


async def test_1_4_a_module_that_asks_for_all_below_it_gets_its_messages(hub: CommandHub) -> None:
    await hub.mqtt.key("d")
    module = await hub.mqtt.device("d", "m")
    await module.send(subscribe(1, [("devices/d/modules/m/#", 1)]))
    await module.expect("SUBACK")
    await hub.send(b"x", device="d/m")
    assert (await got(module)).body == b"x"


# --- 2. Acknowledged


async def test_2_1_puback_completes_and_nothing_else_does(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"x")
    one = await got(device)
    await alive(device)
    assert await hub.depth() == 1
    await device.send(puback(one.packet_id))
    await hub.emptied()


async def test_2_2_messages_come_in_the_order_they_were_sent_also_those_sent_before(hub: CommandHub) -> None:
    bodies = [b"%d" % number for number in range(40)]
    await hub.send(*bodies[:20])
    device = await hub.device()
    assert [(await got_and_acknowledged(device)).body for _ in range(20)] == bodies[:20]
    await hub.send(*bodies[20:])
    assert [(await got_and_acknowledged(device)).body for _ in range(20)] == bodies[20:]
    await hub.emptied()


async def test_2_3_a_bounded_number_is_on_its_way_at_once(hub: CommandHub) -> None:
    await hub.send(*[b"%d" % number for number in range(WINDOW + 4)])
    device = await hub.device()
    some = [await got(device) for _ in range(WINDOW)]
    await alive(device)
    assert len({one.packet_id for one in some}) == WINDOW
    await device.send(puback(some[3].packet_id))
    assert (await got(device)).body == b"%d" % WINDOW
    await device.send(*(puback(one.packet_id) for one in some[:3]))
    assert [(await got(device)).body for _ in range(3)] == [b"%d" % number for number in range(WINDOW + 1, WINDOW + 4)]


async def test_2_4_a_puback_for_nothing_or_twice_does_no_harm(hub: CommandHub) -> None:
    device = await hub.device()
    await device.send(puback(40_000), puback(1))
    await hub.send(b"x", b"y")
    one = await got(device)
    await device.send(puback(one.packet_id), puback(one.packet_id))
    assert (await got(device)).body == b"y"
    await hub.queued(1)


async def test_2_5_at_qos_0_a_message_is_complete_when_it_is_sent(hub: CommandHub) -> None:
    device = await hub.device(qos=0)
    await hub.send(b"a", b"b", application={"iothub-ack": "full"}, message_id="m")
    assert [((one := await got(device)).qos, one.body) for _ in range(2)] == [(0, b"a"), (0, b"b")]
    await hub.emptied()
    assert await hub.statuses() == [("m", "Success")] * 2


async def test_2_6_desired_properties_and_commands_do_not_share_packet_ids(hub: CommandHub) -> None:
    from muster.identity.model import IdentityKey

    device = await hub.device()
    await device.send(subscribe(3, [("$iothub/twin/PATCH/properties/desired/#", 1)]))
    await device.expect("SUBACK")
    await hub.send(b"x")
    one = await got(device)
    await hub.mqtt.twins.patch(IdentityKey("d"), None, {"a": 1})
    patch = await device.expect("PUBLISH")
    size = int.from_bytes(patch.body[:2])
    assert int.from_bytes(patch.body[2 + size : 4 + size]) < 32_768 <= one.packet_id


# --- 3. Sessions


async def test_3_1_without_a_subscription_nothing_comes(hub: CommandHub) -> None:
    device = await hub.mqtt.device("d")
    await hub.send(b"x")
    await alive(device)
    assert await hub.depth() == 1
    await take_commands(device)
    assert (await got(device)).body == b"x"


async def test_3_2_a_kept_subscription_brings_what_came_meanwhile_without_subscribe(hub: CommandHub) -> None:
    device = await hub.device()
    await device.send(DISCONNECT)
    await device.expect_end()
    await hub.send(b"x")
    again = await hub.mqtt.device("d")
    assert (await got_and_acknowledged(again)).body == b"x"
    await hub.emptied()


async def test_3_3_a_clean_session_brings_nothing_until_it_subscribes_and_the_queue_stays(hub: CommandHub) -> None:
    device = await hub.device()
    await device.send(DISCONNECT)
    await device.expect_end()
    await hub.send(b"x")
    again = await hub.mqtt.device("d", clean_session=True)
    await alive(again)
    assert await hub.depth() == 1
    await take_commands(again)
    assert (await got(again)).body == b"x"


async def test_3_4_after_unsubscribe_nothing_comes_and_what_had_come_can_be_acknowledged(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"x")
    one = await got(device)
    await device.send(unsubscribe(1, ["devices/d/messages/devicebound/#"]))
    await device.expect("UNSUBACK")
    await hub.send(b"y")
    await device.send(puback(one.packet_id))
    await hub.queued(1)
    await alive(device)
    await take_commands(device)
    assert (await got(device)).body == b"y"


async def test_3_5_a_repeated_subscribe_does_not_send_again_what_is_on_its_way(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"x")
    one = await got(device)
    await take_commands(device)
    await alive(device)
    await device.send(puback(one.packet_id))
    await hub.emptied()


async def test_3_6_a_disabled_device_may_be_sent_to_and_gets_it_when_it_is_enabled(hub: CommandHub) -> None:
    key = IdentityKey("d")
    await hub.mqtt.key("d")
    await hub.mqtt.registry.update(Draft(key=key, status=Status.DISABLED), ANY)
    await hub.send(b"x")
    await hub.mqtt.registry.update(Draft(key=key), ANY)
    assert (await got(await hub.device())).body == b"x"


# --- 4. Cut connections: nothing is lost


async def test_4_1_what_was_not_acknowledged_comes_again_under_its_id_marked_dup(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"a", b"b", b"c")
    first = [await got(device) for _ in range(3)]
    await device.send(puback(first[1].packet_id))
    await hub.queued(2)
    device.abort()
    again = await hub.mqtt.device("d")
    second = [await got_and_acknowledged(again) for _ in range(2)]
    assert [(one.body, one.dup, one.packet_id) for one in second] == [
        (b"a", True, first[0].packet_id), (b"c", True, first[2].packet_id)
    ]  # fmt: skip
    await hub.emptied()


async def test_4_2_a_takeover_hands_on_what_the_older_connection_had_in_hand(hub: CommandHub) -> None:
    older = await hub.device()
    await hub.send(b"a")
    await got(older)
    newer = await hub.mqtt.device("d")
    one = await got_and_acknowledged(newer)
    assert (one.body, one.dup) == (b"a", True)
    await older.expect_end()
    await hub.emptied()


async def test_4_3_a_puback_just_before_the_cut_counts(hub: CommandHub) -> None:
    for _ in range(20):
        device = await hub.mqtt.device("d", clean_session=True)
        await take_commands(device)
        await hub.send(b"a")
        one = await got(device)
        await device.send(puback(one.packet_id), DISCONNECT)
        await device.expect_end()
        await hub.emptied()


async def test_4_4_a_message_that_ten_connections_did_not_acknowledge_is_given_up(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"poison", message_id="p", application={"iothub-ack": "negative"})
    for attempt in range(10):
        one = await got(device)
        assert (one.body, one.dup) == (b"poison", attempt > 0)
        await hub.send(b"good", application={"iothub-ack": "negative"})
        await got_and_acknowledged(device)
        await hub.queued(1)
        device = await hub.mqtt.device("d")
    await hub.emptied()
    await alive(device)
    assert await hub.statuses() == [("p", "DeliveryCountExceeded")]


async def test_4_5_devices_cut_at_any_moment_get_every_message_at_least_once(hub: CommandHub) -> None:
    total = 60
    bodies = [b"%d" % number for number in range(total)]
    sending = asyncio.create_task(hub.send(*bodies))
    seen: list[bytes] = []
    acknowledged: set[bytes] = set()
    await hub.mqtt.key("d")
    device = await hub.device()
    for round_ in range(200):
        try:
            async with asyncio.timeout(0.3):
                for _ in range(1 + round_ % 7):
                    one = await got(device)
                    seen.append(one.body)
                    if round_ % 3 or len(seen) % 2:
                        await device.send(puback(one.packet_id))
                        acknowledged.add(one.body)
        except TimeoutError:
            if sending.done() and await hub.depth() == 0:
                break
        device.abort()
        device = await hub.mqtt.device("d")
    await sending
    assert set(seen) == set(bodies)
    assert await hub.depth() == 0


# --- 5. Locks and expiry, by the virtual clock


async def test_5_1_a_lapsed_lock_sends_the_message_again_on_the_same_connection(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"a")
    one = await got(device)
    await hub.advance(LOCK - 0.1)
    await alive(device)
    await hub.advance(0.1)
    again = await got(device)
    assert (again.body, again.dup, again.packet_id) == (b"a", True, one.packet_id)
    await device.send(puback(again.packet_id))
    await hub.emptied()


async def test_5_2_a_full_window_is_sent_again_too_and_lapses_do_not_count(hub: CommandHub) -> None:
    await hub.send(*[b"%d" % number for number in range(WINDOW)])
    device = await hub.device()
    for attempt in range(12):
        some = [await got(device) for _ in range(WINDOW)]
        assert all(one.dup == (attempt > 0) for one in some)
        await hub.advance(LOCK)
    assert await hub.depth() == WINDOW


async def test_5_3_a_message_expires_in_the_queue(hub: CommandHub) -> None:
    await hub.mqtt.key("d")
    soon = int((hub.ambient.now() + 5) * 1000)
    await hub.send(b"a", message_id="soon", absolute_expiry_time=soon, application={"iothub-ack": "full"})
    await hub.send(b"b", message_id="later", application={"iothub-ack": "positive"})
    await hub.advance(5)
    assert await hub.depth() == 1
    assert await hub.statuses() == [("soon", "Expired")]
    await hub.advance(TTL - 5 - GATHER)
    assert await hub.depth() == 0
    device = await hub.device()
    await alive(device)
    assert await hub.statuses() == []


async def test_5_4_what_the_device_has_in_hand_outlives_its_expiry_until_the_lock_lapses(hub: CommandHub) -> None:
    device = await hub.device()
    soon = int((hub.ambient.now() + 5) * 1000)
    await hub.send(b"a", b"b", absolute_expiry_time=soon, application={"iothub-ack": "full"}, message_id="m")
    one, _ = await got(device), await got(device)
    await hub.advance(10)
    await device.send(puback(one.packet_id))
    await hub.queued(1)
    await hub.advance(LOCK)
    assert await hub.depth() == 0
    assert await hub.statuses() == [("m", "Success"), ("m", "Expired")]
    await alive(device)


async def test_5_5_a_puback_after_the_lock_lapsed_and_another_has_it_is_passed_over(
    hub: CommandHub,
) -> None:
    device = await hub.device()
    await hub.send(b"a")
    one = await got(device)
    await device.send(unsubscribe(1, ["devices/d/messages/devicebound/#"]))
    await device.expect("UNSUBACK")
    await hub.advance(LOCK)
    (elsewhere,) = taken(await hub.queues.take("d", 5))
    await device.send(puback(one.packet_id))
    await alive(device)
    await hub.queues.settle("d", elsewhere.token, Settlement.ABANDON)
    assert await hub.depth() == 1


# --- 6. A device that does not read


async def test_6_1_a_device_that_does_not_read_stays_and_is_sent_no_more_than_it_takes(hub: CommandHub) -> None:
    device = await hub.device()
    device.writer.transport.pause_reading()
    body = bytes(60_000)
    await hub.send(*[body] * 30)
    assert await hub.depth() == 30
    (connection,) = hub.mqtt.connections
    assert connection._transport.get_write_buffer_size() <= 1 << 20
    device.writer.transport.resume_reading()
    bodies = [(await got_and_acknowledged(device)).body for _ in range(30)]
    assert bodies == [body] * 30
    await hub.emptied()


@pytest.mark.embedded("what others may have queued has to be asked for")
async def test_6_2_a_session_with_nothing_queued_costs_the_store_nothing(hub: CommandHub) -> None:
    edits: list[object] = []
    real = hub.queues._store.edit

    def counted(*given: object) -> object:
        edits.append(given)
        return real(*given)  # type: ignore[arg-type]

    hub.queues._store.edit = counted  # type: ignore[method-assign, assignment]
    for _ in range(5):
        device = await hub.device()
        await device.send(publish("devices/d/messages/events/", b"", packet_id=1))
        await device.expect("PUBACK")
        device.abort()
    assert edits == []


# --- 7. Identities that come and go


async def test_7_1_a_deleted_device_loses_its_queue_and_a_new_one_begins_empty(hub: CommandHub) -> None:
    device = await hub.device()
    await hub.send(b"a", b"b", application={"iothub-ack": "full"})
    one = await got(device)
    await hub.mqtt.registry.delete(IdentityKey("d"))
    await device.send(puback(one.packet_id))
    await device.expect_end()
    assert await hub.depth() == 0
    assert await hub.feedback() == [], "nothing is told of what went with its device"
    again = await hub.mqtt.open()
    name, user, token = await hub.mqtt.login("d")
    await again.send(connect(name, user, token))
    await again.expect("CONNACK")
    await take_commands(again)
    await alive(again)
    assert isinstance(one, Got)
