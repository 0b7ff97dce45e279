"""The Event Hubs endpoint on plain TCP, in a thread of its own, with a real telemetry log behind it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from amqp_client import AmqpClient

from muster.access.decision import by_claim
from muster.access.issuers import Issuer, Issuers
from muster.core.ambient import Ambient, SystemAmbient
from muster.dialect.record import message_head, record, sender_annotations
from muster.heads.amqp import AmqpHead, AmqpHub
from muster.heads.eventhubs import EventHub
from muster.heads.hubs import HubDirectory
from muster.identity.authenticator import Authenticator
from muster.identity.bearer_gate import BearerGate
from muster.identity.hub import make_hub
from muster.identity.policies import development_policies
from muster.identity.refusals import Refusals
from muster.messages.contract import TelemetryLog
from muster.messages.groups import ConsumerGroups
from muster.messages.readers import Readers
from muster.messages.telemetry import Telemetry
from muster.node.engines import Engines
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.streams import Place
from muster.stores.nats.telemetry import JetStreamLog
from muster.testing.clock import VirtualAmbient
from tests.engines import open_engines
from tests.issuer_parts import TestIssuer
from tests.nats_servers import NatsCluster

T = TypeVar("T")

ENTITY = "events"
POLICIES = {policy.name: policy for policy in development_policies()}
AUTH = '{"scope":"device","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}'
WAIT = 20.0


class EventHubServer:
    """Listens on a free port of 127.0.0.1. Everything of the hub runs on the thread ``call`` reaches."""

    def __init__(
        self, directory: Path, *, partitions: int = 2, tail_bytes: int = 1 << 20, clock: VirtualAmbient | None = None,
        issuer: TestIssuer | None = None, servers: NatsCluster | None = None,
    ) -> None:  # fmt: skip
        """With ``servers`` it is a node, one of those that have the name of ``directory``."""
        self.servers = servers
        self.directory = directory
        self.partitions = partitions
        self.tail_bytes = tail_bytes
        self.clock = clock
        self.issuer = issuer
        self.port = 0
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="event hub", daemon=True)
        self._numbers: dict[str, int] = {}
        self._undo = AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WAIT)
        self.loop.close()

    def run(self, work: Any) -> Any:
        """The result of a coroutine that runs over there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT)

    def call(self, function: Callable[[], T]) -> T:
        """The result of a plain call over there."""

        async def work() -> T:
            return function()

        return self.run(work())  # type: ignore[no-any-return]

    async def _start(self) -> None:
        ambient = self.clock or SystemAmbient(self.loop)
        hub = make_hub(["localhost"], POLICIES.values())
        engines = await self._undo.enter_async_context(open_engines(self.directory))
        self.telemetry = Telemetry(
            await self._open_log(engines, ambient),
            ambient,
            retention_seconds=10**9,
            retention_bytes=10**10,
            tail_bytes=self.tail_bytes,
        )
        self.refusals = Refusals(ambient)
        self._undo.push_async_callback(self.telemetry.close)
        identities, gate = engines.storage.of("localhost", None).identities, None
        if self.issuer is not None:
            issuers = Issuers([Issuer(self.issuer.url, self.issuer.fetch, ambient)])
            gate = BearerGate(issuers, by_claim, ambient, self.refusals, ENTITY)
        authenticator = Authenticator(hub, identities, ambient, self.refusals, bearer=gate)
        self.readers = Readers()
        groups = ConsumerGroups(("other", "third"), engines.storage.settings, ambient)
        self.event_hub = EventHub(self.telemetry, ENTITY, self.readers, groups=groups)
        self.head = AmqpHead(HubDirectory(AmqpHub(authenticator, self.refusals, [self.event_hub])), ambient, self.loop)
        self._server = await self.loop.create_server(self.head, "127.0.0.1", 0)
        self.port = self.event_hub.redirect_port = self._server.sockets[0].getsockname()[1]

    async def _open_log(self, engines: Engines, ambient: Ambient) -> TelemetryLog:
        if self.servers is None:
            path = self.directory / "telemetry.db"
            return await engines.open_log("localhost", path, self.partitions, ambient.now())
        connection = await NatsConnection.open(self.servers.urls)
        self._undo.push_async_callback(connection.close)
        place = Place("eventhubs", self.directory.name)
        return await JetStreamLog.open(connection, place, self.partitions, created_at=ambient.now())

    async def _stop(self) -> None:
        self._server.close()
        for connection in tuple(self.head.connections):
            connection.transport.abort()
        await self._undo.aclose()

    def connection_string(self, *, policy: str = "service", key: str | None = None, entity: str = ENTITY) -> str:
        """What an Event Hubs client is given; it speaks plain AMQP then."""
        key = POLICIES[policy].primary_key if key is None else key
        return (
            f"Endpoint=sb://localhost:{self.port}/;SharedAccessKeyName={policy};SharedAccessKey={key};"
            f"EntityPath={entity};UseDevelopmentEmulator=true"
        )

    # --- devices

    def send(self, device_id: str, bodies: Iterable[bytes], partition: int = 0, **system: str) -> None:
        """Store telemetry of ``device_id``, one commit for all; each body's number among its device's is a property."""
        done: Future[BaseException | None] = Future()
        sender = sender_annotations(device_id=device_id, module_id=None, auth_method=AUTH, generation_id="1")

        def append() -> None:
            batch = None
            for body in bodies:
                number = self._numbers[device_id] = self._numbers.get(device_id, -1) + 1
                head = message_head(system, {"number": str(number)})
                batch = self.telemetry.append(partition, record(sender, head, body))
            assert batch is not None
            batch.when_durable(done.set_result)

        self.loop.call_soon_threadsafe(append)
        assert done.result(WAIT) is None

    def places(self, partition: int = 0) -> list[tuple[int, int]]:
        """Sequence number and time (ms) of each event that is kept: numbers of a shared log have gaps."""
        slices = self.run(self.telemetry.read(partition, 0, 1 << 40))
        return [(base + n, enqueued) for base, enqueued, records in slices for n in range(len(records))]

    def numbers(self) -> list[int]:
        """The sequence numbers of what is kept in partition 0."""
        return [number for number, _ in self.places()]

    def connected(self) -> int:
        """How many connections there are."""
        return len(self.head.connections)


def connect(server: EventHubServer, **options: Any) -> AmqpClient:
    """A raw client with a token for the whole entity."""
    client = AmqpClient(server.port, **options)
    now = None if server.clock is None else server.clock.now()
    reply = client.put_token(POLICIES["service"].primary_key, now=now)
    assert (reply.application_properties or {})["status-code"] == 200
    return client
