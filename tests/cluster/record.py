"""What clients saw of a cluster while things broke. Each notes what it did and what it was told, when it was told."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a client saw, at ``at`` of its monotonic clock, which all clients of a run share.

    ``kind`` is one of ``KINDS``. ``subject`` is the device. ``number`` is what the client counts by: a message's
    number, a call's, a command's, a version; of messages one below zero was sent on a connection that the device had
    left, and belongs into no order. ``session`` counts a device's connections (0: the client does not know);
    ``place`` is a sequence number where something was read, a status where something was answered, the count of failed
    deliveries, the seconds after which a command expires. ``lock`` names a delivery of a command; ``what`` is a
    settlement, or an outcome in feedback. A fault is the subject of ``struck`` and ``healed``.
    """

    kind: str
    at: float
    subject: str
    number: int = 0
    session: int = 0
    place: int = 0
    lock: str = ""
    what: str = ""


KINDS = frozenset({
    "sent", "acked", "read",
    "connected", "ended",
    "called", "invoked", "answered",
    "offered", "commanded", "delivered", "settling", "settled", "feedback",
    "desired", "pushed", "got", "holds",
    "struck", "healed",
})  # fmt: skip


class Record:
    """Appends events to a file, one JSON object a line, so that a client that is killed loses none that it noted."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def note(self, event: Event) -> None:
        """Append ``event``."""
        assert event.kind in KINDS, event.kind
        self._file.write(json.dumps(asdict(event)) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(paths: Iterable[Path]) -> list[Event]:
    """The events of several clients, in the order of their times."""
    lines = (line for path in paths for line in path.read_text().splitlines())
    return sorted((Event(**json.loads(line)) for line in lines), key=lambda event: event.at)


def by_subject(events: Iterable[Event]) -> dict[str, list[Event]]:
    """The events of each device."""
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event.subject].append(event)
    return found
