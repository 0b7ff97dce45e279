"""What the provisioning service answers besides the rows of ``errors`` (provisioning.md 5.5); see there.

Numbers that no source gives are our own choice within the first three digits.
"""

from __future__ import annotations

from muster.core.errors import ErrorRow

_ARGUMENT, _ACCESS, _FULL = "com.microsoft:argument-error", "amqp:unauthorized-access", "amqp:resource-limit-exceeded"

CSR_REJECTED = ErrorRow(
    400037,
    "CertificateRequestRejected",
    _ARGUMENT,
    5,
    "The certificate signing request cannot be granted.",
    "See the message; make the request anew, its common name is the device id.",
)
RENEWAL_ACTIVE = ErrorRow(
    409004,
    "CertificateRequestActive",
    "com.microsoft:precondition-failed",
    5,
    "Another request of the device for a certificate is being answered.",
    "Wait for its answer.",
)
CUSTOM_ALLOCATION_FAILED = ErrorRow(
    400207,
    "CustomAllocationFailed",
    _ARGUMENT,
    5,
    "The webhook of a custom allocation did not name a hub.",
    "See what the webhook answers: 200 and an iotHubHostName that is one of linkedHubs, within the time allowed.",
)
NO_HUB = ErrorRow(
    400208,
    "NoHubSpecified",
    _ARGUMENT,
    5,
    "No linked hub is left for the device.",
    "Link a hub that takes part in allocation, or correct the enrollment's iotHubs.",
)
HUB_REFUSED = ErrorRow(
    400209,
    "HubRefusedDevice",
    _ARGUMENT,
    5,
    "The hub did not take the device.",
    "See the message; then let the device register again.",
)
ENROLLMENT_DISABLED = ErrorRow(
    403201,
    "EnrollmentDisabled",
    _ACCESS,
    5,
    "The enrollment is disabled; the device is told the status disabled and no error.",
    "Enable it: set its provisioningStatus to enabled.",
)
TOO_MANY_ENROLLMENTS = ErrorRow(
    403202,
    "EnrollmentQuotaExceeded",
    _FULL,
    5,
    "The provisioning service has all the enrollment groups it may have.",
    "Delete one that is not used.",
)
TOO_MANY_POLICIES = ErrorRow(
    403203,
    "PolicyQuotaExceeded",
    _FULL,
    5,
    "The hub, or the provisioning service, has all the shared access policies it may have.",
    "Delete one that is not used: muster hub policy delete, or muster provisioning policy delete",
)
ENROLLMENT_NOT_FOUND = ErrorRow(
    404201,
    "EnrollmentNotFound",
    "amqp:not-found",
    5,
    "There is no such enrollment.",
    "Run: muster provisioning enrollment list, or muster provisioning group list",
)
REGISTRATION_NOT_FOUND = ErrorRow(
    404202,
    "RegistrationNotFound",
    "amqp:not-found",
    5,
    "The device has not registered.",
    "Let the device register first.",
)
OPERATION_NOT_FOUND = ErrorRow(
    404203,
    "RegistrationOperationNotFound",
    "amqp:not-found",
    5,
    "The device has no registration operation of this id, or a newer one.",
    "Use the operationId of the last register call.",
)
ENROLLMENT_EXISTS = ErrorRow(
    409201,
    "EnrollmentAlreadyExists",
    "com.microsoft:device-already-exists",
    5,
    "The enrollment exists.",
    "Update it, or choose another id.",
)
REGISTRATION_IN_PROGRESS = ErrorRow(
    409202,
    "RegistrationInProgress",
    "com.microsoft:precondition-failed",
    5,
    "The device is being assigned at this moment.",
    "Try again in a moment.",
)

ALL: tuple[ErrorRow, ...] = tuple(value for value in list(globals().values()) if isinstance(value, ErrorRow))
