"""Certificates renewed over MQTT: a device's requests served one after the other (provisioning.md 8.4)."""

from __future__ import annotations

import asyncio
import logging

from muster.core.ambient import tracking_id
from muster.core.certificate_limits import RENEWAL_SECONDS
from muster.core.errors import ARGUMENT_INVALID, SERVER_ERROR, HubError
from muster.core.provisioning_errors import RENEWAL_ACTIVE
from muster.core.throttles import TWIN_UPDATES
from muster.dialect.credentials import (
    accepted_body,
    credential_topic,
    issued_body,
    parse_credential_topic,
    read_credential_request,
)
from muster.dialect.mqtt import SubscriptionKind
from muster.dialect.twin_bodies import device_error
from muster.heads.device_services import DeviceServices
from muster.heads.mqtt_twins import Publisher
from muster.sessions.table import Session
from muster.wire.mqtt.packets import Publish

log = logging.getLogger("muster.mqtt")


class CredentialRequests:
    """The requests of one connection: each is answered twice, accepted and done, or once where it is refused."""

    __slots__ = ("_loop", "_publisher", "_services", "_session", "_task")

    def __init__(
        self, services: DeviceServices, session: Session, publisher: Publisher, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._services = services
        self._session = session
        self._publisher = publisher
        self._loop = loop
        self._task: asyncio.Task[None] | None = None

    def serve(self, packet: Publish) -> None:
        """Begin to serve a request. Raises ``HubError`` 400003 when its topic is none."""
        rid = parse_credential_topic(packet.topic)
        if self._task is not None and not self._task.done():
            self._answer(rid, RENEWAL_ACTIVE.status, self._refusal(HubError(RENEWAL_ACTIVE)))
            self._acknowledge(packet)
            return
        self._task = self._loop.create_task(self._serve(rid, packet))

    async def _serve(self, rid: str, packet: Publish) -> None:
        try:
            await self._issue(rid, packet.payload)
        except HubError as error:
            self._answer(rid, error.row.status, self._refusal(error))
        except Exception:
            log.exception("%s: its request for a certificate failed", self._session.key)
            self._answer(rid, SERVER_ERROR.status, self._refusal(HubError(SERVER_ERROR)))
        self._acknowledge(packet)

    async def _issue(self, rid: str, payload: bytes) -> None:
        services, key = self._services, self._session.key
        services.meters.take(TWIN_UPDATES, key.device_id)
        asked = read_credential_request(payload)
        if key.module_id is not None or asked.id != key.device_id:
            raise HubError(ARGUMENT_INVALID, "id is not that of the device that is connected.")
        correlation = services.ambient.uuid().hex
        self._answer(rid, 202, accepted_body(correlation, services.ambient.now() + RENEWAL_SECONDS.open))
        chain = await services.renew(key.device_id, asked.csr, self._session.thumbprint)
        self._answer(rid, 200, issued_body(correlation, chain))

    def _answer(self, rid: str, status: int, body: bytes) -> None:
        self._publisher.publish(SubscriptionKind.CREDENTIALS, credential_topic(status, rid), body)

    def _acknowledge(self, packet: Publish) -> None:
        if packet.qos:
            self._publisher.acknowledge(packet.packet_id)

    def _refusal(self, error: HubError) -> bytes:
        tracked = error.tracking_id or tracking_id(self._services.ambient)
        log.debug("%s: request for a certificate refused: %s (%s)", self._session.key, error, tracked)
        return device_error(error, tracked, self._services.ambient.now())
