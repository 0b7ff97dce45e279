"""Devices of a cluster's load: scripted ones that keep twenty messages in flight, and Azure's own SDK."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from itertools import count

from azure.iot.device import IoTHubDeviceClient, Message, MethodResponse

from muster.testing.hub import HubUser
from muster.testing.mqtt import Answer, MqttClient, puback, publish, subscribe
from tests.cluster.record import Event, Record

WINDOW = 20
PAUSE = 0.1
SILENCE_SECONDS = 3.0
"""A device to which nothing is acknowledged for so long believes that its connection is dead, and makes another."""
LEFT_SECONDS, _PROBE_SECONDS = 30.0, 0.5
"""For so long, and so often, it still sends on a connection that it has left without closing it."""
_ASK_SECONDS = 2.0
_TWIN, _METHODS, _DESIRED = "$iothub/twin/res/#", "$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#"
_NOTHING = 0.05
_BROKEN = (OSError, EOFError, ssl.SSLError, TimeoutError, AssertionError)


class ScriptedDevice:
    """Sends numbered messages, ``WINDOW`` at once; after a loss, and when nothing is acknowledged, it connects anew and
    sends again, in their order, what was not acknowledged. A silent connection is left open beside the new one, and
    messages with numbers below zero go out on it. Answers methods, follows desired properties, completes commands."""

    def __init__(self, hub: HubUser, device_id: str, key: str, record: Record) -> None:
        self.hub, self.device_id, self.key, self.record = hub, device_id, key, record
        self.sending = True
        self.holds = 0
        """The version of the desired properties that it follows."""
        self.refused: list[int] = []
        self.open: list[int] = []
        """Numbers that were sent and are not acknowledged, in their order."""
        self.numbers, self.probes = count(), count(-1, -1)
        self._sessions = count(1)
        self._left: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                with contextlib.suppress(*_BROKEN):
                    await self._connect()
                await asyncio.sleep(PAUSE)
        finally:
            for task in self._left:
                task.cancel()
            self.note("holds", self.holds)

    def note(self, kind: str, number: int = 0, session: int = 0, *, lock: str = "", what: str = "") -> None:
        """Note an event of this device."""
        self.record.note(Event(kind, time.monotonic(), self.device_id, number, session, lock=lock, what=what))

    async def _connect(self) -> None:
        hub, name = self.hub, self.device_id
        client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
        connection = None
        try:
            token = hub.token(f"devices/{name}", self.key)
            _, code = await client.connect(name, f"{hub.address}/{name}/?api-version=2021-04-12", token)
            if code:
                self.refused.append(code)
                return
            client.patience = LEFT_SECONDS
            connection = Connection(self, client, next(self._sessions))
            self.note("connected", session=connection.number)
        finally:
            if connection is None:
                client.abort()
        task = asyncio.create_task(connection.run())
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        await connection.silent()
        if task.done():
            task.result()


class Connection:
    """One session of a device, its ``number``-th. Until it is ``left`` it is the one on which the device sends."""

    def __init__(self, device: ScriptedDevice, client: MqttClient, number: int) -> None:
        self.device, self.client, self.number = device, client, number
        self.left = False
        self._again = list(device.open)
        self._flying: dict[int, int] = {}
        self._heard = time.monotonic()
        self._knows_twin = False
        self._tasks: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Until it breaks, or ``LEFT_SECONDS`` after it was left."""
        device, commands = self.device, f"devices/{self.device.device_id}/messages/devicebound/#"
        try:
            with contextlib.suppress(*_BROKEN):
                await self.client.send(subscribe(1, [(_METHODS, 0), (_DESIRED, 0), (_TWIN, 0), (commands, 1)]))
                while True:
                    await self._fill()
                    await self._take(await self.client.receive())
        finally:
            for task in self._tasks:
                task.cancel()
            self._over.set()
            device.note("ended", session=self.number)
            self.client.abort()

    async def silent(self) -> None:
        """Return when nothing has been acknowledged for too long, or it has ended; it is left then."""
        while not self._over.is_set() and (not self._flying or time.monotonic() < self._heard + SILENCE_SECONDS):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), PAUSE)
        self.left = True
        if not self._over.is_set():
            asyncio.get_running_loop().call_later(LEFT_SECONDS, self.client.abort)
            self._tasks.append(asyncio.create_task(self._probe()))

    async def _probe(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(*_BROKEN):
                await self._send(next(self.device.probes))
            await asyncio.sleep(_PROBE_SECONDS)

    async def _ask_twin(self) -> None:
        """Ask until an answer has come."""
        for request in count(1):
            if self._knows_twin:
                return
            with contextlib.suppress(*_BROKEN):
                await self.client.send(publish(f"$iothub/twin/GET/?$rid={request}", b"", qos=0))
            await asyncio.sleep(_ASK_SECONDS)

    async def _fill(self) -> None:
        device = self.device
        while not self.left and len(self._flying) < WINDOW and (self._again or device.sending):
            if self._again:
                number = self._again.pop(0)
            else:
                device.open.append(number := next(device.numbers))
            if not self._flying:
                self._heard = time.monotonic()
            await self._send(number)

    async def _send(self, number: int) -> None:
        packet_id = number % 50_000 + 10 if number >= 0 else 50_010 - number % -10_000
        self._flying[packet_id] = number
        self.device.note("sent", number, self.number)
        topic = f"devices/{self.device.device_id}/messages/events/n={number}"
        await self.client.send(publish(topic, b"x" * 100, packet_id=packet_id))

    async def _take(self, answer: Answer) -> None:
        if answer.kind == "PUBACK":
            number = self._flying.pop(answer.packet_id)
            self._heard = time.monotonic()
            self.device.note("acked", number, self.number)
            if number in self.device.open:
                self.device.open.remove(number)
        elif answer.kind == "SUBACK":
            self._tasks.append(asyncio.create_task(self._ask_twin()))
        elif answer.kind == "PUBLISH":
            size = int.from_bytes(answer.body[:2], "big")
            await self._told(answer.body[2 : 2 + size].decode(), answer.body[2 + size :])

    async def _told(self, topic: str, rest: bytes) -> None:
        device = self.device
        if topic.startswith("$iothub/methods/POST/"):
            device.note("invoked", json.loads(rest)["call"], self.number)
            request = topic.rpartition("$rid=")[2]
            await self.client.send(publish(f"$iothub/methods/res/200/?$rid={request}", b"{}", qos=0))
        elif topic.startswith("$iothub/twin/PATCH/"):
            self._hold("pushed", json.loads(rest)["$version"])
        elif topic.startswith("$iothub/twin/res/200/"):
            if not self._knows_twin:  # later answers are to questions that were repeated
                self._knows_twin = True
                self._hold("got", json.loads(rest)["desired"]["$version"])
        elif not topic.startswith("$iothub/"):
            packet_id, lock = int.from_bytes(rest[:2], "big"), f"{self.number}/{next(_deliveries)}"
            device.note("delivered", int(rest[2:]), self.number, lock=lock)
            if not self.left:
                device.note("settling", int(rest[2:]), self.number, lock=lock, what="complete")
                await self.client.send(puback(packet_id))

    def _hold(self, kind: str, version: int) -> None:
        self.device.note(kind, version, self.number)
        if not self.left:
            self.device.holds = max(self.device.holds, version)


_deliveries = count(1)


class SdkDevice:
    """azure-iot-device in threads of its own, as an application uses it: sends, one after the other, and goes on by its
    own retries; what it is told has failed is sent again."""

    def __init__(self, hub: HubUser, device_id: str, key: str, record: Record) -> None:
        self.device_id, self.record = device_id, record
        self._client = IoTHubDeviceClient.create_from_connection_string(
            hub.device_connection_string(device_id, key),
            server_verification_cert=open(hub.facts["HUB_CA_FILE"]).read(),  # noqa: SIM115
            connection_retry_interval=1,
        )
        self._client.on_connection_state_change = self._changed
        self._sessions = count(1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=device_id, daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send nothing new."""
        self._stop.set()

    async def end(self) -> None:
        """Send nothing new; ends when what was sent is acknowledged."""
        self.stop()
        while self._thread.is_alive():  # it may last for ever, and who waits here is cancelled then
            await asyncio.sleep(PAUSE)
        await asyncio.to_thread(self._client.shutdown)

    def _note(self, kind: str, number: int, session: int = 0) -> None:
        self.record.note(Event(kind, time.monotonic(), self.device_id, number, session))

    def _changed(self) -> None:
        if self._client.connected:
            self._note("connected", 0, next(self._sessions))

    def _run(self) -> None:
        self._client.on_method_request_received = self._method  # it connects and subscribes
        for number in count():
            if self._stop.is_set():
                return
            message = Message("x" * 100)
            message.custom_properties["n"] = str(number)
            while True:
                self._note("sent", number)
                try:
                    self._client.send_message(message)
                    break
                except Exception:  # whatever it raises: it was not acknowledged
                    time.sleep(PAUSE)
            self._note("acked", number)
            time.sleep(_NOTHING)

    def _method(self, request: object) -> None:
        self._note("invoked", request.payload["call"])  # type: ignore[attr-defined]
        self._client.send_method_response(MethodResponse.create_from_method_request(request, 200, {}))
