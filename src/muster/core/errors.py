"""The errors catalogue: one row for every error the hub can answer, whatever the protocol.

``docs/errors.md`` and ``muster why`` are made from it. The HTTP status is the first three digits of the
code. Sources: service.md 3.6 and 7.3, device.md 3.2 and 10.
"""

from __future__ import annotations

from muster.core import throttle_errors
from muster.core.error import CONNACK_IDENTIFIER as CONNACK_IDENTIFIER  # noqa: PLC0414 - for all who read errors
from muster.core.error import CONNACK_PROTOCOL as CONNACK_PROTOCOL  # noqa: PLC0414
from muster.core.error import CONNACK_REFUSED as CONNACK_REFUSED  # noqa: PLC0414
from muster.core.error import CONNACK_UNAVAILABLE as CONNACK_UNAVAILABLE  # noqa: PLC0414
from muster.core.error import ErrorRow as ErrorRow  # noqa: PLC0414
from muster.core.error import HubError as HubError  # noqa: PLC0414

_BAD, _ARGUMENT = "amqp:decode-error", "com.microsoft:argument-error"

BAD_REQUEST = ErrorRow(400000, "GenericBadRequest", _ARGUMENT, 5, "The request is malformed.", "Correct the request.")
INVALID_PROTOCOL_VERSION = ErrorRow(
    400001, "InvalidProtocolVersion", _ARGUMENT, 5, "The api-version is missing or not a known form.",
    "Send ?api-version=2021-04-12, as the SDKs do.",
)  # fmt: skip
INVALID_OPERATION = ErrorRow(
    400003,
    "InvalidOperation",
    "amqp:not-allowed",
    5,
    "The operation makes no sense here.",
    "See the message.",
)
ARGUMENT_INVALID = ErrorRow(
    400004, "ArgumentInvalid", _ARGUMENT, 5, "A value is not allowed.", "Correct the value named."
)
ARGUMENT_NULL = ErrorRow(400005, "ArgumentNull", _ARGUMENT, 5, "A required value is missing.", "Give the value named.")
FORMAT_ERROR = ErrorRow(400006, "IotHubFormatError", _BAD, 5, "The body is not valid JSON.", "Send valid JSON.")
DEVICE_DEFINED_TWICE = ErrorRow(
    400011,
    "DeviceDefinedMultipleTimes",
    _ARGUMENT,
    5,
    "An id stands twice in a bulk call.",
    "Name each id once.",
)
BULK_FAILURE = ErrorRow(
    400013,
    "BulkRegistryOperationFailure",
    _ARGUMENT,
    5,
    "Some items of a bulk call failed.",
    "See its errors list.",
)
STORAGE_NOT_CONFIGURED = ErrorRow(
    400014,
    "DefaultStorageEndpointNotConfigured",
    _ARGUMENT,
    5,
    "The hub has no storage for files of devices.",
    "Run muster serve with --storage embedded, or with --storage-connection-string.",
)
UPLOAD_UNKNOWN = ErrorRow(
    400015,
    "InvalidFileUploadCorrelationId",
    _ARGUMENT,
    5,
    "The device has no file upload with this correlation id.",
    "Send the correlationId that POST /devices/<id>/files answered, once.",
)
UPLOAD_EXPIRED = ErrorRow(
    400016,
    "ExpiredFileUploadCorrelationId",
    _ARGUMENT,
    5,
    "The file upload was not finished in time.",
    "Begin anew with POST /devices/<id>/files.",
)
UPLOAD_STATUS = ErrorRow(
    400019,
    "InvalidFileUploadCompletionStatus",
    _ARGUMENT,
    5,
    "The notice of a finished upload does not say how it ended.",
    "Send isSuccess (true or false) and statusCode (a whole number).",
)
STORAGE_REFUSED = ErrorRow(
    400020,
    "InvalidStorageEndpointOrBlob",
    _ARGUMENT,
    5,
    "The storage does not have the file, or does not let the hub look.",
    "Upload the file before the notice; check the storage account's key and container.",
)
TAKEN_OVER = ErrorRow(
    400027,
    "ConnectionForcefullyClosedOnNewConnection",
    "amqp:link:stolen",
    5,
    "The same identity connected again; the newer connection wins.",
    "Look for a second process that uses this device's credential.",
)
INVALID_DEVICE_SCOPE = ErrorRow(
    400028, "InvalidDeviceScope", _ARGUMENT, 5, "The device scope names no known edge device.",
    "Copy deviceScope from the parent.",
)  # fmt: skip
INVALID_POLICY_KEY = ErrorRow(
    400035,
    "InvalidPolicyKey",
    _ARGUMENT,
    5,
    "The policy key names no kind of key.",
    "Send primaryKey, secondaryKey or both.",
)
KEYS_NOT_REGENERATED = ErrorRow(
    400036,
    "BulkRegenerateDeviceKeyOperationFailure",
    _ARGUMENT,
    5,
    "Keys of some identities could not be made anew.",
    "See its errors list.",
)
MODULE_UNDER_MODULE = ErrorRow(
    400301,
    "CannotRegisterModuleToModule",
    _ARGUMENT,
    5,
    "A module cannot have modules.",
    "Register it under a device.",
)
INVALID_DIGITAL_TWIN_JSON_PATCH = ErrorRow(
    400505, "InvalidDigitalTwinJsonPatch", _ARGUMENT, 5, "The body is no JSON Patch that a digital twin takes.",
    "Send an array of add, replace and remove operations.",
)  # fmt: skip
INVALID_DIGITAL_TWIN_PAYLOAD = ErrorRow(
    400506, "InvalidDigitalTwinPayload", _ARGUMENT, 5, "A property of a digital twin cannot have this value.",
    "Correct the value named.",
)  # fmt: skip
INVALID_DIGITAL_TWIN_PATCH = ErrorRow(
    400507, "InvalidDigitalTwinPatch", _ARGUMENT, 5, "A component is not marked as one.",
    'Send the component with "$metadata": {}.',
)  # fmt: skip
INVALID_DIGITAL_TWIN_PATCH_PATH = ErrorRow(
    400508, "InvalidDigitalTwinPatchPath", _ARGUMENT, 5, "The path leads to nothing that can be written.",
    "Send /property, /component or /component/property.",
)  # fmt: skip
UNAUTHORIZED = ErrorRow(
    401002,
    "IotHubUnauthorizedAccess",
    "amqp:unauthorized-access",
    5,
    "The credential was refused.",
    "Run: muster why <tracking id>",
)
DEVICE_UNAUTHORIZED = ErrorRow(
    401003,
    "IotHubUnauthorized",
    "amqp:unauthorized-access",
    5,
    "The device's credential was refused.",
    "Run: muster why <tracking id>",
)
SYSTEM_MODULE = ErrorRow(
    401100,
    "SystemModuleModifyUnauthorizedAccess",
    "amqp:unauthorized-access",
    5,
    "Modules that the edge runtime owns are not written by services.",
    "Change them through the edge deployment.",
)
TOO_MANY_TOKENS = ErrorRow(
    403005,
    "IotHubMaxCbsTokenExceeded",
    "amqp:resource-limit-exceeded",
    5,
    "Too many tokens for different audiences on one connection.",
    "Open another connection.",
)
TOO_MANY_UPLOADS = ErrorRow(
    403006,
    "DeviceMaximumActiveFileUploadLimitExceeded",
    "amqp:resource-limit-exceeded",
    5,
    "The device has as many file uploads in progress as it may.",
    "Report those that have ended, or wait until they lapse.",
)
TOO_MANY_READERS = ErrorRow(
    403013,
    "ReceiverQuotaExceeded",
    "amqp:resource-limit-exceeded",
    5,
    "The partition has all the receivers without owner level that a consumer group may have.",
    "Close one, or read through a consumer group of your own.",
)
QUEUE_DEPTH = ErrorRow(
    403004,
    "DeviceMaximumQueueDepthExceeded",
    "amqp:resource-limit-exceeded",
    5,
    "Too many messages wait for the device.",
    "Let the device receive, or purge its queue.",
)
INVALID_EXPIRY = ErrorRow(
    403009,
    "InvalidMessageExpiryTime",
    "amqp:not-allowed",
    5,
    "The message's expiry time is too far away.",
    "Give an absolute-expiry-time within the limit, or none for the hub's default.",
)
DEVICE_DISABLED = ErrorRow(
    403012,
    "DeviceDisabled",
    "amqp:unauthorized-access",
    5,
    "The device is disabled.",
    "Enable it in the registry.",
)
TOO_MANY_AUTHORITIES = ErrorRow(
    403000,
    "GenericForbidden",
    "amqp:resource-limit-exceeded",
    5,
    "The hub has all the certificate authorities it may have.",
    "Delete one that is not used.",
)
METHODS_IN_FLIGHT_FULL = ErrorRow(
    403800,
    "DeviceMaximumInflightMethodExceeded",
    "amqp:resource-limit-exceeded",
    5,
    "Too many method calls to the device wait for it or for its answer.",
    "Let calls end before making more.",
)
NOT_FOUND = ErrorRow(404000, "GenericNotFound", "amqp:not-found", 5, "There is no such resource.", "Check the path.")
DEVICE_NOT_FOUND = ErrorRow(
    404001,
    "DeviceNotFound",
    "amqp:not-found",
    5,
    "No such device is registered.",
    "Run: muster device add <id>",
)
ADDRESS_NOT_FOUND = ErrorRow(
    404006,
    "AmqpAddressNotFound",
    "amqp:not-found",
    5,
    "No link can be attached to this address.",
    "Check the link's address.",
)
MODULE_NOT_FOUND = ErrorRow(
    404010,
    "ModuleNotFound",
    "amqp:not-found",
    5,
    "No such module is registered.",
    "Run: muster device add <device> --module <module>",
)
CERTIFICATE_NOT_FOUND = ErrorRow(
    404008,
    "CertificateNotFound",
    "amqp:not-found",
    5,
    "No such certificate authority is registered.",
    "Run: muster ca list",
)
DEVICE_NOT_ONLINE = ErrorRow(
    404103,
    "DeviceNotOnline",
    "amqp:not-found",
    5,
    "The device is not connected, or has not subscribed to methods.",
    "Connect it and set its method handler, or give connectTimeoutInSeconds to wait for that.",
)
CONNECTION_CLOSED = ErrorRow(
    404104,
    "DeviceConnectionClosedRemotely",
    "amqp:connection:forced",
    5,
    "The device went away.",
    "See the session's end in the log.",
)
METHOD_NOT_ALLOWED = ErrorRow(
    405000,
    "GenericMethodNotAllowed",
    "amqp:not-allowed",
    5,
    "The resource does not take this HTTP method.",
    "See the Allow header.",
)
REQUEST_TIMEOUT = ErrorRow(
    408000,
    "GenericRequestTimeout",
    "com.microsoft:timeout",
    CONNACK_UNAVAILABLE,
    "The request did not come in time.",
    "Send it again, without pauses.",
)
DEVICE_EXISTS = ErrorRow(
    409001,
    "DeviceAlreadyExists",
    "com.microsoft:device-already-exists",
    5,
    "The device exists.",
    "Send If-Match to update it.",
)
READER_REPLACED = ErrorRow(
    409002,
    "LinkCreationConflict",
    "amqp:link:stolen",
    5,
    "A receiver with an owner level holds the partition in this consumer group.",
    "Use a higher owner level, close the other receiver, or read through a consumer group of your own.",
)
MODULE_EXISTS = ErrorRow(
    409301,
    "ModuleAlreadyExistsOnDevice",
    "com.microsoft:device-already-exists",
    5,
    "The module exists.",
    "Send If-Match to update it.",
)
PRECONDITION_FAILED = ErrorRow(
    412001, "PreconditionFailed", "com.microsoft:precondition-failed", 5,
    "The etag in the request does not match the etag of the existing resource, as per RFC7232, "
    "please check and try again",
    "Read the resource again and repeat the change on its present state.",
)  # fmt: skip
LOCK_LOST = ErrorRow(
    412002,
    "DeviceMessageLockLost",
    "com.microsoft:message-lock-lost",
    5,
    "The lock token does not hold a message, or no longer: it was settled, or its lock has run out.",
    "Receive the message again, and settle it within the lock's time.",
)
BODY_TOO_LARGE = ErrorRow(
    413000,
    "GenericRequestEntityTooLarge",
    "amqp:link:message-size-exceeded",
    5,
    "The request's body is too large.",
    "Split the call.",
)
MESSAGE_TOO_LARGE = ErrorRow(
    413001,
    "MessageTooLarge",
    "amqp:link:message-size-exceeded",
    5,
    "The message is over 256 KiB.",
    "Send less, or upload a file.",
)
TOO_MANY_DEVICES = ErrorRow(
    413002,
    "TooManyDevices",
    "amqp:resource-limit-exceeded",
    5,
    "More than 100 devices in one bulk call.",
    "Split the call.",
)
TOO_MANY_MODULES = ErrorRow(
    413003,
    "TooManyModulesOnDevice",
    "amqp:resource-limit-exceeded",
    5,
    "The device has all the modules it may have.",
    "Delete a module first.",
)
UNSUPPORTED_MEDIA = ErrorRow(
    415000,
    "GenericUnsupportedMediaType",
    _BAD,
    5,
    "The Content-Type or Content-Encoding is not understood.",
    "Send application/json, uncompressed.",
)
THROTTLED = ErrorRow(
    429001,
    "ThrottlingException",
    "com.microsoft:device-container-throttled",
    CONNACK_UNAVAILABLE,
    "The rate limit was exceeded.",
    "Slow down and retry.",
)
SERVER_ERROR = ErrorRow(
    500001,
    "ServerError",
    "amqp:internal-error",
    CONNACK_UNAVAILABLE,
    "The hub failed; this is a defect or a full disk.",
    "See the hub's log under the tracking id.",
)
BAD_METHOD_ANSWER = ErrorRow(
    502000,
    "GenericBadGateway",
    "amqp:internal-error",
    CONNACK_UNAVAILABLE,
    "The device answered something that is not an answer.",
    "Have the device answer with JSON of at most 128 KiB.",
)
PARTITION_NOT_FOUND = ErrorRow(
    503003,
    "PartitionNotFound",
    "com.microsoft:argument-out-of-range",
    5,
    "There is no such partition.",
    "Ask for the partition ids ($management, or the client's get_partition_ids).",
)
UNAVAILABLE = ErrorRow(
    503001,
    "ServiceUnavailable",
    "com.microsoft:server-busy",
    CONNACK_UNAVAILABLE,
    "The hub is starting, draining or overloaded.",
    "Retry in a moment.",
)

METHOD_TIMEOUT = ErrorRow(
    504101,
    "GatewayTimeout",
    "com.microsoft:timeout",
    CONNACK_UNAVAILABLE,
    "The device took the method call and did not answer in time.",
    "Raise responseTimeoutInSeconds, or have the device answer sooner.",
)

ALL: tuple[ErrorRow, ...] = (
    *(value for value in list(globals().values()) if isinstance(value, ErrorRow)),
    *throttle_errors.ALL,
)
BY_CODE: dict[int, ErrorRow] = {row.code: row for row in ALL}
