"""An Azure Storage account, or Azurite: devices send files there themselves, the hub signs and looks."""

from __future__ import annotations

import asyncio
import http.client
import logging
import ssl
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import quote

from muster.core.ambient import Ambient
from muster.core.errors import STORAGE_REFUSED, UNAVAILABLE, HubError
from muster.dialect import blob_sas
from muster.dialect.storage_account import StorageAccount
from muster.messages.upload_contract import Grant, StoredFile

_DEVICE, _HUB = "rw", "r"
_LOOK_SECONDS = 300
"""How long the hub's own grant to look at a file is good."""
_PATIENCE_SECONDS = 8.0
"""azure-iot-device waits ten seconds for the hub's answer."""

log = logging.getLogger("muster.storage")


class _Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage


class AzureStorage:
    """``messages.upload_contract.UploadStorage`` on a container of a storage account, which must be there."""

    def __init__(self, storage: StorageAccount, container: str, ambient: Ambient) -> None:
        self._storage = storage
        self._container = container
        self._ambient = ambient

    def grant(self, blob_name: str, expires_at: float) -> Grant:
        query = self._query(blob_name, _DEVICE, expires_at)
        return Grant(self._storage.place, self._container, f"?{query}")

    async def find(self, blob_name: str) -> StoredFile | None:
        path = f"/{self._container}/{quote(blob_name)}"
        query = self._query(blob_name, _HUB, self._ambient.now() + _LOOK_SECONDS)
        try:
            answer = await asyncio.wait_for(
                asyncio.to_thread(_head, self._storage, f"{path}?{query}"), _PATIENCE_SECONDS
            )
        except (OSError, http.client.HTTPException) as error:  # a timeout is an OSError
            told = error if isinstance(error, OSError) else type(error).__name__  # the others may quote the grant
            log.warning("the storage %s cannot be reached: %s", self._storage.place, told)
            raise HubError(UNAVAILABLE, "The storage for files cannot be reached, try again in a moment.") from error
        return self._judge(f"{self._storage.scheme}://{self._storage.place}{path}", answer)

    def _judge(self, uri: str, answer: _Answer) -> StoredFile | None:
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
        """Nothing is held."""


def _head(storage: StorageAccount, target: str) -> _Answer:
    """Ask for a file's properties, from a thread: once for each file that is reported, so a client is no matter."""
    host, slash, path = storage.place.partition("/")
    connection: http.client.HTTPConnection
    if storage.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, timeout=_PATIENCE_SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection(host, timeout=_PATIENCE_SECONDS)
    try:
        connection.request("HEAD", f"{slash}{path}{target}", headers={"x-ms-version": blob_sas.VERSION})
        answer = connection.getresponse()
        return _Answer(answer.status, answer.headers)
    finally:
        connection.close()
