"""Commands of a cluster's load: a service sends them and reads feedback, over AMQP; devices on HTTPS settle them in
every way."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from itertools import count, cycle

from muster.testing.hub import HubUser
from muster.wire.amqp.message import Message, Properties, decode_message, encode_message
from muster.wire.amqp.performatives import ACCEPTED, Accepted, Attach, Detach, Disposition, Transfer
from tests.behaviour.amqp_client import AmqpClient
from tests.cluster.record import Event, Record

LOCK_SECONDS = 5
EXPIRY_SECONDS = 2
"""What is sent to a device that never comes waits for so long."""
_PAUSE, _EMPTY = 0.1, 0.2
_FEEDBACK = "/messages/serviceBound/feedback"
_LOST = (OSError, EOFError, AssertionError, http.client.HTTPException)


class Commands:
    """Sends numbered commands to ``devices`` in turn, each once, and to ``absent`` such as expire; reads what becomes
    of them. Each in a thread, as the client blocks."""

    def __init__(self, hub: HubUser, devices: list[str], absent: str, record: Record) -> None:
        self.hub, self.record = hub, record
        self._targets, self._absent = cycle([*devices, absent]), absent
        self._numbers = count(1)
        self.waiting: set[int] = set()
        """Accepted, and without feedback."""
        self._told: set[int] = set()

    def send(self, stop: threading.Event) -> None:
        """Until ``stop``."""
        while not stop.is_set():
            with contextlib.suppress(*_LOST), self._connected() as client:
                link = client.attach(target="/messages/devicebound")
                client.wait_for(Attach)
                while not stop.is_set():
                    self._send(client, link)
                    time.sleep(_PAUSE)
            time.sleep(_PAUSE)

    def read_feedback(self, stop: threading.Event) -> None:
        """Until ``stop``."""
        while not stop.is_set():
            with contextlib.suppress(*_LOST), self._connected() as client:
                link = client.attach(source=_FEEDBACK)
                client.wait_for(Attach)
                client.credit(link, 1)
                received = count(1)
                while not stop.is_set():
                    try:
                        came = client.next(1.0)
                    except TimeoutError:
                        continue
                    if came is None or isinstance(came.body, Detach):
                        break
                    if isinstance(came.body, Transfer):
                        self._read(decode_message(came.payload))
                        client.send(Disposition(True, came.body.delivery_id, None, True, ACCEPTED))
                        client.credit(link, 1, delivery_count=next(received))
            time.sleep(_PAUSE)

    def _connected(self) -> AmqpClient:
        hub = self.hub
        parts = dict(part.split("=", 1) for part in hub.facts["SERVICE_CONNECTION_STRING"].split(";"))
        client = AmqpClient(hub.port("amqp"), host=hub.address, hostname=hub.address, context=hub.trust())
        try:
            reply = client.put_token(
                parts["SharedAccessKey"], policy=parts["SharedAccessKeyName"], audience=hub.address
            )
            assert (reply.application_properties or {})["status-code"] == 200
        except BaseException:
            client.socket.close()
            raise
        return client

    def _note(self, kind: str, device: str, number: int, place: int = 0, what: str = "") -> None:
        self.record.note(Event(kind, time.monotonic(), device, number, place=place, what=what))

    def _send(self, client: AmqpClient, link: int) -> None:
        number, device = next(self._numbers), next(self._targets)
        expires = EXPIRY_SECONDS if device == self._absent else 0
        self._note("offered", device, number, expires)
        properties = Properties(
            to=f"/devices/{device}/messages/devicebound", message_id=str(number),
            absolute_expiry_time=int((time.time() + expires) * 1000) if expires else None,
        )  # fmt: skip
        message = Message(
            properties=properties, application_properties={"iothub-ack": "full"}, data=(str(number).encode(),)
        )
        client.send(Transfer(link, number, b"%d" % number, 0, False), encode_message(message))
        came: Disposition = client.wait_for(Disposition).body
        assert came.first == number
        if isinstance(came.state, Accepted):
            self._note("commanded", device, number, expires)
            if number not in self._told:
                self.waiting.add(number)

    def _read(self, message: Message) -> None:
        place = (message.message_annotations or {})["x-opt-sequence-number"]
        for one in json.loads(message.body):
            number = int(one["originalMessageId"])
            self._note("feedback", one["deviceId"], number, place, one["statusCode"])
            self._told.add(number)
            self.waiting.discard(number)


class PollingDevice:
    """Asks for commands over HTTPS, and completes, rejects or abandons each; now and then it says so twice."""

    def __init__(self, hub: HubUser, device_id: str, key: str, record: Record) -> None:
        self.hub, self.device_id, self.record = hub, device_id, record
        self._headers = {"Authorization": hub.token(f"devices/{device_id}", key)}
        self._path = f"/devices/{device_id}/messages/deviceBound"
        self._chance = random.Random(device_id)
        self._connection: http.client.HTTPSConnection | None = None

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``, in a thread."""
        while not stop.is_set():
            try:
                if not self._poll():
                    time.sleep(_EMPTY)
            except _LOST:
                self._close()
                time.sleep(_PAUSE)
        self._close()

    def _poll(self) -> bool:
        """Take one, if there is one, and settle it."""
        status, headers, body = self._ask("GET", "", {"iothub-messagelocktimeout": str(LOCK_SECONDS)})
        if status != 200:
            return False
        number, lock = int(body), headers["ETag"].strip('"')
        self._note("delivered", number, lock, place=int(headers["iothub-deliverycount"]))
        how = self._chance.choices(("complete", "abandon", "reject"), (5, 3, 2))[0]
        method, end, more = {
            "complete": ("DELETE", "", ""), "reject": ("DELETE", "", "&reject"), "abandon": ("POST", "/abandon", ""),
        }[how]  # fmt: skip
        for _ in range(self._chance.choice((1, 1, 1, 2))):
            self._note("settling", number, lock, what=how)
            status, _, _ = self._ask(method, f"/{lock}{end}", {}, more)
            if status == 204:
                self._note("settled", number, lock, what=how)
        return True

    def _ask(
        self, method: str, end: str, headers: dict[str, str], more: str = ""
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        if self._connection is None:
            hub = self.hub
            self._connection = http.client.HTTPSConnection(
                hub.address, hub.port("https"), context=hub.trust(), timeout=2 * LOCK_SECONDS
            )
        path = f"{self._path}{end}?api-version=2021-04-12{more}"
        self._connection.request(method, path, headers={**self._headers, **headers})
        answer = self._connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note(self, kind: str, number: int, lock: str, *, place: int = 0, what: str = "") -> None:
        self.record.note(Event(kind, time.monotonic(), self.device_id, number, place=place, lock=lock, what=what))
