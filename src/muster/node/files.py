"""File upload put together: the storage that the settings ask for, and the uploads on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import apsw

from muster.core.ambient import Ambient
from muster.core.settings_store import HubSettingsStore
from muster.dialect.blob_sas import Account
from muster.dialect.storage_account import parse_storage_account
from muster.dialect.upload_bodies import notification_body
from muster.heads.http.auth import ServiceGate
from muster.heads.http.blobs import BlobOperations
from muster.heads.http.operations import Operation
from muster.heads.http.uploads import UploadOperations
from muster.identity.hub import Hub
from muster.messages.blobs import Blobs
from muster.messages.queues import ServiceQueue
from muster.messages.upload_contract import FileNotification, UploadStorage
from muster.messages.uploads import Uploads
from muster.node.directory import DataDirectory
from muster.node.settings import Settings
from muster.node.sockets import HTTPS_PORT
from muster.stores.blobs.azure import AzureStorage
from muster.stores.blobs.embedded import ACCOUNT_NAME, KEY_BYTES, EmbeddedStorage
from muster.stores.blobs.folder import FolderFiles
from muster.stores.sqlite.blobs import SqliteBlobIndex
from muster.stores.sqlite.database import Writer
from muster.stores.sqlite.uploads import SqliteUploadStore

_KEY = "storage-key"

Undo = Callable[[Callable[[], Awaitable[None] | None]], None]


class FileParts(NamedTuple):
    """What file upload is built on. ``https_port`` is where the embedded endpoint is reached."""

    settings: Settings
    directory: DataDirectory
    hub: Hub
    writer: Writer
    reader: apsw.Connection
    kept: HubSettingsStore
    ambient: Ambient
    gate: ServiceGate
    https_port: int


class FileNotices:
    """``messages.upload_contract.FileNotifications`` on the queue that services read over AMQP."""

    def __init__(self, queue: ServiceQueue) -> None:
        self._queue = queue

    async def put(self, notice: FileNotification) -> None:
        await self._queue.put(notification_body(notice))


async def file_operations(parts: FileParts, queue: ServiceQueue, undo: Undo, *, durable: bool) -> list[Operation]:
    """Start file upload, with word of it in ``queue``; its operations. ``undo`` keeps what ends it.

    Raises ``HubError`` for a storage connection string that is none.
    """
    operations: list[Operation] = []
    storage: UploadStorage | None = None
    settings = parts.settings
    if settings.storage_connection_string:
        account = parse_storage_account(settings.storage_connection_string)
        storage = AzureStorage(account, settings.storage_container, parts.ambient)
        undo(storage.close)
    elif settings.storage:
        storage, operations = await _embedded(parts, undo, durable=durable)
    uploads = Uploads(
        parts.hub.name,
        SqliteUploadStore(parts.writer, parts.reader),
        storage,
        FileNotices(queue) if settings.notify_of_files else None,
        parts.ambient,
        profile=settings.profile,
        ttl_seconds=settings.upload_ttl_seconds,
    )
    await uploads.start()
    undo(uploads.close)
    return [*operations, *UploadOperations(uploads).table()]


async def _embedded(parts: FileParts, undo: Undo, *, durable: bool) -> tuple[UploadStorage, list[Operation]]:
    account = Account(ACCOUNT_NAME, await _account_key(parts))
    index = SqliteBlobIndex(parts.writer, parts.reader)
    files = FolderFiles(parts.directory.blobs, parts.ambient, durable=durable)
    blobs = Blobs(index, files, parts.ambient, parts.settings.upload_bytes)
    blobs.start()
    undo(blobs.close)
    host = f"[{parts.hub.host}]" if ":" in parts.hub.host else parts.hub.host
    place = host if parts.https_port == HTTPS_PORT else f"{host}:{parts.https_port}"
    return EmbeddedStorage(blobs, account, place), BlobOperations(blobs, account, parts.gate, parts.ambient).table()


async def _account_key(parts: FileParts) -> bytes:
    """The key that signs grants: made at the first start, so that grants outlive a restart."""
    key = await parts.kept.get_setting(_KEY)
    if key is None:
        key = parts.ambient.random_bytes(KEY_BYTES)
        await parts.kept.put_settings({_KEY: key})
    return key
