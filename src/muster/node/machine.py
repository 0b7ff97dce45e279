"""The engines of a worker: one ``hub.db`` for all processes of the machine, and the keeper for the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from muster.access.shared_grants import GRANTS, SharedGrants
from muster.core.ambient import Ambient
from muster.core.shared_settings import SharedSettings
from muster.messages.contract import TelemetryLog
from muster.node.directory import DataDirectory
from muster.node.engines import Engines, forget_changed
from muster.node.foundation import Undo
from muster.node.settings import Settings
from muster.sessions.lease import Lease
from muster.sessions.several import Several
from muster.stores.keeper.bus import WorkerNode
from muster.stores.keeper.link import Link
from muster.stores.keeper.sessions import KeeperLeases, KeeperSeats, KeeperSessions
from muster.stores.keeper.telemetry import KeeperLog
from muster.stores.sqlite.storage import SqliteStorage


async def open_machine(
    settings: Settings, directory: DataDirectory, ambient: Ambient, undo: Undo, about: Mapping[str, Any]
) -> Engines:
    """Join the other workers of ``directory``, and tell them ``about`` this one. Raises ``HubError``."""
    assert settings.worker is not None, "the node is a worker"
    link = Link(directory.path, f"worker-{settings.worker.number}-{ambient.random_bytes(6).hex()}")
    node = WorkerNode(link)
    await link.open()
    undo += [link.close, node.close]
    storage = SqliteStorage(directory.hub_database, durable=settings.durable, shared=True)
    undo.append(storage.close)
    shared = SharedSettings(storage.rows, node.bus())
    undo.append(shared.close)
    storage.settings = shared
    storage.grants = SharedGrants(storage.grants, lambda: shared.announce(GRANTS))
    lease = Lease(KeeperLeases(link), node.bus(), about)
    link.when_changed(
        lambda connected: None if connected else lease.lose("the keeper has gone, and with it all leases")
    )
    await lease.start()
    undo.append(lease.stop)
    storage.has_sessions = lease.sure
    turns = storage.turns
    assert turns is not None, "the storage is shared"

    async def open_log(_: str, path: Path, partitions: int, created_at: float) -> TelemetryLog:
        return await KeeperLog.open(link, path.name, partitions, created_at=created_at)

    async def forget_log(hub: str) -> None:
        await KeeperLog.delete(link, directory.hub_files(hub).telemetry_database.name)

    return Engines(
        storage,
        open_log,
        node.bus,
        forget_log,
        turns.starting,
        Several(node, lease, KeeperSessions(link), KeeperSeats(link)),
        forget_changed,
    )
