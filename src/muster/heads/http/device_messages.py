"""``/devices/{id}[/modules/{id}]/messages``: telemetry, and cloud-to-device messages, over HTTPS (device.md 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from muster.core.ambient import pause
from muster.core.errors import BODY_TOO_LARGE, MESSAGE_TOO_LARGE, HubError
from muster.core.limits import MESSAGE_BYTES, Profile
from muster.core.throttles import COMMAND_RECEIVES, TELEMETRY
from muster.dialect.device_http import (
    BATCH_TYPE,
    LOCK_TIMEOUT,
    Sent,
    command_headers,
    read_batch,
    read_lock_seconds,
    read_lock_token,
    read_message,
    rejects,
)
from muster.dialect.property_bag import size_of
from muster.dialect.record import message_head, record, sender_annotations
from muster.heads.device_services import DeviceServices
from muster.heads.http.device_faults import ask, break_off, refuse
from muster.heads.http.messages import Request, Response
from muster.heads.http.operations import Call, Operation
from muster.identity.model import Identity
from muster.identity.verdict import Right
from muster.messages.commands import received
from muster.messages.properties import check_batch, check_property
from muster.messages.queue import Settlement

_AT_ONCE = 500
"""Messages of a batch that are made ready before others get their turn: some 5 ms."""


class DeviceMessageOperations:
    """Messages of one hub's devices and modules that come and go over HTTPS, where no connection is a session."""

    def __init__(self, services: DeviceServices, profile: Profile = Profile.OPEN) -> None:
        self._telemetry = services.telemetry
        self._commands = services.commands
        self._sessions = services.sessions
        self._ambient = services.ambient
        self._meters = services.meters
        self._faults = services.faults
        self._profile = profile

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        return [
            operation
            for identity in ("/devices/{device_id}", "/devices/{device_id}/modules/{module_id}")
            for operation in self._rows(f"{identity}/messages")
        ]

    def _rows(self, path: str) -> Sequence[Operation]:
        right, bound = Right.DEVICE_CONNECT, f"{path}/devicebound"
        return (
            Operation("POST", f"{path}/events", right, self.send),
            Operation("GET", bound, right, self.receive, throttle=COMMAND_RECEIVES),
            Operation("DELETE", f"{bound}/{{lock_token}}", right, self.complete),
            Operation("POST", f"{bound}/{{lock_token}}/abandon", right, self.abandon),
        )

    async def send(self, call: Call) -> Response:
        """A message, or a batch of them; 204 once all are on disk, and none of them before.

        Above the rate of the hub's tier, where a batch counts once, it is late. Raises ``HubError`` 429002 when that
        would be too late, 403002 when the day's quota is used up, 413001 above 256 KiB, 400004 for a property or a
        batch that is not well-formed, 500001 when the disk fails, 503001 when the hub stops.
        """
        request, telemetry, key = call.request, self._telemetry, call.identity
        identity = self._caller(call)
        if self._faults is not None:
            refuse(self._faults, key)
        wait = self._meters.shape(TELEMETRY, key.device_id)
        if wait:
            await pause(self._ambient, wait)
        body = await _body(request)
        if request.said.media_type == BATCH_TYPE:
            messages = read_batch(body)
            check_batch(len(messages), self._profile)
        else:
            messages = [read_message(request.headers.items(), body)]
        assert call.verdict is not None, "the gate let it through"
        sender = sender_annotations(
            device_id=key.device_id,
            module_id=key.module_id,
            auth_method=call.verdict.auth_method,
            generation_id=identity.generation_id,
        )
        partition, records = telemetry.partition_of(key.device_id), []
        for number, message in enumerate(messages, 1):
            records.append((partition, self._record(sender, message)))
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        if records:
            await telemetry.store(records)
        if self._faults is not None:
            for message in messages:
                ask(self._faults, key, message.application, request.transport)
        return Response(status=204)

    def _record(self, sender: bytes, message: Sent) -> bytes:
        system, application, body = message
        for name, value in application.items():
            check_property(name, value or "", self._profile)
        size = size_of(system, application, body)
        if size > MESSAGE_BYTES.open:
            raise _too_large(f"The message has {size} bytes with its properties")
        self._meters.charge(size)
        return record(sender, message_head(system, application), body)

    async def receive(self, call: Call) -> Response:
        """The oldest message, locked for a minute unless the device asks for another time; 204 when there is none.

        Raises ``HubError`` 400004 for a lock time out of bounds.
        """
        self._caller(call)
        key = call.identity
        seconds = read_lock_seconds(call.request.headers.get(LOCK_TIMEOUT), call.query(LOCK_TIMEOUT))
        if self._commands.waiting(key) == 0:  # a point read, where to take is a transaction
            return Response(status=204)
        found = received(await self._commands.take(key, 1, lock_seconds=seconds))
        if not found:
            return Response(status=204)
        return Response(found[0].command.body, headers=command_headers(key, found[0]))

    async def complete(self, call: Call) -> Response:
        """Remove the message that the lock token holds, with ``reject`` as one that the device does not want.

        Raises ``HubError`` 412002 when the token holds none (any more).
        """
        return await self._settle(call, Settlement.REJECT if rejects(call.request.query) else Settlement.COMPLETE)

    async def abandon(self, call: Call) -> Response:
        """Give it back; it counts as a failed delivery. Raises as ``complete``."""
        return await self._settle(call, Settlement.ABANDON)

    async def _settle(self, call: Call, how: Settlement) -> Response:
        self._caller(call)
        await self._commands.settle(call.identity, read_lock_token(call.parameters["lock_token"]), how)
        return Response(status=204)

    def _caller(self, call: Call) -> Identity:
        assert call.verdict is not None
        assert call.verdict.identity is not None, "a device's verdict that allows has the identity"
        self._sessions.called(call.verdict.identity)
        if self._faults is not None:
            break_off(self._faults, call.identity, call.request.transport)
        return call.verdict.identity


async def _body(request: Request) -> bytes:
    """The body of a message or a batch: either has 256 KiB at most."""
    try:
        return await request.body.read(MESSAGE_BYTES.open)
    except HubError as error:
        if error.row is not BODY_TOO_LARGE:
            raise
        raise _too_large("The body is longer") from None


def _too_large(what: str) -> HubError:
    return HubError(MESSAGE_TOO_LARGE, f"{what}, at most {MESSAGE_BYTES.open} bytes fit.")
