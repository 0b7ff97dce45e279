"""What file upload asks of others: a store of its slots, a storage for the files, somebody to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from muster.core.errors import UPLOAD_UNKNOWN, HubError


class Slot(NamedTuple):
    """One upload that a device has begun. ``blob_name`` begins with the device's id; ``expires_at`` is in seconds
    since 1970, and the moment when the grant ends too."""

    correlation_id: str
    device_id: str
    blob_name: str
    expires_at: float


class Grant(NamedTuple):
    """Where a file goes: ``https://{host}/{container}/{blob name}{sas_token}``. ``host`` may hold a port and a path;
    ``sas_token`` begins with ``?`` and is a secret."""

    host: str
    container: str
    sas_token: str

    def __repr__(self) -> str:
        return f"Grant(host={self.host!r}, container={self.container!r})"


class StoredFile(NamedTuple):
    """What a storage says of a file that is there. ``uri`` is its address without any grant."""

    uri: str
    size: int
    modified: float


class FileNotification(NamedTuple):
    """A file has arrived. Times are seconds since 1970."""

    device_id: str
    blob_name: str
    file: StoredFile
    enqueued: float


def upload_unknown() -> HubError:
    """The refusal of a report about a slot that is not there, or not any more."""
    return HubError(UPLOAD_UNKNOWN, "correlationId is not of an upload of this device that is still open.")


class UploadStore(Protocol):
    """Keeps slots, by hub.

    Promises: what ``begin`` and ``end`` have done is durable when they return. Deleting a device deletes its slots in
    the same transaction. Does not promise to forget what has lapsed by itself: see ``expire``.
    """

    async def begin(self, hub: str, slot: Slot, now: float, most: int) -> None:
        """Keep a new slot.

        Raises ``HubError`` 404001 when the device is not there, 403006 when it has ``most`` slots already that have
        not lapsed by ``now``.
        """
        ...

    async def get(self, hub: str, device_id: str, correlation_id: str) -> Slot | None:
        """The slot, ``None`` when the device has none with this id."""
        ...

    async def end(self, hub: str, device_id: str, correlation_id: str) -> bool:
        """Forget a slot; whether it was there."""
        ...

    async def expire(self, hub: str, now: float) -> Sequence[Slot]:
        """Forget the slots that have lapsed by ``now``, and return them."""
        ...

    async def next_expiry(self, hub: str) -> float | None:
        """When the first slot lapses, ``None`` when there is none."""
        ...


class UploadStorage(Protocol):
    """Where files go. A kind of storage is one implementation; the hub has one of them, or none.

    Does not promise to list or to read files, nor to know devices.
    """

    def grant(self, blob_name: str, expires_at: float) -> Grant:
        """Let who has the answer read and write this one file until ``expires_at`` (seconds since 1970)."""
        ...

    async def find(self, blob_name: str) -> StoredFile | None:
        """What is known of a file, ``None`` when it is not there.

        Raises ``HubError`` 400020 when the storage refuses to say, 503001 when it cannot be reached.
        """
        ...

    async def close(self) -> None:
        """Let go of connections. Harmless when repeated."""
        ...


class FileNotifications(Protocol):
    """The hub's queue of notices about files, for services to read."""

    async def put(self, notice: FileNotification, correlation_id: str) -> None:
        """Keep a notice and end the slot, both or nothing; durable on return.

        Raises ``HubError`` 400015 when the slot has ended already, and when the notice cannot be kept.
        """
        ...
