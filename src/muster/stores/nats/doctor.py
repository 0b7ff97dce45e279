"""What `muster doctor` looks at in NATS."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from muster.core.errors import HubError
from muster.core.fetching import Fetch, Request
from muster.identity.doctor import Finding, Level
from muster.stores.nats.connection import NatsConnection
from muster.stores.nats.replies import Replies
from muster.stores.nats.streams import REPLICAS, streams_of

LEAST_PAYLOAD = 1024 * 1024
MONITORING_PORT = 8222
_FULL = 0.8
_MOST_BYTES, _SECONDS = 1024 * 1024, 2.0


class NatsDoctor:
    """Looks at the servers behind ``connection`` and at the streams of ``deployment``. ``fetch`` reads what servers
    say of themselves over HTTP, where they do."""

    def __init__(self, connection: NatsConnection, deployment: str, fetch: Fetch) -> None:
        self._connection, self._deployment, self._fetch = connection, deployment, fetch

    async def examine(self) -> list[Finding]:
        """What there is to see to."""
        replies = Replies(self._connection)
        try:
            await replies.open()
            account = await replies.ask("INFO", {}) or {}
            streams, missing = await streams_of(replies, self._deployment)
        except HubError as error:
            remedy = "Start the servers, with a jetstream block in each: until then telemetry is not acknowledged."
            return [Finding(Level.BAD, "bus-away", f"JetStream of NATS cannot be asked: {error.message}.", remedy)]
        finally:
            await replies.close()
        client = self._connection.client
        hosts = sorted({server.hostname for server in client.servers if server.hostname})
        return [
            *server_findings(len(hosts), client.max_payload, account),
            *stream_findings(streams, missing, clustered=len(hosts) > 1),
            *sync_findings(await asyncio.gather(*(self._sync(host) for host in hosts))),
        ]

    async def _sync(self, host: str) -> tuple[str, bool | None]:
        """A server, and whether it syncs every write; ``None`` when it does not tell."""
        name = f"[{host}]" if ":" in host else host
        try:
            found = await self._fetch(Request(f"http://{name}:{MONITORING_PORT}/jsz?config=1"), _MOST_BYTES, _SECONDS)
            return host, bool(orjson.loads(found.content or b"")["config"].get("sync_always", False))
        except (OSError, ValueError, LookupError, TypeError):
            return host, None


def server_findings(servers: int, max_payload: int, account: Mapping[str, Any]) -> Iterator[Finding]:
    """Of the servers that are known, the most that one message may have, and what JetStream says of the account."""
    if servers < REPLICAS:
        text = f"Known NATS servers: {servers}. One that is lost stops telemetry."
        yield Finding(Level.WARNING, "bus-few-servers", text, "Run a cluster of three, on machines of their own.")
    if max_payload < LEAST_PAYLOAD:
        text = f"max_payload of NATS is {max_payload} bytes: full batches of telemetry are refused."
        yield Finding(Level.BAD, "bus-payload", text, "Leave max_payload at 1 MB.")
    most, used = account.get("limits", {}).get("max_storage", -1), account.get("storage", 0)
    if most > 0 and used > _FULL * most:
        text = f"Of the {most} bytes that JetStream gives this account {used} are used."
        yield Finding(Level.WARNING, "bus-full", text, "Give it more, or lower --retention-mib.")


def stream_findings(
    streams: Iterable[Mapping[str, Any]], missing: Sequence[str], *, clustered: bool
) -> Iterator[Finding]:
    """Of the streams as JetStream lists them, and of those that ``missing`` says nobody could tell about."""
    leaderless, few, behind = list(missing), list[str](), dict[str, str]()
    for stream in streams:
        name, cluster = stream["config"]["name"], stream.get("cluster") or {}
        if clustered and not cluster.get("leader"):
            leaderless.append(name)
        if clustered and stream["config"]["num_replicas"] < REPLICAS:
            few.append(name)
        for replica in cluster.get("replicas") or ():
            if replica.get("offline") or not replica.get("current"):
                behind[name] = replica["name"]
    if leaderless:
        text = f"Streams without a leader: {_some(leaderless)}. What their devices send is not acknowledged."
        yield Finding(Level.BAD, "stream-leaderless", text, "Start NATS servers until two of three run.")
    if few:
        text = (
            f"Streams with fewer than {REPLICAS} replicas: {_some(few)}. One server that is lost may take them along."
        )
        yield Finding(Level.BAD, "stream-replicas", text, f"nats stream edit --replicas {REPLICAS} STREAM")
    if behind:
        text = f"Replicas that are away or behind: {_some([f'{name} at {at}' for name, at in behind.items()])}."
        remedy = "Start that server, and wait until it has caught up before another one is stopped."
        yield Finding(Level.WARNING, "stream-replica-behind", text, remedy)


def sync_findings(servers: Sequence[tuple[str, bool | None]]) -> Iterator[Finding]:
    """Of what each server says of ``sync_interval``."""
    late = [name for name, always in servers if always is False]
    unknown = [name for name, always in servers if always is None]
    if late:
        text = f"NATS at {_some(late)} acknowledges before the disk has it: a power cut loses what was acknowledged."
        yield Finding(
            Level.BAD, "bus-syncs-late", text, "Set sync_interval: always in the jetstream block, restart it."
        )
    if unknown:
        text = f"Whether NATS at {_some(unknown)} syncs every write cannot be seen from here."
        remedy = (
            "See that sync_interval: always stands in its jetstream block; it tells by itself where nodes reach "
            f"its port {MONITORING_PORT} (http: 8222)."
        )
        yield Finding(Level.NOTICE, "bus-sync-unknown", text, remedy)


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
