"""The headers of Azure Storage's Blob service: what a request says of a blob, and what an answer does."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime

from muster.core.errors import HubError
from muster.core.storage_errors import (
    BLOB_EXISTS,
    CONDITION_NOT_MET,
    INVALID_HEADER,
    INVALID_RANGE,
    UNSUPPORTED_HEADER,
)
from muster.core.upload_limits import BLOB_METADATA_BYTES
from muster.dialect.blob_sas import VERSION
from muster.messages.blob_contract import Blob
from muster.messages.blobs import Condition, Properties

NOT_ENCRYPTED = {"x-ms-request-server-encrypted": "false"}
"""What an answer to a write says of encryption: the disk's is not ours to promise."""

_CONTENT = {
    "x-ms-blob-content-type": "Content-Type",
    "x-ms-blob-content-encoding": "Content-Encoding",
    "x-ms-blob-content-language": "Content-Language",
    "x-ms-blob-content-disposition": "Content-Disposition",
    "x-ms-blob-cache-control": "Cache-Control",
    "x-ms-blob-content-md5": "Content-MD5",
}
_OF_BODY = ("Content-Type", "Content-Encoding", "Content-Language", "Cache-Control")
"""Headers of a whole blob's own body that count where the blob's are not given."""
_DEFAULT_TYPE = "application/octet-stream"
_METADATA = "x-ms-meta-"
_UNSUPPORTED = (
    "x-ms-copy-source", "x-ms-structured-body", "x-ms-content-crc64", "x-ms-encryption-key", "x-ms-lease-id",
    "x-ms-if-tags",
)  # fmt: skip
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{1,18})?", re.ASCII)
_SUFFIX = re.compile(r"bytes=-([0-9]{1,18})", re.ASCII)
_KEPT = re.compile(r"[\x20-\x7e]*")
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


class InvalidRange(HubError):
    """``InvalidRange``, with the size that the blob has."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(INVALID_RANGE, f"The file has {size} bytes, ask for some of them.")


def check_supported(headers: Mapping[str, str]) -> None:
    """Raise ``HubError`` ``UnsupportedHeader`` for a header that would make a write mean something else."""
    for name in _UNSUPPORTED:
        if name in headers:
            raise HubError(UNSUPPORTED_HEADER, f"{name} is not understood by the hub's own storage, leave it out.")


def properties_of(headers: Mapping[str, str], *, whole: bool) -> Properties:
    """What a write says of the blob; ``whole`` when the request's body is the blob itself.

    Raises ``HubError`` ``InvalidHeaderValue`` for what cannot be sent back, or is too much.
    """
    content = {name: headers[name] for name in _OF_BODY if name in headers} if whole else {}
    content |= {name: headers[given] for given, name in _CONTENT.items() if given in headers}
    content = {"Content-Type": _DEFAULT_TYPE} | {name: value for name, value in content.items() if value}
    metadata = {
        name.lower().removeprefix(_METADATA): value
        for name, value in headers.items()
        if name.lower().startswith(_METADATA)
    }
    for name, value in (*content.items(), *metadata.items()):
        if not _KEPT.fullmatch(value):
            raise HubError(INVALID_HEADER, f"{name[:80]} holds other characters than ASCII, encode it.")
    if sum(len(name) + len(value) for name, value in (*content.items(), *metadata.items())) > BLOB_METADATA_BYTES.open:
        raise HubError(INVALID_HEADER, f"Metadata and content headers have over {BLOB_METADATA_BYTES.open} bytes.")
    return Properties(content, metadata)


def md5_of(headers: Mapping[str, str]) -> bytes | None:
    """The digest that ``Content-MD5`` gives of the body. Raises ``HubError`` ``InvalidHeaderValue``."""
    text = headers.get("Content-MD5")
    if text is None:
        return None
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 16:
        raise HubError(INVALID_HEADER, "Content-MD5 is not the base64 of 16 bytes.")
    return digest


def version_of(headers: Mapping[str, str]) -> str:
    """``x-ms-version`` of an answer: the request's, as the service has it."""
    version = headers.get("x-ms-version", VERSION)
    return version if _VERSION.fullmatch(version) else VERSION


def write_condition(headers: Mapping[str, str]) -> Condition:
    """What a write's conditional headers ask of the blob that is there.

    The condition raises ``HubError`` ``ConditionNotMet``, or ``BlobAlreadyExists`` where there must be none.
    """
    must, must_not = headers.get("If-Match"), headers.get("If-None-Match")
    since, until = _moment(headers, "If-Modified-Since"), _moment(headers, "If-Unmodified-Since")

    def condition(blob: Blob | None) -> None:
        if blob is None:
            if must is not None:
                raise HubError(CONDITION_NOT_MET)
            return
        if must_not is not None and must_not.strip() == "*":
            raise HubError(BLOB_EXISTS)
        modified = int(blob.modified)
        if (
            (must is not None and not _names(must, blob))
            or (must_not is not None and _names(must_not, blob))
            or (since is not None and modified <= since)
            or (until is not None and modified > until)
        ):
            raise HubError(CONDITION_NOT_MET)

    return condition


def is_unmodified(headers: Mapping[str, str], blob: Blob) -> bool:
    """Whether a reader has the blob already (304). Raises ``HubError`` ``ConditionNotMet`` when it wants another."""
    must, must_not = headers.get("If-Match"), headers.get("If-None-Match")
    since, until = _moment(headers, "If-Modified-Since"), _moment(headers, "If-Unmodified-Since")
    modified = int(blob.modified)
    if (must is not None and not _names(must, blob)) or (until is not None and modified > until):
        raise HubError(CONDITION_NOT_MET)
    if must_not is not None:
        return _names(must_not, blob)
    return since is not None and modified <= since


def asked_range(headers: Mapping[str, str], size: int) -> tuple[int, int] | None:
    """The bytes asked for, from the first to before the last; ``None`` for all. ``x-ms-range`` goes first.

    A range that cannot be read counts as none (RFC 9110 section 14.2). Raises ``HubError`` ``InvalidRange`` for one
    that begins behind the blob's end.
    """
    text = headers.get("x-ms-range") or headers.get("Range") or ""
    found, suffix = _RANGE.fullmatch(text.strip()), _SUFFIX.fullmatch(text.strip())
    if found is not None:
        start, stop = int(found[1]), size if found[2] is None else min(int(found[2]) + 1, size)
        if found[2] is not None and int(found[2]) < start:
            return None
    elif suffix is not None:
        start, stop = max(size - int(suffix[1]), 0), size
    else:
        return None
    if start >= size or start >= stop:
        raise InvalidRange(size)
    return start, stop


def written_headers(blob: Blob) -> dict[str, str]:
    """What an answer says of a blob that was written."""
    headers = {"ETag": f'"{blob.etag}"', "Last-Modified": formatdate(blob.modified, usegmt=True), **NOT_ENCRYPTED}
    md5 = blob.headers.get("Content-MD5")
    return headers if md5 is None else {**headers, "Content-MD5": md5}


def read_headers(blob: Blob) -> dict[str, str]:
    """What an answer says of a blob that is read. A page that a device has sent is not to act in the hub's name."""
    return {
        **blob.headers,
        **{_METADATA + name: value for name, value in blob.metadata.items()},
        "ETag": f'"{blob.etag}"',
        "Last-Modified": formatdate(blob.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "x-ms-creation-time": formatdate(blob.created, usegmt=True),
        "x-ms-blob-type": "BlockBlob",
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "false",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _names(header: str, blob: Blob) -> bool:
    """Whether a list of ETags holds the blob's. Some clients leave the quotes out."""
    given = [part.strip().removeprefix("W/").strip('"') for part in header.split(",")]
    return blob.etag in given or "*" in given


def _moment(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        moment: datetime = parsedate_to_datetime(text)
    except ValueError:
        raise HubError(INVALID_HEADER, f"{name} is not a date such as Sat, 31 Jan 2026 12:00:00 GMT.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
