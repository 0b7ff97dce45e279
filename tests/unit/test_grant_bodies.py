"""Grants as JSON, and the file of roles."""

from __future__ import annotations

import json
from typing import Any

import pytest

from muster.access.custom_roles import make_role
from muster.access.grants import Grant, PrincipalKind
from muster.core.errors import FORMAT_ERROR, HubError
from muster.dialect.grant_bodies import grant_members, read_grant, read_roles_file

BERLIN = Grant(
    role="Operator", kind=PrincipalKind.GROUP, principal="berlin-ops", issuer="https://issuer.test/", hub="north",
    devices="tags.site = 'berlin'",
)  # fmt: skip
EVERYWHERE = Grant(role="IoT Hub Data Reader", kind=PrincipalKind.APPLICATION, principal="app-1")

TOML = b"""\xef\xbb\xbf# who may do what
[roles]
Operator = ["twins/*", "directMethods/invoke/action"]

[[grants]]
role = "Operator"
group = "berlin-ops"
issuer = "https://issuer.test/"
hub = "north"
devices = "tags.site = 'berlin'"

[[grants]]
role = "IoT Hub Data Reader"
application = "app-1"
"""
JSON = json.dumps(
    {
        "roles": {"Operator": ["twins/*", "directMethods/invoke/action"]},
        "grants": [grant_members(BERLIN), grant_members(EVERYWHERE)],
    }
).encode()


@pytest.mark.parametrize("content", [TOML, JSON, b"\n  " + JSON], ids=["toml", "json", "json with blanks"])
def test_the_file_in_both_forms(content: bytes) -> None:
    found = read_roles_file(content)
    assert list(found.roles) == [make_role("Operator", ["twins/*", "directMethods/invoke/action"])]
    assert list(found.grants) == [BERLIN, EVERYWHERE]


@pytest.mark.parametrize("content", [b"", b"\n# nothing\n", b"{}", b'{"roles": null, "grants": null}'])
def test_an_empty_file_holds_nothing(content: bytes) -> None:
    assert [*read_roles_file(content).roles, *read_roles_file(content).grants] == []


@pytest.mark.parametrize("grant", [BERLIN, EVERYWHERE])
def test_a_grant_there_and_back(grant: Grant) -> None:
    assert read_grant(grant_members(grant)) == grant


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"device": "true"}, "device is no member of a grant, it has .*devices"),
        ({"Devices": "true"}, "Devices is no member"),
        ({"devices": ""}, "devices is empty, leave it out"),
        ({"hub": ""}, "hub is empty, leave it out"),
        ({"issuer": ""}, "issuer is empty, leave it out"),
        ({"devices": ["x"]}, "devices must be a string, it is an array"),
        ({"hub": 1}, "hub must be a string, it is a number"),
        ({"role": None}, "role is missing"),
        ({"role": {}}, "role must be a string"),
        ({"group": None}, "must have one of subject, group, application"),
        ({"subject": "me"}, "must have one of subject, group, application"),
        ({"group": ["a"]}, "group must be a string"),
    ],
)
def test_a_grant_that_is_wrong_is_named_by_its_member(change: dict[str, Any], said: str) -> None:
    wrong = {**grant_members(BERLIN), **change}
    with pytest.raises(HubError, match=said):
        read_grant(wrong)
    with pytest.raises(HubError, match=r"grants\[1\]"):
        read_roles_file(json.dumps({"grants": [grant_members(EVERYWHERE), wrong]}).encode())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[[grants]\n", "neither TOML nor JSON: .*line 1"),
        (b'{"grants": [}', "neither TOML nor JSON: .*line 1"),
        (b"\xff\xfe", "neither TOML nor JSON"),
        (b"role = 'x'", "'role' is no part of it, it has roles and grants"),
        (b"[[grant]]\nrole = 'x'", "'grant' is no part of it"),
        (b"grants = 'x'", "grants must be an array"),
        (b"grants = ['x']", r"grants\[0\] must be an object, it is a string"),
        (b"roles = []\ngrants = []\nroles.x = 1", "neither TOML"),
        (b"roles = 'x'", "roles must be a table"),
        (b"[roles]\nx = 'twins/read'", "roles.x must be an array"),
        (b"[roles]\nx = []", "actions of the role x are missing"),
        (b"[roles]\nx = ['twin/read']", "no data action fits"),
        (b"[roles]\nOwner = ['twins/read']", "Owner is a built-in"),
        (b"[roles]\nx = [1]", r"roles.x\[0\] must be a string"),
        (b"{" + b'"a":{' * 100_000, "nested too deeply|neither TOML nor JSON"),
    ],
)
def test_a_file_that_is_wrong_says_where(content: bytes, said: str) -> None:
    with pytest.raises(HubError, match=said) as refused:
        read_roles_file(content)
    assert refused.value.row.status == 400
    assert (refused.value.row is FORMAT_ERROR) == ("neither" in said)
