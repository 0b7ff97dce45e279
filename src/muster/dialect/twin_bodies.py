"""Twins as the REST data plane and devices see them (service.md 2.4, device.md 3.8)."""

from __future__ import annotations

from typing import Any, NamedTuple

from muster.core.ambient import iso
from muster.core.errors import HubError
from muster.core.json_text import encode, text_of
from muster.dialect.etag import etag_of, twin_etag_of
from muster.dialect.identity_bodies import time_text
from muster.dialect.json_body import Members, compact
from muster.identity.model import Identity
from muster.identity.registry import Activity
from muster.twins.document import Content, Properties, Twin


class TwinChange(NamedTuple):
    """What a service's body asks for; ``None`` is a part that it does not hold."""

    tags: Any
    desired: Any


def read_twin(body: Members) -> TwinChange:
    """The members of a ``Twin`` that a service may write; it may send the others too, they are passed over.

    Raises ``HubError`` 400004 when ``properties`` is no object.
    """
    return TwinChange(body.raw("tags"), body.members("properties").raw("desired"))


def twin_body(identity: Identity, twin: Twin, activity: Activity) -> bytes:
    """A ``Twin`` as JSON, members in the service's order; ``tags`` and ``deviceScope`` only where there are any.

    What the twin holds as text goes through as it is.
    """
    authentication = identity.authentication
    head: dict[str, Any] = {"deviceId": identity.device_id}
    if identity.module_id is not None:
        head["moduleId"] = identity.module_id
    head |= {
        "etag": twin_etag_of(twin.revision),
        "deviceEtag": etag_of(identity.version),
        "status": identity.status,
        "statusReason": identity.status_reason,
        "statusUpdateTime": time_text(identity.status_updated),
        "connectionState": "Connected" if activity.connected else "Disconnected",
        "lastActivityTime": time_text(activity.last_activity),
        "cloudToDeviceMessageCount": activity.commands_waiting,
        "authenticationType": authentication.type,
        "x509Thumbprint": {
            "primaryThumbprint": authentication.primary_thumbprint,
            "secondaryThumbprint": authentication.secondary_thumbprint,
        },
        "modelId": twin.model_id or "",
        "version": twin.version,
    }
    tail: dict[str, Any] = {}
    if identity.module_id is None:
        tail["capabilities"] = {"iotEdge": identity.iot_edge}
    if identity.device_scope is not None:
        tail["deviceScope"] = identity.device_scope
    tail["parentScopes"] = identity.parent_scopes
    tags = text_of(twin.tags)
    shown_tags = "" if tags == "{}" else f'"tags":{tags},'
    properties = f'{{"desired":{_properties_text(twin.desired)},"reported":{_properties_text(twin.reported)}}}'
    return f'{encode(head)[:-1]},{shown_tags}"properties":{properties},{encode(tail)[1:]}'.encode()


def _properties_text(properties: Properties) -> str:
    values = text_of(properties.values)
    before = "{" if values == "{}" else f"{values[:-1]},"
    return f'{before}"$metadata":{text_of(properties.metadata)},"$version":{properties.version}}}'


def device_twin(twin: Twin) -> bytes:
    """What a device gets of its own twin: no tags, no metadata."""
    desired, reported = twin.desired, twin.reported
    return compact(
        {
            "desired": {**desired.values, "$version": desired.version},
            "reported": {**reported.values, "$version": reported.version},
        }
    )


def desired_patch(patch: Content, version: int) -> bytes:
    """A change of the desired properties, as a connected device is told."""
    return compact({**patch, "$version": version})


def device_error(error: HubError, tracking_id: str, now: float) -> bytes:
    """The answer to a device's request that was refused at ``now`` (seconds since 1970)."""
    return compact(
        {"errorCode": error.row.code, "trackingId": tracking_id, "message": error.message, "timestampUtc": iso(now)}
    )


def properties_body(properties: Properties) -> dict[str, Any]:
    """Desired or reported properties with all that is known of them."""
    return {**properties.values, "$metadata": properties.metadata, "$version": properties.version}
