"""The node: every part of the hub put together, started in order and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import apsw

from muster.core.ambient import Ambient, SystemAmbient
from muster.core.bus import LocalBus
from muster.core.errors import UNAVAILABLE
from muster.core.outbox import Outbox
from muster.core.settings_store import HubSettingsStore
from muster.dialect.event_bodies import event_record
from muster.events.model import Source
from muster.events.recorder import EventRecorder, next_epoch
from muster.events.relay import EventRelay
from muster.heads.amqp import AmqpHead
from muster.heads.eventhubs import EventHub
from muster.heads.front import FrontProtocol
from muster.heads.http.admin import AdminOperations
from muster.heads.http.app import build_app
from muster.heads.http.connection import HttpServer
from muster.heads.http.digital_twins import DigitalTwinOperations
from muster.heads.http.methods import MethodOperations
from muster.heads.http.queries import QueryOperations
from muster.heads.http.twins import TwinOperations
from muster.heads.listener import BACKLOG, TlsListener
from muster.heads.mqtt import MqttConnection, MqttServices
from muster.heads.tls import WireProtocol
from muster.heads.websocket import WebSocketTransport
from muster.identity.authenticator import Authenticator
from muster.identity.hub import make_hub
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.messages.methods import Methods
from muster.messages.telemetry import Telemetry
from muster.node.certificate import ServerCertificate
from muster.node.directory import DataDirectory
from muster.node.facts import Reach, facts_of, keep_reach
from muster.node.files import FileParts, file_operations
from muster.node.material import Material, load_material
from muster.node.messaging import make_messaging, make_queues
from muster.node.settings import Settings
from muster.node.sockets import FALLBACK_HTTPS_PORT, HOW_TO_ALLOW_443, HTTPS_PORT, BindError, bind, listen
from muster.sessions.table import SessionTable
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.outbox import SqliteOutbox
from muster.stores.sqlite.queries import SqliteQueryStore
from muster.stores.sqlite.queues import SqliteQueueStore
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from muster.stores.sqlite.telemetry import SqliteTelemetryLog
from muster.stores.sqlite.twins import SqliteTwinStore
from muster.twins.query.service import Queries
from muster.twins.service import Twins

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
        self._ready = False
        self._listeners: dict[str, TlsListener] = {}
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
        """Drain, make what was accepted durable, close. Safe to call twice.

        Draining: nothing new is let in and all sessions end. Until they have, and until the REST calls in progress are
        answered, HTTPS goes on, so that who probes ``/health/ready`` hears 503.
        """
        self._ready = False
        while self._undo:
            pending = self._undo.pop()()
            if pending is not None:
                await pending

    async def _start(self) -> None:
        settings, loop = self.settings, asyncio.get_running_loop()
        ambient = SystemAmbient(loop)
        directory = DataDirectory.temporary() if settings.data is None else DataDirectory(settings.data)
        self._undo.append(directory.release)
        sockets = self._bind()
        ports = {name: int(bound[0].getsockname()[1]) for name, bound in sockets.items()}
        durable = settings.sync and settings.data is not None

        writer, reader = self._database(directory, durable=durable)
        kept = SqliteHubSettingsStore(writer, reader)
        material, certificate = await self._material(directory, kept, ambient)
        hub = make_hub(settings.all_hostnames, material.policies, settings.profile, name=material.name)
        telemetry = self._telemetry(directory, ambient, durable=durable)
        outbox = SqliteOutbox(writer)
        recorder = self._events(outbox, telemetry, hub.name, ambient)

        identities = SqliteIdentityStore(writer, reader, outbox, recorder)
        bus = LocalBus()
        refusals = Refusals(ambient, settings.profile, SqliteRefusalStore(writer, reader))
        sessions = SessionTable(hub.name, identities, bus, ambient)
        await _watch(sessions, recorder, outbox, kept, ambient)
        queues = make_queues(hub.name, SqliteQueueStore(writer, reader), bus, ambient, settings)
        registry = Registry(hub.name, identities, sessions, bus, ambient, depth=queues.depth)
        authenticator = Authenticator(hub, identities, ambient, refusals)
        twins = Twins(hub.name, SqliteTwinStore(writer, reader, outbox), sessions, ambient, recorder)
        methods = Methods(registry, sessions, ambient)
        messaging, stop_queues = make_messaging(hub.name, queues, registry, ambient, settings)
        self._undo.append(stop_queues)
        queries = await self._queries(hub.name, writer, sessions)
        self.ambient, self.registry = ambient, registry
        files = await file_operations(
            FileParts(settings, directory, hub, writer, reader, kept, ambient, authenticator, ports["https"]),
            messaging.file_notifications, self._undo.append, durable=durable,
        )  # fmt: skip

        method_operations = MethodOperations(methods, ambient)
        admin = AdminOperations(refusals, telemetry, settings.profile, lambda: self._ready)
        app = build_app(
            registry=registry,
            gate=authenticator,
            ambient=ambient,
            ready=lambda: self._ready and not telemetry.failing,
            more=[
                *admin.table(),
                *TwinOperations(registry, twins).table(),
                *method_operations.table(),
                *DigitalTwinOperations(twins, methods, method_operations).table(),
                *messaging.operations,
                *files,
                *QueryOperations(queries).table(),
            ],
        )
        events = EventHub(telemetry, hub.name, groups=settings.consumer_groups, redirect_port=ports["amqp"])
        make_amqp = AmqpHead(authenticator, refusals, ambient, [events, *messaging.roles], loop)
        services = MqttServices(
            authenticator, sessions, telemetry, refusals, ambient, twins, methods, messaging.commands
        )
        make_mqtt = partial(MqttConnection, services, loop)
        http = HttpServer(app, ambient.now)
        self._undo.append(http.close)
        make_front = partial(FrontProtocol, loop, make_mqtt, make_amqp, http, lambda: http.draining)
        self._undo.append(partial(_drain, self._listeners, http))
        self._listen(certificate, sockets, {"mqtt": make_mqtt, "amqp": make_amqp, "https": make_front})
        if "amqp_plain" in sockets:
            await self._listen_plain(sockets["amqp_plain"], make_amqp)
        self._undo += [partial(make_amqp.end_all, UNAVAILABLE), partial(sessions.end_all, UNAVAILABLE), methods.close]

        reach = Reach(settings.all_hostnames, settings.dps_hostname, settings.bind, ports)
        await keep_reach(kept, reach)
        self._announce(directory, facts_of(hub, material, directory, reach))

    def _announce(self, directory: DataDirectory, facts: dict[str, Any]) -> None:
        self.facts = {**facts, "pid": os.getpid()}
        directory.announce(self.facts)
        self._ready = True

    async def _material(
        self, directory: DataDirectory, kept: HubSettingsStore, ambient: Ambient
    ) -> tuple[Material, ServerCertificate]:
        """What the hub is made of, and its certificate, which is kept fresh from now on."""
        settings = self.settings
        load = partial(load_material, kept, ambient, settings.all_hostnames, development=settings.data is None)
        material = await load()
        certificate = ServerCertificate(directory, ambient, material, load)
        self._undo.append(certificate.close)
        return material, certificate

    def _database(self, directory: DataDirectory, *, durable: bool) -> tuple[Writer, apsw.Connection]:
        writer = Writer(directory.hub_database, MIGRATIONS, asyncio.get_running_loop(), durable=durable)
        self._undo.append(writer.close)
        reader = open_connection(directory.hub_database, readonly=True)
        self._undo.append(reader.close)
        return writer, reader

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

    def _events(self, outbox: Outbox, telemetry: Telemetry, hub: str, ambient: Ambient) -> EventRecorder | None:
        """Begin to relay events; what records them, if any are wanted. An earlier run may have left some anyway."""
        relay = EventRelay(outbox, telemetry, ambient)
        relay.start()
        self._undo.append(relay.close)
        sources = self.settings.events
        return EventRecorder(sources, partial(event_record, hub), ambient) if sources else None

    async def _queries(self, hub: str, writer: Writer, sessions: SessionTable) -> Queries:
        store = SqliteQueryStore(writer, sessions, self.settings.indexes)
        self._undo.append(store.close)
        await store.prepare()
        return Queries(hub, store)

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
        certificate: ServerCertificate,
        sockets: Mapping[str, list[socket.socket]],
        protocols: Mapping[str, Callable[[], WireProtocol]],
    ) -> None:
        """Accept TLS connections for each of ``protocols`` on its sockets."""
        for name, make_protocol in protocols.items():
            listener = self._listeners[name] = TlsListener(
                asyncio.get_running_loop(), certificate.context, make_protocol
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


async def _watch(
    sessions: SessionTable, recorder: EventRecorder | None, outbox: Outbox, kept: HubSettingsStore, ambient: Ambient
) -> None:
    if recorder is not None and Source.CONNECTION in recorder.sources:
        recorder.watch(sessions, outbox, await next_epoch(kept, ambient))


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
