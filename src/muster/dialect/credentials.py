"""How a device asks its hub for another certificate over MQTT, and how it is answered (provisioning.md 8.4)."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from muster.core.ambient import iso
from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, PRECONDITION_FAILED, HubError
from muster.dialect.json_body import Members, compact, parse_json
from muster.identity.mistakes import shown

CREDENTIAL_TOPICS = b"$iothub/credentials/"
"""What every topic of such a request begins with."""

_REQUEST = "$iothub/credentials/POST/issueCertificate/"
_RID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{2,34})[A-Za-z0-9]")
_MEMBERS = frozenset({"id", "csr", "replace"})


class CredentialRequest(NamedTuple):
    """The id that the device gives itself, and its signing request in DER."""

    id: str
    csr: bytes


def parse_credential_topic(topic: bytes) -> str:
    """The ``$rid`` of ``$iothub/credentials/POST/issueCertificate/?$rid=..``. Raises ``HubError`` 400003."""
    text = topic.decode()
    rest = text.removeprefix(_REQUEST)
    items = {unquote(name): value for name, _, value in (item.partition("=") for item in rest[1:].split("&"))}
    if rest == text or not rest.startswith("?") or not _RID.fullmatch(items.get("$rid", "")):
        raise HubError(
            INVALID_OPERATION,
            f"The topic {shown(text)!r} is no request for a certificate. Publish to {_REQUEST}?$rid=..., 4 to 36 "
            "letters, digits and dashes.",
        )
    return items["$rid"]


def read_credential_request(payload: bytes) -> CredentialRequest:
    """Read the body.

    Raises ``HubError`` 400004, 400005 and 400006 naming the member, 412001 for ``replace`` with the id of a request:
    none is ever pending, as each is answered at once.
    """
    value = parse_json(payload)
    body = Members.of(value, "The body")
    unknown = sorted(set(value) - _MEMBERS)
    if unknown:
        raise HubError(ARGUMENT_INVALID, f"{shown(unknown[0])} is no member of the body, it has id, csr and replace.")
    if body.text("replace") not in {None, "*"}:
        raise HubError(PRECONDITION_FAILED, "replace names no request that is pending.")
    try:
        csr = base64.b64decode(body.needed_text("csr"), validate=True)
    except ValueError:
        raise HubError(ARGUMENT_INVALID, "csr is not base64.") from None
    return CredentialRequest(body.needed_text("id"), csr)


def credential_topic(status: int, rid: str) -> str:
    """Where an answer goes."""
    return f"$iothub/credentials/res/{status}/?$rid={rid}"


def accepted_body(correlation: str, expires: float) -> bytes:
    """The first answer: the request is taken, and ends at ``expires`` (seconds since 1970)."""
    return compact({"correlationId": correlation, "operationExpires": iso(expires)})


def issued_body(correlation: str, chain: Sequence[bytes]) -> bytes:
    """The second answer: the certificates, leaf first."""
    certificates = [base64.b64encode(der).decode() for der in chain]
    return compact({"correlationId": correlation, "certificates": certificates})
