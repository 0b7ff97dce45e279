"""The node: every part of the hub put together, started in order and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web
from OpenSSL import SSL

from muster.core.ambient import SystemAmbient
from muster.core.bus import LocalBus
from muster.core.errors import UNAVAILABLE
from muster.heads.front import FrontProtocol
from muster.heads.http.admin import AdminOperations
from muster.heads.http.app import build_app, make_runner
from muster.heads.listener import TlsListener
from muster.heads.mqtt import MqttConnection, MqttServices
from muster.heads.tls import WireProtocol, server_context
from muster.identity.authenticator import Authenticator
from muster.identity.hub import make_hub
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.messages.telemetry import Telemetry
from muster.node.directory import DataDirectory
from muster.node.facts import Reach, facts_of, keep_reach
from muster.node.material import Material, load_material
from muster.node.settings import Settings
from muster.node.sockets import FALLBACK_HTTPS_PORT, HOW_TO_ALLOW_443, HTTPS_PORT, BindError, bind
from muster.sessions.table import SessionTable
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.identities import SqliteIdentityStore
from muster.stores.sqlite.refusals import SqliteRefusalStore
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from muster.stores.sqlite.telemetry import SqliteTelemetryLog

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
        _write_certificates(directory, material)
        hub = make_hub(settings.all_hostnames, material.policies, settings.profile, name=material.name)

        telemetry_log = SqliteTelemetryLog(
            directory.telemetry_database, settings.partitions, loop, created_at=ambient.now(), durable=durable
        )
        telemetry = Telemetry(
            telemetry_log,
            ambient,
            retention_seconds=settings.retention_seconds,
            retention_bytes=settings.retention_bytes,
        )
        telemetry.start()
        self._undo.append(telemetry.close)

        bus = LocalBus()
        refusals = Refusals(ambient, settings.profile, SqliteRefusalStore(writer, reader))
        sessions = SessionTable(hub.name, identities, bus, ambient)
        registry = Registry(hub.name, identities, sessions, bus, ambient)
        authenticator = Authenticator(hub, identities, ambient, refusals)
        self.ambient, self.registry = ambient, registry

        admin = AdminOperations(refusals, telemetry, settings.profile, lambda: self._ready)
        app = build_app(
            registry=registry, gate=authenticator, ambient=ambient, ready=lambda: self._ready, more=admin.table()
        )
        mqtt = MqttServices(authenticator, sessions, telemetry, refusals, ambient)
        ports = await self._serve(
            server_context(str(directory.chain_file), str(directory.key_file)),
            partial(MqttConnection, mqtt, loop),
            partial(MqttConnection, mqtt, loop),
            await self._http(app),
        )
        self._undo.append(lambda: sessions.end_all(UNAVAILABLE))
        reach = Reach(settings.all_hostnames, settings.dps_hostname, settings.bind, ports)
        await keep_reach(kept, reach)
        self.facts = {**facts_of(hub, material, directory, reach), "pid": os.getpid()}
        directory.announce(self.facts)
        self._ready = True

    async def _http(self, app: web.Application) -> Callable[[], Any]:
        runner = make_runner(app)
        await runner.setup()
        self._undo.append(runner.cleanup)
        assert runner.server is not None
        return runner.server

    async def _serve(
        self,
        context: SSL.Context,
        make_mqtt: Callable[[], WireProtocol],
        make_amqp: Callable[[], Any],
        make_http: Callable[[], Any],
    ) -> dict[str, int]:
        """Open every listener; the port of each."""
        settings, loop = self.settings, asyncio.get_running_loop()
        listeners: list[TlsListener] = []
        self._undo.append(partial(_close_listeners, listeners))
        make_front = partial(FrontProtocol, loop, make_mqtt, make_amqp, make_http)
        ports: dict[str, int] = {}
        for name, make_protocol, port in (
            ("mqtt", make_mqtt, settings.mqtt_port),
            ("amqp", make_amqp, settings.amqp_port),
            ("https", make_front, settings.https_port),
        ):
            sockets = self._bind(port, f"--{name}-port")
            listener = TlsListener(loop, lambda: context, make_protocol)
            listeners.append(listener)
            listener.listen(sockets)
            ports[name] = sockets[0].getsockname()[1]
        if settings.amqp_plain_port is not None:
            sockets = bind(settings.bind, settings.amqp_plain_port, "--amqp-plain-port")
            for sock in sockets:
                server = await loop.create_server(make_amqp, sock=sock)
                self._undo.append(server.close)
            ports["amqp_plain"] = sockets[0].getsockname()[1]
        return ports

    def _bind(self, port: int, flag: str) -> list[socket.socket]:
        try:
            return bind(self.settings.bind, port, flag)
        except PermissionError:
            if port != HTTPS_PORT:
                raise BindError(f"port {port} needs a privilege here; choose one above 1023 with {flag}") from None
            self.notes.append(HOW_TO_ALLOW_443)
            return bind(self.settings.bind, FALLBACK_HTTPS_PORT, flag)


async def _close_listeners(listeners: list[TlsListener]) -> None:
    for listener in listeners:
        listener.stop_accepting()
    await asyncio.gather(*(listener.close_connections(DRAIN_SECONDS) for listener in listeners))


def _write_certificates(directory: DataDirectory, material: Material) -> None:
    authority = material.authority.certificate
    directory.write(directory.ca_file, authority)
    directory.write(directory.bundle_file, _system_roots() + authority)
    directory.write(directory.key_file, material.server.key)
    directory.write(directory.chain_file, material.server.certificate + authority)


def _system_roots() -> bytes:
    """The machine's trusted roots as PEM, empty where it has none in one file."""
    paths = ssl.get_default_verify_paths()
    for candidate in (paths.cafile, paths.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"):
        if candidate and Path(candidate).is_file():
            return Path(candidate).read_bytes().rstrip() + b"\n"
    return b""
