"""The hub's own storage as the uploads see it: files at the embedded blob endpoint."""

from __future__ import annotations

from urllib.parse import quote

from muster.core.errors import HubError
from muster.core.storage_errors import BLOB_NOT_FOUND
from muster.dialect import blob_sas
from muster.dialect.blob_sas import CONTAINER, Account
from muster.messages.blobs import Blobs
from muster.messages.upload_contract import Grant, StoredFile

ACCOUNT_NAME = "muster"
KEY_BYTES = 64
_PERMISSIONS = "rw"


class EmbeddedStorage:
    """``messages.upload_contract.UploadStorage`` on the hub itself; ``host`` tells where the endpoint is (with its
    port when that is not 443)."""

    def __init__(self, blobs: Blobs, account: Account, host: str) -> None:
        self._blobs = blobs
        self._account = account
        self._host = host

    def grant(self, blob_name: str, expires_at: float) -> Grant:
        query = blob_sas.make(self._account, CONTAINER, blob_name, _PERMISSIONS, expires_at)
        return Grant(self._host, CONTAINER, f"?{query}")

    async def find(self, blob_name: str) -> StoredFile | None:
        try:
            blob = await self._blobs.get(blob_name)
        except HubError as error:
            if error.row is BLOB_NOT_FOUND:
                return None
            raise
        return StoredFile(f"https://{self._host}/{CONTAINER}/{quote(blob_name)}", blob.size, blob.modified)

    async def close(self) -> None:
        """Nothing is held here."""
