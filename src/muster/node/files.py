"""File upload put together: the storage that the settings ask for, and the uploads on it."""

from __future__ import annotations

from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.dialect.blob_sas import Account
from muster.dialect.storage_account import parse_storage_account
from muster.dialect.upload_bodies import notification_body
from muster.heads.http.auth import ServiceGate
from muster.heads.http.blobs import BlobOperations
from muster.heads.http.operations import Operation
from muster.heads.http.uploads import UploadOperations
from muster.messages.blobs import Blobs
from muster.messages.queue_contract import EndedUpload
from muster.messages.queues import ServiceQueue
from muster.messages.upload_contract import FileNotification, UploadStorage
from muster.messages.uploads import Uploads
from muster.node.foundation import Foundation
from muster.node.sockets import HTTPS_PORT
from muster.stores.blobs.azure import AzureStorage
from muster.stores.blobs.embedded import ACCOUNT_NAME, KEY_BYTES, EmbeddedStorage
from muster.stores.blobs.folder import FolderFiles
from muster.stores.storage import HubStores

_KEY = "storage-key"


class FileNotices:
    """``messages.upload_contract.FileNotifications`` on the queue that services read over AMQP."""

    def __init__(self, queue: ServiceQueue) -> None:
        self._queue = queue

    async def put(self, notice: FileNotification, correlation_id: str) -> None:
        await self._queue.put(notification_body(notice), ends=EndedUpload(notice.device_id, correlation_id))


async def file_operations(
    base: Foundation, stores: HubStores, gate: ServiceGate, queue: ServiceQueue, https_port: int
) -> list[Operation]:
    """Start file upload, with word of it in ``queue``; its operations.

    ``https_port`` is where the embedded endpoint is reached. Raises ``HubError`` for a storage connection string that
    is none.
    """
    operations: list[Operation] = []
    storage: UploadStorage | None = None
    settings = base.settings
    if settings.storage_connection_string:
        account = parse_storage_account(settings.storage_connection_string)
        storage = AzureStorage(account, settings.storage_container, base.ambient)
        base.undo.append(storage.close)
    elif settings.storage and not settings.clustered:  # the folder is one machine's
        storage, operations = await _embedded(base, stores, gate, https_port)
    uploads = Uploads(
        base.hub.name,
        stores.uploads,
        storage,
        FileNotices(queue) if settings.notify_of_files else None,
        base.ambient,
        profile=settings.profile,
        ttl_seconds=settings.upload_ttl_seconds,
    )
    await uploads.start()
    base.undo.append(uploads.close)
    return [*operations, *UploadOperations(uploads).table()]


async def _embedded(
    base: Foundation, stores: HubStores, gate: ServiceGate, https_port: int
) -> tuple[UploadStorage, list[Operation]]:
    account = Account(ACCOUNT_NAME, await _account_key(base))
    files = FolderFiles(base.files.blobs, base.ambient, durable=base.durable)
    blobs = Blobs(stores.blobs, files, base.ambient, base.settings.upload_bytes)
    await blobs.start()
    base.undo.append(blobs.close)
    host = f"[{base.hub.host}]" if ":" in base.hub.host else base.hub.host
    place = host if https_port == HTTPS_PORT else f"{host}:{https_port}"
    return EmbeddedStorage(blobs, account, place), BlobOperations(blobs, account, gate, base.ambient).table()


async def _account_key(base: Foundation) -> bytes:
    """The key that signs grants: made at the first start, so that grants outlive a restart, and the same for all
    workers, whichever opens the hub first."""
    leave = base.kept.follow(_KEY, _stays)
    try:
        key = await base.kept.get_setting(_KEY)
        if key is None:
            key = base.ambient.random_bytes(KEY_BYTES)
            try:
                await base.kept.put_settings({_KEY: key})
            except HubError as error:
                if error.row is not PRECONDITION_FAILED:
                    raise
                key = await base.kept.get_setting(_KEY)
                assert key is not None, "another worker has made it"
        return key
    finally:
        leave()


async def _stays() -> None:
    """The key is made once."""
