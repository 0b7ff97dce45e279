"""Telemetry on AMQP: taken into the log, and settled when it is on disk (device.md 4.4). The hot path."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from muster.core.ambient import Ambient, tracking_id
from muster.core.amqp_limits import AMQP_TELEMETRY_BYTES, AMQP_TELEMETRY_CREDIT
from muster.core.errors import ARGUMENT_INVALID, MESSAGE_TOO_LARGE, SERVER_ERROR, HubError
from muster.core.limits import MESSAGE_BYTES
from muster.dialect.amqp import to_error
from muster.dialect.amqp_telemetry import BATCH_FORMAT, TelemetryReader
from muster.heads.device_link import DeviceLink, rejected
from muster.messages.telemetry import Batch
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery
from muster.wire.amqp.link import ReceivingLink
from muster.wire.amqp.performatives import RECEIVER, Disposition, Rejected
from muster.wire.amqp.session import Session

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection
    from muster.heads.device_links import DeviceSession

_CREDIT = AMQP_TELEMETRY_CREDIT.open
_LOW = _CREDIT // 2


class Acknowledgements:
    """The deliveries of one connection that are in the forming batch: settled with one write when that is on disk."""

    __slots__ = ("_ambient", "_batch", "_connection", "_owed")

    def __init__(self, connection: AmqpConnection, ambient: Ambient) -> None:
        self._connection = connection
        self._ambient = ambient
        self._batch: Batch | None = None
        self._owed: dict[Session, list[int]] = {}

    def of(self, batch: Batch, session: Session) -> list[int]:
        """Where to put the ids of deliveries of ``session`` that went into ``batch``."""
        if batch is not self._batch:
            self._batch = batch
            owed: dict[Session, list[int]] = {}
            self._owed = owed
            batch.when_durable(partial(self._durable, owed))
        found = self._owed.get(session)
        if found is None:
            found = self._owed[session] = []
        return found

    def _durable(self, owed: dict[Session, list[int]], error: BaseException | None) -> None:
        if owed is self._owed:
            self._batch, self._owed = None, {}  # who now falls silent must not keep the messages of all
        if self._connection.closing:
            return
        for session, ids in owed.items():
            if session.ended:
                continue
            for first, last in _ranges(ids):
                if error is None:
                    session.accept(first, last)
                else:
                    session.write(Disposition(RECEIVER, first, last, True, self._failure()))
        self._connection.flush()

    def _failure(self) -> Rejected:
        return Rejected(to_error(HubError(SERVER_ERROR, tracking_id=tracking_id(self._ambient))))


def _ranges(ids: list[int]) -> list[tuple[int, int]]:
    """Delivery ids as first and last of runs. Messages in several frames may have ended in another order than that in
    which they began, so the ids are put in order first: a run must not reach over one that has not come."""
    if len(ids) < 2:
        return [(one, one) for one in ids]
    ids.sort()
    if ids[-1] - ids[0] == len(ids) - 1:
        return [(ids[0], ids[-1])]
    runs: list[tuple[int, int]] = []
    first = last = ids[0]
    for one in ids[1:]:
        if one != last + 1:
            runs.append((first, last))
            first = one
        last = one
    runs.append((first, last))
    return runs


class TelemetryLink(DeviceLink):
    """Messages of one identity, on their way into its partition."""

    __slots__ = ("_acknowledgements", "_append", "_partition", "_profile", "_read", "_reader", "_telemetry")

    link: ReceivingLink

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(device, link)
        self._reader = TelemetryReader()
        self._read: Callable[[bytes], bytes] = self._reader.read
        self._telemetry = device.services.telemetry
        self._append = self._telemetry.append
        self._partition = device.partition
        self._profile = device.services.authenticator.hub.profile
        self._acknowledgements = device.devices.acknowledgements

    def open(self) -> None:
        self.link.accept(max_message_size=AMQP_TELEMETRY_BYTES.open)
        self.link.grant(_CREDIT)

    def delivery(self, event: Delivery) -> None:
        link, delivery_id, _, message_format, settled, payload = event
        device = self.device
        try:
            if message_format == 0:
                batch = self._append(self._partition, device.sender + self._read(payload))
            else:
                batch = self._append_all(message_format, payload)
        except (AmqpDecodeError, HubError) as problem:
            self._reject(event, problem)
        else:
            if not settled:
                self._acknowledgements.of(batch, link.session).append(delivery_id)
        device.active()
        if link.credit <= _LOW or self._telemetry.congested:
            self.writable()

    def _append_all(self, message_format: int, payload: bytes) -> Batch:
        """The messages of a batch: all are stored, or none."""
        if message_format != BATCH_FORMAT:
            raise HubError(
                ARGUMENT_INVALID,
                f"The message format is {message_format:#x}, send 0, or {BATCH_FORMAT:#x} for a batch.",
            )
        sender = self.device.sender
        for part in self._reader.read_batch(payload, self._profile):
            batch = self._append(self._partition, sender + part)
        return batch

    def writable(self) -> None:
        """Grant credit, unless the disk has to catch up first."""
        if self._telemetry.congested:
            self.device.devices.hold()
        elif self.link.credit <= _LOW:
            self.link.grant(_CREDIT)

    def _reject(self, event: Delivery, problem: AmqpDecodeError | HubError) -> None:
        if isinstance(problem, HubError) and problem.row is MESSAGE_TOO_LARGE:
            expected = f"at most {MESSAGE_BYTES.open} bytes with properties"
            seen = f"a message of {len(event.payload)} bytes"
            problem.tracking_id = self.device.breach("message-size", expected, seen, problem.row)
        if not event.settled:
            self.link.dispose(event.delivery_id, rejected(self.device, problem))
