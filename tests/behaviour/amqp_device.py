"""A device on AMQP that says exactly what a test wants said. Its methods block: call them by ``command_hub.aside``."""

from __future__ import annotations

import base64
import uuid
from typing import Any

from amqp_client import AmqpClient
from command_hub import CommandHub, aside
from hub_rest import POLICIES

from muster.identity.model import IdentityKey
from muster.identity.sas import make
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import Attach, Detach, Disposition, Flow, Transfer
from muster.wire.amqp.values import Symbol

TWIN, METHODS = "twin", "methods/devicebound"


def path(name: str, end: str) -> str:
    """The address of ``device`` or ``device/module``."""
    return f"/devices/{name.replace('/', '/modules/')}/{end}"


class Device(AmqpClient):
    """One connection, which may be that of many devices."""

    def __init__(self, port: int, **options: Any) -> None:
        super().__init__(port, **options)
        self.deliveries = 0
        self.refused: Any = None

    # --- logging in

    def put(self, token: str, name: str = "localhost", message_id: Any = "1", channel: int = 0) -> tuple[int, str]:
        """Put a token; status code and description."""
        properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name}
        request = Message(properties=Properties(message_id=message_id), application_properties=properties, value=token)
        reply = self.request("$cbs", request, channel)
        self.correlation = None if reply.properties is None else reply.properties.correlation_id
        said = reply.application_properties or {}
        return said["status-code"], said["status-description"]

    # --- links

    def link(
        self, name: str, end: str, *, receive: bool = False, credit: int = 50, channel: int = 0, **more: Any
    ) -> int:
        """Attach a link to an address of ``name``; its handle. Fails when it is refused."""
        handle = self.ask(name, end, receive=receive, channel=channel, **more)
        error = self.attached()
        assert error is None, error
        if receive and credit:
            self.credit(handle, credit, channel)
        return handle

    def ask(self, name: str, end: str, *, receive: bool = False, channel: int = 0, **more: Any) -> int:
        """Attach a link and wait for nothing."""
        side = "source" if receive else "target"
        return self.attach(**{side: path(name, end)}, channel=channel, **more)

    def attached(self) -> Any:
        """The answer to the oldest attach that was not answered: ``None``, or the error it is refused with."""
        answer = self.wait_for(Attach).body
        if answer.role is False:  # from the hub's sender nothing more needs to come
            try:
                came = self.next(0.1)
            except TimeoutError:
                return None
            assert came is None or isinstance(came.body, Detach), came
            return None if came is None else came.body.error
        came = self.wait_for((Flow, Detach))
        return came.body.error if isinstance(came.body, Detach) else None

    # --- telemetry

    def transfer(self, link: int, payload: bytes, *, settled: bool = False, channel: int = 0, **more: Any) -> int:
        """Send without waiting, in frames of 60,000 bytes; the delivery id."""
        number = self.deliveries
        self.deliveries += 1
        step = 60_000
        message_format = more.pop("message_format", 0)
        for start in range(0, max(len(payload), 1), step):
            last = start + step >= len(payload)
            transfer = Transfer(link, number, b"%d" % number, message_format, settled, not last)
            self.send(transfer, payload[start : start + step], channel)
        return number

    def telemetry(self, link: int, body: bytes, channel: int = 0, **fields: Any) -> Any:
        """Send and wait; the outcome."""
        return self.settlement(self.transfer(link, encode_message(Message(data=(body,), **fields)), channel=channel))

    def settlement(self, number: int) -> Any:
        """What became of a delivery."""
        while True:
            came: Disposition = self.wait_for(Disposition).body
            if came.first <= number <= (came.first if came.last is None else came.last):
                assert came.settled
                return came.state

    # --- commands

    def command(self) -> tuple[Transfer, Message]:
        """The next message that comes, and how."""
        message = self.messages(1)[0]
        return next(came.body for came in reversed(self.came) if isinstance(came.body, Transfer)), message

    def dispose(self, delivery_id: int, state: Any, *, settled: bool = True) -> None:
        self.send(Disposition(True, delivery_id, None, settled, state))

    # --- twins and methods

    def pair(self, name: str, end: str, channel_id: str | None = None, channel: int = 0) -> int:
        """Both links of a twin or of methods; the handle of the one to send on."""
        properties: dict[Any, Any] = {Symbol("com.microsoft:api-version"): "2021-04-12"}
        properties[Symbol("com.microsoft:channel-correlation-id")] = channel_id or f"{end}:{uuid.uuid4()}"
        self.link(name, end, receive=True, channel=channel, properties=properties)
        return self.link(name, end, channel=channel, properties=properties)

    def twin(
        self, link: int, operation: str, body: bytes = b" ", *, resource: str | None = None, version: Any = None,
        correlation: Any = "c",
    ) -> tuple[int, dict[str, Any], bytes]:  # fmt: skip
        """Ask; status, the other annotations, body."""
        self.transfer(link, encode_message(twin_request(operation, body, resource, version, correlation)), settled=True)
        answer = self.messages(1)[0]
        assert answer.properties is not None
        assert answer.properties.correlation_id == correlation
        assert type(answer.properties.correlation_id) is type(correlation)
        annotations = {str(name): value for name, value in (answer.message_annotations or {}).items()}
        return annotations.pop("status"), annotations, answer.body


def twin_request(operation: str, body: bytes, resource: str | None, version: Any, correlation: Any) -> Message:
    annotations: dict[Any, Any] = {Symbol("operation"): operation, Symbol("version"): version}
    if resource is not None:
        annotations[Symbol("resource")] = resource
    return Message(message_annotations=annotations, properties=Properties(correlation_id=correlation), data=(body,))


class DeviceHub:
    """What tests need of a hub whose devices speak AMQP."""

    def __init__(self, hub: CommandHub) -> None:
        self.hub = hub
        self.mqtt = hub.mqtt
        self.ambient = hub.ambient
        self._made: list[Device] = []

    async def token(self, name: str, seconds: float = 3600) -> str:
        """A token of ``device`` or ``device/module``, registered if need be."""
        device_id, _, module_id = name.partition("/")
        return await self.mqtt.token(device_id, module_id or None, seconds)

    def policy_token(self, policy: str = "device", resource: str = "localhost", seconds: float = 3600) -> str:
        key = base64.b64decode(POLICIES[policy].primary_key)
        return make(resource, int(self.ambient.now() + seconds), key, policy)

    async def connect(self, **options: Any) -> Device:
        """A connection that nobody has logged in on."""
        made = await aside(Device, self.hub.port, **options)
        self._made.append(made)
        return made

    async def device(self, name: str = "d", **options: Any) -> Device:
        """A connection with a token for one identity."""
        made = await self.connect(**options)
        status, _ = await aside(made.put, await self.token(name))
        assert status == 200
        return made

    async def bodies(self, name: str, count: int) -> list[str]:
        return await self.mqtt.message_bodies(name.partition("/")[0], count)

    def connected(self, name: str) -> bool:
        device_id, _, module_id = name.partition("/")
        return self.mqtt.sessions.is_connected(IdentityKey(device_id, module_id or None))

    def close(self) -> None:
        for device in self._made:
            device.socket.close()
