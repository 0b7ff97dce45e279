"""File upload: a device asks for a place, sends the file to the storage, and says how that ended.

Each upload that has begun holds a slot until it is reported or its grant ends. Only so many may be open for a device
(service.md 7.1). The notice goes into its queue in the transaction that gives the slot up: of several reports, to
whichever nodes, one announces the file, and none is lost.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re

from muster.core.ambient import Ambient, Timer
from muster.core.errors import (
    ARGUMENT_INVALID,
    STORAGE_NOT_CONFIGURED,
    STORAGE_REFUSED,
    UPLOAD_EXPIRED,
    HubError,
)
from muster.core.limits import Profile
from muster.core.upload_limits import BLOB_NAME_CHARACTERS, UPLOADS_ACTIVE
from muster.messages.upload_contract import (
    FileNotification,
    FileNotifications,
    Grant,
    Slot,
    StoredFile,
    UploadStorage,
    UploadStore,
    upload_unknown,
)

DEFAULT_TTL_SECONDS = 3600
"""How long a grant and its slot last (service.md 6.6, sasTtlAsIso8601)."""
_RETRY_SECONDS = 60.0

_CORRELATION = re.compile(r"([0-9]{1,12})_[0-9a-f]{32}", re.ASCII)

log = logging.getLogger("muster.uploads")


class Uploads:
    """The uploads of one hub's devices.

    Args:
        storage: where files go; ``None`` for a hub without, where every upload is refused with 400014.
        notifications: told of each file that has arrived; ``None`` when nobody is to be told.
        ttl_seconds: how long a grant and its slot last.
    """

    def __init__(
        self,
        hub: str,
        store: UploadStore,
        storage: UploadStorage | None,
        notifications: FileNotifications | None,
        ambient: Ambient,
        *,
        profile: Profile = Profile.OPEN,
        ttl_seconds: int = DEFAULT_TTL_SECONDS,
    ) -> None:
        self._hub = hub
        self._store = store
        self._storage = storage
        self._notifications = notifications
        self._ambient = ambient
        self._most = UPLOADS_ACTIVE.under(profile)
        self._ttl = ttl_seconds
        self._timer: Timer | None = None
        self._expiring: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Watch over the slots that are there, of an earlier run too."""
        await self._arm()

    async def close(self) -> None:
        """Watch no more. Harmless when repeated."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)

    async def begin(self, device_id: str, name: str) -> tuple[Slot, Grant]:
        """Give the device a place for the file ``name``; durable on return.

        Raises ``HubError``: 400004 for a name that no file can have, 400014 without a storage, 403006 for one upload
        too many, 404001 when the device was deleted.
        """
        storage = self._needed_storage()
        blob_name = blob_name_of(device_id, name)
        now = self._ambient.now()
        expires_at = float(int(now) + self._ttl)
        slot = Slot(_correlation_id(expires_at, self._ambient.uuid().hex), device_id, blob_name, expires_at)
        await self._store.begin(self._hub, slot, now, self._most)
        if self._timer is None and not self._closed:
            self._timer = self._ambient.at(expires_at, self._due)
        return slot, storage.grant(blob_name, expires_at)

    async def report(self, device_id: str, correlation_id: str, *, success: bool) -> None:
        """The device says how an upload ended; on success who listens is told. Durable on return.

        Raises ``HubError``: 400014 without a storage, 400015 for an id that is not (or no longer) one of the
        device's, 400016 when it has lapsed, 400020 when the file is not there or the storage does not say; the slot
        stays then, so that the device can send the file and report again.
        """
        storage = self._needed_storage()
        slot = await self._slot(device_id, correlation_id)
        notice = await self._notice(slot, storage) if success else None
        if notice is not None and self._notifications is not None:
            await self._notifications.put(notice, correlation_id)
        elif not await self._store.end(self._hub, device_id, correlation_id):
            raise upload_unknown()  # another report was first

    async def _notice(self, slot: Slot, storage: UploadStorage) -> FileNotification:
        file: StoredFile | None = await storage.find(slot.blob_name)
        if file is None:
            raise HubError(
                STORAGE_REFUSED, "The storage has no such file, upload it before you report that it is there."
            )
        return FileNotification(slot.device_id, slot.blob_name, file, self._ambient.now())

    async def _slot(self, device_id: str, correlation_id: str) -> Slot:
        slot = await self._store.get(self._hub, device_id, correlation_id)
        end = _end_of(correlation_id) if slot is None else slot.expires_at
        if end is not None and end <= self._ambient.now():
            raise HubError(UPLOAD_EXPIRED, "The upload has lapsed with its sasToken, begin a new one.")
        if slot is None:
            raise upload_unknown()
        return slot

    def _needed_storage(self) -> UploadStorage:
        if self._storage is None:
            raise HubError(STORAGE_NOT_CONFIGURED)
        return self._storage

    # --- slots that lapse

    def _due(self) -> None:
        self._timer = None
        self._expiring = asyncio.ensure_future(self._expire())

    async def _expire(self) -> None:
        try:
            lapsed = await self._store.expire(self._hub, self._ambient.now())
            log.info("%d file uploads have lapsed", len(lapsed))
            await self._arm()
        except HubError as error:
            log.warning("file uploads that have lapsed could not be removed: %s", error)
            if not self._closed:
                self._timer = self._ambient.at(self._ambient.now() + _RETRY_SECONDS, self._due)

    async def _arm(self) -> None:
        first = await self._store.next_expiry(self._hub)
        if first is not None and self._timer is None and not self._closed:
            self._timer = self._ambient.at(first, self._due)


def blob_name_of(device_id: str, name: str) -> str:
    """The name of a device's file within the container: ``{device_id}/{name}``.

    Raises ``HubError`` 400004 for a name that some client or tool would turn into another: empty, too long, with a
    control character, a backslash, or a part between slashes that is empty, ``.`` or ``..``.
    """
    whole = f"{device_id}/{name}"
    if not name:
        raise HubError(ARGUMENT_INVALID, "blobName is empty, name the file.")
    if len(whole) > BLOB_NAME_CHARACTERS.open:
        most = BLOB_NAME_CHARACTERS.open - len(device_id) - 1
        raise HubError(ARGUMENT_INVALID, f"blobName has {len(name)} characters, {most} fit behind the device's id.")
    if any(character < " " or "\x7f" <= character <= "\x9f" or character == "\\" for character in name):
        raise HubError(ARGUMENT_INVALID, "blobName holds a backslash or a control character, leave it out.")
    if any(part in {"", ".", ".."} for part in whole.split("/")):
        raise HubError(ARGUMENT_INVALID, "blobName has an empty part, '.' or '..' between its slashes, leave it out.")
    return whole


def _correlation_id(expires_at: float, unique: str) -> str:
    """As on the service the base64 of a time and something unique. The time is the end: an id that has lapsed is
    known as such when its slot is forgotten."""
    return base64.urlsafe_b64encode(f"{int(expires_at)}_{unique}".encode()).decode().rstrip("=")


def _end_of(correlation_id: str) -> float | None:
    """When the upload with this id lapses, ``None`` when we never gave such an id."""
    try:
        padded = correlation_id + "=" * (-len(correlation_id) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return None
    found = _CORRELATION.fullmatch(text)
    return None if found is None else float(found[1])
