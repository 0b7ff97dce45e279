"""The node: its hubs and what they share put together, started in order and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from muster.access.issuers import Issuer, Issuers
from muster.audit.refused import RefusedChanges
from muster.core.ambient import SystemAmbient
from muster.core.company import Company
from muster.core.errors import UNAVAILABLE
from muster.core.settings_store import HubSettingsStore
from muster.heads.amqp import AmqpHead
from muster.heads.amqp_roles import readmit
from muster.heads.arm.app import build_management
from muster.heads.arm.long_operations import LongOperations
from muster.heads.front import FrontProtocol
from muster.heads.handshakes import HandshakeRefusals
from muster.heads.http.audit import AuditOperations
from muster.heads.http.connection import App, HttpServer
from muster.heads.http.hub_admin import HubOperations
from muster.heads.http.hubs import answer_by_hub
from muster.heads.http.nodes import NodeOperations
from muster.heads.http.provisioning_metrics import provisioning_families
from muster.heads.listener import BACKLOG, TlsListener
from muster.heads.mqtt_kinds import connection_maker
from muster.heads.mqtt_provisioning import ProvisioningConnection
from muster.heads.registration_links import RegistrationLinks
from muster.heads.relief import Relief
from muster.heads.websocket import WebSocketTransport
from muster.identity.registry import Registry
from muster.node.certificate import ServerCertificate
from muster.node.credential_policies import PolicyBook
from muster.node.deployment import Deployment, Eraser, finish_removals
from muster.node.directory import DataDirectory, WorkerDirectory
from muster.node.engines import Engines, open_engines
from muster.node.facts import Reach, Service, facts_of, keep_reach
from muster.node.fetch import fetch_trusting
from muster.node.foundation import Undo
from muster.node.hub import OpenHub, Site
from muster.node.hubs import Hubs, open_hubs
from muster.node.linked_hub import local_hub
from muster.node.material import Material, load_material, load_provisioning_policies
from muster.node.network import end_refused_when_changed
from muster.node.nodes import Nodes, about_node
from muster.node.own_certificate import ROOT_NOT_KNOWN, OwnCertificate
from muster.node.provisioning import Keeping, Provisioning, open_provisioning
from muster.node.roles import Roles
from muster.node.roster import Roster, open_roster
from muster.node.settings import Settings
from muster.node.settings_record import record_settings
from muster.node.sockets import FALLBACK_HTTPS_PORT, HOW_TO_ALLOW_443, HTTPS_PORT, BindError, bind, listen
from muster.provisioning.hubs import LinkedHubs
from muster.provisioning.renewals import Renewals
from muster.stores.storage import Storage

log = logging.getLogger("muster.node")

DRAIN_SECONDS, GOODBYE_SECONDS = 5.0, 1.5
"""Once the hub stops: how long connections and REST calls get to end by themselves, and how long HTTPS then takes to
close. SIGTERM ends within ten seconds."""


class Node:
    """The hubs of a process. Once ``start`` has returned every listener accepts; ``facts`` says how to reach them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.facts: dict[str, Any] = {}
        self.notes: list[str] = []
        self._certificate: ServerCertificate | OwnCertificate | None = None
        self._ready = False
        self._listeners: dict[str, TlsListener] = {}
        self._company = Company()
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

    def reload_files(self) -> None:
        """Take the operator's certificate and roles from his files now, if he has brought any."""
        if isinstance(self._certificate, OwnCertificate):
            self._certificate.reload()
        self._roles.reload()

    async def _start(self) -> None:
        settings = self.settings
        self.ambient = SystemAmbient(asyncio.get_running_loop())
        directory = _directory(settings)
        self._undo.append(directory.release)
        sockets = self._bind()
        ports = {name: int(bound[0].getsockname()[1]) for name, bound in sockets.items()}
        about = about_node(settings, ports)
        engines = await open_engines(settings, directory, self.ambient, self._company, self._undo, about=about)
        nodes = Nodes(about, self.ambient.now(), None if engines.several is None else engines.several.lease)
        async with engines.starting():
            await self._build(engines, nodes, directory, sockets, ports)

    async def _build(
        self,
        engines: Engines,
        nodes: Nodes,
        directory: DataDirectory,
        sockets: Mapping[str, list[socket.socket]],
        ports: Mapping[str, int],
    ) -> None:
        settings, ambient, loop, storage = self.settings, self.ambient, asyncio.get_running_loop(), engines.storage
        kept, audit = storage.settings, storage.audit
        await record_settings(settings, kept, ambient)
        roster = await open_roster(settings, kept)
        await finish_removals(roster, Eraser(engines, directory))
        material, certificate = await self._material(directory, kept, roster)
        linked = LinkedHubs()
        keeping = Keeping(
            storage.provisioning, PolicyBook(directory.path, settings.credential_policies),
            await load_provisioning_policies(kept, ambient, development=settings.data is None),
        )  # fmt: skip
        roles = await self._load_roles(storage)
        site = Site(
            settings, directory, engines, kept, ambient, ports, lambda: self._ready,
            lambda: engines.take_sessions() and not self.hubs.failing(),
            certificate.own, issuers=self._issuers(), decide=roles.granting.decide,
            renewals=Renewals(material.id_scope, keeping.store, keeping.issuers, linked, ambient),
            audit=audit, refused=RefusedChanges(audit, ambient), nodes=nodes,
        )  # fmt: skip
        self.hubs = hubs = await open_hubs(site, roster)
        self._undo.append(hubs.close_all)
        announce = partial(self._announce, directory, kept, roster, Service(material.id_scope, keeping.policies), ports)
        keeping.policies.when_changed(announce)
        deployment = Deployment(site, hubs, roster, certificate, announce)
        first = replace(hubs.first.base, undo=self._undo)
        _with_each(hubs, partial(_join, linked, announce))
        provisioning = await open_provisioning(first, keeping, material, linked, hubs.first.parts)
        hubs.when_closing(lambda hub: linked.unlink(hub.facts.host, first.kept))
        own = [*HubOperations(deployment).table(), *AuditOperations(audit, None).table()]
        own += NodeOperations(partial(nodes.reports, hubs.connected)).table()
        own += roles.serve(hubs, material.id_scope, provisioning.managed.gate.bearer)
        await hubs.serve(provisioning.operations, own, partial(provisioning_families, provisioning.timeline))

        http = HttpServer(answer_by_hub(hubs.apps, self._management(site, deployment, provisioning)), ambient.now)
        self._undo.append(http.close)
        make_amqp = AmqpHead(hubs.amqp, ambient, loop, RegistrationLinks(provisioning.requests))
        make_mqtt = connection_maker(hubs.mqtt, loop, partial(ProvisioningConnection, provisioning.requests, loop))
        make_front = partial(FrontProtocol, loop, make_mqtt, make_amqp, http, lambda: http.draining)
        self._undo.append(partial(_drain, self._listeners, http))
        heads: dict[str, Callable[[], Any]] = {"mqtt": make_mqtt, "amqp": make_amqp, "https": make_front}
        self._listen(certificate, sockets, heads, HandshakeRefusals(hubs.refusals, ambient, certificate.covers))
        if "amqp_plain" in sockets:
            await self._listen_plain(sockets["amqp_plain"], make_amqp)
        end_refused_when_changed(hubs, make_amqp)
        _with_each(hubs, partial(_end_withdrawn, make_amqp))
        hubs.when_closing(lambda hub: make_amqp.end_all(UNAVAILABLE, hub.amqp))
        hubs.when_closing(lambda hub: http.settle(hub.rest, DRAIN_SECONDS))
        self._undo += [partial(make_amqp.end_all, UNAVAILABLE), hubs.end]
        await announce()
        self._ready = True

    def _management(self, site: Site, deployment: Deployment, provisioning: Provisioning) -> App:
        """The management API. What takes long there is waited for at the end."""
        work = LongOperations(site.ambient)
        self._undo.append(work.close)
        return build_management(deployment, provisioning.managed, work, site.ambient, refused=site.refused.add)

    async def _load_roles(self, storage: Storage) -> Roles:
        self._roles = Roles(storage, lambda: self.hubs)
        await self._roles.load(self.settings.roles_file, self.ambient, self._undo)
        return self._roles

    def _issuers(self) -> Issuers:
        """Those whose bearer tokens count; their keys are fetched from now on."""
        settings = self.settings
        fetch = fetch_trusting(settings.oidc_ca)
        found = (Issuer(url, fetch, self.ambient) for url in settings.oidc_issuers)
        issuers = Issuers(found, settings.oidc_audiences)
        self._undo.append(issuers.stop)
        issuers.start()
        return issuers

    @property
    def registry(self) -> Registry:
        """The identities of the first hub."""
        return self.hubs.first.parts.registry

    async def _announce(
        self,
        directory: DataDirectory,
        kept: HubSettingsStore,
        roster: Roster,
        service: Service,
        ports: Mapping[str, int],
    ) -> None:
        settings, others = self.settings, {hub.name: hub.hostnames for hub in roster}
        reach = Reach(settings.all_hostnames, settings.dps_hostname, settings.bind, ports, others)
        await keep_reach(kept, reach)
        self.facts = {**facts_of(self.hubs.facts, service, directory, reach), "pid": os.getpid()}
        directory.announce(self.facts)

    async def _material(
        self, directory: DataDirectory, kept: HubSettingsStore, roster: Roster
    ) -> tuple[Material, ServerCertificate | OwnCertificate]:
        """What the hubs share, and the certificate for the names of all, which is kept fresh from now on."""
        settings = self.settings

        async def load() -> Material:
            return await load_material(kept, self.ambient, roster.hostnames, development=settings.data is None)

        material = await load()
        certificate: ServerCertificate | OwnCertificate
        if settings.certificate is None:
            certificate = ServerCertificate(directory, self.ambient, material, load)
        else:
            names = lambda: roster.given_hostnames  # noqa: E731
            certificate = await OwnCertificate.open(settings.certificate, names, directory, self.ambient)
            if not certificate.rooted:
                self.notes.append(ROOT_NOT_KNOWN.format(certificate=settings.certificate.certificate))
        self._certificate = certificate
        self._undo.append(certificate.close)
        return material, certificate

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
                bound[name] = bind(settings.bind, port, flag, shared=settings.shared_ports)
            except PermissionError:
                if port != HTTPS_PORT:
                    raise BindError(f"port {port} needs a privilege here; choose one above 1023 with {flag}") from None
                self.notes.append(HOW_TO_ALLOW_443)
                bound[name] = bind(settings.bind, FALLBACK_HTTPS_PORT, flag, shared=settings.shared_ports)
        return bound

    def _listen(
        self,
        certificate: ServerCertificate | OwnCertificate,
        sockets: Mapping[str, list[socket.socket]],
        protocols: Mapping[str, Callable[[], Any]],
        when_failed: HandshakeRefusals,
    ) -> None:
        """Accept TLS connections for each of ``protocols`` on its sockets."""
        relief = Relief()
        for name, make_protocol in protocols.items():
            listener = self._listeners[name] = TlsListener(
                asyncio.get_running_loop(), certificate.context, make_protocol, when_failed, relief,
                company=self._company,
            )  # fmt: skip
            listen(sockets[name], _flag(name))
            listener.listen(sockets[name])

    async def _listen_plain(self, sockets: Sequence[socket.socket], make_protocol: Callable[[], Any]) -> None:
        listen(sockets, _flag("amqp_plain"))
        for sock in sockets:
            server = await asyncio.get_running_loop().create_server(make_protocol, sock=sock, backlog=BACKLOG)
            self._undo.append(server.close)


def _directory(settings: Settings) -> DataDirectory:
    if settings.worker is not None:
        return WorkerDirectory(settings.worker.place, settings.worker.number)
    return DataDirectory.temporary() if settings.data is None else DataDirectory(settings.data)


def _flag(listener: str) -> str:
    """The option that chooses the port of a listener."""
    return f"--{listener.replace('_', '-')}-port"


def _with_each(hubs: Hubs, listener: Callable[[OpenHub], None]) -> None:
    """Call ``listener`` with the hubs that are open, and from now on with those that are opened."""
    for hub in hubs.all():
        listener(hub)
    hubs.when_opened(listener)


def _join(linked: LinkedHubs, announce: Callable[[], Awaitable[None]], hub: OpenHub) -> None:
    """Have provisioning know ``hub``, and tell how to reach it when that has changed."""
    linked.link(local_hub(hub))
    hub.when_access_changes(announce)


def _end_withdrawn(head: AmqpHead, hub: OpenHub) -> None:
    """From now on end what tokens have let in over AMQP that count no more, or whose callers lost their roles."""
    hub.when_access_changes(partial(head.access_changed, hub.amqp))
    hub.parts.bearer.when_roles_change(partial(readmit, head, hub.amqp))


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
