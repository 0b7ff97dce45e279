"""Service shared access signatures of Azure Storage for one blob: made for devices, read and checked by the embedded
blob endpoint. Pure; reads no clock.

``sv={version}&se={end}&sr=b&sp={permissions}&sig={signature}``; the signature is base64(HMAC-SHA256(account key, string
to sign)), see https://learn.microsoft.com/rest/api/storageservices/create-service-sas. Only what ``make`` writes is
understood: a start, an address range, a stored policy and overridden headers are signed as absent, so a signature that
has them does not match.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, unquote

from muster.core.errors import HubError
from muster.core.storage_errors import AUTHENTICATION_FAILED, NO_AUTHENTICATION, PERMISSION_MISMATCH

CONTAINER = "muster-uploads"
"""The container of the embedded blob endpoint, and the first part of its paths."""

VERSION = "2020-12-06"
"""The version of the rules by which we sign; the oldest with a field for the encryption scope."""
_MOST_CHARACTERS = 1024
_FORMATS = ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d")
_FIELDS = ("sv", "se", "sr", "sp", "sig")
_OTHERS = ("st", "sip", "spr", "si", "ses", "rscc", "rscd", "rsce", "rscl", "rsct", "snapshot")


class Account(NamedTuple):
    """A storage account: its name, and the bytes of its key."""

    name: str
    key: bytes

    def __repr__(self) -> str:
        return f"Account(name={self.name!r})"


@dataclass(frozen=True, slots=True)
class BlobSas:
    """A signature that was read, not yet checked. ``expires_at`` is in seconds since 1970."""

    end_text: str
    permissions: str
    expires_at: float
    signature: bytes = field(repr=False)


def make(account: Account, container: str, blob_name: str, permissions: str, expires_at: float) -> str:
    """The query, without ``?``, that lets who has it do ``permissions`` (``rw``) with the blob until ``expires_at``."""
    end = datetime.fromtimestamp(int(expires_at), UTC).strftime(_FORMATS[0])
    signature = base64.b64encode(_sign(account, container, blob_name, permissions, end)).decode()
    fields = {"sv": VERSION, "se": end, "sr": "b", "sp": permissions, "sig": signature}
    return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())


def read(query: str) -> BlobSas:
    """The signature in a query as it stands on the wire.

    Raises ``HubError``: ``NoAuthenticationInformation`` when there is none, ``AuthenticationFailed`` when a part of it
    is missing or malformed.
    """
    fields = fields_of(query)
    if "sig" not in fields:
        raise HubError(NO_AUTHENTICATION)
    for name in _FIELDS:
        if not fields.get(name):
            raise _failed(f"{name} is missing")
    for name in _OTHERS:
        if name in fields:
            raise _failed(f"{name} is not part of what this hub signs")
    if fields["sv"] != VERSION:
        raise _failed(f"sv is not {VERSION}")
    if fields["sr"] != "b":
        raise _failed("sr is not b")
    if len(fields["sig"]) > _MOST_CHARACTERS:
        raise _failed("sig is too long")
    try:
        signature = base64.b64decode(fields["sig"], validate=True)
    except (binascii.Error, ValueError):
        raise _failed("sig is not base64") from None
    return BlobSas(fields["se"], fields["sp"], _moment(fields["se"]), signature)


def check(sas: BlobSas, account: Account, container: str, blob_name: str, permission: str, *, now: float) -> None:
    """Whether ``sas`` is the account's, for this blob, still good at ``now``, and permits ``permission`` (a letter).

    Raises ``HubError`` ``AuthenticationFailed`` or ``AuthorizationPermissionMismatch``. Compares in constant time.
    """
    wanted = _sign(account, container, blob_name, sas.permissions, sas.end_text)
    if not hmac.compare_digest(wanted, sas.signature):
        raise _failed("the signature did not match: it is for another file, or was changed")
    if sas.expires_at <= now:
        raise _failed(f"it expired at {sas.end_text}")
    if permission not in sas.permissions:
        raise HubError(PERMISSION_MISMATCH, f"The shared access signature permits {sas.permissions}, not {permission}.")


def fields_of(query: str) -> Mapping[str, str]:
    """The parameters of a query, decoded once; the last of a name counts. A ``+`` stays one, as base64 has them."""
    parts = (part.partition("=") for part in query.split("&") if part)
    return {unquote(name).lower(): unquote(value) for name, _, value in parts}


def _moment(text: str) -> float:
    for form in _FORMATS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
    raise _failed("se is not a time such as 2026-01-31T12:00:00Z")


def _sign(account: Account, container: str, blob_name: str, permissions: str, end: str) -> bytes:
    resource = f"/blob/{account.name}/{container}/{blob_name}"
    start = identifier = addresses = protocol = snapshot = encryption_scope = ""
    lines = [
        permissions, start, end, resource, identifier, addresses, protocol, VERSION, "b", snapshot, encryption_scope,
        "", "", "", "", "",
    ]  # fmt: skip
    return hmac.digest(account.key, "\n".join(lines).encode("utf-8", "surrogatepass"), "sha256")


def _failed(detail: str) -> HubError:
    return HubError(
        AUTHENTICATION_FAILED,
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
        f"including the signature. The shared access signature is not good: {detail}.",
    )
