"""File upload as the REST data plane spells it (device.md 5.4), and the notice that a file has arrived (service.md
3.5)."""

from __future__ import annotations

from typing import Any, NamedTuple

from muster.core.ambient import iso
from muster.core.errors import UPLOAD_STATUS, UPLOAD_UNKNOWN, HubError
from muster.dialect.json_body import Members, compact
from muster.messages.upload_contract import FileNotification, Grant, Slot


class Report(NamedTuple):
    """How an upload ended."""

    correlation_id: str
    success: bool


def grant_body(slot: Slot, grant: Grant) -> dict[str, Any]:
    """Where to send the file, and under which id to report."""
    return {
        "correlationId": slot.correlation_id,
        "hostName": grant.host,
        "containerName": grant.container,
        "blobName": slot.blob_name,
        "sasToken": grant.sas_token,
    }


def read_report(body: Members, correlation_id: str | None) -> Report:
    """Read ``{"correlationId", "isSuccess", "statusCode", "statusDescription"}``; the id stands in the path instead
    where Node sends it.

    ``statusDescription`` may be anything: Node puts what the storage answered there. Raises ``HubError`` 400015 for a
    missing id, 400019 for a wrong ``isSuccess`` or ``statusCode``.
    """
    given = correlation_id if correlation_id is not None else body.raw("correlationId")
    if not isinstance(given, str) or not given or not given.isascii():
        raise HubError(UPLOAD_UNKNOWN, "correlationId is missing or malformed, send the one that POST .../files gave.")
    success, status = body.raw("isSuccess"), body.raw("statusCode")
    if not isinstance(success, bool):
        raise HubError(UPLOAD_STATUS, "isSuccess is neither true nor false, say whether the file was sent.")
    if status is not None and (isinstance(status, bool) or not isinstance(status, int)):
        raise HubError(UPLOAD_STATUS, "statusCode is not a whole number, send the HTTP status of the storage.")
    return Report(given, success)


def notification_body(notice: FileNotification) -> bytes:
    """The JSON that services get."""
    return compact(
        {
            "deviceId": notice.device_id,
            "blobUri": notice.file.uri,
            "blobName": notice.blob_name,
            "lastUpdatedTime": iso(notice.file.modified),
            "blobSizeInBytes": notice.file.size,
            "enqueuedTimeUtc": iso(notice.enqueued),
        }
    )
