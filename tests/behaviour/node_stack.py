"""The domain of a hub on one of several nodes: real NATS, real PostgreSQL, no heads. Devices are scripted sinks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from math import inf
from typing import Any

from muster.core.ambient import SystemAmbient
from muster.core.bus import IDENTITY_CHANGED, MISSED
from muster.core.errors import ErrorRow
from muster.core.limits import Profile
from muster.identity.model import IdentityKey, key_of
from muster.identity.registry import Registry
from muster.identity.verdict import Verdict
from muster.messages.commands import Commands, Received, command_rules
from muster.messages.methods import MethodRequest, Methods
from muster.messages.queues import SERVICE_QUEUES, Queues
from muster.sessions.lease import Lease
from muster.sessions.several import Several
from muster.sessions.table import Session, SessionTable
from muster.stores.nats.bus import NatsNode
from muster.stores.nats.connection import NatsConnection
from muster.stores.postgres.database import Database
from muster.stores.postgres.identities import PostgresIdentityStore
from muster.stores.postgres.outbox import PostgresOutbox
from muster.stores.postgres.queues import PostgresQueueStore
from muster.stores.postgres.seats import PostgresSeatStore
from muster.stores.postgres.sessions import PostgresLeaseStore, PostgresSessionDirectory
from muster.stores.postgres.twins import PostgresTwinStore
from muster.twins.service import Twins

HUB = "hub"
PATIENCE = 30.0
DEVICE = IdentityKey("d")


class Device:
    """The head's end of a session: notes what it is told, answers methods with what it was asked."""

    def __init__(self, stack: Stack, *, answers: bool = True) -> None:
        self.stack = stack
        self.answers = answers
        self.asked: list[MethodRequest] = []
        self.desired: list[tuple[int, Mapping[str, Any]]] = []
        self.commands: list[Received] = []
        self.ended: list[ErrorRow] = []
        self.session: Session
        self._news = asyncio.Event()

    async def until(self, wanted: str, count: int = 1) -> list[Any]:
        """Wait until there are so many of ``asked``, ``desired``, ``commands`` or ``ended``."""
        async with asyncio.timeout(PATIENCE):
            while len(found := getattr(self, wanted)) < count:
                self._news.clear()
                await self._news.wait()
        return list(found)

    def end(self, error: ErrorRow) -> None:
        self.ended.append(error)
        self._news.set()

    def quiet_seconds(self) -> float:
        return inf

    def desired_changed(self, patch: Mapping[str, Any], version: int) -> None:
        self.desired.append((version, dict(patch)))
        self._news.set()

    def invoke(self, request: MethodRequest) -> None:
        self.asked.append(request)
        self._news.set()
        if self.answers:
            self.answer(request)

    def answer(self, request: MethodRequest) -> None:
        """Say what was asked."""
        self.stack.methods.answer(self.session, request.request_id, 200, request.payload)

    def command_room(self, held: int) -> int:
        return 10 - held

    def deliver(self, command: Received) -> None:
        self.commands.append(command)
        self._news.set()


class Stack:
    """One node. Made by ``joined``."""

    registry: Registry
    methods: Methods
    twins: Twins
    commands: Commands
    table: SessionTable
    lease: Lease
    several: Several
    node: NatsNode
    database: Database
    connection: NatsConnection

    async def connect(
        self, key: IdentityKey = DEVICE, *, takes: bool = True, answers: bool = True, wait: bool = True
    ) -> Device:
        """A device that connects to this node."""
        device = Device(self, answers=answers)
        identity = await self.registry.get(key)
        verdict = Verdict(
            tracking_id="t", at=0, transport="mqtt", peer="p", principal=str(key), checks=(), identity=identity
        )
        device.session = self.table.open(verdict, device)
        if wait:
            await self.granted(device, takes=takes)
        return device

    async def granted(self, device: Device, *, takes: bool = True) -> None:
        """The head hears that the device is in, and serves its subscriptions."""
        assert device.session.claim is not None
        await device.session.claim.granted()
        if takes:
            self.take(device)
        self.table.take_commands(device.session, self.commands)

    def take(self, device: Device, *names: str) -> None:
        """The device takes methods from now on."""
        self.table.take_methods(device.session, (lambda name: name in names) if names else (lambda _: True))


@asynccontextmanager
async def joined(name: str, urls: Sequence[str], database_url: str, deployment: str) -> AsyncIterator[Stack]:
    """A node that joins ``deployment``; it leaves in good order."""
    async with AsyncExitStack() as undo:
        yield await join(undo, name, urls, database_url, deployment)


async def join(undo: AsyncExitStack, name: str, urls: Sequence[str], database_url: str, deployment: str) -> Stack:
    """As ``joined``; what ends the node is put into ``undo``."""
    stack, ambient = Stack(), SystemAmbient(asyncio.get_running_loop())
    stack.database = database = Database(database_url)
    await database.open()
    undo.push_async_callback(database.close)
    stack.connection = await NatsConnection.open(urls, name=name)
    undo.push_async_callback(stack.connection.close)
    stack.node = node = NatsNode(stack.connection, deployment, name)
    await node.open()
    undo.push_async_callback(node.close)
    leases = PostgresLeaseStore(database)
    undo.push_async_callback(leases.close)
    stack.lease = Lease(leases, node.bus())
    await stack.lease.start()
    undo.push_async_callback(stack.lease.stop)
    stack.several = several = Several(
        node, stack.lease, PostgresSessionDirectory(database), PostgresSeatStore(database)
    )

    bus = node.bus(HUB)
    outbox = PostgresOutbox(database, HUB)
    identities, twin_store = PostgresIdentityStore(database), PostgresTwinStore(database, outbox)
    bus.subscribe(IDENTITY_CHANGED, lambda payload: identities.forget(HUB, key_of(payload).device_id))
    bus.subscribe(MISSED, lambda _: identities.forget_all())
    claims = several.claims(HUB, ambient)
    stack.table = table = SessionTable(HUB, identities, bus, ambient, claims)
    stack.registry = Registry(HUB, identities, table, bus, ambient)
    stack.methods = Methods(stack.registry, table, ambient)
    undo.push_async_callback(several.connect(HUB, table, stack.methods))
    stack.twins = Twins(HUB, twin_store, several.desired(HUB, table, twin_store), ambient, epoch_of=table.epoch_of)
    claims.drains.append(stack.twins.settled)
    rules = command_rules(Profile.OPEN)
    queues = Queues(HUB, PostgresQueueStore(database), bus, ambient, identities=rules, services=SERVICE_QUEUES)
    queues.start()
    undo.callback(queues.close)
    stack.commands = Commands(queues, stack.registry, ambient)
    undo.callback(stack.methods.close)
    return stack
