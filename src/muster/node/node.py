"""The node: every part of the hub put together, started in order and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from OpenSSL import SSL

from muster.core.ambient import Ambient, SystemAmbient
from muster.core.bus import LocalBus
from muster.core.errors import UNAVAILABLE
from muster.heads.amqp import AmqpHead
from muster.heads.eventhubs import EventHub
from muster.heads.front import FrontProtocol
from muster.heads.handshakes import HandshakeRefusals
from muster.heads.http.admin import AdminOperations
from muster.heads.http.app import build_app
from muster.heads.http.connection import HttpServer
from muster.heads.http.methods import MethodOperations
from muster.heads.http.twins import TwinOperations
from muster.heads.listener import TlsListener
from muster.heads.mqtt import MqttConnection, MqttServices
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.messages.methods import Methods
from muster.messages.telemetry import Telemetry
from muster.node.certificates import open_certificates
from muster.node.directory import DataDirectory
from muster.node.facts import Reach, facts_of, keep_reach
from muster.node.material import load_material
from muster.node.server_certificate import ServerCertificate
from muster.node.settings import Settings
from muster.node.sockets import FALLBACK_HTTPS_PORT, HOW_TO_ALLOW_443, HTTPS_PORT, BindError, bind
from muster.sessions.table import SessionTable
from muster.stores.sqlite.authorities import SqliteAuthorityStore
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from muster.stores.sqlite.telemetry import SqliteTelemetryLog
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.service import Twins

log = logging.getLogger("muster.node")

DRAIN_SECONDS = 5.0
"""How long connections get to end by themselves once the hub stops; SIGTERM ends within ten seconds."""


class Node:
    """One running hub. When ``start`` has returned every listener accepts, and ``facts`` tells how to reach it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self._ready = False
        self._undo: list[Callable[[], Awaitable[None] | None]] = []

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
        """Stop accepting, end the sessions, make what was accepted durable, close. Safe to call twice."""
        self._ready = False
        while self._undo:
            pending = self._undo.pop()()
            if pending is not None:
                await pending

    async def _start(self) -> None:
        settings, loop = self.settings, asyncio.get_running_loop()
        sockets = self._bind()
        ports = {name: int(bound[0].getsockname()[1]) for name, bound in sockets.items()}
        ambient = SystemAmbient(loop)
        directory = DataDirectory.temporary() if settings.data is None else DataDirectory(settings.data)
        self._undo.append(directory.release)
        durable = settings.sync and settings.data is not None

        writer = Writer(directory.hub_database, MIGRATIONS, loop, durable=durable)
        self._undo.append(writer.close)
        reader = open_connection(directory.hub_database, readonly=True)
        self._undo.append(reader.close)
        identities = SqliteIdentityStore(writer, reader)
        kept = SqliteHubSettingsStore(writer, reader)
        material = await load_material(kept, ambient, settings.all_hostnames, development=settings.data is None)
        serving = ServerCertificate(kept, material, settings.all_hostnames, directory, ambient)
        self._undo.append(serving.close)
        hub = settings.hub(material.name, material.policies, ambient)
        telemetry = self._telemetry(directory, ambient, durable=durable)

        bus = LocalBus()
        refusals = Refusals(ambient, settings.profile, SqliteRefusalStore(writer, reader))
        sessions = SessionTable(hub.name, identities, bus, ambient)
        registry = Registry(hub.name, identities, sessions, bus, ambient)
        certificates = await open_certificates(
            hub, SqliteAuthorityStore(writer, reader), sessions=sessions, refusals=refusals, bus=bus, ambient=ambient
        )
        self._undo.append(certificates.news.stop)
        authenticator = certificates.authenticator(identities)
        twins = Twins(hub.name, SqliteTwinStore(writer, reader), sessions, ambient)
        methods = Methods(registry, sessions, ambient)
        self.ambient, self.registry = ambient, registry

        more = [
            *AdminOperations(refusals, telemetry, settings.profile, lambda: self._ready).table(),
            *TwinOperations(registry, twins).table(),
            *MethodOperations(methods, ambient).table(),
            *certificates.operations(authenticator, identities, sessions, serving.own),
        ]
        app = build_app(registry=registry, gate=authenticator, ambient=ambient, ready=lambda: self._ready, more=more)
        events = EventHub(telemetry, hub.name, groups=settings.consumer_groups, redirect_port=ports["amqp"])
        make_amqp = AmqpHead(authenticator, refusals, ambient, [events], loop)
        services = MqttServices(authenticator, sessions, telemetry, refusals, ambient, twins, methods)
        make_mqtt = partial(MqttConnection, services, loop)
        make_http = HttpServer(app, ambient.now)
        self._undo.append(make_http.close)
        make_front = partial(FrontProtocol, loop, make_mqtt, make_amqp, make_http)
        heads: dict[str, Callable[[], Any]] = {"mqtt": make_mqtt, "amqp": make_amqp, "https": make_front}
        self._listen(serving.context, sockets, heads, HandshakeRefusals(refusals, ambient, hub.hosts))
        if "amqp_plain" in sockets:
            await self._listen_plain(sockets["amqp_plain"], make_amqp)
        self._undo.append(lambda: make_amqp.end_all(UNAVAILABLE))
        self._undo.append(lambda: sessions.end_all(UNAVAILABLE))
        self._undo.append(methods.close)

        reach = Reach(settings.all_hostnames, settings.dps_hostname, settings.bind, ports)
        await keep_reach(kept, reach)
        self._announce(directory, facts_of(hub, material, directory, reach))

    def _announce(self, directory: DataDirectory, facts: Mapping[str, Any]) -> None:
        self.facts = {**facts, "pid": os.getpid()}
        directory.announce(self.facts)
        self._ready = True

    def _telemetry(self, directory: DataDirectory, ambient: Ambient, *, durable: bool) -> Telemetry:
        settings = self.settings
        telemetry = Telemetry(
            SqliteTelemetryLog(
                directory.telemetry_database,
                settings.partitions,
                asyncio.get_running_loop(),
                created_at=ambient.now(),
                durable=durable,
            ),
            ambient,
            retention_seconds=settings.retention_seconds,
            retention_bytes=settings.retention_bytes,
        )
        telemetry.start()
        self._undo.append(telemetry.close)
        return telemetry

    def _bind(self) -> dict[str, list[socket.socket]]:
        """Sockets for every listener, by name, so that ports are known before anything is built."""
        settings = self.settings
        bound: dict[str, list[socket.socket]] = {}
        self._undo.append(lambda: _close_sockets(bound))
        ports = {"mqtt": settings.mqtt_port, "amqp": settings.amqp_port, "https": settings.https_port}
        if settings.amqp_plain_port is not None:
            ports["amqp_plain"] = settings.amqp_plain_port
        for name, port in ports.items():
            flag = f"--{name.replace('_', '-')}-port"
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
        context: Callable[[], SSL.Context],
        sockets: Mapping[str, list[socket.socket]],
        protocols: Mapping[str, Callable[[], Any]],
        when_failed: HandshakeRefusals,
    ) -> None:
        """Accept TLS connections for each of ``protocols`` on its sockets."""
        listeners: list[TlsListener] = []
        self._undo.append(partial(_close_listeners, listeners))
        for name, make_protocol in protocols.items():
            listener = TlsListener(asyncio.get_running_loop(), context, make_protocol, when_failed)
            listeners.append(listener)
            listener.listen(sockets[name])

    async def _listen_plain(self, sockets: Sequence[socket.socket], make_protocol: Callable[[], Any]) -> None:
        for sock in sockets:
            server = await asyncio.get_running_loop().create_server(make_protocol, sock=sock)
            self._undo.append(server.close)


def _close_sockets(bound: Mapping[str, Sequence[socket.socket]]) -> None:
    for sockets in bound.values():
        for sock in sockets:
            sock.close()


async def _close_listeners(listeners: list[TlsListener]) -> None:
    for listener in listeners:
        listener.stop_accepting()
    await asyncio.gather(*(listener.close_connections(DRAIN_SECONDS) for listener in listeners))
