"""Cloud-to-device messages over REST: a device's queue emptied, feedback received and settled (service.md 2.15)."""

from __future__ import annotations

from muster.access.roles import DataAction
from muster.core.ambient import iso
from muster.dialect.command_messages import FEEDBACK_TYPE
from muster.dialect.device_http import read_lock_token
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.account import subject_of
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right
from muster.messages.commands import Commands
from muster.messages.queue import Settlement
from muster.messages.queues import ServiceQueue, taken


class CommandOperations:
    """Commands and their feedback, of one hub."""

    def __init__(self, commands: Commands, feedback: ServiceQueue, hub: str) -> None:
        """``hub`` is the hub's name, which feedback bears as its user id."""
        self._commands = commands
        self._feedback = feedback
        self._hub = hub

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right, feedback = Right.SERVICE_CONNECT, "/messages/servicebound/feedback"
        read, purge = DataAction.C2D_FEEDBACK, DataAction.C2D_PURGE
        return [
            Operation(method, path, right, handler, actions=(action,), changes=changes)
            for method, path, action, handler, changes in (
                ("DELETE", "/devices/{device_id}/commands", purge, self.purge, "commands.purge"),
                ("DELETE", "/devices/{device_id}/modules/{module_id}/commands", purge, self.purge, "commands.purge"),
                ("GET", feedback, read, self.receive, ""),
                ("DELETE", f"{feedback}/{{lock_token}}", read, self.complete, ""),
                ("POST", f"{feedback}/{{lock_token}}/abandon", read, self.abandon, ""),
            )
        ]

    async def purge(self, call: Call) -> Response:
        """Throw away all that waits for the identity."""
        key = IdentityKey(call.parameters["device_id"], call.parameters.get("module_id"))
        purged = await self._commands.purge(key, call.note(f"{subject_of(key)}/commands"))
        return json_answer({"totalMessagesPurged": purged, "deviceId": key.device_id, "moduleId": key.module_id})

    async def receive(self, _: Call) -> Response:
        """The oldest feedback message, locked for a minute, its token as ETag; 204 when there is none."""
        found = taken(await self._feedback.take(1))
        if not found:
            return Response(status=204)
        entry, body = found[0]
        headers = {
            "Content-Type": FEEDBACK_TYPE,
            "ETag": f'"{found[0].token}"',
            "iothub-enqueuedtime": iso(entry.enqueued),
            "iothub-sequencenumber": str(entry.number),
            "iothub-deliverycount": str(entry.deliveries),
            "iothub-userid": self._hub,
        }
        return Response(body=body, headers=headers)

    async def complete(self, call: Call) -> Response:
        """Remove the message that the lock token holds; 412002 when the token holds none."""
        return await self._settle(call, Settlement.COMPLETE)

    async def abandon(self, call: Call) -> Response:
        """Give it back; it counts as a failed delivery."""
        return await self._settle(call, Settlement.ABANDON)

    async def _settle(self, call: Call, how: Settlement) -> Response:
        await self._feedback.settle(read_lock_token(call.parameters["lock_token"]), how)
        return Response(status=204)
