"""The engines under a node: what keeps its state and its telemetry and carries its notices; embedded, or shared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from muster.core.ambient import Ambient
from muster.core.bus import IDENTITY_CHANGED, MISSED, Bus, LocalBus
from muster.core.company import Company
from muster.core.errors import INVALID_OPERATION, HubError
from muster.identity.contract import IdentityStore
from muster.identity.doctor import Examine, Finding
from muster.messages.contract import TelemetryLog
from muster.node.directory import DataDirectory
from muster.node.foundation import OpenLog, Undo
from muster.node.settings import Settings
from muster.sessions.several import Several
from muster.stores.sqlite.inline import WhileQuick
from muster.stores.sqlite.storage import SqliteStorage
from muster.stores.sqlite.telemetry import SqliteTelemetryLog
from muster.stores.storage import Storage


async def _nothing_to_see_to() -> Sequence[Finding]:
    """Files of this machine's own."""
    return ()


def _leave(_hub: str, _store: IdentityStore, _bus: Bus) -> None:
    """Nobody else changes identities."""


class Forgetful(Protocol):
    """A store that remembers identities."""

    def forget(self, hub: str, device_id: str) -> None:
        """Read a device and its modules anew."""
        ...

    def forget_all(self) -> None:
        """Read all anew."""
        ...


def forget_changed(hub: str, store: IdentityStore, bus: Bus) -> None:
    """Have ``store``, which is ``Forgetful``, forget identities that other nodes have changed."""
    forgetful = cast(Forgetful, store)
    bus.subscribe(IDENTITY_CHANGED, lambda payload: forgetful.forget(hub, payload.partition("/")[0]))
    bus.subscribe(MISSED, lambda _: forgetful.forget_all())


class Engines(NamedTuple):
    """``bus`` makes that of a hub; ``starting`` is held while a node makes what is made once for all nodes, and one
    node at a time does. ``several`` is there where there may be other nodes; ``watch``
    has a hub's identities hear of what those have changed. ``examine`` tells what of the servers is to be seen to."""

    storage: Storage
    open_log: OpenLog
    bus: Callable[[str], Bus]
    forget_log: Callable[[str], Awaitable[None]]
    starting: Callable[[], AbstractAsyncContextManager[object]]
    several: Several | None = None
    watch: Callable[[str, IdentityStore, Bus], None] = _leave
    examine: Examine = _nothing_to_see_to

    def take_sessions(self) -> bool:
        """Whether sessions may begin: of several nodes one that has lost its lease takes none."""
        return self.several is None or self.several.lease.held


async def open_engines(
    settings: Settings,
    directory: DataDirectory,
    ambient: Ambient,
    company: Company,
    undo: Undo,
    *,
    about: Mapping[str, Any],
) -> Engines:
    """Those that ``settings`` ask for; what ends them is put into ``undo``. Raises ``HubError``.

    ``company`` hears who is heard on the listeners with TLS; ``about`` is what the node tells others of itself.
    """
    if settings.clustered:
        try:
            from muster.node.cluster import open_cluster  # noqa: PLC0415 - asks for packages of the extra "cluster"
        except ImportError as error:
            raise HubError(
                INVALID_OPERATION, f"--database and --bus need {error.name}; run: pip install 'muster[cluster]'"
            ) from error
        return await open_cluster(settings, ambient, undo, about)
    if settings.worker is not None:
        from muster.node.machine import open_machine  # noqa: PLC0415 - one process has no use for it

        return await open_machine(settings, directory, ambient, undo, about)
    storage = SqliteStorage(directory.hub_database, durable=settings.durable)
    undo.append(storage.close)

    async def open_log(_: str, path: Path, partitions: int, created_at: float) -> TelemetryLog:
        loop, durable = asyncio.get_running_loop(), settings.durable
        inline = WhileQuick(company.alone) if settings.amqp_plain_port is None else None
        return SqliteTelemetryLog(path, partitions, loop, created_at=created_at, durable=durable, inline=inline)

    return Engines(storage, open_log, lambda _: LocalBus(), _nothing, nullcontext)


async def _nothing(_: str) -> None:
    """Partitions in files go with the hub's other files."""
