"""Connection strings of Azure Storage accounts, Azurite's included.

``DefaultEndpointsProtocol=https;AccountName=...;AccountKey=...;EndpointSuffix=core.windows.net``, or with
``BlobEndpoint`` in the place of protocol and suffix. ``UseDevelopmentStorage=true`` is Azurite on its usual port.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.dialect.blob_sas import Account
from muster.identity.sas import decode_key

_DEVELOPMENT = (
    "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey="
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;"
    "BlobEndpoint=http://127.0.0.1:10000/devstoreaccount1"
)
"""Published by Microsoft: https://learn.microsoft.com/azure/storage/common/storage-use-azurite."""


class StorageAccount(NamedTuple):
    """A storage account's key, and where its blobs are: scheme (``https``), and host with port and path."""

    account: Account
    scheme: str
    place: str


def parse_storage_account(text: str) -> StorageAccount:
    """Read a connection string. Raises ``HubError`` 400005 or 400004, naming the part that is missing or wrong."""
    if text.strip().lower().rstrip(";") == "usedevelopmentstorage=true":
        text = _DEVELOPMENT
    values: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, value = part.partition("=")
        if not equals:
            raise HubError(ARGUMENT_INVALID, "A part of the storage connection string is not Name=value, copy it.")
        values[name.strip().lower()] = value.strip()
    name, key = values.get("accountname", ""), decode_key(values.get("accountkey", ""))
    if not name:
        raise HubError(ARGUMENT_NULL, "AccountName is missing from the storage connection string, add it.")
    if key is None:
        raise HubError(
            ARGUMENT_NULL,
            "AccountKey is missing from the storage connection string or is not base64; the hub signs with the key, "
            "a SharedAccessSignature is not enough.",
        )
    endpoint = values.get("blobendpoint") or (
        f"{values.get('defaultendpointsprotocol', 'https')}://{name}.blob."
        f"{values.get('endpointsuffix', 'core.windows.net')}"
    )
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or parts.scheme not in {"http", "https"} or parts.query:
        raise HubError(ARGUMENT_INVALID, "BlobEndpoint is not an address, write it as https://<host>/.")
    return StorageAccount(Account(name, key), parts.scheme, f"{parts.netloc}{parts.path.rstrip('/')}")
