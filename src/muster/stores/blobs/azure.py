"""An Azure Storage account, or Azurite: devices send files there themselves, the hub signs and looks."""

from __future__ import annotations

import logging
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import aiohttp
from yarl import URL

from muster.core.ambient import Ambient
from muster.core.errors import STORAGE_REFUSED, UNAVAILABLE, HubError
from muster.dialect import blob_sas
from muster.dialect.storage_account import StorageAccount
from muster.messages.upload_contract import Grant, StoredFile

_DEVICE, _HUB = "rw", "r"
_LOOK_SECONDS = 300
"""How long the hub's own grant to look at a file is good."""
_TIMEOUT = aiohttp.ClientTimeout(total=8.0)  # azure-iot-device gives the hub's answer ten seconds

log = logging.getLogger("muster.storage")


class AzureStorage:
    """``messages.upload_contract.UploadStorage`` on a container of a storage account, which must be there."""

    def __init__(self, storage: StorageAccount, container: str, ambient: Ambient) -> None:
        self._storage = storage
        self._container = container
        self._ambient = ambient
        self._session: aiohttp.ClientSession | None = None

    def grant(self, blob_name: str, expires_at: float) -> Grant:
        query = self._query(blob_name, _DEVICE, expires_at)
        return Grant(self._storage.place, self._container, f"?{query}")

    async def find(self, blob_name: str) -> StoredFile | None:
        uri = f"{self._storage.scheme}://{self._storage.place}/{self._container}/{quote(blob_name)}"
        query = self._query(blob_name, _HUB, self._ambient.now() + _LOOK_SECONDS)
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=_TIMEOUT, headers={"x-ms-version": blob_sas.VERSION})
        try:
            async with self._session.head(URL(f"{uri}?{query}", encoded=True), allow_redirects=False) as answer:
                return self._judge(uri, answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.warning("the storage %s cannot be reached: %s", self._storage.place, type(error).__name__)
            raise HubError(UNAVAILABLE, "The storage for files cannot be reached, try again in a moment.") from error

    def _judge(self, uri: str, answer: aiohttp.ClientResponse) -> StoredFile | None:
        code = answer.headers.get("x-ms-error-code", "")
        if answer.status == 200:
            modified = parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
            return StoredFile(uri, int(answer.headers.get("Content-Length", "0")), modified)
        if answer.status == 404 and code != "ContainerNotFound":
            return None
        log.warning("the storage %s answers %d %s", self._storage.place, answer.status, code)
        if answer.status >= 500 or answer.status == 429:
            raise HubError(UNAVAILABLE, "The storage for files is busy, try again in a moment.")
        raise HubError(STORAGE_REFUSED, f"The storage answered {answer.status} {code}; the hub's owner must see to it.")

    def _query(self, blob_name: str, permissions: str, expires_at: float) -> str:
        return blob_sas.make(self._storage.account, self._container, blob_name, permissions, expires_at)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
