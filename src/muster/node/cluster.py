"""The engines of a deployment of several nodes: PostgreSQL for state, NATS for telemetry and the bus between them."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from muster.access.shared_grants import GRANTS, SharedGrants
from muster.core.ambient import Ambient
from muster.core.settings_store import SettingsRows
from muster.core.shared_settings import SharedSettings
from muster.identity.doctor import Finding
from muster.messages.contract import TelemetryLog
from muster.node.engines import Engines, forget_changed
from muster.node.fetch import fetch
from muster.node.foundation import Undo
from muster.node.settings import Settings
from muster.sessions.lease import Lease
from muster.sessions.several import Several
from muster.stores.nats.bus import NatsNode
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.doctor import NatsDoctor
from muster.stores.nats.streams import Place
from muster.stores.nats.telemetry import JetStreamLog
from muster.stores.postgres.database import Database
from muster.stores.postgres.doctor import examine
from muster.stores.postgres.schema import migrate
from muster.stores.postgres.seats import PostgresSeatStore
from muster.stores.postgres.sessions import PostgresLeaseStore, PostgresSessionDirectory
from muster.stores.postgres.storage import PostgresStorage

_DEPLOYMENT = "deployment"
"""The setting that names the deployment: made once, in all subjects and streams."""


async def open_cluster(settings: Settings, ambient: Ambient, undo: Undo, about: Mapping[str, Any]) -> Engines:
    """Join the deployment whose database and bus ``settings`` name, and tell it ``about`` the node. Raises
    ``HubError``."""
    await migrate(settings.database)
    database = Database(settings.database)
    undo.append(database.close)
    await database.open()
    storage = PostgresStorage(database)
    async with database.alone():
        deployment = await _deployment(storage.rows, ambient)
    connection = await NatsConnection.open(settings.bus, name=f"muster {socket.gethostname()}")
    undo.append(connection.close)
    node = NatsNode(connection, deployment, f"{socket.gethostname()}-{ambient.random_bytes(6).hex()}")
    await node.open()
    undo.append(node.close)
    shared = SharedSettings(storage.rows, node.bus())
    undo.append(shared.close)
    storage.settings = shared
    storage.grants = SharedGrants(storage.grants, lambda: shared.announce(GRANTS))
    leases = PostgresLeaseStore(database)
    undo.append(leases.close)
    lease = Lease(leases, node.bus(), about, lambda name: leases.cut_off(name, on_bus=connection.connected))
    await lease.start()
    undo.append(lease.stop)

    bus_doctor = NatsDoctor(connection, deployment, fetch)

    async def examine_servers() -> Sequence[Finding]:
        return [*await examine(database, ambient.now), *await bus_doctor.examine()]

    async def open_log(hub: str, _: Path, partitions: int, created_at: float) -> TelemetryLog:
        place = Place(deployment, hub)
        return await JetStreamLog.open(connection, place, partitions, created_at=created_at)

    async def forget_log(hub: str) -> None:
        await JetStreamLog.delete(connection, Place(deployment, hub))

    return Engines(
        storage,
        open_log,
        node.bus,
        forget_log,
        database.alone,
        Several(node, lease, PostgresSessionDirectory(database), PostgresSeatStore(database)),
        forget_changed,
        examine_servers,
    )


async def _deployment(kept: SettingsRows, ambient: Ambient) -> str:
    name = await kept.get_setting(_DEPLOYMENT)
    if name is None:
        name = ambient.random_bytes(5).hex().encode()
        await kept.put_settings({_DEPLOYMENT: name})
    return name.decode()
