"""The recorder: makes events of changes, where they happen, and puts them into the outbox.

Changes that the hub's database knows are recorded inside their own transactions, connections beside it. All pass the
one outbox, so that the events of a device come in the order of what happened to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from muster.core.ambient import Ambient
from muster.core.outbox import Entry, Outbox
from muster.core.settings_store import HubSettingsStore
from muster.events.model import (
    ConnectionChanged,
    DigitalTwinChanged,
    Event,
    LifecycleChanged,
    Source,
    TwinReplaced,
    TwinUpdated,
)
from muster.identity.model import Identity, IdentityKey
from muster.sessions.table import Session, SessionTable
from muster.twins import digital
from muster.twins.contract import TwinUpdate
from muster.twins.document import Twin

Encode = Callable[[Event], bytes]
"""Makes the stored message of an event."""

_EPOCH = "connection-epoch"
_TICKS_A_SECOND = 10_000_000
_SECONDS_1601_TO_1970 = 11_644_473_600
_COUNTER_BITS = 128


async def next_epoch(settings: HubSettingsStore, ambient: Ambient) -> int:
    """A number above that of every earlier start, kept before it is returned: 100 ns since 1601, as Azure's sequence
    numbers have it, or one more than the last if the clock has been set back."""
    kept = await settings.get_setting(_EPOCH)
    ticks = int((ambient.now() + _SECONDS_1601_TO_1970) * _TICKS_A_SECOND)
    epoch = ticks if kept is None else max(ticks, int(kept) + 1)
    await settings.put_settings({_EPOCH: str(epoch).encode()})
    return epoch


class EventRecorder:
    """Records the events of one hub that ``sources`` name.

    Implements ``twins.contract.TwinRecorder`` and ``LifecycleRecorder``, which are called in a store's transaction on
    whatever thread.
    """

    def __init__(self, sources: Collection[Source], encode: Encode, ambient: Ambient) -> None:
        self.sources = frozenset(sources)
        self._encode = encode
        self._ambient = ambient

    # --- twins

    def twin_updated(self, key: IdentityKey, before: Twin, after: Twin, update: TwinUpdate) -> Sequence[Entry]:
        """See ``TwinRecorder``."""
        entries = []
        if Source.TWIN in self.sources:
            entries.append(self._entry(TwinUpdated(key=key, at=update.at, id=self._id(), twin=after, update=update)))
        return [*entries, *self._digital(key, before, after, update.at)]

    def twin_replaced(self, key: IdentityKey, before: Twin, after: Twin, at: float) -> Sequence[Entry]:
        """See ``TwinRecorder``."""
        entries = []
        if Source.TWIN in self.sources:
            entries.append(self._entry(TwinReplaced(key=key, at=at, id=self._id(), twin=after)))
        return [*entries, *self._digital(key, before, after, at)]

    def model_announced(self, key: IdentityKey, before: Twin, after: Twin, at: float) -> Sequence[Entry]:
        """See ``TwinRecorder``."""
        return self._digital(key, before, after, at)

    def _digital(self, key: IdentityKey, before: Twin, after: Twin, at: float) -> list[Entry]:
        if Source.DIGITAL_TWIN not in self.sources:
            return []
        operations = digital.changes(digital.view("", before), digital.view("", after))
        if not operations:
            return []
        return [self._entry(DigitalTwinChanged(key=key, at=at, id=self._id(), operations=operations))]

    # --- identities

    def identity_changed(self, identity: Identity, twin: Twin, *, created: bool) -> Sequence[Entry]:
        """See ``LifecycleRecorder``."""
        if Source.LIFECYCLE not in self.sources:
            return []
        at = self._ambient.now()
        return [self._entry(LifecycleChanged(key=identity.key, at=at, id=self._id(), created=created, twin=twin))]

    # --- connections

    def watch(self, sessions: SessionTable, outbox: Outbox, epoch: int) -> None:
        """From now on record into ``outbox`` who connects and disconnects; ``epoch`` as ``next_epoch`` made it."""
        sequence = epoch << _COUNTER_BITS

        def changed(session: Session, connected: bool) -> None:
            nonlocal sequence
            if Source.CONNECTION not in self.sources:
                return
            sequence += 1
            event = ConnectionChanged(
                key=session.key, at=self._ambient.now(), id=self._id(), connected=connected, sequence=sequence
            )
            outbox.put([self._entry(event)])

        sessions.when_opened(lambda session: changed(session, True))
        sessions.when_ended(lambda session: changed(session, False))

    # --- within

    def _entry(self, event: Event) -> Entry:
        return Entry(event.key.device_id, self._encode(event))

    def _id(self) -> str:
        return self._ambient.random_bytes(6).hex()
