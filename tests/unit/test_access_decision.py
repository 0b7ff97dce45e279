"""Who a proven token speaks for, and what its ``roles`` claim allows."""

from __future__ import annotations

from typing import Any

import pytest

from muster.access.decision import Caller, by_claim, read_caller
from muster.access.roles import DataAction, ManagementAction

ISSUER = "https://issuer.test/"


def caller(**claims: Any) -> Caller:
    return read_caller(ISSUER, claims, 1_800_000_000.0)


def test_claims_name_subject_groups_and_application() -> None:
    who = caller(sub="s", oid="o", groups=["g", "h"], azp="a", appid="b", client_id="c", roles=["Reader"])
    assert who.subjects == {"s", "o"}
    assert who.groups == {"g", "h"}
    assert who.applications == {"a", "b", "c"}
    assert who.roles == {"Reader"}
    assert (who.issuer, who.name, who.principal) == (ISSUER, "s", f"s ({ISSUER})")
    assert caller(azp="a").name == "a"
    assert caller().name == "a caller without a name"


@pytest.mark.parametrize("said", ["IoT Hub Data Reader", {"IoT Hub Data Reader": 1}, [1, None, ["x"], "y" * 257], None])
def test_what_is_no_list_of_texts_names_nothing(said: object) -> None:
    who = caller(sub=said if isinstance(said, dict) else 7, roles=said, groups=said)
    assert not who.roles | who.groups | who.subjects


def test_a_flood_of_groups_is_cut() -> None:
    assert len(caller(groups=[str(one) for one in range(10_000)]).groups) == 256


async def test_a_role_of_the_claim_allows_its_actions_everywhere() -> None:
    decision = await by_claim(caller(roles=["x", "IoT Hub Data Reader"]), DataAction.TWINS_READ, "hub", "dev1")
    assert decision.allowed
    assert decision.everywhere
    assert decision.ground == "role IoT Hub Data Reader of the token"


async def test_a_refusal_names_the_roles_that_would_do() -> None:
    decision = await by_claim(caller(roles=["IoT Hub Data Reader"]), DataAction.TWINS_WRITE, "hub", None)
    assert not decision.allowed
    assert not decision.ground
    assert decision.roles == ("IoT Hub Twin Contributor", "IoT Hub Data Contributor")


@pytest.mark.parametrize("name", ["iot hub data reader", "IoT Hub Data Reader ", "*", "Reader"])
async def test_only_the_exact_name_is_a_role(name: str) -> None:
    assert not (await by_claim(caller(roles=[name]), DataAction.TWINS_READ, "hub", None)).allowed


async def test_roles_of_the_data_plane_manage_nothing() -> None:
    held = ["IoT Hub Data Contributor", "Device Provisioning Service Data Contributor", "Azure Event Hubs Data Owner"]
    assert not (await by_claim(caller(roles=held), ManagementAction.READ, "hub", None)).allowed
