"""Devices and modules as the REST data plane spells them (service.md 2.4)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from muster.core.ambient import iso
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.etag import etag_of
from muster.dialect.json_body import Members
from muster.identity.changes import Draft
from muster.identity.contract import Counts
from muster.identity.keys import Credentials
from muster.identity.model import NEVER, Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.identity.registry import Activity

NEVER_TEXT = "0001-01-01T00:00:00Z"


def device_draft(body: Members, device_id: str) -> Draft:
    """What a ``Device`` in the body of a PUT asks for. What the service sets itself is passed over.

    ``deviceId`` must be there (400005) and be the path's (400004); other errors as ``Members`` raises them.
    """
    _check_id(body, "deviceId", device_id)
    return Draft(key=IdentityKey(device_id), **device_fields(body))


def device_fields(body: Members) -> dict[str, Any]:
    """The members that a ``Device`` and an ``ExportImportDevice`` share, as arguments of ``Draft``."""
    return {
        "credentials": read_credentials(body.members("authentication")),
        "status": body.choice("status", Status) or Status.ENABLED,
        "status_reason": body.text("statusReason"),
        "iot_edge": body.members("capabilities").flag("iotEdge"),
        "device_scope": body.text("deviceScope"),
        "parent_scopes": body.texts("parentScopes"),
    }


def module_draft(body: Members, key: IdentityKey) -> Draft:
    """What a ``Module`` in the body of a PUT asks for; ``deviceId`` and ``moduleId`` as in ``device_draft``."""
    _check_id(body, "deviceId", key.device_id)
    _check_id(body, "moduleId", key.module_id or "")
    return Draft(
        key=key, credentials=read_credentials(body.members("authentication")), managed_by=body.text("managedBy")
    )


def _check_id(body: Members, name: str, expected: str) -> None:
    given = body.needed_text(name)
    if given != expected:
        raise HubError(ARGUMENT_INVALID, f"{name} in the body is not the one in the address, send the same in both.")


def read_credentials(body: Members) -> Credentials:
    """An ``AuthenticationMechanism``."""
    symmetric, x509 = body.members("symmetricKey"), body.members("x509Thumbprint")
    return Credentials(
        type=body.choice("type", AuthenticationType),
        primary_key=symmetric.text("primaryKey"),
        secondary_key=symmetric.text("secondaryKey"),
        primary_thumbprint=x509.text("primaryThumbprint"),
        secondary_thumbprint=x509.text("secondaryThumbprint"),
    )


def device_body(identity: Identity, activity: Activity) -> dict[str, Any]:
    """A ``Device``, members in the service's order; ``deviceScope`` only where there is one."""
    body: dict[str, Any] = {
        "deviceId": identity.device_id,
        "generationId": identity.generation_id,
        "etag": etag_of(identity.version),
        "connectionState": _connection_state(activity),
        "status": identity.status,
        "statusReason": identity.status_reason,
        "connectionStateUpdatedTime": time_text(activity.connection_changed),
        "statusUpdatedTime": time_text(identity.status_updated),
        "lastActivityTime": time_text(activity.last_activity),
        "cloudToDeviceMessageCount": activity.commands_waiting,
        "authentication": authentication_body(identity.authentication),
        "capabilities": {"iotEdge": identity.iot_edge},
    }
    if identity.device_scope is not None:
        body["deviceScope"] = identity.device_scope
    body["parentScopes"] = list(identity.parent_scopes)
    return body


def module_body(identity: Identity, activity: Activity) -> dict[str, Any]:
    """A ``Module``, members in the service's order."""
    return {
        "moduleId": identity.module_id,
        "managedBy": identity.managed_by,
        "deviceId": identity.device_id,
        "generationId": identity.generation_id,
        "etag": etag_of(identity.version),
        "connectionState": _connection_state(activity),
        "connectionStateUpdatedTime": time_text(activity.connection_changed),
        "lastActivityTime": time_text(activity.last_activity),
        "cloudToDeviceMessageCount": activity.commands_waiting,
        "authentication": authentication_body(identity.authentication),
    }


def device_statistics(counts: Counts) -> dict[str, int]:
    """A ``RegistryStatistics``."""
    return {
        "totalDeviceCount": counts.enabled + counts.disabled,
        "enabledDeviceCount": counts.enabled,
        "disabledDeviceCount": counts.disabled,
    }


def service_statistics(connected: int) -> dict[str, int]:
    """A ``ServiceStatistics``."""
    return {"connectedDeviceCount": connected}


@lru_cache(1024)
def time_text(moment: float) -> str:
    """A moment (seconds since 1970) as the service prints it; ``NEVER`` as the year 1."""
    return NEVER_TEXT if moment == NEVER else iso(moment)


def _connection_state(activity: Activity) -> str:
    return "Connected" if activity.connected else "Disconnected"


def authentication_body(authentication: Authentication) -> dict[str, Any]:
    """An ``AuthenticationMechanism``."""
    return {
        "symmetricKey": {
            "primaryKey": authentication.primary_key,
            "secondaryKey": authentication.secondary_key,
        },
        "x509Thumbprint": {
            "primaryThumbprint": authentication.primary_thumbprint,
            "secondaryThumbprint": authentication.secondary_thumbprint,
        },
        "type": authentication.type,
    }
