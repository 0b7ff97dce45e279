"""The streams of a hub's partitions: their names, how they are made, what they say of themselves.

A stream is a file on each of its replicas. What makes "acknowledged" mean "durable" is said in docs/architecture.md:
three replicas where the servers are a cluster, and ``sync_interval: always`` in the configuration of the servers, which
no client can set.
"""

from __future__ import annotations

import base64
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from nats.aio.msg import Msg

from muster.core.errors import INVALID_OPERATION, SERVER_ERROR, UNAVAILABLE, HubError
from muster.core.limits import PARTITIONS
from muster.messages.contract import PartitionState
from muster.stores.nats.positions import base_of, count_of, place_of
from muster.stores.nats.replies import Refused, Replies, status_of

REPLICAS = 3
DUPLICATES_SECONDS = 120
"""A message that is published again within this time is stored once."""

_NOT_CLUSTERED = 10074
_OTHER_CONFIG = 10058
_NO_ROOM = 10047
_LONGEST_MS = 100 * 365 * 86_400_000
_SHORTEST_MS = 100
_LAST_MOMENT_MS = 253_000_000_000_000
_PAGE = 256
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)

_LOG = logging.getLogger("muster.nats")


class Place(NamedTuple):
    """Whose streams: a hub of a deployment. Both are part of names that all users of the servers share."""

    deployment: str
    hub: str

    def stream(self, partition: int) -> str:
        """The name of a partition's stream."""
        return f"MUSTER_{_safe(self.deployment)}_{_safe(self.hub)}_{partition}"

    def subject(self, partition: int | str) -> str:
        """What its messages are published under."""
        return f"muster.{_safe(self.deployment)}.{_safe(self.hub)}.telemetry.{partition}"


class Found(NamedTuple):
    """A message of a stream. ``enqueued_ms`` is when its leader stored it, by that server's clock."""

    place: int
    enqueued_ms: int
    body: bytes


class Streams:
    """The streams of one hub; ``partitions`` of them."""

    def __init__(self, replies: Replies, place: Place, partitions: int) -> None:
        self._replies = replies
        self._place = place
        self.partitions = partitions
        self.created_at = 0.0
        self.names = [place.stream(partition) for partition in range(partitions)]
        self.subjects = [place.subject(partition) for partition in range(partitions)]

    async def prepare(self, created_at: float, replicas: int | None) -> None:
        """Make those that are not there. Raises ``HubError``: 400003 for a number of partitions that is out of range or
        not that of streams that are there, 503001 when the servers do not do it.
        """
        if not 1 <= self.partitions <= PARTITIONS.open:
            raise HubError(
                INVALID_OPERATION, f"partitions is {self.partitions}; give a number from 1 to {PARTITIONS.open}"
            )
        made = await self._info(0)
        if made is None:  # the first is made last: where it is, all are
            for partition in reversed(range(self.partitions)):
                made = await self._make(partition, created_at, replicas)
        assert made is not None, "there is one partition at least"
        said = made["config"].get("metadata") or {}
        if (count := int(said.get("muster.partitions", 0))) != self.partitions:
            raise HubError(
                INVALID_OPERATION,
                f"the hub's stream {self.names[0]} has {count} partitions, {self.partitions} were asked for; their "
                f"number is fixed when a hub is made: use --partitions {count}, or another --database",
            )
        self.created_at = float(said["muster.created"])
        if replicas is None and made.get("cluster", {}).get("name") and made["config"]["num_replicas"] < REPLICAS:
            _LOG.warning(
                "stream %s has %d replicas in a cluster of NATS servers; have it %d: nats stream edit --replicas",
                self.names[0], made["config"]["num_replicas"], REPLICAS,
            )  # fmt: skip

    async def _make(self, partition: int, created_at: float, replicas: int | None) -> dict[str, Any]:
        config = {
            "name": self.names[partition],
            "description": "telemetry of a Muster hub: written and read by its nodes, not to be changed by hand",
            "subjects": [self.subjects[partition]],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "num_replicas": REPLICAS if replicas is None else replicas,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "duplicate_window": DUPLICATES_SECONDS * 1_000_000_000,
            "allow_direct": True,
            "metadata": {"muster.partitions": str(self.partitions), "muster.created": repr(created_at)},
        }
        try:
            made = await self._replies.ask(f"STREAM.CREATE.{self.names[partition]}", config)
        except Refused as error:
            if error.number == _NOT_CLUSTERED and replicas is None:
                return await self._make(partition, created_at, 1)
            if error.number != _OTHER_CONFIG:
                raise
            made = await self._info(partition)  # another node was faster
        if made is None:
            raise HubError(UNAVAILABLE, f"the stream {self.names[partition]} was removed while it was made")
        return made

    async def _info(self, partition: int) -> dict[str, Any] | None:
        return await self._replies.ask(f"STREAM.INFO.{self.names[partition]}", {})

    async def describe(self, partition: int) -> dict[str, Any]:
        """What its leader says of a stream. Raises ``HubError``: 500001 when it is not there, 503001."""
        info = await self._info(partition)
        if info is None:
            raise HubError(SERVER_ERROR, f"the stream {self.names[partition]} is gone: restore it, or remove the hub")
        return info

    async def oldest(self, partition: int) -> int:
        """The place of the oldest message that is kept; where none is, that of the next. Raises ``HubError``."""
        return int((await self.describe(partition))["state"]["first_seq"])

    async def state(self, partition: int) -> PartitionState:
        """See ``SharedLog.state``."""
        state = (await self.describe(partition))["state"]
        last, enqueued_ms = state["last_seq"], _ms(state["last_ts"]) if state["last_seq"] else 0
        if not state["messages"]:
            return PartitionState(base_of(last + 1), base_of(last + 1), enqueued_ms)
        newest = await self.find(partition, {"seq": last})
        count = 0 if newest is None else count_of(newest.body)
        return PartitionState(base_of(state["first_seq"]), base_of(last) + count, enqueued_ms)

    async def page(self, partition: int, sequence: int, limit_bytes: int) -> list[Found]:
        """Messages of the stream from the one with ``sequence`` on, or that which is kept behind it.

        Any replica may answer. One that lags has less; so before there is none the leader is asked.
        """
        request = {"seq": place_of(sequence), "batch": _PAGE, "max_bytes": max(1, min(limit_bytes, 1 << 30))}
        name = self.names[partition]
        answers = await self._replies.gather(
            f"$JS.API.DIRECT.GET.{name}", request, lambda answer: bool(status_of(answer))
        )
        found = [_found(answer) for answer in answers[:-1]]
        if not found:
            first = await self.find(partition, {"seq": place_of(sequence), "next_by_subj": self.subjects[partition]})
            found = [] if first is None else [first]
        return found

    async def find(self, partition: int, request: dict[str, Any]) -> Found | None:
        """The message that the stream's leader finds. Raises ``HubError`` (503001)."""
        answer = await self._replies.ask(f"STREAM.MSG.GET.{self.names[partition]}", request)
        if answer is None:
            return None
        message = answer["message"]
        return Found(message["seq"], _ms(message["time"]), base64.b64decode(message.get("data", "")))

    async def first_since(self, partition: int, earliest_ms: int) -> Found | None:
        """The first message that was stored at a moment or later."""
        if earliest_ms > _LAST_MOMENT_MS:
            return None
        start = datetime.fromtimestamp(max(0, earliest_ms) / 1000, UTC).isoformat(timespec="milliseconds")
        return await self.find(partition, {"start_time": start, "next_by_subj": self.subjects[partition]})

    async def keep(self, partition: int, keep_ms: int, limit_bytes: int) -> int:
        """Have the servers drop what is older, or more; the oldest sequence number that they keep now.

        The limits become the stream's own, and its servers hold it to them from then on.
        """
        info = await self.describe(partition)
        config = info["config"]
        wanted = {
            "max_age": min(max(keep_ms, _SHORTEST_MS), _LONGEST_MS) * 1_000_000,
            "max_bytes": min(max(limit_bytes // self.partitions, 1), 1 << 60),
            "duplicate_window": min(DUPLICATES_SECONDS * 1000, max(keep_ms, _SHORTEST_MS)) * 1_000_000,
        }
        if any(config.get(key) != value for key, value in wanted.items()):
            try:
                info = await self._replies.ask(f"STREAM.UPDATE.{self.names[partition]}", {**config, **wanted}) or info
            except Refused as error:
                if error.number != _NO_ROOM:
                    raise
                raise HubError(
                    UNAVAILABLE,
                    f"the NATS servers cannot set aside {wanted['max_bytes']} bytes for {self.names[partition]}; lower "
                    "--retention-mib, or raise max_file in their jetstream block",
                ) from None
        state = info["state"]
        return base_of(state["first_seq"] if state["messages"] else state["last_seq"] + 1)


async def streams_of(replies: Replies, deployment: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The streams of all hubs of a deployment, as JetStream lists them, and the names of those of which nobody could
    tell. Raises ``HubError`` (503001)."""
    found: list[dict[str, Any]] = []
    while True:
        wanted = {"subject": f"muster.{_safe(deployment)}.>", "offset": len(found)}
        page = await replies.ask("STREAM.LIST", wanted) or {}
        streams = page.get("streams") or []
        found += streams
        if not streams or len(found) >= page["total"]:
            return found, page.get("missing") or []


async def delete_streams(replies: Replies, place: Place) -> None:
    """Delete all that is kept of a hub's telemetry. Harmless when repeated. Raises ``HubError`` (503001)."""
    while names := ((await replies.ask("STREAM.NAMES", {"subject": place.subject("*")})) or {}).get("streams"):
        for name in names:
            await replies.ask(f"STREAM.DELETE.{name}", {})


def _found(answer: Msg) -> Found:
    headers = answer.headers or {}
    return Found(int(headers["Nats-Sequence"]), _ms(headers["Nats-Time-Stamp"]), answer.data)


def _ms(moment: str) -> int:
    """A server's time, RFC 3339, as milliseconds since 1970."""
    return (datetime.fromisoformat(moment) - _EPOCH) // _MILLISECOND


def _safe(name: str) -> str:
    """``name`` without what means something in a subject or the name of a file; different names stay different."""
    return re.sub(r"[^A-Za-z0-9-]", lambda found: "".join(f"={byte:02X}" for byte in found.group().encode()), name)
