"""Certificate authorities as the ARM API spells them (Microsoft.Devices/IotHubs/certificates, service.md 6.6)."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from muster.core.ambient import iso
from muster.core.certificate_limits import REVOCATION_REFRESH
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.etag import etag_of
from muster.dialect.json_body import Members
from muster.identity.authority_contract import Authority, RevocationRules
from muster.identity.certificates import CertificateError, read_certificate
from muster.identity.revocation import RevocationList


def certificate_body(one: Authority, resource: str, kind: str, *, with_code: bool = False) -> dict[str, Any]:
    """A ``CertificateDescription`` of the resource type ``kind``; ``resource`` is its path as it was called.

    With ``with_code`` a ``CertificateWithNonceDescription``: the only answer that shows the verification code.
    """
    properties: dict[str, Any] = {
        "subject": "", "expiry": "", "thumbprint": "", "isVerified": one.verified, "created": _time(one.created),
        "updated": _time(one.updated), "certificate": base64.b64encode(one.certificate).decode(),
    }  # fmt: skip
    try:
        read = read_certificate(one.certificate)
    except CertificateError:  # of a hub that took what this one does not
        pass
    else:
        properties |= {"subject": read.subject_text, "expiry": _time(read.not_after), "thumbprint": read.sha1}
    if with_code:
        properties["verificationCode"] = one.code
    return {"id": resource, "name": one.name, "type": kind, "etag": etag_of(one.version), "properties": properties}


def read_upload_body(body: Members) -> tuple[bytes, bool | None]:
    """The certificate of a ``CertificateDescription``, and whether the caller vouches for it, ``None`` unsaid."""
    properties = body.members("properties")
    verified = properties.flag("isVerified") if properties.raw("isVerified") is not None else None
    return properties.needed_text("certificate").encode(), verified


def read_verification_body(body: Members) -> bytes:
    """The certificate of a ``CertificateVerificationDescription``."""
    return body.needed_text("certificate").encode()


def read_rules(body: Members) -> RevocationRules:
    """Our own: where an authority says what it has revoked."""
    return RevocationRules(
        fail_closed=body.flag("failClosed"),
        list_url=body.text("listUrl") or "",
        responder_url=body.text("responderUrl") or "",
        refresh=REVOCATION_REFRESH.open if (refresh := body.whole_number("refreshSeconds")) is None else refresh,
    )


def read_list_body(body: Members) -> bytes:
    """Our own: a revocation list in base64. Raises ``HubError`` 400004."""
    try:
        return base64.b64decode(body.needed_text("list"), validate=True)
    except ValueError:
        raise HubError(ARGUMENT_INVALID, "list is not base64, encode the revocation list.") from None


def authority_body(one: Authority, lists: Sequence[RevocationList]) -> dict[str, Any]:
    """Our own: an authority with its rules and what is known of its lists."""
    return {
        "name": one.name,
        "failClosed": one.rules.fail_closed,
        "listUrl": one.rules.list_url,
        "responderUrl": one.rules.responder_url,
        "refreshSeconds": one.rules.refresh,
        "lists": [list_body(each) for each in lists],
    }


def list_body(one: RevocationList) -> dict[str, Any]:
    """Our own: a revocation list in short."""
    following = None if one.next_update is None else iso(one.next_update)
    return {
        "issuer": one.issuer_text, "thisUpdate": iso(one.this_update), "nextUpdate": following,
        "revoked": len(one.serials),
    }  # fmt: skip


def _time(moment: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(moment), UTC), usegmt=True)
