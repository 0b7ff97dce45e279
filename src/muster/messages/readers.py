"""Who reads a partition: owner levels (epochs), and how many may share it (service.md 4.4)."""

from __future__ import annotations

from collections.abc import Callable

from muster.core.errors import READER_REPLACED, TOO_MANY_READERS, HubError
from muster.core.limits import CONSUMER_READERS

Evicted = Callable[[HubError], None]


class _Reader:
    __slots__ = ("epoch", "evicted", "name")

    def __init__(self, name: str, epoch: int | None, evicted: Evicted) -> None:
        self.name = name
        self.epoch = epoch
        self.evicted = evicted


class Readers:
    """The live readers of all partitions, by consumer group.

    One with an epoch has the partition for itself within its group: it pushes out readers without one and
    those whose epoch is not higher. Does not promise fairness between readers of the same epoch: the last wins.
    """

    def __init__(self, limit: int = CONSUMER_READERS.open) -> None:
        """``limit`` readers without epoch may share a partition in a consumer group."""
        self._limit = limit
        self._readers: dict[tuple[str, int], list[_Reader]] = {}

    def join(self, group: str, partition: int, *, name: str, epoch: int | None, evicted: Evicted) -> Callable[[], None]:
        """Begin to read; the answer ends it. ``evicted`` is told when another took the partition over.

        Raises ``HubError``: 409002 while a reader with a higher epoch holds the partition (any epoch, for one
        without), 403013 when too many share it.
        """
        place = (group.lower(), partition)
        present = self._readers.get(place, [])
        reader = _Reader(name, epoch, evicted)
        if epoch is None:
            self._check_shared(present)
            present = [*present, reader]
            replaced = []
        else:
            _check_owned(present, name, epoch)
            present, replaced = [reader], present
        self._readers[place] = present
        for other in replaced:
            other.evicted(_replaced(other, reader))

        def leave() -> None:
            left = [other for other in self._readers.get(place, ()) if other is not reader]
            if left:
                self._readers[place] = left
            else:
                self._readers.pop(place, None)

        return leave

    def _check_shared(self, present: list[_Reader]) -> None:
        for other in present:
            if other.epoch is not None:
                raise HubError(
                    READER_REPLACED,
                    f"At least one receiver for the endpoint is created with epoch of '{other.epoch}', and so "
                    "non-epoch receiver is not allowed. Either reconnect with a higher epoch, or make sure all "
                    "epoch receivers are closed or disconnected.",
                )
        if len(present) >= self._limit:
            names = ", ".join(other.name for other in present)
            raise HubError(
                TOO_MANY_READERS,
                "Exceeded the maximum number of allowed receivers per partition in a consumer group which is "
                f"{self._limit}. List of connected receivers - {names}.",
            )


def _check_owned(present: list[_Reader], name: str, epoch: int) -> None:
    for other in present:
        if other.epoch is not None and other.epoch > epoch:
            raise HubError(
                READER_REPLACED,
                f"Receiver '{other.name}' with a higher epoch '{other.epoch}' already exists. Receiver '{name}' "
                f"with epoch {epoch} cannot be created. Make sure you are creating receiver with increasing epoch "
                "value to ensure connectivity, or ensure all old epoch receivers are closed or disconnected.",
            )


def _replaced(old: _Reader, new: _Reader) -> HubError:
    epoch = "none" if old.epoch is None else old.epoch
    return HubError(
        READER_REPLACED,
        f"New receiver '{new.name}' with higher epoch of '{new.epoch}' is created hence current receiver "
        f"'{old.name}' with epoch '{epoch}' is getting disconnected. If you are recreating the receiver, make sure "
        "a higher epoch is used.",
    )
