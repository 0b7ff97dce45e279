"""The built-in Event Hubs-compatible endpoint: partition receivers, ``$management``, the redirect to itself."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Container, Coroutine
from functools import partial

from muster.access.roles import StreamAction
from muster.core.errors import ARGUMENT_INVALID, NOT_FOUND, SERVER_ERROR, UNAUTHORIZED, HubError
from muster.core.limits import CATCH_UP_BYTES, EVENTS_AT_ONCE
from muster.dialect.amqp import MANAGEMENT, same_words
from muster.dialect.eventhubs import (
    RUNTIME_METRIC,
    PartitionAddress,
    Position,
    Start,
    owner_level,
    partition_address,
    receiver_name,
    redirect,
    runtime_metrics,
    start_position,
)
from muster.dialect.record import deliver
from muster.heads.amqp import AmqpConnection
from muster.heads.amqp_links import LinkHandler
from muster.heads.grants import Scope, scope_of
from muster.heads.management import Management, partition_number
from muster.heads.requests import RequestNode, node_of
from muster.identity.sas import host_name
from muster.messages.contract import Slice
from muster.messages.readers import PartitionReaders
from muster.messages.telemetry import Telemetry
from muster.wire.amqp.link import Link, SendingLink
from muster.wire.amqp.performatives import MIXED, SETTLED

log = logging.getLogger("muster.eventhubs")

MOST_EVENTS_AT_ONCE = 8 * EVENTS_AT_ONCE.open
"""In one go to a receiver that is far behind."""
EVENTS = ("messages", "events")
"""The hub's own name for its events; receivers there are sent to the entity."""

_READ = StreamAction.RECEIVE
_REDIRECT_SECONDS = 0.05
"""Between the attach and the redirect that follows it: the JavaScript helper listens only after it saw the attach."""


class EventHub:
    """The role that serves one entity and its partitions."""

    def __init__(
        self, telemetry: Telemetry, entity: str, readers: PartitionReaders, *, groups: Container[str],
        redirect_port: int = 5671,
    ) -> None:  # fmt: skip
        """``entity`` is the Event Hub-compatible name; ``groups`` are the consumer groups, in any case.

        ``redirect_port`` is told to clients that ask for events under the hub's own address.
        """
        self.telemetry = telemetry
        self.entity = entity
        self._readers = readers
        self._groups = groups
        self.redirect_port = redirect_port
        self._management = Management(telemetry, entity)

    def attach(self, connection: AmqpConnection, link: Link, path: tuple[str, ...]) -> LinkHandler | None:
        """See ``heads.amqp_links.Role``."""
        entity = self.entity.lower()
        if same_words(path, MANAGEMENT) or same_words(path, entity, MANAGEMENT):
            connection.require(None if len(path) == 1 else scope_of(path))  # for the role each request is asked
            answer = partial(self._management.answer, connection.require)
            return node_of(connection, MANAGEMENT, lambda: RequestNode(connection, answer, None)).attach(link)
        if isinstance(link, SendingLink):
            if scope_of(path[:2]) == EVENTS:
                return self._redirect(connection, link, path)
            address = partition_address(path)
            return None if address is None else self._receiver(connection, link, address, scope_of(path))
        if path and path[0].lower() == entity:
            raise HubError(UNAUTHORIZED, "Unauthorized access. 'Send' claim(s) are required: only devices send here.")
        return None

    def _redirect(self, connection: AmqpConnection, link: SendingLink, path: tuple[str, ...]) -> LinkHandler:
        connection.require(scope_of(path), _READ)
        hub = connection.hub.authenticator.hub
        host = host_name(connection.host) if hub.knows(connection.host) else hub.host
        error = redirect(host, self.redirect_port, self.entity, path[2:])
        link.accept()
        connection.head.loop.call_later(_REDIRECT_SECONDS, connection.detach, link, error)
        return LinkHandler(None)

    def _receiver(
        self, connection: AmqpConnection, link: SendingLink, address: PartitionAddress, scope: Scope
    ) -> LinkHandler:
        connection.require(scope, _READ)
        if address.entity.lower() != self.entity.lower() or address.group not in self._groups:
            wanted = f"{address.entity}/ConsumerGroups/{address.group}"
            raise HubError(NOT_FOUND, f"The messaging entity '{wanted[:300]}' could not be found.")
        partition = partition_number(address.partition, self.telemetry.partitions)
        position = start_position(link.attach.source)
        receiver = PartitionReceiver(connection, link, self.telemetry, partition, scope)
        receiver.begin(position, self._readers, address.group)
        return receiver


class PartitionReceiver(LinkHandler):
    """Sends the events of one partition down one link, in order, from its position on."""

    __slots__ = (
        "_at", "_connection", "_earliest_ms", "_held", "_leave", "_link", "_metrics", "_next", "_partition",
        "_scheduled", "_settled", "_task", "_telemetry", "_unsubscribe",
    )  # fmt: skip

    def __init__(
        self, connection: AmqpConnection, link: SendingLink, telemetry: Telemetry, partition: int, scope: Scope
    ) -> None:
        super().__init__(scope, _READ)
        self._connection = connection
        self._link = link
        self._telemetry = telemetry
        self._partition = partition
        self._metrics = RUNTIME_METRIC in (link.attach.desired_capabilities or ())
        mode = link.attach.snd_settle_mode
        self._settled = mode in {SETTLED, MIXED}
        self._next = 0
        self._earliest_ms = 0
        self._held: deque[Slice] = deque()
        self._at = 0
        self._task: asyncio.Task[None] | None = None
        self._scheduled: asyncio.Handle | None = None
        self._leave: Callable[[], None] = _not_there

    def begin(self, position: Position, readers: PartitionReaders, group: str) -> None:
        """Find the position, take a place among the readers and accept the link; or refuse it."""
        self._unsubscribe = self._telemetry.subscribe(self._partition, self._pump)
        self._run(partial(self._begin, position, readers, group))

    def flow(self) -> None:
        """See ``LinkHandler``."""
        self._pump()

    def writable(self) -> None:
        """See ``LinkHandler``."""
        self._pump()

    def detached(self) -> None:
        """See ``LinkHandler``."""
        self._leave()
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()
        if self._scheduled is not None:
            self._scheduled.cancel()
        self._held.clear()

    # --- getting events

    def _run(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._task = self._connection.head.loop.create_task(self._await(work))

    async def _await(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        try:
            await work()
        except HubError as problem:
            self._connection.detach(self._link, problem)
        except Exception:
            log.exception("cannot read partition %d", self._partition)
            self._connection.detach(self._link, HubError(SERVER_ERROR))
        else:
            self._task = None
            self._pump()

    async def _begin(self, position: Position, readers: PartitionReaders, group: str) -> None:
        state, link = await self._telemetry.look(self._partition), self._link
        if position.start is Start.SEQUENCE:
            self._next = position.value if position.inclusive else position.value + 1
            if self._next > state.next:
                raise HubError(
                    ARGUMENT_INVALID,
                    f"The supplied offset '{position.value}' is invalid. The last offset in the system is "
                    f"'{state.next - 1}'. Was the hub's data deleted? Then delete the checkpoints too.",
                )
        else:
            self._next = state.next if position.start is Start.END else state.first
        self._leave = await readers.join(
            group, self._partition, name=receiver_name(link.attach), epoch=owner_level(link.attach),
            evicted=partial(self._connection.detach, link),
        )  # fmt: skip
        link.accept(
            snd_settle_mode=SETTLED if self._settled else None, offered=(RUNTIME_METRIC,) if self._metrics else ()
        )
        self._connection.flush()
        if position.start is Start.TIME:
            value, inclusive = position.value, position.inclusive
            self._earliest_ms = value if inclusive else value + 1
            self._next = await self._telemetry.sequence_at(self._partition, value, inclusive=inclusive)

    async def _catch_up(self) -> None:
        end = self._telemetry.state(self._partition).next
        slices = await self._telemetry.read(self._partition, self._next, CATCH_UP_BYTES.open)
        self._held.extend(slices)
        if not slices:
            self._next = max(self._next, end)  # what was there is not kept any more

    def _refill(self) -> bool:
        """Get slices to send; false when there are none now, in which case somebody will call ``_pump`` again."""
        while not self._held:
            slices = self._telemetry.tail(self._partition, self._next)
            if slices is None:
                self._run(self._catch_up)
                return False
            if not slices:
                return False
            self._held.extend(slices)
        return True

    # --- sending them

    def _pump(self) -> None:
        """Send what there is as far as credit and the transport allow; the loop gets a turn every so many events."""
        connection, link = self._connection, self._link
        if self._task is not None or self._scheduled is not None:
            return
        left = self._share()
        exhausted = False
        while link.ready > 0 and connection.writable:
            if not self._refill():
                exhausted = self._task is None
                break
            if left <= 0:
                self._scheduled = connection.head.loop.call_soon(self._go_on)
                return
            left -= self._send(min(left, link.ready))
            connection.flush()
        if link.drain and (exhausted or link.credit == 0):
            link.drained()
            connection.flush()

    def _share(self) -> int:
        """How many events go out in one go: more to who is behind, or devices that send fast would leave it behind."""
        behind = self._telemetry.state(self._partition).next - self._next
        return min(max(EVENTS_AT_ONCE.open, behind // 2), MOST_EVENTS_AT_ONCE)

    def _go_on(self) -> None:
        self._scheduled = None
        self._pump()

    def _send(self, limit: int) -> int:
        """Send up to ``limit`` events of the first slice at hand; how many. What nobody can read is skipped."""
        slice_ = self._held[0]
        base, enqueued_ms, records = slice_
        if enqueued_ms < self._earliest_ms:
            self._drop(slice_)
            return 0
        at = self._at
        prefix = self._metrics_now() if self._metrics else b""
        payloads, size = [], 0
        for sequence, record in enumerate(records[at : at + limit], base + at):
            try:
                payloads.append(prefix + deliver(record, sequence, enqueued_ms))
            except ValueError as error:
                if not payloads:
                    log.error("partition %d: %d is skipped for readers: %s", self._partition, sequence, error)
                    self._at += 1
                break  # those before it go out first
            size += len(record)
            if size > CATCH_UP_BYTES.open:
                break
        sent = self._link.send_many(payloads, settled=self._settled)
        self._at += sent
        if self._at >= len(records):
            self._drop(slice_)
        else:
            self._next = base + self._at
        return max(sent, 1)  # who skips takes turns too

    def _drop(self, slice_: Slice) -> None:
        self._next = slice_.base + len(slice_.records)
        self._at = 0
        self._held.popleft()

    def _metrics_now(self) -> bytes:
        now = int(self._connection.head.ambient.now() * 1000)
        return runtime_metrics(self._telemetry.state(self._partition), now)


def _not_there() -> None:
    """Who has no place among the readers need not leave it."""
