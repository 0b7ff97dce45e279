"""Cloud-to-device messages: what a service sends to a device or module, kept in the identity's queue until it ends.

The rules of the cloud are docs iot-hub-devguide-messages-c2d. What counts as a failed delivery there is an explicit
abandon. MQTT has none: a connection that ends before its PUBACK is taken for one, else a message that makes its
device fail would come again for as long as it lives. A lock that lapses on a live connection does not count.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import NamedTuple, Protocol
from uuid import UUID

from muster.core.ambient import Ambient
from muster.core.audit import Note
from muster.core.errors import ARGUMENT_INVALID, INVALID_EXPIRY, MESSAGE_TOO_LARGE, HubError
from muster.core.limits import Profile
from muster.core.meters import Meters
from muster.core.queue_limits import (
    COMMAND_BYTES,
    COMMAND_PROPERTIES,
    COMMAND_PROPERTY_COUNT,
    COMMAND_QUEUE,
    COMMAND_TTL,
    MESSAGE_ID_CHARACTERS,
    QUEUE_DELIVERIES,
    QUEUE_LOCK,
    QUEUE_TTL,
)
from muster.core.throttles import COMMANDS
from muster.identity.ids import PUNCTUATION
from muster.identity.model import Identity, IdentityKey
from muster.messages.properties import bad_character, check_property
from muster.messages.queue import Entry, Outcome, Settlement
from muster.messages.queue_contract import Edited, Record
from muster.messages.queues import Queues, Rules, taken

_ID = re.compile(rf"[A-Za-z0-9{re.escape(PUNCTUATION)}]*")


class Ack(StrEnum):
    """Of which outcomes the sender wants feedback: of none, of success, of failure, of all."""

    NONE = "none"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    FULL = "full"


_WANTED = {
    Ack.NONE: frozenset[Outcome](),
    Ack.POSITIVE: frozenset({Outcome.COMPLETED}),
    Ack.NEGATIVE: frozenset(Outcome) - {Outcome.COMPLETED},
    Ack.FULL: frozenset(Outcome),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One message. What the sender did not give is ``None``; times are seconds since 1970."""

    body: bytes
    message_id: str | None = None
    correlation_id: str | None = None
    user_id: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    expires: float | None = None
    created: float | None = None
    ack: Ack | None = None
    properties: Mapping[str, str | None] = field(default_factory=dict)


class Received(NamedTuple):
    """A command in the hands of a device, and how it stands: see ``queue.Entry``. ``token`` settles it."""

    command: Command
    token: UUID
    until: float
    number: int
    enqueued: float
    expires: float
    deliveries: int


class FeedbackRecord(NamedTuple):
    """How a command ended, ``at`` which time (seconds since 1970). ``message_id`` is empty if it had none."""

    message_id: str
    at: float
    outcome: Outcome
    key: IdentityKey
    generation_id: str


class Identities(Protocol):
    """The part of ``identity.registry.Registry`` that tells who exists."""

    async def get(self, key: IdentityKey) -> Identity:
        """The identity. Raises ``HubError`` 404001 or 404010 when there is none."""
        ...


def command_rules(profile: Profile, deliveries: int = QUEUE_DELIVERIES.open) -> Rules:
    """The rules of the identities' queues. ``deliveries``: so many failed ones end a message."""
    return Rules(QUEUE_LOCK.open, deliveries, COMMAND_QUEUE.under(profile), _record)


class Commands:
    """The cloud-to-device messages of one hub."""

    def __init__(
        self, queues: Queues, identities: Identities, ambient: Ambient, profile: Profile = Profile.OPEN,
        ttl_seconds: float = QUEUE_TTL.open, *, meters: Meters | None = None,
    ) -> None:  # fmt: skip
        """``ttl_seconds`` counts for messages that bring no expiry time."""
        self._meters = Meters(ambient) if meters is None else meters
        self._queues = queues
        self._identities = identities
        self._ambient = ambient
        self._profile = profile
        self._ttl_seconds = ttl_seconds

    def rule(self, ttl_seconds: float, deliveries: int) -> None:
        """From now on a message without an expiry time waits for ``ttl_seconds``, and ``deliveries`` that failed end
        one."""
        self._ttl_seconds = ttl_seconds
        self._queues.allow(deliveries)

    # --- for services

    async def send(self, key: IdentityKey, command: Command, principal: str = "") -> Entry:
        """Put ``command`` of ``principal`` into the queue of ``key``; returns once it is durable. The identity may be
        disabled.

        Raises ``HubError``: 404001, 404010, 403004 when the queue is full, 403009, 413001, as ``Meters.take`` and
        ``Meters.take_principal``, and 400004 with the name of what is wrong. An expiry time that has passed is taken:
        the message ends at once, as any that came too late.
        """
        now = self._ambient.now()
        check(command, now, self._profile)
        if principal:
            self._meters.take_principal(principal)
        self._meters.take(COMMANDS)
        identity = await self._identities.get(key)
        expires = now + self._ttl_seconds if command.expires is None else command.expires
        head = _head(command, identity.generation_id)
        entry = await self._queues.put(str(key), head, command.body, expires, generation=identity.generation_id)
        self._meters.charge(_size(command) + len(command.body))
        return entry

    async def purge(self, key: IdentityKey, note: Note | None = None) -> int:
        """Throw away all that waits for ``key`` or is in its hands; how many. Raises ``HubError`` 404001, 404010."""
        await self._identities.get(key)
        return await self._queues.purge(str(key), note)

    # --- for devices

    def take(
        self, key: IdentityKey, limit: int, holder: str = "", *, lock_seconds: float | None = None
    ) -> asyncio.Future[list[Edited]]:
        """Lock up to ``limit`` commands of ``key``, the oldest first; ``received`` reads the answer.

        ``holder`` names the connection that the locks end with; without it they lapse by time only: after
        ``lock_seconds``, or a minute.
        """
        return self._queues.take(str(key), limit, holder, lock_seconds=lock_seconds)

    def settle(self, key: IdentityKey, token: UUID, how: Settlement) -> asyncio.Future[None]:
        """See ``Queues.settle``: raises ``HubError`` 412002."""
        return self._queues.settle(str(key), token, how)

    def release(self, key: IdentityKey) -> None:
        """Give back what any connection had in hand: that of an earlier run of the hub, which is nobody's failure."""
        self._queues.release(str(key), None, counted=False)

    def give_back(self, key: IdentityKey, token: UUID, *, sent: bool) -> None:
        """A connection has ended that held this; it counts as a failed delivery if it was ``sent``."""
        self._queues.give_back(str(key), token, counted=sent)

    def waiting(self, key: IdentityKey) -> int | None:
        """How many commands are in the queue, those in the device's hands too; ``None``: take, and see."""
        return self._queues.waiting(str(key))

    def watch(self, key: IdentityKey, listener: Callable[[], None]) -> Callable[[], None]:
        """See ``Queues.watch``."""
        return self._queues.watch(str(key), listener)


def received(edited: Sequence[Edited]) -> list[Received]:
    """What a ``take`` has brought."""
    found = []
    for entry, body in taken(edited):
        lock = entry.lock
        assert lock is not None, "what was taken is locked"
        command = _command(entry.head, body)
        found.append(
            Received(command, lock.token, lock.until, entry.number, entry.enqueued, entry.expires, entry.deliveries)
        )
    return found


def feedback_record(record: Record) -> FeedbackRecord:
    """What a record of an identity's queue says."""
    said = json.loads(record.text)
    device_id, _, module_id = record.queue.partition("/")
    key = IdentityKey(device_id, module_id or None)
    return FeedbackRecord(said["id"], record.at, Outcome(said["outcome"]), key, said["generation"])


# --- rules


def check(command: Command, now: float, profile: Profile) -> None:
    """Refuse what may not be sent (device.md 8): 400004, 403009, 413001.

    The ``azure`` profile takes property names and values in the characters that the cloud allows only; ``open``
    takes any text in values, and in names that are not empty: every protocol that devices speak can carry it.
    """
    for name, text in (("message-id", command.message_id), ("correlation-id", command.correlation_id)):
        _check_id(name, text or "")
    if len(command.properties) > COMMAND_PROPERTY_COUNT.open:
        most = COMMAND_PROPERTY_COUNT.open
        raise HubError(
            ARGUMENT_INVALID, f"There are {len(command.properties)} application properties, give at most {most}."
        )
    for name, value in command.properties.items():
        check_property(name, value or "", profile)
    furthest = COMMAND_TTL.under(profile)
    if command.expires is not None and command.expires > now + furthest:
        message = f"absolute-expiry-time is more than {furthest} seconds away, give an earlier one or none."
        raise HubError(INVALID_EXPIRY, message)
    head = _size(command)
    if head > COMMAND_PROPERTIES.open:
        message = f"The properties have {head} bytes, {COMMAND_PROPERTIES.open} are allowed: move data into the body."
        raise HubError(MESSAGE_TOO_LARGE, message)
    if head + len(command.body) > COMMAND_BYTES.open:
        message = (
            f"The message has {head + len(command.body)} bytes with its properties, at most {COMMAND_BYTES.open} fit."
        )
        raise HubError(MESSAGE_TOO_LARGE, message)


def _check_id(name: str, text: str) -> None:
    most = MESSAGE_ID_CHARACTERS.open
    if len(text) > most:
        raise HubError(ARGUMENT_INVALID, f"{name} has {len(text)} characters, {most} are allowed.")
    good = _ID.match(text)
    if good is not None and good.end() < len(text):
        raise bad_character(name, text, good.end(), PUNCTUATION)


def _size(command: Command) -> int:
    """How large all but the body counts: values of system properties, names and values of application properties."""
    system = (
        command.message_id, command.correlation_id, command.user_id, command.content_type, command.content_encoding
    )  # fmt: skip
    texts = [text for text in system if text]
    for name, value in command.properties.items():
        texts += (name, value or "")
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


# --- what is kept

_encode: Callable[[object], str] = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))
_TEXTS = ("message_id", "correlation_id", "user_id", "content_type", "content_encoding", "expires", "created", "ack")


def _head(command: Command, generation_id: str) -> str:
    """All of a command but its body, and what its feedback will need."""
    said: dict[str, object] = {name: value for name in _TEXTS if (value := getattr(command, name)) is not None}
    if command.properties:
        said["properties"] = dict(command.properties)
    said["generation"] = generation_id
    return _encode(said)


def _command(head: str, body: bytes) -> Command:
    said = json.loads(head)
    del said["generation"]
    if "ack" in said:
        said["ack"] = Ack(said["ack"])
    return Command(body=body, **said)


def _record(queue: str, entry: Entry, outcome: Outcome, now: float) -> Record | None:
    """See ``queues.Rules.record``."""
    said = json.loads(entry.head)
    if outcome not in _WANTED[Ack(said.get("ack", Ack.NONE))]:
        return None
    text = {"id": said.get("message_id", ""), "outcome": outcome, "generation": said["generation"]}
    return Record(queue, now, _encode(text))
