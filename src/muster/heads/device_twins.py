"""Twins on AMQP: requests on one link, answers and desired changes on the other of its pair (device.md 4.6)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from muster.core.ambient import tracking_id
from muster.core.amqp_limits import AMQP_PUSHES_WAITING, AMQP_REQUESTS_IN_FLIGHT
from muster.core.errors import SERVER_ERROR, THROTTLED, HubError
from muster.core.limits import TWIN_REQUESTS, TWIN_TEXT
from muster.core.throttles import TWIN_READS, TWIN_UPDATES
from muster.dialect.device_amqp import channel_of
from muster.dialect.device_amqp_messages import (
    TwinRequest,
    correlation_of,
    desired_change,
    read_twin_request,
    twin_answer,
)
from muster.dialect.json_body import parse_json
from muster.dialect.twin_bodies import desired_patch, device_error, device_twin
from muster.heads.device_link import PushLink, RequestLink
from muster.heads.device_methods import ENVELOPE_BYTES
from muster.wire.amqp.message import Message, decode_message

if TYPE_CHECKING:
    from muster.heads.device_links import DeviceSession

log = logging.getLogger("muster.amqp")


class TwinChannel:
    """A pair of links. The one that brings answers may be attached last: answers wait here meanwhile."""

    __slots__ = ("answers", "early", "notified", "pending", "requests")

    def __init__(self) -> None:
        self.requests: TwinRequestLink | None = None
        self.answers: TwinAnswerLink | None = None
        self.early: list[bytes] = []
        self.notified = False
        """Whether the device wants to hear of desired changes."""
        self.pending = 0

    def answer(self, payload: bytes) -> None:
        """Send an answer."""
        if self.answers is None:
            self.early.append(payload)
        else:
            self.answers.push(payload)

    @property
    def unanswered(self) -> int:
        """Requests that are in progress, or whose answer was not taken."""
        waiting = self.early if self.answers is None else self.answers.waiting
        return self.pending + len(waiting)


class TwinService:
    """The twin of one session's identity."""

    __slots__ = ("_channels", "_device", "_in_progress", "_patches")

    def __init__(self, device: DeviceSession) -> None:
        self._device = device
        self._channels: dict[str, TwinChannel] = {}
        self._in_progress = self._patches = 0

    def channel(self, name: str) -> TwinChannel:
        """The channel of this name, made at first use."""
        return self._channels.setdefault(name, TwinChannel())

    def drop(self, name: str) -> None:
        """Forget a channel when both its links are gone."""
        channel = self._channels.get(name)
        if channel is not None and channel.requests is None and channel.answers is None:
            del self._channels[name]

    def push(self, patch: Mapping[str, Any], version: int) -> None:
        """Tell of a change of the desired properties on the channels that have asked for that."""
        for channel in tuple(self._channels.values()):
            if channel.notified and channel.answers is not None:
                channel.answers.tell(desired_change(desired_patch(patch, version)))

    def serve(self, channel: TwinChannel, message: Message) -> None:
        """Begin to serve a request. Raises ``HubError`` 400004 when it cannot be answered at all."""
        correlation = correlation_of(message)
        channel.pending += 1
        self._in_progress += 1
        crowded = self._in_progress > TWIN_REQUESTS.open
        self._device.connection.run(self._serve(channel, message, correlation, crowded=crowded))

    async def _serve(self, channel: TwinChannel, message: Message, correlation: Any, *, crowded: bool) -> None:
        version = None
        try:
            if crowded:
                raise HubError(
                    THROTTLED, f"{TWIN_REQUESTS.open} twin requests are in progress. Wait for their answers."
                )
            status, body, version = await self._done(channel, read_twin_request(message))
        except HubError as error:
            status, body = error.row.status, self._error(error)
        except Exception:
            log.exception("%s: its twin request failed", self._device.key)
            status, body = SERVER_ERROR.status, self._error(HubError(SERVER_ERROR))
        finally:
            self._in_progress -= 1
            channel.pending -= 1
        channel.answer(twin_answer(correlation, status, body, version))
        if channel.requests is not None:
            channel.requests.replenish()

    async def _done(self, channel: TwinChannel, request: TwinRequest) -> tuple[int, bytes, int | None]:
        """Status, body, and version of the reported properties where they were changed."""
        twins, meters, key = self._device.services.twins, self._device.services.meters, self._device.key
        if request.operation == "GET":
            meters.take(TWIN_READS, key.device_id)
            # With all that this connection has reported before it asked.
            twin = await (twins.get_after_changes(key) if self._patches else twins.get(key))
            self._device.services.sessions.twin_read(key, twin.desired.version)
            body = device_twin(twin)
            meters.charge(len(body))
            return 200, body, None
        if request.operation == "PATCH":
            meters.take(TWIN_UPDATES, key.device_id)
            patch = parse_json(request.body)
            self._patches += 1
            try:
                version = (await twins.report(key, patch, request.version)).reported.version
            finally:
                self._patches -= 1
            meters.charge(len(request.body))
            return 204, b"", version
        channel.notified = request.operation == "PUT"
        return 200, b"", None

    def _error(self, error: HubError) -> bytes:
        ambient = self._device.services.ambient
        tracking = error.tracking_id or tracking_id(ambient)
        log.debug("%s: twin request refused: %s (%s)", self._device.key, error, tracking)
        return device_error(error, tracking, ambient.now())


class TwinRequestLink(RequestLink):
    """The link on which a device asks."""

    __slots__ = ("_channel", "_name")

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(device, link, AMQP_REQUESTS_IN_FLIGHT.open)
        self._name = channel_of(link.attach)
        self._channel: TwinChannel | None = None

    def open(self) -> None:
        self._channel = self.device.twin.channel(self._name)
        self._channel.requests = self
        self.link.accept(max_message_size=TWIN_TEXT.open + ENVELOPE_BYTES)
        self.replenish()

    def take(self, payload: bytes) -> None:
        assert self._channel is not None, "only who was let in has credit"
        self.device.twin.serve(self._channel, decode_message(payload))

    def pending(self) -> int:
        return 0 if self._channel is None else self._channel.unanswered

    def detached(self) -> None:
        channel = self._channel
        if channel is not None and channel.requests is self:
            channel.requests = None
            self.device.twin.drop(self._name)
        super().detached()


class TwinAnswerLink(PushLink):
    """The link on which a device is answered, and told of desired changes."""

    __slots__ = ("_channel", "_name")

    def __init__(self, device: DeviceSession, link: Any) -> None:
        super().__init__(device, link)
        self._name = channel_of(link.attach)
        self._channel: TwinChannel | None = None

    def open(self) -> None:
        channel = self._channel = self.device.twin.channel(self._name)
        channel.answers = self
        self.waiting.extend(channel.early)
        channel.early.clear()
        super().open()

    def flow(self) -> None:
        super().flow()
        if self._channel is not None and self._channel.requests is not None:
            self._channel.requests.replenish()

    def tell(self, payload: bytes) -> None:
        """Send a desired change. A device that takes none loses the link: it reads its twin when it attaches again."""
        if len(self.waiting) >= AMQP_PUSHES_WAITING.open + AMQP_REQUESTS_IN_FLIGHT.open:
            problem = HubError(THROTTLED, "The device has not taken the desired changes that it asked for.")
            self.device.connection.detach(self.link, problem)
        else:
            self.push(payload)

    def detached(self) -> None:
        channel = self._channel
        if channel is not None and channel.answers is self:
            channel.answers = None
            channel.notified = False
            self.device.twin.drop(self._name)
        super().detached()
