"""Events of the hub itself as messages of the built-in endpoint (service.md 6.4)."""

from __future__ import annotations

from typing import Any

from muster.core.ambient import iso
from muster.dialect.etag import twin_etag_of
from muster.dialect.json_body import compact
from muster.dialect.record import event_annotations, message_head, record
from muster.dialect.twin_bodies import properties_body
from muster.events.model import (
    ConnectionChanged,
    DigitalTwinChanged,
    Event,
    LifecycleChanged,
    TwinReplaced,
    TwinUpdated,
)
from muster.identity.model import IdentityKey
from muster.twins.document import Content, Properties, Twin, metadata_of

_TWIN = ("twinChangeEvents", "twinChangeNotification")
_LIFECYCLE = ("deviceLifecycleEvents", "deviceLifecycleNotification")
_CONNECTION = ("deviceConnectionStateEvents", "deviceConnectionStateNotification")
_DIGITAL_TWIN = ("digitalTwinChangeEvents", "digitalTwinChangeNotification")
"""Source and schema of each kind."""


def event_record(hub: str, event: Event) -> bytes:
    """The stored message of an event of the hub named ``hub``."""
    (source, schema), operation, body = _spelled(event)
    device_id, module_id = event.key
    is_patch, at = isinstance(event, DigitalTwinChanged), iso(event.at)
    system = {
        "content-type": "application/json-patch+json" if is_patch else "application/json",
        "content-encoding": "utf-8",
        "correlation-id": event.id,
        "user-id": hub,
    }
    application: dict[str, str | None] = {
        "hubName": hub,
        "deviceId": device_id,
        "operationTimestamp": f"{at.removesuffix('Z')}+00:00" if is_patch else at,
    }
    if module_id is not None:
        application["moduleId"] = module_id
    application |= {"opType": operation, "iothub-message-schema": schema}
    # Of a module's connection only the application property tells that it is a module's.
    annotated = None if isinstance(event, ConnectionChanged) else module_id
    sender = event_annotations(device_id=device_id, module_id=annotated, source=source)
    return record(sender, message_head(system, application), compact(body))


def _spelled(event: Event) -> tuple[tuple[str, str], str, Any]:
    """Source and schema, ``opType``, and the body."""
    match event:
        case TwinUpdated():
            return _TWIN, "updateTwin", _update_body(event)
        case TwinReplaced():
            return _TWIN, "replaceTwin", _twin_body(event.key, event.twin)
        case LifecycleChanged():
            operation = "createDeviceIdentity" if event.created else "deleteDeviceIdentity"
            return _LIFECYCLE, operation, _twin_body(event.key, event.twin)
        case ConnectionChanged():
            operation = "deviceConnected" if event.connected else "deviceDisconnected"
            return _CONNECTION, operation, {"sequenceNumber": f"{event.sequence:064X}"}
        case DigitalTwinChanged():
            return _DIGITAL_TWIN, "updateTwin", event.operations
        case _:
            raise TypeError(f"{type(event).__name__} is no event that can be told")


def _update_body(event: TwinUpdated) -> dict[str, Any]:
    """The twin's version, and of each part that was written what was written, removed members as null."""
    twin, update = event.twin, event.update
    body: dict[str, Any] = {"version": twin.version}
    if update.tags:
        body["tags"] = update.tags
    properties: dict[str, Any] = {}
    if update.desired:
        properties["desired"] = _written(update.desired, twin.desired)
    if update.reported:
        properties["reported"] = _written(update.reported, twin.reported)
    if properties:
        body["properties"] = properties
    return body


def _written(patch: Content, after: Properties) -> dict[str, Any]:
    return {**patch, "$metadata": metadata_of(patch, after.metadata), "$version": after.version}


def _twin_body(key: IdentityKey, twin: Twin) -> dict[str, Any]:
    body: dict[str, Any] = {"deviceId": key.device_id}
    if key.module_id is not None:
        body["moduleId"] = key.module_id
    body |= {"etag": twin_etag_of(twin.revision), "version": twin.version}
    if twin.tags:
        body["tags"] = twin.tags
    body["properties"] = {"desired": properties_body(twin.desired), "reported": properties_body(twin.reported)}
    return body
