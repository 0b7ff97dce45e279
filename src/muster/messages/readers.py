"""Who reads a partition: owner levels (epochs), and how many may share it (service.md 4.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import NamedTuple, Protocol

from muster.core.errors import READER_REPLACED, TOO_MANY_READERS, HubError
from muster.core.limits import CONSUMER_READERS

Evicted = Callable[[HubError], None]
Leave = Callable[[], None]


class Reader(NamedTuple):
    """One that reads a partition: ``id`` is nobody else's, ``name`` what it calls itself, ``epoch`` its owner level."""

    id: str
    name: str
    epoch: int | None


class PartitionReaders(Protocol):
    """The live readers of all partitions of a hub, by consumer group, wherever they are connected.

    One with an epoch has the partition for itself within its group: it pushes out readers without one and
    those whose epoch is not higher. Does not promise fairness between readers of the same epoch: the last wins.
    """

    async def join(self, group: str, partition: int, *, name: str, epoch: int | None, evicted: Evicted) -> Leave:
        """Begin to read, when all that this one pushes out have ended; the answer ends it, and may be called again.

        ``evicted`` is told when the place is lost, possibly before this returns; nothing may be sent from then on.
        Raises ``HubError``: 409002 while a reader with a higher epoch holds the partition (any epoch, for one
        without), 403013 when too many share it; with several nodes 503001 when those cannot be asked.
        """
        ...


class Readers:
    """``PartitionReaders`` of a hub in one process."""

    def __init__(self, limit: int = CONSUMER_READERS.open) -> None:
        """``limit`` readers without epoch may share a partition in a consumer group."""
        self._limit = limit
        self._readers: dict[tuple[str, int], dict[Reader, Evicted]] = {}
        self._numbers = count(1)

    async def join(self, group: str, partition: int, *, name: str, epoch: int | None, evicted: Evicted) -> Leave:
        """See ``PartitionReaders``."""
        place = (group.lower(), partition)
        present = self._readers.get(place, {})
        reader = Reader(str(next(self._numbers)), name, epoch)
        replaced = {other: present[other] for other in pushed_out(list(present), reader, self._limit)}
        staying = {other: its for other, its in present.items() if other not in replaced}
        self._readers[place] = {**staying, reader: evicted}
        for other, its in replaced.items():
            its(replaced_by(reader, other))

        def leave() -> None:
            left = self._readers.get(place, {})
            left.pop(reader, None)
            if not left:
                self._readers.pop(place, None)

        return leave


def pushed_out(present: Sequence[Reader], reader: Reader, limit: int) -> Sequence[Reader]:
    """Which of those that are ``present`` have to end when ``reader`` comes. Raises ``HubError`` where it may not."""
    if reader.epoch is None:
        _check_shared(present, limit)
        return ()
    _check_owned(present, reader)
    return present


def replaced_by(reader: Reader, other: Reader) -> HubError:
    """What ``other`` is told, which ``reader`` pushes out."""
    epoch = "none" if other.epoch is None else other.epoch
    return HubError(
        READER_REPLACED,
        f"New receiver '{reader.name}' with higher epoch of '{reader.epoch}' is created hence current receiver "
        f"'{other.name}' with epoch '{epoch}' is getting disconnected. If you are recreating the receiver, make sure "
        "a higher epoch is used.",
    )


def _check_shared(present: Sequence[Reader], limit: int) -> None:
    for other in present:
        if other.epoch is not None:
            raise HubError(
                READER_REPLACED,
                f"At least one receiver for the endpoint is created with epoch of '{other.epoch}', and so "
                "non-epoch receiver is not allowed. Either reconnect with a higher epoch, or make sure all "
                "epoch receivers are closed or disconnected.",
            )
    if len(present) >= limit:
        names = ", ".join(other.name for other in present)
        raise HubError(
            TOO_MANY_READERS,
            "Exceeded the maximum number of allowed receivers per partition in a consumer group which is "
            f"{limit}. List of connected receivers - {names}.",
        )


def _check_owned(present: Sequence[Reader], reader: Reader) -> None:
    for other in present:
        if other.epoch is not None and reader.epoch is not None and other.epoch > reader.epoch:
            raise HubError(
                READER_REPLACED,
                f"Receiver '{other.name}' with a higher epoch '{other.epoch}' already exists. Receiver "
                f"'{reader.name}' with epoch {reader.epoch} cannot be created. Make sure you are creating receiver "
                "with increasing epoch value to ensure connectivity, or ensure all old epoch receivers are closed or "
                "disconnected.",
            )
