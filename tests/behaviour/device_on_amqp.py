"""A device on AMQP, with or without a WebSocket around it; see ``transports.DeviceClient``."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import websocket
from amqp_client import WAIT, Came
from amqp_device import METHODS, TWIN, Device, path, twin_request
from command_hub import aside
from transports import Asked, Got, Login, Place, RefusedError, Transport

from muster.wire.amqp.message import Message, Properties, decode_message, encode_message
from muster.wire.amqp.performatives import (
    ACCEPTED,
    Accepted,
    Attach,
    Close,
    Detach,
    Disposition,
    Flow,
    Modified,
    Rejected,
    Transfer,
)
from muster.wire.amqp.sasl import SaslInit
from muster.wire.amqp.values import Int, Symbol

NOTIFICATIONS, REPORTED = "/notifications/twin/properties/desired", "/properties/reported"
CREDIT = 200


class Wire(Device):
    """Frames that come before somebody asks for them are kept."""

    def __init__(self, port: int, **options: Any) -> None:
        self.kept: list[Came] = []
        super().__init__(port, **options)
        self.deliveries = 1  # number 0 was the token's

    def wait_for(self, kind: Any, timeout: float = WAIT) -> Came:
        return self.expect(lambda came: isinstance(came.body, kind), timeout)

    def expect(self, wanted: Callable[[Came], bool], timeout: float = WAIT) -> Came:
        """The oldest frame that is ``wanted``. Raises ``ConnectionError`` at the end of the stream."""
        while not (found := [came for came in self.kept if wanted(came)]):
            came = self.next(timeout)
            if came is None:
                raise ConnectionResetError("the hub hung up")
            self.kept.append(came)
        self.kept.remove(found[0])
        return found[0]

    def let_in(self, name: str, end: str, *, receive: bool = False, **more: Any) -> tuple[int, int]:
        """Attach a link; our handle and the hub's. Raises ``RefusedError`` for one to send on."""
        own = self.ask(name, end, receive=receive, **more)
        answer: Attach = self.expect(
            lambda came: isinstance(came.body, Attach) and came.body.name == f"link-{own}"
        ).body
        if receive:
            self.credit(own, CREDIT)
            return own, answer.handle
        said = self.expect(lambda came: isinstance(came.body, Flow | Detach) and came.body.handle == answer.handle)
        if isinstance(said.body, Detach):
            raise RefusedError(str(said.body.error.condition))
        return own, answer.handle

    def message(self, handle: int) -> tuple[Transfer, Message]:
        """The next message on the hub's link ``handle``."""
        came = self.expect(lambda came: isinstance(came.body, Transfer) and came.body.handle == handle)
        assert not came.body.more
        return came.body, decode_message(came.payload)


class AmqpDevice:
    """A link for telemetry from the start, others as they are wanted."""

    def __init__(self, wire: Wire, login: Login, events: int) -> None:
        self._wire, self._login, self._events = wire, login, events
        self._commands = self._answers = self._requests = self._asked = self._answering = -1

    async def send(self, body: bytes, message_id: str | None = None, **properties: str) -> None:
        message = Message(
            properties=Properties(message_id=message_id), application_properties=properties or None, data=(body,)
        )
        outcome = await aside(self._settled, encode_message(message))
        if not isinstance(outcome, Accepted):
            raise RefusedError(str(outcome.error.condition))

    def _settled(self, payload: bytes) -> Any:
        return self._wire.settlement(self._wire.transfer(self._events, payload))

    async def send_many(self, bodies: Sequence[bytes]) -> None:
        await aside(self._send_many, bodies)

    def _send_many(self, bodies: Sequence[bytes]) -> None:
        owed = {self._wire.transfer(self._events, encode_message(Message(data=(body,)))) for body in bodies}
        while owed:
            told: Disposition = self._wire.wait_for(Disposition).body
            assert isinstance(told.state, Accepted)
            owed -= set(range(told.first, 1 + (told.first if told.last is None else told.last)))

    async def _link(self, end: str, **options: Any) -> tuple[int, int]:
        return await aside(self._wire.let_in, self._login.name, end, **options)

    async def _pair(self, end: str) -> tuple[int, int]:
        """The hub's handle to hear on, ours to speak on."""
        properties = {Symbol("com.microsoft:channel-correlation-id"): f"{end}:{uuid.uuid4()}"}
        _, hears = await self._link(end, receive=True, properties=properties)
        speaks, _ = await self._link(end, properties=properties)
        return hears, speaks

    async def take_commands(self) -> None:
        _, self._commands = await self._link("messages/devicebound", receive=True)

    async def command(self) -> Got:
        transfer, message = await aside(self._wire.message, self._commands)
        given = {str(name): str(value) for name, value in (message.application_properties or {}).items()}
        given.pop("iothub-ack", None)
        message_id = "" if message.properties is None else message.properties.message_id or ""
        return Got(message.body, str(message_id), given, transfer.delivery_id)

    async def complete(self, got: Got) -> None:
        self._wire.dispose(got.handle, ACCEPTED)

    async def abandon(self, got: Got) -> None:
        self._wire.dispose(got.handle, Modified(delivery_failed=True))

    async def reject(self, got: Got) -> None:
        self._wire.dispose(got.handle, Rejected())

    async def take_twin(self) -> None:
        self._answers, self._requests = await self._pair(TWIN)
        status, _ = await self._ask("PUT", b"", NOTIFICATIONS)
        assert status == 200

    async def _ask(self, operation: str, body: bytes, resource: str | None = None) -> tuple[int, Message]:
        correlation = str(uuid.uuid4())
        request = twin_request(operation, body, resource, None, correlation)
        self._wire.transfer(self._requests, encode_message(request), settled=True)
        message = await aside(self._twin_message, correlation)
        return (message.message_annotations or {})["status"], message

    def _twin_message(self, correlation: str | None) -> Message:
        """The next one on the link of the twin: the answer to ``correlation``, or a notice."""

        def wanted(came: Came) -> bool:
            if not isinstance(came.body, Transfer) or came.body.handle != self._answers:
                return False
            properties = decode_message(came.payload).properties
            return (None if properties is None else properties.correlation_id) == correlation

        return decode_message(self._wire.expect(wanted).payload)

    async def twin(self) -> dict[str, Any]:
        status, message = await self._ask("GET", b" ")
        assert status == 200
        return cast("dict[str, Any]", json.loads(message.body))

    async def report(self, patch: Mapping[str, Any]) -> int:
        status, message = await self._ask("PATCH", json.dumps(patch).encode(), REPORTED)
        if status != 204:
            raise RefusedError(str(status))
        return int((message.message_annotations or {})["version"])

    async def desired(self) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads((await aside(self._twin_message, None)).body))

    async def take_methods(self) -> None:
        self._asked, self._answering = await self._pair(METHODS)

    async def asked(self) -> Asked:
        _, message = await aside(self._wire.message, self._asked)
        assert message.properties is not None
        name = (message.application_properties or {})["IoThub-methodname"]
        return Asked(name, message.body, message.properties.correlation_id)

    async def answer(self, asked: Asked, status: int, payload: bytes) -> None:
        answer = Message(
            properties=Properties(correlation_id=asked.handle),
            application_properties={"IoThub-status": Int(status)},
            data=(payload,),
        )
        self._wire.transfer(self._answering, encode_message(answer), settled=True)

    async def renew(self, token: str) -> None:
        status, _ = await aside(self._wire.put, token, f"{self._login.host}{path(self._login.name, '')[:-1]}")
        if status != 200:
            raise RefusedError(str(status))

    async def ended(self) -> str:
        return await aside(self._ended)

    def _ended(self) -> str:
        error = self._wire.wait_for(Close).body.error
        assert self._wire.hung_up()
        return "" if error is None else str(error.condition)

    async def cut(self) -> None:
        with contextlib.suppress(OSError):
            self._wire.socket.shutdown(socket.SHUT_RDWR)
        self._wire.socket.close()

    async def close(self) -> None:
        self._wire.send(Close())
        await aside(self._wire.wait_for, Close)
        await self.cut()


class WebSocketSocket:
    """A WebSocket that looks like a socket to ``AmqpClient``."""

    def __init__(self, url: str, context: ssl.SSLContext) -> None:
        self._connection = websocket.create_connection(
            url, WAIT, sslopt={"context": context}, subprotocols=["AMQPWSB10"], enable_multithread=True
        )
        self.settimeout = self._connection.settimeout

    def sendall(self, data: bytes) -> None:
        self._connection.send_binary(data)

    def recv(self, _: int) -> bytes:
        """The next message; empty at the end."""
        try:
            opcode, data = self._connection.recv_data()
        except websocket.WebSocketTimeoutException:
            raise TimeoutError from None
        except websocket.WebSocketConnectionClosedException:
            return b""
        return cast("bytes", data) if opcode == websocket.ABNF.OPCODE_BINARY else b""

    def shutdown(self, how: int) -> None:
        if self._connection.sock is not None:
            self._connection.sock.shutdown(how)

    def close(self) -> None:
        """Break the connection below, without a close frame."""
        self._connection.shutdown()


def _plain(place: Place, login: Login, sasl: SaslInit | None) -> Wire:
    return Wire(place.amqp, host=place.host, hostname=login.host, context=login.context, sasl=sasl)


def _websocket(place: Place, login: Login, sasl: SaslInit | None) -> Wire:
    connection = WebSocketSocket(f"wss://{place.host}:{place.https}/$iothub/websocket", login.context)
    return Wire(0, connection=connection, hostname=login.host, sasl=sasl)


def _log_in(dial: Callable[[Place, Login, SaslInit | None], Wire], place: Place, login: Login) -> AmqpDevice:
    wire = dial(place, login, SaslInit("EXTERNAL") if login.token is None else None)
    try:
        if login.token is not None:
            status, _ = wire.put(login.token, f"{login.host}{path(login.name, '')[:-1]}")
            if status != 200:
                raise RefusedError(f"put-token {status}")
        return AmqpDevice(wire, login, wire.let_in(login.name, "messages/events")[0])
    except RefusedError:
        wire.socket.close()
        raise


async def _connect(dial: Callable[[Place, Login, SaslInit | None], Wire], place: Place, login: Login) -> AmqpDevice:
    return await aside(_log_in, dial, place, login)


AMQP = Transport("amqp", "amqp", frozenset(), partial(_connect, _plain))
AMQP_WS = Transport("amqp-ws", "amqp", frozenset(), partial(_connect, _websocket))
