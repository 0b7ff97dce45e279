"""The MQTT head on real sockets, over TLS and over WebSocket, with real stores and a clock that tests move."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from muster.core.ambient import SystemAmbient
from muster.core.bus import Bus
from muster.core.company import Company
from muster.core.daily_use import DailyUse
from muster.core.limits import Profile
from muster.core.meters import Meters
from muster.core.outbox import Outbox
from muster.core.throttles import Plan, Quota
from muster.dialect.event_bodies import event_record
from muster.dialect.record import describe
from muster.events.model import Source
from muster.events.recorder import EventRecorder, next_epoch
from muster.events.relay import EventRelay
from muster.heads.amqp import AmqpHead, AmqpHub
from muster.heads.amqp_faults import device_links
from muster.heads.amqp_links import Role
from muster.heads.device_services import DeviceServices
from muster.heads.front import FrontProtocol
from muster.heads.handshakes import HandshakeRefusals
from muster.heads.hubs import HubDirectory
from muster.heads.listener import TlsListener
from muster.heads.mqtt import MqttConnection
from muster.heads.mqtt_kinds import connection_maker
from muster.heads.tls import server_context
from muster.identity.authenticator import Authenticator
from muster.identity.authorities import Authorities
from muster.identity.authority_contract import AuthorityStore
from muster.identity.changes import Draft
from muster.identity.hub import make_hub
from muster.identity.model import IdentityKey
from muster.identity.policies import development_policies
from muster.identity.refusals import Refusals
from muster.identity.registry import Registry
from muster.identity.revocation_news import RevocationNews
from muster.identity.sas import make
from muster.identity.trust import Trust
from muster.issuing.authority import issue_server_certificate, make_authority
from muster.messages.contract import Share, Slice, TelemetryLog
from muster.messages.methods import Methods
from muster.messages.queue_contract import QueueStore
from muster.messages.queues import Queues
from muster.messages.telemetry import Telemetry
from muster.node.engines import Engines
from muster.node.fetch import fetch
from muster.node.messaging import Messaging, make_messaging, make_queues
from muster.node.settings import Settings
from muster.sessions.faults import Faults
from muster.sessions.grounds import CertificateGrounds
from muster.sessions.several import drain
from muster.sessions.subscriptions import Subscriptions
from muster.sessions.table import SessionTable
from muster.stores.sqlite.inline import WhileQuick
from muster.stores.sqlite.telemetry import SqliteTelemetryLog
from muster.stores.storage import Storage
from muster.testing.clock import VirtualAmbient
from muster.testing.mqtt import PINGREQ, MqttClient, connect
from muster.twins.service import Twins
from tests.engines import clustered, open_engines

PARTITIONS = 2
SETTINGS = Settings(data=None)
TOKEN_SECONDS = 3600
MAX_PENDING_BYTES = 2_000_000
QUICK_SECONDS = 0.1
"""What counts as a quick commit: tests run beside others, who take the processor away for so long at times."""
EVENTS = "devices/d/messages/events/"

Done = Callable[[BaseException | None], None]


class HeldLog:
    """Stands before the commits of a real log: they wait while ``held``, and fail with ``failure`` instead when that
    is set."""

    def __init__(self, log: TelemetryLog) -> None:
        self.held = False
        self.failure: Exception | None = None
        self.waiting: list[tuple[Sequence[Share], int, Done]] = []
        self._real, log.commit = log.commit, self._commit  # type: ignore[method-assign]

    def _commit(self, shares: Sequence[Share], now_ms: int, done: Done) -> None:
        if self.failure is not None:
            asyncio.get_running_loop().call_soon(done, self.failure)
        elif self.held:
            self.waiting.append((shares, now_ms, done))
        else:
            self._real(shares, now_ms, done)

    def release(self) -> None:
        self.held = False
        waiting, self.waiting = self.waiting, []
        for commit in waiting:
            self._real(*commit)


class Underway:
    """What ``store`` has begun with queues and not ended. A database does it side by side, so nothing that is begun
    later tells that it has ended."""

    def __init__(self, store: QueueStore) -> None:
        self._begun: set[asyncio.Future[Any]] = set()
        for name in ("put", "edit", "edit_due", "collect"):
            setattr(store, name, partial(self._begin, getattr(store, name)))

    def _begin(self, call: Callable[..., asyncio.Future[Any]], *given: Any, **named: Any) -> asyncio.Future[Any]:
        future = call(*given, **named)
        self._begun.add(future)
        future.add_done_callback(self._begun.discard)
        return future

    async def ended(self) -> None:
        while self._begun:
            await asyncio.wait(self._begun)


class MqttHub:
    """A hub that speaks MQTT. Devices are registered on first use."""

    def __init__(self, ambient: VirtualAmbient, ca_file: Path, meters: Meters, faults: Faults | None) -> None:
        self.ambient = ambient
        self.meters = meters
        self.ca_file = ca_file
        self.client_trust = ssl.create_default_context(cafile=str(ca_file))
        self.registry: Registry
        self.sessions: SessionTable
        self.subscriptions: Subscriptions
        self.refusals: Refusals
        self.telemetry: Telemetry
        self.twins: Twins
        self.unclaimed: Twins
        """Takes reports of devices that are not connected, as none of several nodes does."""
        self.authenticator: Authenticator
        self.methods: Methods
        self.queues: Queues
        self.underway: Underway
        self.messaging: Messaging
        self.amqp: AmqpHead
        self.relay: EventRelay
        self.trusted: Trust
        self.grounds: CertificateGrounds
        self.authorities: Authorities
        self.news: RevocationNews
        self.log: HeldLog
        self.untold: Outbox
        """To look at what waits for the relay."""
        self.storage: Storage
        self.faults = faults
        self.silence = 0.0
        """The clock of ``company``, in seconds: it stands still but for tests."""
        self.company = Company(lambda: self.silence)
        self.port = self.websocket_port = 0
        self.connections: list[MqttConnection] = []
        """The hub's ends of all connections so far."""
        self._clients: list[MqttClient] = []

    # --- clients

    async def open(self, context: ssl.SSLContext | None = None) -> MqttClient:
        """A connected socket on which nothing was sent."""
        client = await MqttClient.open("localhost", self.port, context or self.client_trust)
        self._clients.append(client)
        return client

    async def login(self, device_id: str, module_id: str | None = None) -> tuple[str, str, str]:
        """Client id, user name and password of an identity, registered if need be."""
        name = str(IdentityKey(device_id, module_id))
        user = f"localhost/{name}/?api-version=2021-04-12&DeviceClientType=test"
        return name, user, await self.token(device_id, module_id)

    async def token(self, device_id: str, module_id: str | None = None, seconds: float = TOKEN_SECONDS) -> str:
        key, resource = await self.key(device_id), f"localhost/devices/{device_id}"
        if module_id is not None:
            key, resource = await self.key(device_id, module_id), f"{resource}/modules/{module_id}"
        return make(resource, int(self.ambient.now() + seconds), key)

    async def key(self, device_id: str, module_id: str | None = None) -> bytes:
        wanted = IdentityKey(device_id, module_id)
        with contextlib.suppress(Exception):
            await self.registry.create(Draft(key=wanted))
        identity = await self.registry.get(wanted)
        return base64.b64decode(identity.authentication.primary_key or "")

    async def connect_packet(self, device_id: str, module_id: str | None = None, **options: Any) -> bytes:
        return connect(*await self.login(device_id, module_id), **options)

    async def device(self, device_id: str, module_id: str | None = None, **options: Any) -> MqttClient:
        """A client that is in; options as of ``muster.testing.mqtt.connect``."""
        client = await self.open()
        _, code = await client.connect(*await self.login(device_id, module_id), **options)
        assert code == 0
        return client

    def trust_authorities(self, name: str, store: AuthorityStore, bus: Bus) -> None:
        """Judge client certificates by the authorities in ``store``."""
        ambient = self.ambient
        self.trusted = Trust(name, store, bus, ambient)
        self.grounds = CertificateGrounds(self.sessions, self.trusted, self.refusals, ambient)
        self.authorities = Authorities(name, store, self.trusted, bus, ambient, profile=Profile.OPEN)
        self.news = RevocationNews(self.trusted, self.authorities, fetch, ambient, self.grounds.proofs)

    # --- what became of it

    async def messages(self, device_id: str) -> list[dict[str, Any]]:
        """What the log holds of the device, decoded, in order."""
        partition = self.telemetry.partition_of(device_id)
        slices: Sequence[Slice] = await self.telemetry.read(partition, 0, 10_000_000)
        described = [
            describe(record, base + number, enqueued_ms)
            for base, enqueued_ms, records in slices
            for number, record in enumerate(records)
        ]
        return [message for message in described if message["device_id"] == device_id]

    async def events(self, device_id: str) -> list[dict[str, Any]]:
        """As ``messages``, once all that was recorded so far is told; without telemetry."""
        async with asyncio.timeout(10):
            while await self.untold.take(0, 1, 1):
                await asyncio.sleep(0.005)
        found = await self.messages(device_id)
        return [message for message in found if message["annotations"]["iothub-message-source"] != "Telemetry"]

    async def message_bodies(self, device_id: str, count: int) -> list[str]:
        """The bodies of the device's messages once there are ``count``; fails when they do not come."""
        async with asyncio.timeout(10):
            while len(found := await self.messages(device_id)) < count:
                await asyncio.sleep(0.01)
        return [message["body"] for message in found]

    async def advance(self, seconds: float) -> None:
        """Move the clock, and let what that brings to queues come to its end."""
        self.ambient.advance(seconds)
        for _ in range(3):
            await self.underway.ended()
            self.ambient.advance(0)  # deadlines that were found meanwhile, and have come already

    async def depth(self, queue: str = "d") -> int:
        """Messages in a queue, locked ones too."""
        (depth,) = await self.queues.depths([queue])
        return depth

    async def queued(self, depth: int, queue: str = "d") -> None:
        """Once there are so many messages in a queue."""
        async with asyncio.timeout(10):
            while await self.depth(queue) != depth:
                await asyncio.sleep(0.005)

    async def last_cause(self) -> str:
        """The cause of the newest refusal, empty without one."""
        refusal = await self.refusals.last()
        return "" if refusal is None else str(refusal.report["cause"])

    async def settled(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds."""
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.005)

    def close_clients(self) -> None:
        for client in self._clients:
            client.abort()


async def _open_log(engines: Engines, directory: Path, hub: MqttHub, vfs: str | None) -> TelemetryLog:
    path, created_at = directory / "telemetry.db", hub.ambient.now()
    if clustered():
        return await engines.open_log("localhost", path, PARTITIONS, created_at)
    loop, inline, durable = asyncio.get_running_loop(), WhileQuick(hub.company.alone, QUICK_SECONDS), vfs is not None
    return SqliteTelemetryLog(path, PARTITIONS, loop, created_at=created_at, vfs=vfs, durable=durable, inline=inline)


@contextlib.asynccontextmanager
async def mqtt_hub(
    directory: Path, events: Collection[Source] = (), plan: Plan | None = None, quota: Quota | None = None,
    *, faults: bool = False, vfs: str | None = None,
) -> AsyncIterator[MqttHub]:  # fmt: skip
    """``plan``: what is enforced, with ``quota`` in the place of its own; ``faults``: clients may ask for such;
    ``vfs``: the disk of telemetry, which is durable then."""
    system, ambient = SystemAmbient(asyncio.get_running_loop()), VirtualAmbient()
    authority = make_authority(system)
    issued = issue_server_certificate(authority, ["localhost"], system)
    for name, content in (("ca", authority.certificate), ("chain", issued.certificate), ("key", issued.key)):
        (directory / name).write_bytes(content)
    hub = MqttHub(ambient, directory / "ca", meters_of(ambient, plan, quota), Faults(ambient) if faults else None)
    async with open_engines(directory, hub.company) as engines, contextlib.AsyncExitStack() as undo:
        log = await _open_log(engines, directory, hub, vfs)
        hub.log = HeldLog(log)
        hub.telemetry = Telemetry(
            log, ambient, retention_seconds=86_400, retention_bytes=1 << 30, max_pending_bytes=MAX_PENDING_BYTES
        )
        undo.push_async_callback(hub.telemetry.close)
        await _put_together(hub, engines, events, undo)
        _listen(hub, directory, undo)
        undo.callback(hub.close_clients)
        undo.callback(hub.log.release)
        yield hub


async def _put_together(
    hub: MqttHub, engines: Engines, events: Collection[Source], undo: contextlib.AsyncExitStack
) -> None:
    """All between the engines and the heads."""
    ambient, several = hub.ambient, engines.several
    facts = make_hub(["localhost"], development_policies())
    recorder = EventRecorder(events, partial(event_record, facts.name), ambient) if events else None
    stores, bus = engines.storage.of(facts.name, recorder), engines.bus(facts.name)
    hub.untold, hub.storage = engines.storage.of(facts.name, None).outbox, engines.storage
    engines.watch(facts.name, stores.identities, bus)
    claims = None if several is None else several.claims(facts.name, ambient)
    hub.sessions = SessionTable(facts.name, stores.identities, bus, ambient, claims)
    hub.subscriptions = Subscriptions(facts.name, stores.subscriptions)
    hub.underway = Underway(stores.queues)
    hub.queues = make_queues(facts.name, stores.queues, bus, ambient, SETTINGS)
    hub.registry = Registry(facts.name, stores.identities, hub.sessions, bus, ambient, queues=hub.queues)
    hub.refusals = Refusals(ambient)
    hub.relay = EventRelay(stores.outbox, hub.telemetry, ambient)
    hub.relay.start()
    undo.push_async_callback(hub.relay.close)
    if recorder is not None:
        recorder.watch(hub.sessions, stores.outbox, await next_epoch(engines.storage.settings, ambient))
    hub.trust_authorities(facts.name, stores.authorities, bus)
    undo.push_async_callback(hub.news.stop)
    hub.authenticator = Authenticator(
        facts, stores.identities, ambient, hub.refusals, trust=hub.trusted, ask=hub.news.ask
    )
    hub.methods = Methods(hub.registry, hub.sessions, ambient, hub.meters)
    listener = hub.sessions if several is None else several.desired(facts.name, hub.sessions, stores.twins)
    epoch_of = None if several is None else hub.sessions.epoch_of
    hub.twins = Twins(facts.name, stores.twins, listener, ambient, recorder, epoch_of=epoch_of)
    hub.unclaimed = Twins(facts.name, stores.twins, listener, ambient, recorder)
    if several is not None:
        undo.push_async_callback(several.connect(facts.name, hub.sessions, hub.methods))
        drain(hub.sessions, hub.telemetry, hub.subscriptions, hub.twins)
    hub.messaging, stop_queues = await make_messaging(
        facts.name, hub.queues, hub.registry, ambient, SETTINGS, meters=hub.meters
    )
    undo.callback(stop_queues)
    hub.amqp = AmqpHead(HubDirectory(_amqp_hub(hub)), ambient, asyncio.get_running_loop())


def _listen(hub: MqttHub, directory: Path, undo: contextlib.AsyncExitStack) -> None:
    loop, context = asyncio.get_running_loop(), server_context(str(directory / "chain"), str(directory / "key"))
    make_mqtt = _connections(hub, loop)
    make_front = partial(FrontProtocol, loop, make_mqtt, hub.amqp, make_mqtt)
    explain = HandshakeRefusals(HubDirectory(hub.refusals), hub.ambient)
    listeners = [listening(context, make_protocol, explain, hub.company) for make_protocol in (make_mqtt, make_front)]
    hub.port, hub.websocket_port = listeners[0][1], listeners[1][1]

    async def stop() -> None:
        for listener, _ in listeners:
            listener.stop_accepting()
            listener.abort_connections()
        await asyncio.sleep(0)

    undo.push_async_callback(stop)


def meters_of(ambient: VirtualAmbient, plan: Plan | None, quota: Quota | None = None) -> Meters:
    """Meters of a hub that has ``plan``, with ``quota`` in the place of the plan's."""
    return Meters(ambient, plan, None if plan is None else DailyUse(quota or plan.quota))


def _connections(hub: MqttHub, loop: asyncio.AbstractEventLoop) -> Callable[[], MqttConnection]:
    make_connection = connection_maker(HubDirectory(device_services(hub)), loop)

    def make_mqtt() -> MqttConnection:
        hub.connections.append(make_connection())
        return hub.connections[-1]

    return make_mqtt


def _amqp_hub(hub: MqttHub) -> AmqpHub:
    roles: list[Role] = [device_links(device_services(hub)), *hub.messaging.roles]
    return AmqpHub(hub.authenticator, hub.refusals, roles, hub.faults)


async def _renew(device_id: str, csr: bytes, shown: str) -> tuple[bytes, ...]:
    raise AssertionError("no test on this hub renews")


def device_services(hub: MqttHub) -> DeviceServices:
    return DeviceServices(
        hub.authenticator, hub.sessions, hub.subscriptions, hub.telemetry, hub.refusals, hub.ambient, hub.twins,
        hub.methods, hub.messaging.commands, hub.meters, _renew, hub.faults,
    )  # fmt: skip


def listening(
    context: Any, make_protocol: Callable[[], Any], explain: HandshakeRefusals | None = None,
    company: Company | None = None,
) -> tuple[TlsListener, int]:  # fmt: skip
    """A TLS listener on a port of 127.0.0.1, and that port."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    listener = TlsListener(asyncio.get_running_loop(), lambda: context, make_protocol, explain, company=company)
    listener.listen([sock])
    return listener, int(sock.getsockname()[1])


async def alive(client: MqttClient) -> None:
    """The hub still answers the client."""
    await client.send(PINGREQ)
    await client.expect("PINGRESP")


async def ends_silently(client: MqttClient) -> None:
    """The connection is closed and nothing more was said."""
    assert await client.expect_end() == b""
