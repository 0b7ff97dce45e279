"""Cloud-to-device messages and the queues of services, put together: a part of the composition root."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.bus import Bus
from muster.core.meters import Meters
from muster.dialect.command_messages import feedback_body
from muster.heads.amqp_links import Role
from muster.heads.devicebound import Devicebound
from muster.heads.http.commands import CommandOperations
from muster.heads.http.operations import Operation
from muster.heads.service_queues import ServiceQueues, service_endpoints
from muster.messages.commands import Commands, Identities, command_rules
from muster.messages.feedback import Feedback
from muster.messages.queue_contract import QueueStore
from muster.messages.queues import FEEDBACK, FILE_NOTIFICATIONS, SERVICE_QUEUES, Queues, ServiceQueue
from muster.node.settings import Settings


class Messaging(NamedTuple):
    """What the rest of the hub needs of it. ``roles`` are for AMQP, ``operations`` for REST."""

    commands: Commands
    feedback: ServiceQueue
    file_notifications: ServiceQueue
    roles: list[Role]
    operations: list[Operation]


def make_queues(hub: str, store: QueueStore, bus: Bus, ambient: Ambient, settings: Settings) -> Queues:
    """The queues of ``hub``, whose time does not run yet."""
    rules = command_rules(settings.profile, settings.command_deliveries)
    return Queues(hub, store, bus, ambient, identities=rules, services=SERVICE_QUEUES)


async def make_messaging(
    hub: str, queues: Queues, identities: Identities, ambient: Ambient, settings: Settings, *,
    meters: Meters | None = None,
) -> tuple[Messaging, Callable[[], Awaitable[None] | None]]:  # fmt: skip
    """All that stands on ``queues``, whose time runs from now on until the second part of the result is called."""
    commands = Commands(queues, identities, ambient, settings.profile, settings.command_ttl_seconds, meters=meters)
    feedback = ServiceQueue(queues, FEEDBACK, ambient)
    files = ServiceQueue(queues, FILE_NOTIFICATIONS, ambient)
    gatherer = Feedback(queues, ambient, feedback_body)
    messaging = Messaging(
        commands,
        feedback,
        files,
        [Devicebound(commands), ServiceQueues(hub, service_endpoints(feedback, files))],
        CommandOperations(commands, feedback, hub).table(),
    )
    queues.start()
    await gatherer.start()

    def close() -> None:
        gatherer.close()
        queues.close()

    return messaging, close
