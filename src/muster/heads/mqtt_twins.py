"""Twins over MQTT: a device's requests served, and desired properties pushed to it (device.md 3.8)."""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from muster.core.ambient import tracking_id
from muster.core.errors import ARGUMENT_INVALID, SERVER_ERROR, THROTTLED, HubError
from muster.core.limits import TWIN_REQUESTS
from muster.core.throttles import TWIN_READS, TWIN_UPDATES
from muster.dialect.json_body import parse_json
from muster.dialect.mqtt import SubscriptionKind
from muster.dialect.mqtt_twins import TwinRequest, desired_topic, parse_twin_topic, response_topic
from muster.dialect.twin_bodies import desired_patch, device_error, device_twin
from muster.heads.device_services import DeviceServices
from muster.identity.model import IdentityKey
from muster.twins.document import Content
from muster.wire.mqtt.packets import Publish

log = logging.getLogger("muster.mqtt")

_VERSION_DIGITS = 18


class Publisher(Protocol):
    """The connection, as far as twins need it."""

    def publish(self, kind: SubscriptionKind, topic: str, payload: bytes, most_qos: int = 1) -> bool:
        """Publish to the device if it has subscribed to ``kind``."""
        ...

    def acknowledge(self, packet_id: int) -> None:
        """PUBACK."""
        ...


def push_desired(publisher: Publisher, patch: Content, version: int) -> None:
    """Tell the device of a change of its desired properties, if it has asked for them."""
    payload = desired_patch(patch, version)
    publisher.publish(SubscriptionKind.DESIRED_PROPERTIES, desired_topic(version), payload)


class TwinRequests:
    """The twin requests of one connection. Each is answered, then acknowledged if it came at QoS 1."""

    __slots__ = (
        "_ambient", "_in_progress", "_key", "_loop", "_meters", "_patches", "_publisher", "_sessions", "_tasks",
        "_twins",
    )  # fmt: skip

    def __init__(
        self, services: DeviceServices, key: IdentityKey, publisher: Publisher, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._twins = services.twins
        self._sessions = services.sessions
        self._ambient = services.ambient
        self._meters = services.meters
        self._key = key
        self._publisher = publisher
        self._loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_progress = self._patches = 0

    def serve(self, packet: Publish) -> None:
        """Begin to serve a request. Raises ``HubError`` 400003 when its topic is none of a twin's."""
        request = parse_twin_topic(packet.topic)
        self._in_progress += 1
        task = self._loop.create_task(self._serve(request, packet, crowded=self._in_progress > TWIN_REQUESTS.open))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, request: TwinRequest, packet: Publish, *, crowded: bool) -> None:
        try:
            if crowded:
                raise HubError(
                    THROTTLED, f"{TWIN_REQUESTS.open} twin requests are in progress. Wait for their answers."
                )
            self._meters.take(TWIN_UPDATES if request.patch else TWIN_READS, self._key.device_id)
            if request.patch:
                status, body, version = 204, b"", await self._patch(request, packet.payload)
            else:
                status, body, version = 200, await self._get(), None
            self._meters.charge(len(packet.payload) + len(body))
        except HubError as error:
            status, body, version = error.row.status, self._error(error), None
        except Exception:
            log.exception("%s: its twin request failed", self._key)
            status, body, version = SERVER_ERROR.status, self._error(HubError(SERVER_ERROR)), None
        finally:
            self._in_progress -= 1  # before the device hears of it and sends the next
        if packet.qos:
            self._publisher.acknowledge(packet.packet_id)
        if request.rid is not None:
            topic = response_topic(status, request.rid, version)
            self._publisher.publish(SubscriptionKind.TWIN_RESPONSES, topic, body, most_qos=0)

    async def _get(self) -> bytes:
        """The twin, with all that this connection has reported before it asked."""
        twins = self._twins
        twin = await (twins.get_after_changes(self._key) if self._patches else twins.get(self._key))
        self._sessions.twin_read(self._key, twin.desired.version)
        return device_twin(twin)

    async def _patch(self, request: TwinRequest, payload: bytes) -> int:
        version = None if request.version is None else _read_version(request.version)
        patch = parse_json(payload)
        self._patches += 1
        try:
            return (await self._twins.report(self._key, patch, version)).reported.version
        finally:
            self._patches -= 1

    def _error(self, error: HubError) -> bytes:
        tracking = error.tracking_id or tracking_id(self._ambient)
        log.debug("%s: twin request refused: %s (%s)", self._key, error, tracking)
        return device_error(error, tracking, self._ambient.now())


def _read_version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _VERSION_DIGITS):
        raise HubError(ARGUMENT_INVALID, "$version in the topic is not a number. Send that of the reported properties.")
    return int(text)
