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
from tests.cluster.history import Event, Record

WINDOW = 20
PAUSE = 0.1
_METHODS, _DESIRED = "$iothub/methods/POST/#", "$iothub/twin/PATCH/properties/desired/#"
_NOTHING = 0.05


class ScriptedDevice:
    """Sends numbered messages, ``WINDOW`` at once; after a loss it connects anew and sends again, in their order, what
    was not acknowledged. Answers methods, takes desired properties and commands."""

    def __init__(self, hub: HubUser, device_id: str, key: str, record: Record) -> None:
        self.hub, self.device_id, self.key, self.record = hub, device_id, key, record
        self.sending = True
        self._next = 0
        self._open: list[int] = []
        """Numbers that were sent and are not acknowledged, in their order."""
        self._session = count(1)
        self.refused: list[int] = []

    @property
    def idle(self) -> bool:
        """Whether all that was sent is acknowledged."""
        return not self._open

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``, and until everything is acknowledged."""
        while not (stop.is_set() and self.idle):
            with contextlib.suppress(OSError, EOFError, ssl.SSLError, TimeoutError, AssertionError):
                await self._connection(stop)
            await asyncio.sleep(PAUSE)

    def _note(self, kind: str, number: int = 0, session: int = 0, place: int = 0) -> None:
        self.record.note(Event(kind, time.monotonic(), self.device_id, number, session, place))

    async def _connection(self, stop: asyncio.Event) -> None:
        hub, name = self.hub, self.device_id
        client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
        try:
            token = hub.token(f"devices/{name}", self.key)
            _, code = await client.connect(name, f"{hub.address}/{name}/?api-version=2021-04-12", token)
            if code:
                self.refused.append(code)
                return
            session = next(self._session)
            self._note("connected", session=session)
            commands = f"devices/{name}/messages/devicebound/#"
            await client.send(subscribe(1, [(_METHODS, 0), (_DESIRED, 0), (commands, 1)]))
            try:
                await self._exchange(client, session, stop)
            finally:
                self._note("ended", session=session)
        finally:
            client.abort()

    async def _exchange(self, client: MqttClient, session: int, stop: asyncio.Event) -> None:
        again = list(self._open)
        flying: dict[int, int] = {}
        while True:
            while again and len(flying) < WINDOW:
                await self._send(client, session, again.pop(0), flying)
            while not again and not stop.is_set() and self.sending and len(flying) < WINDOW:
                number, self._next = self._next, self._next + 1
                self._open.append(number)
                await self._send(client, session, number, flying)
            if stop.is_set() and self.idle:
                return
            await self._take(client, session, flying, await client.receive())

    async def _send(self, client: MqttClient, session: int, number: int, flying: dict[int, int]) -> None:
        packet_id = number % 60_000 + 10
        flying[packet_id] = number
        self._note("sent", number, session)
        topic = f"devices/{self.device_id}/messages/events/n={number}"
        await client.send(publish(topic, b"x" * 100, packet_id=packet_id))

    async def _take(self, client: MqttClient, session: int, flying: dict[int, int], answer: Answer) -> None:
        if answer.kind == "PUBACK":
            number = flying.pop(answer.packet_id)
            self._open.remove(number)
            self._note("acked", number, session)
        elif answer.kind == "PUBLISH":
            size = int.from_bytes(answer.body[:2], "big")
            topic, rest = answer.body[2 : 2 + size].decode(), answer.body[2 + size :]
            if topic.startswith("$iothub/methods/POST/"):
                call = json.loads(rest)["call"]
                self._note("invoked", call, session)
                request = topic.rpartition("$rid=")[2]
                await client.send(publish(f"$iothub/methods/res/200/?$rid={request}", b"{}", qos=0))
            elif topic.startswith("$iothub/twin/PATCH/"):
                self._note("pushed", json.loads(rest)["$version"], session)
            else:
                packet_id, body = int.from_bytes(rest[:2], "big"), rest[2:]
                self._note("delivered", int(body), session)
                await client.send(puback(packet_id))


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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=device_id, daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    async def end(self) -> None:
        """Send nothing new; ends when what was sent is acknowledged."""
        self._stop.set()
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._client.shutdown)

    def _note(self, kind: str, number: int) -> None:
        self.record.note(Event(kind, time.monotonic(), self.device_id, number))

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
