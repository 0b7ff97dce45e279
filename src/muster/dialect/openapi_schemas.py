"""Bodies of REST calls and answers that have a fixed shape, as JSON Schema: for clients that are made from it, and for
the tests that hold the hub to it. Shapes: service.md 2.3 to 2.12."""

from __future__ import annotations

from typing import Any, Final

from muster.identity.model import AuthenticationType, Status

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_MAYBE: Final[Schema] = {"type": ["string", "null"]}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_ANY_OBJECT: Final[Schema] = {"type": "object"}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str = "", **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, **({"required": required.split()} if required else {})}


_MECHANISM = _object(
    type={"type": "string", "enum": [one.value for one in AuthenticationType]},
    symmetricKey=_object(primaryKey=_MAYBE, secondaryKey=_MAYBE),
    x509Thumbprint=_object(primaryThumbprint=_MAYBE, secondaryThumbprint=_MAYBE),
)
_IDENTITY: Final = {
    "deviceId": _TEXT, "generationId": _TEXT, "etag": _TEXT, "connectionStateUpdatedTime": _TEXT,
    "lastActivityTime": _TEXT, "cloudToDeviceMessageCount": _COUNT, "authentication": _ref("AuthenticationMechanism"),
    "connectionState": {"type": "string", "enum": ["Connected", "Disconnected"]},
}  # fmt: skip

SCHEMAS: Final[dict[str, Schema]] = {
    "AuthenticationMechanism": _MECHANISM,
    "Device": _object(
        "deviceId",
        **_IDENTITY,
        status={"type": "string", "enum": [one.value for one in Status]},
        statusReason=_MAYBE,
        statusUpdatedTime=_TEXT,
        capabilities=_object(iotEdge={"type": "boolean"}),
    ),
    "Module": _object("deviceId moduleId", **_IDENTITY, moduleId=_TEXT, managedBy=_MAYBE),
    "Twin": _object(
        "deviceId etag version properties",
        deviceId=_TEXT,
        moduleId=_TEXT,
        etag=_TEXT,
        version={"type": "integer"},
        tags=_ANY_OBJECT,
        properties=_object("desired reported", desired=_ANY_OBJECT, reported=_ANY_OBJECT),
    ),
    "TwinChange": _object(
        tags=_ANY_OBJECT,
        properties=_object(desired=_ANY_OBJECT),
    ),
    "MethodCall": _object(
        "methodName",
        methodName={"type": "string", "minLength": 1, "maxLength": 100},
        payload={},
        connectTimeoutInSeconds={"type": "integer", "minimum": 0, "maximum": 300},
        responseTimeoutInSeconds={"type": "integer", "minimum": 5, "maximum": 300},
    ),
    "MethodAnswer": _object("status payload", status={"type": "integer"}, payload={}),
    "Query": _object("query", query={"type": "string", "minLength": 1}),
    "Error": _object("Message", Message=_TEXT, ExceptionMessage=_TEXT),
}


def _answer(schema: Schema, *statuses: str) -> dict[str, Any]:
    return {
        status: {"description": "Done.", "content": {"application/json": {"schema": schema}}}
        for status in statuses or ("200",)
    }


def _list(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


_MODULE, _TWIN = "/devices/{device_id}/modules/{module_id}", "/twins/{device_id}"
_TWINS: Final = (_TWIN, f"{_TWIN}/modules/{{module_id}}")

BODIES: Final[dict[tuple[str, str], Schema]] = {
    ("PUT", "/devices/{device_id}"): _ref("Device"),
    ("PUT", _MODULE): _ref("Module"),
    ("POST", "/devices"): {"type": "array", "maxItems": 100, "items": _object("id", id=_TEXT, importMode=_TEXT)},
    ("POST", "/devices/query"): _ref("Query"),
    **{(method, path): _ref("TwinChange") for path in _TWINS for method in ("PUT", "PATCH")},
    **{("POST", f"{path}/methods"): _ref("MethodCall") for path in _TWINS},
}
"""What calls carry, by method and path."""

ANSWERS: Final[dict[tuple[str, str], dict[str, Any]]] = {
    ("GET", "/devices"): _answer(_list(_ref("Device"))),
    **{(method, "/devices/{device_id}"): _answer(_ref("Device")) for method in ("GET", "PUT")},
    ("GET", "/devices/{device_id}/modules"): _answer(_list(_ref("Module"))),
    ("GET", _MODULE): _answer(_ref("Module")),
    ("PUT", _MODULE): _answer(_ref("Module"), "200", "201"),
    ("POST", "/devices/query"): _answer({"type": "array"}),
    **{(method, path): _answer(_ref("Twin")) for path in _TWINS for method in ("GET", "PUT", "PATCH")},
    **{("POST", f"{path}/methods"): _answer(_ref("MethodAnswer")) for path in _TWINS},
    ("GET", "/statistics/devices"): _answer(
        _object(totalDeviceCount=_COUNT, enabledDeviceCount=_COUNT, disabledDeviceCount=_COUNT)
    ),
    ("GET", "/muster-uploads/{blob...}"): {"2XX": {"description": "Done."}, "304": {"description": "Not modified."}},
    ("GET", "/statistics/service"): _answer(_object(connectedDeviceCount=_COUNT)),
}
"""What is answered, by method and path."""
