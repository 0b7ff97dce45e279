"""A process that shares a ``hub.db`` and writes into it as hard as it can, until it is told to stop or killed.

``python hub_writer.py PATH NAME``: says ``ready``, begins at the first line of its input and stops at the second.
Prints a line of JSON for each round whose changes are durable. With ``hold`` for a NAME it writes within one
transaction that never ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import apsw

from muster.core.audit import Act, draft
from muster.core.outbox import Entry
from muster.identity.contract import Edit
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.messages.queue_contract import New
from muster.stores.sqlite.storage import SqliteStorage
from muster.twins.document import patch_twin

HUB = "hub"
COMMON = IdentityKey("common")
QUEUE = "/feedback"
HOLD = "hold"


def identity(key: IdentityKey) -> Identity:
    """As it is made here."""
    return Identity(key=key, generation_id="1", version=1, authentication=Authentication())


def say(**facts: object) -> None:
    """A line for the test."""
    print(json.dumps(facts), flush=True)


async def write(path: Path, name: str) -> None:
    """Rounds of changes of what is this process's own and of what all have in common."""
    storage = SqliteStorage(path, shared=True)
    stores = storage.of(HUB)
    stopped = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    number = 0
    while not stopped.done():
        key = IdentityKey(f"{name}{number}")
        tag = f"{name}{number % 50}"
        outcomes, twin, *_ = await asyncio.gather(
            stores.identities.edit(HUB, [Edit(key, lambda _, key=key: identity(key))]),  # type: ignore[misc]
            stores.twins.edit(
                HUB, COMMON, lambda twin, tag=tag, number=number: patch_twin(twin, {tag: number}, {}, 0.0),  # type: ignore[misc]
                lambda _: None, lambda _, after: [Entry("common", b"%d" % after.version)],
            ),
            stores.queues.put(HUB, QUEUE, New(0.0, 1e12, "", key.device_id.encode()), lambda _: None),
            storage.audit.record(draft("", Act("write", name, transport="test"), key.device_id, 0.0)),
        )  # fmt: skip
        assert isinstance(outcomes[0], Identity), outcomes
        say(number=number, twin=twin.version)
        number += 1
    await storage.close()


async def hold(path: Path) -> None:
    """Write, say so, and never commit."""
    storage = SqliteStorage(path, shared=True)

    def work(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO settings (name, value) VALUES ('held', x'')")
        say(held=True)
        time.sleep(3600)

    await storage._writer.submit(work)


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    asyncio.run(hold(Path(sys.argv[1])) if sys.argv[2] == HOLD else write(Path(sys.argv[1]), sys.argv[2]))
