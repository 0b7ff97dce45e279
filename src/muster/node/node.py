"""The node: every part of the hub put together, started in order and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import apsw

from muster.core.ambient import Ambient, SystemAmbient
from muster.core.errors import UNAVAILABLE
from muster.core.settings_store import HubSettingsStore
from muster.heads.amqp import AmqpHead, AmqpHub
from muster.heads.amqp_faults import device_links
from muster.heads.amqp_links import Role
from muster.heads.device_services import DeviceServices
from muster.heads.eventhubs import EventHub
from muster.heads.front import FrontProtocol
from muster.heads.handshakes import HandshakeRefusals
from muster.heads.http.admin import AdminOperations
from muster.heads.http.app import build_app
from muster.heads.http.connection import App, HttpServer
from muster.heads.http.device_messages import DeviceMessageOperations
from muster.heads.http.digital_twins import DigitalTwinOperations
from muster.heads.http.hubs import answer_by_hub
from muster.heads.http.meters import MeterOperations
from muster.heads.http.methods import MethodOperations
from muster.heads.http.operations import Operation
from muster.heads.http.provisioning_metrics import provisioning_families
from muster.heads.http.queries import QueryOperations
from muster.heads.http.twins import TwinOperations
from muster.heads.hubs import HubDirectory
from muster.heads.listener import BACKLOG, TlsListener
from muster.heads.mqtt_kinds import connection_maker
from muster.heads.websocket import WebSocketTransport
from muster.node.certificate import ServerCertificate
from muster.node.directory import DataDirectory
from muster.node.facts import Reach, facts_of, keep_reach
from muster.node.files import file_operations
from muster.node.foundation import Foundation, Undo
from muster.node.linked_hub import LocalHub
from muster.node.material import Material, load_material
from muster.node.own_certificate import ROOT_NOT_KNOWN, OwnCertificate
from muster.node.parts import Parts, make_parts
from muster.node.provisioning import open_provisioning
from muster.node.settings import Settings
from muster.node.sockets import FALLBACK_HTTPS_PORT, HOW_TO_ALLOW_443, HTTPS_PORT, BindError, bind, listen
from muster.provisioning.hubs import LinkedHubs
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.settings import SqliteHubSettingsStore

log = logging.getLogger("muster.node")

DRAIN_SECONDS, GOODBYE_SECONDS = 5.0, 1.5
"""Once the hub stops: how long connections and REST calls get to end by themselves, and how long HTTPS then takes to
close. SIGTERM ends within ten seconds."""


class Node:
    """One running hub. When ``start`` has returned every listener accepts, and ``facts`` tells how to reach it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self._certificate: ServerCertificate | OwnCertificate | None = None
        self._ready = False
        self._listeners: dict[str, TlsListener] = {}
        self._undo: Undo = []

    async def start(self) -> None:
        """Open the stores, make or load keys and certificates, listen.

        Raises ``DirectoryInUseError``, ``BindError``, ``HubError`` or ``OSError``; what was begun is undone.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drain, make what was accepted durable, close. Safe to call twice.

        Draining: nothing new is let in and all sessions end. Until they have, and until the REST calls in progress are
        answered, HTTPS goes on, so that who probes ``/health/ready`` hears 503.
        """
        self._ready = False
        while self._undo:
            pending = self._undo.pop()()
            if pending is not None:
                await pending

    def reload_certificate(self) -> None:
        """Take the operator's certificate from its files now, if he has brought one."""
        if isinstance(self._certificate, OwnCertificate):
            self._certificate.reload()

    async def _start(self) -> None:
        settings, loop = self.settings, asyncio.get_running_loop()
        ambient = SystemAmbient(loop)
        directory = DataDirectory.temporary() if settings.data is None else DataDirectory(settings.data)
        self._undo.append(directory.release)
        sockets = self._bind()
        ports = {name: int(bound[0].getsockname()[1]) for name, bound in sockets.items()}
        writer, reader = self._database(directory)
        kept = SqliteHubSettingsStore(writer, reader)
        material, certificate = await self._material(directory, kept, ambient)
        hub = settings.hub(material.name, material.policies, ambient)
        base = Foundation(settings, directory, hub, writer, reader, kept, ambient, self._undo)
        parts = await make_parts(base)
        self.ambient, self.registry = ambient, parts.registry

        more = parts.certificates.operations(parts.authenticator, parts.identities, parts.sessions, certificate.own)
        linked = LinkedHubs([LocalHub(hub, parts.registry, parts.twins, parts.certificates.trust)])
        provisioning = await open_provisioning(
            base, material, linked, parts.certificates, refusals=parts.refusals, meters=parts.meters
        )
        families = partial(provisioning_families, provisioning.timeline)
        more += [*provisioning.operations, *MeterOperations(parts.meters, families).table()]
        services = _device_services(base, parts)
        messages = DeviceMessageOperations(services, settings.profile)
        app = await self._app(base, parts, ports["https"], [*messages.table(), *more])
        http = HttpServer(answer_by_hub(HubDirectory(app, hub.name, hub.hosts)), ambient.now)
        self._undo.append(http.close)
        events = EventHub(parts.telemetry, hub.name, groups=settings.consumer_groups, redirect_port=ports["amqp"])
        roles: list[Role] = [device_links(services), events, *parts.messaging.roles]
        amqp_hub = AmqpHub(parts.authenticator, parts.refusals, roles, parts.faults)
        make_amqp = AmqpHead(HubDirectory(amqp_hub, hub.name, hub.hosts), ambient, loop)
        make_mqtt = connection_maker(HubDirectory(services, hub.name, hub.hosts), loop)
        make_front = partial(FrontProtocol, loop, make_mqtt, make_amqp, http, lambda: http.draining)
        self._undo.append(partial(_drain, self._listeners, http))
        explain = HandshakeRefusals(HubDirectory(parts.refusals, hub.name, hub.hosts), ambient, certificate.covers)
        heads: dict[str, Callable[[], Any]] = {"mqtt": make_mqtt, "amqp": make_amqp, "https": make_front}
        self._listen(certificate, sockets, heads, explain)
        if "amqp_plain" in sockets:
            await self._listen_plain(sockets["amqp_plain"], make_amqp)
        end_sessions = partial(parts.sessions.end_all, UNAVAILABLE)
        self._undo += [partial(make_amqp.end_all, UNAVAILABLE), end_sessions, parts.methods.close]

        reach = Reach(settings.all_hostnames, settings.dps_hostname, settings.bind, ports)
        await keep_reach(kept, reach)
        self._announce(directory, facts_of(hub, material, directory, reach))

    async def _app(self, base: Foundation, parts: Parts, https_port: int, more: Sequence[Operation]) -> App:
        """The REST data plane."""
        methods = MethodOperations(parts.methods, base.ambient)
        admin = AdminOperations(parts.refusals, parts.telemetry, base.settings.profile, lambda: self._ready)
        files = await file_operations(base, parts.authenticator, parts.messaging.file_notifications, https_port)
        return build_app(
            registry=parts.registry,
            gate=parts.authenticator,
            ambient=base.ambient,
            ready=lambda: self._ready and not parts.telemetry.failing,
            meters=parts.meters,
            more=[
                *admin.table(),
                *TwinOperations(parts.registry, parts.twins).table(),
                *QueryOperations(parts.queries).table(),
                *methods.table(),
                *DigitalTwinOperations(parts.twins, parts.methods, methods).table(),
                *parts.messaging.operations,
                *files,
                *more,
            ],
        )

    def _announce(self, directory: DataDirectory, facts: dict[str, Any]) -> None:
        self.facts = {**facts, "pid": os.getpid()}
        directory.announce(self.facts)
        self._ready = True

    async def _material(
        self, directory: DataDirectory, kept: HubSettingsStore, ambient: Ambient
    ) -> tuple[Material, ServerCertificate | OwnCertificate]:
        """What the hub is made of, and its certificate, which is kept fresh from now on."""
        settings = self.settings
        load = partial(load_material, kept, ambient, settings.all_hostnames, development=settings.data is None)
        material = await load()
        certificate: ServerCertificate | OwnCertificate
        if settings.certificate is None:
            certificate = ServerCertificate(directory, ambient, material, load)
        else:
            names = settings.given_hostnames
            certificate = await OwnCertificate.open(settings.certificate, names, directory, ambient)
            if not certificate.rooted:
                self.notes.append(ROOT_NOT_KNOWN.format(certificate=settings.certificate.certificate))
        self._certificate = certificate
        self._undo.append(certificate.close)
        return material, certificate

    def _database(self, directory: DataDirectory) -> tuple[Writer, apsw.Connection]:
        loop = asyncio.get_running_loop()
        writer = Writer(directory.hub_database, MIGRATIONS, loop, durable=self.settings.durable)
        self._undo.append(writer.close)
        reader = open_connection(directory.hub_database, readonly=True)
        self._undo.append(reader.close)
        return writer, reader

    def _bind(self) -> dict[str, list[socket.socket]]:
        """Sockets for every listener, by name, so that ports are known before anything is built."""
        settings = self.settings
        bound: dict[str, list[socket.socket]] = {}
        self._undo.append(lambda: _close_sockets(bound))
        ports = {"mqtt": settings.mqtt_port, "amqp": settings.amqp_port, "https": settings.https_port}
        if settings.amqp_plain_port is not None:
            ports["amqp_plain"] = settings.amqp_plain_port
        for name, port in ports.items():
            flag = _flag(name)
            try:
                bound[name] = bind(settings.bind, port, flag)
            except PermissionError:
                if port != HTTPS_PORT:
                    raise BindError(f"port {port} needs a privilege here; choose one above 1023 with {flag}") from None
                self.notes.append(HOW_TO_ALLOW_443)
                bound[name] = bind(settings.bind, FALLBACK_HTTPS_PORT, flag)
        return bound

    def _listen(
        self,
        certificate: ServerCertificate | OwnCertificate,
        sockets: Mapping[str, list[socket.socket]],
        protocols: Mapping[str, Callable[[], Any]],
        when_failed: HandshakeRefusals,
    ) -> None:
        """Accept TLS connections for each of ``protocols`` on its sockets."""
        for name, make_protocol in protocols.items():
            listener = self._listeners[name] = TlsListener(
                asyncio.get_running_loop(), certificate.context, make_protocol, when_failed
            )
            listen(sockets[name], _flag(name))
            listener.listen(sockets[name])

    async def _listen_plain(self, sockets: Sequence[socket.socket], make_protocol: Callable[[], Any]) -> None:
        listen(sockets, _flag("amqp_plain"))
        for sock in sockets:
            server = await asyncio.get_running_loop().create_server(make_protocol, sock=sock, backlog=BACKLOG)
            self._undo.append(server.close)


def _flag(listener: str) -> str:
    """The option that chooses the port of a listener."""
    return f"--{listener.replace('_', '-')}-port"


def _device_services(base: Foundation, parts: Parts) -> DeviceServices:
    return DeviceServices(
        parts.authenticator, parts.sessions, parts.telemetry, parts.refusals, base.ambient, parts.twins, parts.methods,
        parts.messaging.commands, parts.meters, parts.faults,
    )  # fmt: skip


def _close_sockets(bound: Mapping[str, Sequence[socket.socket]]) -> None:
    for sockets in bound.values():
        for sock in sockets:
            sock.close()


async def _drain(listeners: Mapping[str, TlsListener], http: HttpServer) -> None:
    """End all connections; HTTPS last, with the REST calls in progress and the WebSockets apart."""
    https = listeners.get("https")
    others = [listener for listener in listeners.values() if listener is not https]
    for listener in others:
        listener.stop_accepting()
    if https is not None:
        for protocol in https.protocols():
            if isinstance(protocol, WebSocketTransport):
                protocol.close()
    await asyncio.gather(_finish(http), *(listener.close_connections(DRAIN_SECONDS) for listener in others))
    if https is not None:
        https.stop_accepting()
        await https.close_connections(GOODBYE_SECONDS)


async def _finish(http: HttpServer) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            await http.drain()
