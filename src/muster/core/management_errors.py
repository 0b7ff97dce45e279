"""What the management API answers besides the rows of ``errors``; see there.

The names are those of Azure's resource manager, the numbers our own choice within the first three digits.
"""

from __future__ import annotations

from muster.core.error import ErrorRow

PROPERTY_FIXED = ErrorRow(
    400310,
    "PropertyChangeNotAllowed",
    "com.microsoft:argument-error",
    5,
    "The property of the resource cannot be set, or not any more.",
    "Leave it as it is in the answer of GET; docs/management.md lists what can be changed.",
)
AUTHORIZATION_FAILED = ErrorRow(
    403310,
    "AuthorizationFailed",
    "amqp:unauthorized-access",
    5,
    "The caller may not do that to this resource.",
    "Use a token of this hub's iothubowner, or of the first hub's, who may manage all.",
)
RESOURCE_NOT_FOUND = ErrorRow(
    404310,
    "ResourceNotFound",
    "amqp:not-found",
    5,
    "There is no such resource.",
    "List the resources of its kind; docs/management.md says which kinds there are.",
)
CONSUMER_GROUP_FIXED = ErrorRow(
    409310,
    "ConsumerGroupCannotBeRemoved",
    "com.microsoft:precondition-failed",
    5,
    "The consumer group cannot be removed.",
    "$Default stays; one that the settings name is taken out there.",
)
TOO_MANY_GROUPS = ErrorRow(
    403311,
    "ConsumerGroupQuotaExceeded",
    "amqp:resource-limit-exceeded",
    5,
    "The hub has as many consumer groups as it may have.",
    "Remove one: muster hub group remove HUB GROUP",
)
NOT_SUPPORTED = ErrorRow(
    501310,
    "OperationNotSupported",
    "amqp:not-implemented",
    5,
    "The management API does not have this operation of Azure's.",
    "See the message, or docs/management.md.",
)

ALL: tuple[ErrorRow, ...] = tuple(value for value in list(globals().values()) if isinstance(value, ErrorRow))
