"""The socket is cut after any number of bytes, in the midst of everything a device does: nothing is lost or half done.

One dialogue has it all: a twin is read, properties are reported, a method is answered, a message is taken, telemetry
is sent. A proxy lets so many bytes of it through, in each direction, and then breaks the connection; the device comes
back, as devices do, and what it has been told must be true.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from mqtt_hub import MqttHub, mqtt_hub

from muster.core.errors import HubError
from muster.identity.model import IdentityKey
from muster.messages.commands import Ack, Command
from muster.messages.methods import MethodAnswer
from muster.testing import mqtt
from muster.testing.mqtt import MqttClient

KEY = IdentityKey("d")
DEVICEBOUND = "devices/d/messages/devicebound/#"
FILTERS = [("$iothub/twin/res/#", 0), ("$iothub/methods/POST/#", 0), (DEVICEBOUND, 1)]
STEP, PATIENCE = 40, 10


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


class Cutter:
    """A proxy that breaks a connection once ``left`` bytes went one way (``up``: to the hub). Zero or less: never."""

    def __init__(self, port: int, left: int, *, up: bool) -> None:
        self._port, self._left, self._up, self._endless = port, left, up, left <= 0
        self.passed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hub_reader, hub_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pipes = [
            asyncio.ensure_future(self._pipe(reader, hub_writer, counted=self._up)),
            asyncio.ensure_future(self._pipe(hub_reader, writer, counted=not self._up)),
        ]
        await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        for pipe in pipes:
            pipe.cancel()
        for end in (hub_writer, writer):
            end.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                if counted:
                    self.passed += len(data)
                    if not self._endless:
                        data, self._left = data[: self._left], self._left - len(data)
                writer.write(data)
                await writer.drain()
                if counted and not self._endless and self._left <= 0:
                    return


class Heard:
    """What the device was told, and what it saw, over all of its connections."""

    def __init__(self) -> None:
        self.reported = 0
        """The last report that was answered."""
        self.commands: list[bytes] = []
        self.asked = 0
        """How many methods it was asked."""
        self.calls: set[int] = set()
        """How calls ended: 200, or an error's code."""


async def dialogue(client: MqttClient, login: tuple[str, str, str], number: int, heard: Heard) -> None:
    """All that a device does, until the end or until the connection breaks."""
    assert (await client.connect(*login))[1] == 0
    await client.send(mqtt.subscribe(1, FILTERS), mqtt.publish("$iothub/twin/GET/?$rid=g", qos=0))
    body = json.dumps({"n": number, "of": [number]}).encode()
    await client.send(mqtt.publish(f"$iothub/twin/PATCH/properties/reported/?$rid=p{number}", body, packet_id=2))
    await client.send(mqtt.publish("devices/d/messages/events/", b"%d" % number, packet_id=3))
    wanted = {"SUBACK", "res/200", "res/204", "PUBACK", "POST", "devicebound"}
    while wanted:
        packet = await client.receive()
        topic = packet.body[2 : 2 + int.from_bytes(packet.body[:2], "big")].decode() if packet.kind == "PUBLISH" else ""
        wanted -= {packet.kind, *(part for part in wanted if part in topic)}
        if "res/204" in topic:
            heard.reported = number
        elif "POST" in topic:
            heard.asked += 1
            rid = topic.rpartition("=")[2]
            await client.send(mqtt.publish(f"$iothub/methods/res/200/?$rid={rid}", b"%d" % number, qos=0))
        elif "devicebound" in topic:
            take(client, packet, heard)


async def call(hub: MqttHub, number: int) -> MethodAnswer | HubError:
    try:
        return await hub.methods.invoke(KEY, f"m{number}", None, connect_timeout=5, response_timeout=5)
    except HubError as error:
        return error


async def attempt(hub: MqttHub, login: tuple[str, str, str], number: int, heard: Heard, cutter: Cutter) -> None:
    server = await asyncio.start_server(cutter.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    calling = asyncio.create_task(call(hub, number))
    command = Command(body=b"%d" % number, ack=Ack.NONE)
    await hub.messaging.commands.send(KEY, command)
    try:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, OSError):
            async with asyncio.timeout(PATIENCE):
                client = await MqttClient.open("127.0.0.1", port, hub.client_trust, "localhost")
                await dialogue(client, login, number, heard)
                client.abort()
    finally:
        server.close()
    outcome = await asyncio.wait_for(drive(hub, calling), PATIENCE)
    if isinstance(outcome, MethodAnswer):
        assert outcome == MethodAnswer(200, b"%d" % number), "an answer is the answer to this very call"
    heard.calls.add(outcome.status if isinstance(outcome, MethodAnswer) else outcome.row.code)


async def come_back(hub: MqttHub, login: tuple[str, str, str], heard: Heard) -> None:
    """Connect without a proxy, take what waits, and go."""
    client = await hub.open()
    present, code = await client.connect(*login)
    assert code == 0
    if not present:
        await client.send(mqtt.subscribe(1, FILTERS))
    taking = asyncio.create_task(take_all(client, heard))
    await hub.queued(0)
    taking.cancel()
    client.abort()


async def take_all(client: MqttClient, heard: Heard) -> None:
    while True:
        packet = await client.receive()
        if packet.kind == "PUBLISH" and packet.flags & 0x06:
            take(client, packet, heard)


def take(client: MqttClient, packet: mqtt.Answer, heard: Heard) -> None:
    """Note a message of QoS 1, and acknowledge it."""
    at = 2 + int.from_bytes(packet.body[:2], "big")
    heard.commands.append(packet.body[at + 2 :])
    client.writer.write(mqtt.puback(int.from_bytes(packet.body[at : at + 2], "big")))


async def drive(hub: MqttHub, calling: asyncio.Task[MethodAnswer | HubError]) -> MethodAnswer | HubError:
    """Let the hub's time pass until the call has ended: however the socket broke, no call hangs."""
    while not calling.done():
        await asyncio.sleep(0.01)
        hub.ambient.advance(1)
    return calling.result()


@pytest.mark.parametrize("up", [True, False], ids=["to the hub", "to the device"])
async def test_cut_after_any_number_of_bytes_nothing_is_lost_or_half_done(hub: MqttHub, up: bool) -> None:
    login, heard = await hub.login("d"), Heard()
    whole = Cutter(hub.port, 0, up=up)
    await attempt(hub, login, 1, heard, whole)
    assert (heard.reported, heard.commands, heard.asked) == (1, [b"1"], 1)
    before, number = (await hub.twins.get(KEY)).reported.version, 1
    for left in range(STEP, whole.passed + STEP, STEP):
        number += 1
        await attempt(hub, login, number, heard, Cutter(hub.port, left, up=up))
        await come_back(hub, login, heard)
        twin = await hub.twins.get(KEY)
        assert twin.reported.values["of"] == [twin.reported.values["n"]], "a report is merged whole"
        assert heard.reported <= twin.reported.values["n"] <= number, "what was answered is kept"
        assert twin.reported.version - before <= number - 1, "and none is merged twice"
        assert b"%d" % number in heard.commands, "every message comes at least once"
    assert heard.calls == {200, 404103, 404104}, "it was cut before, while and after the method was called"
