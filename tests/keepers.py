"""A keeper in the test's own process, at a socket in a directory: started, ended, started again."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

from muster.stores.keeper.link import SOCKET, socket_place
from muster.stores.keeper.logs import KeptLogs
from muster.stores.keeper.server import Keeper
from muster.stores.keeper.sessions import serve_sessions


class KeeperHere:
    """The keeper of ``directory``; ``keeper`` is the one that runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.keeper = Keeper()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self.keeper = Keeper()
        self._logs = KeptLogs(self.keeper, self.directory, durable=False)
        serve_sessions(self.keeper)
        (self.directory / SOCKET).unlink(missing_ok=True)
        with socket_place(self.directory) as place:
            self._server = await asyncio.get_running_loop().create_unix_server(self.keeper.connection, place)

    async def die(self) -> None:
        """End all connections without a word."""
        if self._server is not None:
            self._server.close()
            self._server = None
            self.keeper.cut()
            await self.keeper.empty.wait()
            await self.keeper.settled()
            await self._logs.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.die()
