"""The built-in roles hold exactly the data actions that service.md 1.5 gives them."""

from __future__ import annotations

import pytest

from muster.access.roles import ROLES, DataAction, Role

ALLOWED = {
    "IoT Hub Data Contributor": set(DataAction),
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


@pytest.mark.parametrize("action", DataAction)
@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role_allows_its_actions_and_no_other(role: Role, action: DataAction) -> None:
    assert (action in role.actions) == (action in ALLOWED[role.name])
