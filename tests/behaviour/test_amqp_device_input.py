"""Anything at all may come from a device on AMQP: it is refused with a reason, never with an internal error, and costs
nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp_device import METHODS, TWIN, Device, DeviceHub
from command_hub import aside, command_hub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from muster.core.amqp_limits import AMQP_FRAME_BYTES, AMQP_UNFINISHED_BYTES, AMQP_UNREAD_BYTES
from muster.wire.amqp.frames import encode_frame
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import (
    ACCEPTED,
    Accepted,
    Attach,
    Close,
    Detach,
    Disposition,
    End,
    Source,
    Target,
    Transfer,
    encode_performative,
)
from muster.wire.amqp.values import Symbol

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "wire"))
from amqp_values import VALUES

EVENTS, DEVICEBOUND = "messages/events", "messages/devicebound"
WORDS = st.sampled_from(
    ["devices", "Devices", "d", "m", "x", "modules", "messages", "events", "devicebound", "twin", "methods", "%", "%64",
     "", "amqps:", "\x00", "é"]
)  # fmt: skip
ADDRESSES = st.one_of(st.lists(WORDS, max_size=7).map("/".join), VALUES)
LINK_PROPERTIES = st.dictionaries(
    st.sampled_from(["channel-correlation-id", "model-id", "api-version"]).map(lambda n: Symbol(f"com.microsoft:{n}")),
    VALUES,
)
ANNOTATIONS = st.dictionaries(
    st.sampled_from(["operation", "resource", "version", "dt-subject", "iothub-interface-id"]).map(Symbol),
    VALUES | st.sampled_from(["GET", "PATCH", "PUT", "DELETE", "/properties/reported"]),
)
BODIES = st.fixed_dictionaries({"data": st.binary(max_size=50).map(lambda body: (body,))}) | st.fixed_dictionaries(
    {"value": VALUES}
)
MESSAGES = st.builds(
    lambda annotations, correlation, application, body: Message(
        message_annotations=annotations, properties=Properties(correlation_id=correlation),
        application_properties=application, **body,
    ),
    ANNOTATIONS, VALUES, st.dictionaries(st.text(max_size=9), VALUES), BODIES,
)  # fmt: skip
ENDS = st.sampled_from([EVENTS, TWIN, METHODS])
QUIET = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Server:
    """A hub on a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = contextlib.AsyncExitStack()
        self.hub = DeviceHub(self.run(self._stack.enter_async_context(command_hub(directory))))
        self.tokens = [self.run(self.hub.token(name)) for name in ("d", "d/m")]

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def device(self) -> Device:
        device = Device(self.hub.hub.port)
        for token in self.tokens:
            assert device.put(token)[0] == 200
        return device

    def close(self) -> None:
        self.run(self._stack.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("input"))
    yield server
    server.close()


def finish(device: Device) -> None:
    """Close and see that nothing on the way there was the hub's own fault."""
    device.send(Close())
    with contextlib.suppress(ConnectionError):
        while (came := device.next()) is not None:
            error = getattr(came.body, "error", None) or getattr(getattr(came.body, "state", None), "error", None)
            assert error is None or error.condition != "amqp:internal-error", error
    device.socket.close()


@QUIET
@given(ADDRESSES, st.booleans(), LINK_PROPERTIES)
def test_attaches(server: Server, address: Any, receiving: bool, properties: Any) -> None:
    device = server.device()
    side: dict[str, Any] = {"source": Source(address)} if receiving else {"target": Target(address)}
    device.attach(**side, properties=properties)
    finish(device)


@QUIET
@given(ENDS, st.binary(max_size=200), st.sampled_from([0, 0x80013700, 7]))
def test_payloads(server: Server, end: str, payload: bytes, message_format: int) -> None:
    device = server.device()
    link = device.link("d", end)
    device.transfer(link, payload, message_format=message_format)
    finish(device)


@QUIET
@given(ENDS, MESSAGES)
def test_messages(server: Server, end: str, message: Message) -> None:
    device = server.device()
    link = device.link("d", end)
    device.transfer(link, encode_message(message))
    finish(device)


@QUIET
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.booleans(), VALUES), max_size=5))
def test_outcomes(server: Server, said: list[tuple[int, int, bool, Any]]) -> None:
    device = server.device()
    device.link("d", DEVICEBOUND, receive=True)
    for first, last, settled, state in said:
        kind = ACCEPTED if isinstance(state, int) else None
        device.send(Disposition(True, first, max(first, last), settled, kind))
    finish(device)


# --- misbehaviour on the socket


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHub]:
    async with command_hub(tmp_path) as commands:
        hub = DeviceHub(commands)
        try:
            yield hub
        finally:
            hub.close()


async def test_1_1_a_device_may_write_a_byte_at_a_time(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS)
    transfer = Transfer(link, 0, b"0", 0, False)
    frame = encode_frame(0, encode_performative(transfer) + encode_message(Message(data=(b"slow",))))

    def trickle() -> None:
        for index in range(len(frame)):
            device.socket.sendall(frame[index : index + 1])

    await aside(trickle)
    assert isinstance(await aside(device.settlement, 0), Accepted)
    assert await hub.bodies("d", 1) == ["slow"]


async def test_1_2_a_frame_that_is_too_large_ends_the_connection_and_no_other(hub: DeviceHub) -> None:
    other = await hub.device("other")
    events = await aside(other.link, "other", EVENTS)
    device = await hub.device("d")
    await aside(device.link, "d", EVENTS)
    await aside(device.socket.sendall, (AMQP_FRAME_BYTES.open + 1).to_bytes(4) + b"\x02\x00\x00\x00")
    assert (await aside(device.wait_for, Close)).body.error.condition == "amqp:connection:framing-error"
    assert await aside(device.hung_up)
    await hub.mqtt.settled(lambda: not hub.connected("d"))
    assert isinstance(await aside(other.telemetry, events, b"x"), Accepted)


async def test_1_3_messages_that_are_never_finished_cost_a_bounded_amount(hub: DeviceHub) -> None:
    device = await hub.device("d")
    links = [await aside(device.link, "d", EVENTS) for _ in range(20)]
    part = b"x" * 60_000
    refused = 0
    for number, link in enumerate(links):
        for _ in range(17):  # a mebibyte, the most that a message may have
            await aside(device.send, Transfer(link, number, b"t", 0, False, True), part)
    await aside(device.send, Detach(links[0], True))
    while True:
        came = (await aside(device.wait_for, Detach)).body
        if came.handle == links[0] and came.error is None:
            break
        assert came.error.condition == "amqp:resource-limit-exceeded"
        refused += 1
    [connection] = hub.mqtt.amqp.connections
    assert connection._engine._wire.unfinished <= AMQP_UNFINISHED_BYTES.open
    assert refused == 20 - AMQP_UNFINISHED_BYTES.open // (17 * 60_000)


async def test_1_4_a_device_that_does_not_read_is_not_read_from_and_gets_no_more(hub: DeviceHub) -> None:
    """Its commands wait in their queue, those of others go out."""
    slow = await hub.device("slow")
    await aside(slow.link, "slow", DEVICEBOUND, receive=True, credit=100)
    await hub.hub.send(*[b"x" * 60_000] * 60, device="slow")
    other = await hub.device("other")
    await aside(other.link, "other", DEVICEBOUND, receive=True)
    await hub.hub.send(b"hello", device="other")
    assert (await aside(other.command))[1].body == b"hello"
    connection = max(hub.mqtt.amqp.connections, key=lambda one: one.transport.get_write_buffer_size())
    assert connection.transport.get_write_buffer_size() <= AMQP_UNREAD_BYTES.open
    got = 0
    while got < 60:
        transfer, message = await aside(slow.command)
        assert len(message.body) == 60_000
        await aside(slow.dispose, transfer.delivery_id, ACCEPTED)
        got += 1
    await hub.hub.emptied("slow")


async def test_1_5_credit_stops_while_the_disk_has_to_catch_up(hub: DeviceHub) -> None:
    device = await hub.device("d")
    link = await aside(device.link, "d", EVENTS)
    hub.mqtt.log.held = True
    payload = encode_message(Message(data=(b"x" * 50_000,)))
    numbers = [await aside(device.transfer, link, payload) for _ in range(60)]
    await hub.mqtt.settled(lambda: hub.mqtt.telemetry.congested)
    assert await aside(device.silent, kind=object)
    hub.mqtt.log.release()
    for number in numbers[-1:]:
        assert isinstance(await aside(device.settlement, number), Accepted)
    assert isinstance(await aside(device.telemetry, link, b"and it goes on"), Accepted)


async def test_1_6_a_link_that_was_taken_back_before_it_was_answered_gets_both_answers(hub: DeviceHub) -> None:
    device = await hub.device("d")

    def both() -> None:
        handle = device.ask("d", EVENTS)
        device.send(Detach(handle, True))

    await aside(both)
    await aside(device.wait_for, Attach)
    assert (await aside(device.wait_for, Detach)).body.error is None
    assert not hub.connected("d")
    await aside(device.link, "d", EVENTS)
    assert hub.connected("d")


async def test_1_7_who_does_not_say_who_he_is_has_few_links(hub: DeviceHub) -> None:
    device = await hub.connect()
    for _ in range(65):
        await aside(device.attach, target="$cbs")
    for _ in range(64):
        await aside(device.wait_for, Attach)
    assert (await aside(device.wait_for, End)).body.error.condition == "amqp:resource-limit-exceeded"
