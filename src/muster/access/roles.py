"""What services may do, and the built-in roles that allow it, as Azure RBAC has them (service.md 1.5).

Each surface has a kind of action of its own; a role is about one or more of these kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple


class DataAction(StrEnum):
    """What one operation on a hub needs, below ``Microsoft.Devices/IotHubs/``."""

    DEVICES_READ = "devices/read"
    DEVICES_WRITE = "devices/write"
    DEVICES_DELETE = "devices/delete"
    TWINS_READ = "twins/read"
    TWINS_WRITE = "twins/write"
    JOBS_READ = "jobs/read"
    JOBS_WRITE = "jobs/write"
    JOBS_DELETE = "jobs/delete"
    C2D_SEND = "cloudToDeviceMessages/send/action"
    C2D_FEEDBACK = "cloudToDeviceMessages/feedback/action"
    C2D_PURGE = "cloudToDeviceMessages/queue/purge/action"
    METHODS_INVOKE = "directMethods/invoke/action"
    UPLOAD_NOTIFICATIONS = "fileUpload/notifications/action"
    STATISTICS_READ = "statistics/read"
    CONFIGURATIONS_READ = "configurations/read"
    CONFIGURATIONS_WRITE = "configurations/write"
    CONFIGURATIONS_DELETE = "configurations/delete"
    CONFIGURATIONS_APPLY = "configurations/applyToEdgeDevice/action"
    CONFIGURATIONS_TEST = "configurations/testQueries/action"


class StreamAction(StrEnum):
    """What readers of the built-in endpoint need, below ``Microsoft.EventHub/namespaces/``."""

    RECEIVE = "messages/receive/action"


class ProvisioningAction(StrEnum):
    """What an operation on a provisioning service needs, below ``Microsoft.Devices/provisioningServices/``."""

    ATTESTATION_DETAILS = "attestationmechanism/details/action"
    ENROLLMENTS_READ = "enrollments/read"
    ENROLLMENTS_WRITE = "enrollments/write"
    ENROLLMENTS_DELETE = "enrollments/delete"
    GROUPS_READ = "enrollmentGroups/read"
    GROUPS_WRITE = "enrollmentGroups/write"
    GROUPS_DELETE = "enrollmentGroups/delete"
    REGISTRATIONS_READ = "registrationStates/read"
    REGISTRATIONS_DELETE = "registrationStates/delete"


class ManagementAction(StrEnum):
    """What management calls need. Whoever grants roles to others needs more than who changes hubs."""

    READ = "Microsoft.Devices/read"
    WRITE = "Microsoft.Devices/write"
    ROLES_READ = "Microsoft.Authorization/read"
    ROLES_WRITE = "Microsoft.Authorization/write"


Action = DataAction | StreamAction | ProvisioningAction | ManagementAction


class Role(NamedTuple):
    """A built-in role. ``patterns`` match actions of ``kinds``; ``*`` stands for any text, blanks and slashes
    included."""

    name: str
    patterns: tuple[str, ...]
    kinds: tuple[type[Action], ...] = (DataAction,)

    @property
    def actions(self) -> frozenset[Action]:
        """All that the role allows."""
        return frozenset(
            one for kind in self.kinds for one in kind if any(fnmatchcase(one, pattern) for pattern in self.patterns)
        )


ROLES = (
    Role("IoT Hub Data Contributor", ("*",), (DataAction, StreamAction)),
    Role("IoT Hub Data Reader", ("*/read", "fileUpload/notifications/action")),
    Role("IoT Hub Registry Contributor", ("devices/*",)),
    Role("IoT Hub Twin Contributor", ("twins/*",)),
)
"""Roles at a hub. Who may do everything there reads events too: the cloud's endpoint takes no bearer tokens, and has no
role for it at the hub."""
STREAM_ROLES = (
    Role("Azure Event Hubs Data Receiver", ("*/receive/action",), (StreamAction,)),
    Role("Azure Event Hubs Data Owner", ("*",), (StreamAction,)),
)
PROVISIONING_ROLES = (
    Role("Device Provisioning Service Data Contributor", ("*",), (ProvisioningAction,)),
    Role("Device Provisioning Service Data Reader", ("*/read",), (ProvisioningAction,)),
)
MANAGEMENT_ROLES = (
    Role("Reader", ("*/read",), (ManagementAction,)),
    Role("Contributor", ("Microsoft.Devices/*", "*/read"), (ManagementAction,)),
    Role("Owner", ("*",), (ManagementAction,)),
    Role("User Access Administrator", ("Microsoft.Authorization/*", "*/read"), (ManagementAction,)),
)
ALL_ROLES = (*ROLES, *STREAM_ROLES, *PROVISIONING_ROLES, *MANAGEMENT_ROLES)

ALLOWED: Mapping[str, frozenset[Action]] = {role.name: role.actions for role in ALL_ROLES}
"""What each role allows, by its name."""


def roles_for(action: Action) -> tuple[str, ...]:
    """The names of the roles that allow ``action``, those that allow least first."""
    found = [role for role in ALL_ROLES if action in ALLOWED[role.name]]
    return tuple(role.name for role in sorted(found, key=lambda role: len(ALLOWED[role.name])))
