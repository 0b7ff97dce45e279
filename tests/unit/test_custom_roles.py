"""Roles of the operator: names and patterns of data actions."""

from __future__ import annotations

import pytest

from muster.access.custom_roles import full_name, kept_role, make_role
from muster.access.roles import ALL_ROLES, Action, DataAction, ManagementAction, ProvisioningAction, StreamAction
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError


@pytest.mark.parametrize(
    ("patterns", "actions"),
    [
        (["twins/read"], {DataAction.TWINS_READ}),
        (["Microsoft.Devices/IotHubs/twins/read"], {DataAction.TWINS_READ}),
        (["microsoft.devices/iothubs/Twins/Read"], {DataAction.TWINS_READ}),
        (["twins/*", "devices/read"], {DataAction.TWINS_READ, DataAction.TWINS_WRITE, DataAction.DEVICES_READ}),
        (["*/delete"], {DataAction.DEVICES_DELETE, DataAction.JOBS_DELETE, DataAction.CONFIGURATIONS_DELETE}),
        (["*"], set(DataAction)),
        (["Microsoft.EventHub/namespaces/messages/receive/action"], {StreamAction.RECEIVE}),
        (["Microsoft.Devices/provisioningServices/*"], set(ProvisioningAction)),
        (["Microsoft.Devices/*"], {*DataAction, *ProvisioningAction}),
        (["Microsoft.*"], {*DataAction, *ProvisioningAction, *StreamAction}),
    ],
)
def test_a_pattern_names_actions(patterns: list[str], actions: set[Action]) -> None:
    assert make_role("Mine", patterns).actions == actions


def test_no_pattern_reaches_management() -> None:
    everything = make_role("Mine", ["*", "Microsoft.*", "Microsoft.Devices/*"])
    assert not everything.actions & set(ManagementAction)
    with pytest.raises(HubError, match="no data action fits"):
        make_role("Mine", ["Microsoft.Authorization/*"])


@pytest.mark.parametrize(
    "pattern", ["twin/read", "", "twins/rea?", "twins/[r]ead", "Microsoft.Compute/*", "twins /read", "*" * 129, "**a"]
)
def test_a_pattern_that_fits_nothing_is_named(pattern: str) -> None:
    with pytest.raises(HubError, match=r"actions names .* muster role list") as refused:
        make_role("Mine", ["twins/read", pattern])
    assert refused.value.row is ARGUMENT_INVALID


@pytest.mark.parametrize("name", ["", " x", "x ", "a\nb", "x" * 129, "iot hub data READER", "Owner"])
def test_a_name_that_cannot_be(name: str) -> None:
    with pytest.raises(HubError, match="role "):
        make_role(name, ["twins/read"])


def test_a_role_without_actions_is_none() -> None:
    with pytest.raises(HubError, match="actions") as refused:
        make_role("Mine", [])
    assert refused.value.row is ARGUMENT_NULL
    with pytest.raises(HubError, match="65"):
        make_role("Mine", ["twins/read"] * 65)


def test_a_kept_role_whose_action_is_gone_keeps_the_rest() -> None:
    assert kept_role("Mine", ["gone/read", "twins/read"]).actions == {DataAction.TWINS_READ}


def test_azures_spelling_of_the_built_in_data_roles_is_a_role_too() -> None:
    for role in ALL_ROLES:
        if ManagementAction not in role.kinds:
            assert make_role("Mine", [full_name(one) for one in role.actions]).actions == role.actions
