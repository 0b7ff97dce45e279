"""kill -9 while services send commands and a device receives them: what was accepted arrives, at least once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from urllib.parse import unquote

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, puback, subscribe
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import Accepted, Attach, Disposition, Transfer
from tests.behaviour.amqp_client import AmqpClient

ROUNDS = 4
DEVICE = "c"


class Service:
    """Sends numbered commands; ``accepted`` are those whose disposition has come."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.next = 0
        self.accepted: set[int] = set()

    def run(self) -> None:
        """Send until the hub dies."""
        hub = self.hub
        parts = dict(item.split("=", 1) for item in hub.facts["SERVICE_CONNECTION_STRING"].split(";"))
        try:
            with AmqpClient(hub.port("amqp_plain"), host=hub.address) as client:
                client.put_token(parts["SharedAccessKey"], audience=hub.address)
                link = client.attach(target="/messages/devicebound")
                client.wait_for(Attach)
                while True:
                    number, self.next = self.next, self.next + 1
                    properties = Properties(to=f"/devices/{DEVICE}/messages/devicebound", message_id=str(number))
                    message = encode_message(Message(properties=properties, data=(b"x",)))
                    client.send(Transfer(link, number, b"%d" % number, 0, False), message)
                    came: Disposition = client.wait_for(Disposition).body
                    assert isinstance(came.state, Accepted)
                    self.accepted.add(came.first)
        except (OSError, AssertionError):
            return


class Device:
    """Receives; acknowledges two of three. ``got`` are the numbers it has seen."""

    def __init__(self, hub: HubProcess, key: str) -> None:
        self.hub, self.key = hub, key
        self.got: set[int] = set()

    async def run(self, *, all_: bool = False, until: Callable[[], bool] = lambda: False) -> None:
        """Receive until the hub dies, or ``until`` says so."""
        hub = self.hub
        try:
            client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
            token = hub.token(f"devices/{DEVICE}", self.key)
            await client.connect(DEVICE, f"{hub.address}/{DEVICE}/?api-version=2021-04-12", token)
            await client.send(subscribe(1, [(f"devices/{DEVICE}/messages/devicebound/#", 1)]))
            while not until():
                packet = await client.receive()
                if packet.kind != "PUBLISH":
                    continue
                size = int.from_bytes(packet.body[:2])
                bag = unquote(packet.body[2 : 2 + size].decode())
                number = int(bag.partition("$.mid=")[2])
                self.got.add(number)
                if all_ or number % 3:
                    await client.send(puback(int.from_bytes(packet.body[2 + size : 4 + size])))
            client.abort()
        except (OSError, EOFError):
            return


async def test_no_accepted_command_is_lost_by_kill_9(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub("--amqp-plain-port", "0").start()
    chance = random.Random()
    service, device = Service(hub), Device(hub, hub.add_device(DEVICE))
    for _ in range(ROUNDS):
        tasks = [asyncio.create_task(asyncio.to_thread(service.run)), asyncio.create_task(device.run())]
        before = len(service.accepted)
        while len(service.accepted) < before + 2:  # under way, however slow
            await asyncio.sleep(0.01)
        await asyncio.sleep(chance.uniform(0, 0.4))
        await asyncio.to_thread(hub.kill)
        await asyncio.gather(*tasks)
        hub.start()
    async with asyncio.timeout(60):
        await device.run(all_=True, until=lambda: service.accepted <= device.got)
