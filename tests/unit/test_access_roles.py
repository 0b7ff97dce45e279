"""The built-in roles hold exactly the data actions that service.md 1.5 gives them."""

from __future__ import annotations

import pytest

from muster.access.roles import (
    ALL_ROLES,
    ROLES,
    Action,
    DataAction,
    ManagementAction,
    ProvisioningAction,
    Role,
    StreamAction,
    roles_for,
)

ALLOWED = {
    "IoT Hub Data Contributor": {*DataAction, StreamAction.RECEIVE},
    "IoT Hub Data Reader": {
        DataAction.DEVICES_READ,
        DataAction.TWINS_READ,
        DataAction.JOBS_READ,
        DataAction.STATISTICS_READ,
        DataAction.CONFIGURATIONS_READ,
        DataAction.UPLOAD_NOTIFICATIONS,
    },
    "IoT Hub Registry Contributor": {DataAction.DEVICES_READ, DataAction.DEVICES_WRITE, DataAction.DEVICES_DELETE},
    "IoT Hub Twin Contributor": {DataAction.TWINS_READ, DataAction.TWINS_WRITE},
}


def test_all_built_in_roles_are_there() -> None:
    assert [role.name for role in ROLES] == list(ALLOWED)
    assert len(DataAction) == 19


@pytest.mark.parametrize("action", [*DataAction, *StreamAction, *ProvisioningAction, *ManagementAction])
@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_allows_its_actions_and_no_other(role: Role, action: Action) -> None:
    assert (action in role.actions) == (action in ALLOWED[role.name])


def test_no_two_roles_have_a_name_and_no_two_actions_a_text() -> None:
    names = [role.name for role in ALL_ROLES]
    actions = [str(one) for kind in (DataAction, StreamAction, ProvisioningAction, ManagementAction) for one in kind]
    assert len(set(names)) == len(names)
    assert len(set(actions)) == len(actions)


@pytest.mark.parametrize(
    ("action", "roles"),
    [
        (DataAction.TWINS_READ, ["IoT Hub Twin Contributor", "IoT Hub Data Reader", "IoT Hub Data Contributor"]),
        (
            StreamAction.RECEIVE,
            ["Azure Event Hubs Data Receiver", "Azure Event Hubs Data Owner", "IoT Hub Data Contributor"],
        ),
        (
            ProvisioningAction.ENROLLMENTS_READ,
            ["Device Provisioning Service Data Reader", "Device Provisioning Service Data Contributor"],
        ),
        (ProvisioningAction.ATTESTATION_DETAILS, ["Device Provisioning Service Data Contributor"]),
        (ManagementAction.READ, ["Reader", "Contributor", "User Access Administrator", "Owner"]),
        (ManagementAction.WRITE, ["Contributor", "Owner"]),
        (ManagementAction.ROLES_WRITE, ["User Access Administrator", "Owner"]),
    ],
)
def test_roles_that_would_do_begin_with_the_least(action: Action, roles: list[str]) -> None:
    assert list(roles_for(action)) == roles
