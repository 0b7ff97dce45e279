"""A gateway: a thousand devices on one AMQP connection, as C# and Java multiplex them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from amqp_device import Device, DeviceHub
from command_hub import aside, command_hub

from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey, Status
from muster.identity.sas import make
from muster.messages.commands import Command
from muster.wire.amqp.message import Message, Properties, decode_message, encode_message
from muster.wire.amqp.performatives import ACCEPTED, Accepted, Attach, Detach, Disposition, Transfer

DEVICES = 1000
NAMES = [f"g{number}" for number in range(DEVICES)]
EVENTS, DEVICEBOUND = "messages/events", "messages/devicebound"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[DeviceHub]:
    async with command_hub(tmp_path) as commands:
        hub = DeviceHub(commands)
        try:
            yield hub
        finally:
            hub.close()


class Gateway:
    """Blocks; run by ``aside``."""

    def __init__(self, device: Device, sessions: int) -> None:
        self.device = device
        self.channels = [1 + number % sessions for number in range(DEVICES)]
        self.links: list[tuple[int, int]] = []
        self.sent: Counter[int] = Counter()

    def put_all(self, tokens: list[str]) -> set[int]:
        """Put tokens one after the other on one pair of links; the status codes."""
        device = self.device
        answers = device.attach(source="$cbs")
        requests = device.attach(target="$cbs")
        device.wait_for(Attach)
        device.wait_for(Attach)
        statuses = set()
        for number, token in enumerate(tokens):
            device.credit(answers, 1, delivery_count=number)
            properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": "localhost"}
            request = Message(properties=Properties(message_id=number), application_properties=properties, value=token)
            device.send(Transfer(requests, number, b"%d" % number, 0, False), encode_message(request))
            statuses.add((device.messages(1)[0].application_properties or {})["status-code"])
        return statuses

    def attach_all(self) -> None:
        """Two links for each device."""
        device = self.device
        for name, channel in zip(NAMES, self.channels, strict=True):
            events = device.ask(name, EVENTS, channel=channel)
            commands = device.ask(name, DEVICEBOUND, receive=True, channel=channel)
            device.credit(commands, 5, channel)
            self.links.append((events, commands))
        for _ in range(2 * DEVICES):
            device.wait_for(Attach)

    def send_all(self) -> None:
        """One message of each device; all are sent before any answer is read."""
        payload = encode_message(Message(data=(b"from the gateway",)))
        for (events, _), channel in zip(self.links, self.channels, strict=True):
            number = self.sent[channel]
            self.sent[channel] += 1
            self.device.send(Transfer(events, number, b"%d" % number, 0, False), payload, channel)
        left = DEVICES
        while left:
            came: Disposition = self.device.wait_for(Disposition).body
            assert isinstance(came.state, Accepted)
            left -= (came.first if came.last is None else came.last) - came.first + 1
        assert left == 0

    def take_all(self) -> Counter[bytes]:
        """A command for each device, completed."""
        got: Counter[bytes] = Counter()
        for _ in range(DEVICES):
            came = self.device.wait_for(Transfer)
            name = decode_message(came.payload).body
            assert came.body.handle == self.links[NAMES.index(name.decode())][1], "on its own link"
            got[name] += 1
            self.device.send(Disposition(True, came.body.delivery_id, None, True, ACCEPTED), channel=came.channel)
        return got


async def register(hub: DeviceHub) -> list[str]:
    """The devices' own tokens."""
    keys: list[bytes] = []
    for start in range(0, DEVICES, 100):
        keys += await asyncio.gather(*(hub.mqtt.key(name) for name in NAMES[start : start + 100]))
    expiry = int(hub.ambient.now()) + 3600
    return [make(f"localhost/devices/{name}", expiry, key) for name, key in zip(NAMES, keys, strict=True)]


@pytest.mark.parametrize("sessions", [1, DEVICES])
@pytest.mark.parametrize("own_tokens", [True, False])
async def test_1_1_all_telemetry_in_and_one_command_to_each_out(
    hub: DeviceHub, sessions: int, own_tokens: bool
) -> None:
    tokens = await register(hub)
    gateway = Gateway(await hub.connect(), sessions)
    assert await aside(gateway.put_all, tokens if own_tokens else [hub.policy_token()]) == {200}
    await aside(gateway.attach_all)
    assert hub.mqtt.sessions.connected_count() == DEVICES
    await aside(gateway.send_all)
    await aside(gateway.send_all)
    counted = Counter({name: len(await hub.mqtt.messages(name)) for name in NAMES[:10]})
    assert set(counted.values()) == {2}
    assert hub.mqtt.telemetry.messages == 2 * DEVICES
    commands = hub.mqtt.messaging.commands
    for name in NAMES:
        await commands.send(IdentityKey(name), Command(body=name.encode()))
    assert await aside(gateway.take_all) == Counter(name.encode() for name in NAMES)
    for name in NAMES:
        await hub.mqtt.queued(0, name)
    await hub.mqtt.registry.update(Draft(key=IdentityKey("g7"), status=Status.DISABLED), ANY)
    ended = {(await aside(gateway.device.wait_for, Detach)).body.handle for _ in range(2)}
    assert ended == set(gateway.links[7])
    assert hub.mqtt.sessions.connected_count() == DEVICES - 1
    assert len(hub.mqtt.amqp.connections) == 1
