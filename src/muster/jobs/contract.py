"""What import and export ask of others: a store that writes many identities with their twins, and reads them on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from muster.core.audit import Draft
from muster.core.errors import HubError
from muster.core.outbox import Entry
from muster.identity.contract import Change
from muster.identity.model import Identity, IdentityKey
from muster.twins.contract import Change as TwinChange
from muster.twins.document import Twin


class Load(NamedTuple):
    """One identity to be written: ``change`` as in ``identity.contract.Edit``, and what its ``twin`` becomes.

    ``twin`` gets the empty twin for an identity that is new, and is not asked where ``change`` deletes. Either of the
    two may refuse; then neither is made. ``follow`` says, once both are made, what else is to be written, of the same
    device, by the identity as it was and as it is; it may be refused without a word.
    """

    key: IdentityKey
    change: Change
    twin: TwinChange | None = None
    follow: Callable[[Identity | None, Identity | None], Sequence[Load]] | None = None


class Loaded(NamedTuple):
    """What was there, and what is there now; the same object twice for what has not changed.

    The twins are ``None`` where nobody had to look at them.
    """

    before: Identity | None
    after: Identity | None
    twin_before: Twin | None = None
    twin_after: Twin | None = None

    @property
    def changed(self) -> bool:
        """Whether anything is other than before."""
        return self.before is not self.after or self.twin_before is not self.twin_after


Outcome = Loaded | HubError


class Consequences(NamedTuple):
    """What comes of loads. All but ``then`` are pure and quick, run inside the store's transaction and may run again.

    ``changed`` makes the audit records of an identity that was there before, or of a module that goes with its device;
    ``made`` the one record of all that a transaction has made. ``record`` makes what is to be told of a twin that was
    there and has changed. ``then`` is called on the loop with the outcomes, once they are durable and before the caller
    has them, in the order of the calls and also when the caller does not wait any more.
    """

    changed: Callable[[Loaded], Sequence[Draft]]
    made: Callable[[Sequence[Identity]], Draft]
    record: Callable[[Loaded], Sequence[Entry]] | None
    then: Callable[[Sequence[Outcome]], None]


class LoadStore(Protocol):
    """Writes and reads identities with their twins, many at a time; on the database of an ``IdentityStore``.

    Promises all that ``IdentityStore.edit`` does: each load is made by itself, whole or not at all, and those of one
    device in the order they were asked for, also over several calls of which nobody awaited the first. Does not promise
    that the loads of a call are one transaction (``Consequences.made`` is asked once for each), nor any order between
    different devices.
    """

    def load(self, hub: str, loads: Sequence[Load], so: Consequences) -> Awaitable[list[Outcome]]:
        """Write ``loads``; for each what became of it, or why it was refused.

        For a module whose device is missing the store answers 404001 by itself, with the device's id as the message.
        The future raises ``HubError`` (500001) when the disk fails; then it is not known which loads are made.
        """
        ...

    async def page(self, hub: str, after: IdentityKey | None, limit: int) -> Sequence[tuple[Identity, Twin]]:
        """Up to ``limit`` identities behind ``after``, by device and module, a device before its modules."""
        ...
