"""The ``$management`` node of the Event Hubs-compatible endpoint (service.md 4.3)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from muster.access.roles import Action, StreamAction
from muster.core.errors import INVALID_OPERATION, NOT_FOUND, PARTITION_NOT_FOUND, HubError
from muster.dialect.amqp import MANAGEMENT, status_reply
from muster.dialect.eventhubs import hub_information, partition_information
from muster.heads.grants import Scope
from muster.heads.requests import Later
from muster.messages.telemetry import Telemetry
from muster.wire.amqp.message import Message


class Management:
    """Answers READ for the hub and for a partition of ``entity``."""

    def __init__(self, telemetry: Telemetry, entity: str) -> None:
        self._telemetry = telemetry
        self._entity = entity

    def answer(self, require: Callable[[Scope, Action], None], request: Message) -> Later:
        """How to come to the reply to ``request``, on a connection that asks ``require`` whether a scope is covered for
        an action.

        Raises ``HubError`` 400003 for an operation that is none.
        """
        properties = request.application_properties or {}
        operation, kind = properties.get("operation"), properties.get("type")
        if operation != "READ" or kind not in ("com.microsoft:eventhub", "com.microsoft:partition"):
            raise HubError(INVALID_OPERATION, f"Invalid command {str(operation)[:40]!r} on {str(kind)[:40]!r}.")
        return partial(self._reply, require, request, kind, properties)

    async def _reply(
        self, require: Callable[[Scope, Action], None], request: Message, kind: str, properties: dict[Any, Any]
    ) -> Message:
        try:
            name = str(properties.get("name", ""))
            if name.lower() != self._entity.lower():
                raise HubError(NOT_FOUND, f"The messaging entity '{name[:200]}' could not be found.")
            require((self._entity.lower(), MANAGEMENT), StreamAction.RECEIVE)
            body = await self._read(kind, properties)
        except HubError as problem:
            # azure-eventhub 5.15.1 looks for the description under the second name here, and shows None without it.
            told = f"{problem.message} TrackingId:{problem.tracking_id}" if problem.tracking_id else problem.message
            more = {"error-condition": problem.row.condition, "statusDescription": told}
            status = _STATUS.get(problem.row.code, problem.row.status)
            return status_reply(request, status, told, application_properties=more, value=None)
        return status_reply(request, 200, "OK", value=body)

    async def _read(self, kind: str, properties: dict[Any, Any]) -> dict[Any, Any]:
        telemetry = self._telemetry
        if kind == "com.microsoft:eventhub":
            return hub_information(self._entity, telemetry.created_at, telemetry.partitions)
        partition = partition_number(str(properties.get("partition", "")), telemetry.partitions)
        return partition_information(self._entity, partition, await telemetry.look(partition))


_STATUS = {PARTITION_NOT_FOUND.code: 400}
"""Where the answer's status is not the first three digits of the code: a wrong partition is the client's fault."""


def partition_number(text: str, partitions: int) -> int:
    """The partition that ``text`` names. Raises ``HubError`` 503003."""
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) < partitions:
        return int(text)
    raise HubError(
        PARTITION_NOT_FOUND,
        "The specified partition is invalid for an EventHub partition sender or receiver. "
        f"It should be between 0 and {partitions - 1}.",
    )
