"""The provisioning service's REST API for services: enrollments, groups and registrations."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker
from tests.provisioning_client import Answer, Provisioning

_names = itertools.count()
KEYS = {"type": "symmetricKey"}


@pytest.fixture
def dps(hub: HubProcess) -> Provisioning:
    return Provisioning(hub)


def fresh(what: str = "service") -> str:
    return f"{what}-{next(_names)}"


def put(dps: Provisioning, name: str, body: Any = None, **headers: str) -> Answer:
    content = {"registrationId": name, "attestation": KEYS} if body is None else body
    return dps.call("PUT", f"/enrollments/{name}", content, **headers)


# --- enrollments one by one


def test_1_what_was_put_comes_back_without_its_keys(dps: Provisioning) -> None:
    name = fresh()
    body = {
        "registrationId": name,
        "deviceId": "at-hub",
        "attestation": {
            "type": "symmetricKey",
            "symmetricKey": {"primaryKey": "cHJpbWFyeSBrZXkgb2YgMTY=", "secondaryKey": ""},
        },
        "optionalDeviceInformation": {"made": "here"},
        "capabilities": {"iotEdge": True},
        "iotHubs": [dps.hub.address],
        "allocationPolicy": "static",
        "initialTwin": {"tags": {"a": 1}, "properties": {"desired": {"b": 2, "$metadata": {}, "$version": 3}}},
        "reprovisionPolicy": {"updateHubAssignment": False, "migrateDeviceData": True},
        "provisioningStatus": "disabled",
    }
    made = put(dps, name, body)
    assert made.status == 200
    keys = made.body["attestation"].pop("symmetricKey")
    assert keys["primaryKey"] == "cHJpbWFyeSBrZXkgb2YgMTY="
    assert len(base64.b64decode(keys["secondaryKey"])) == 32
    expected = {
        **body,
        "attestation": KEYS,
        "initialTwin": {"tags": {"a": 1}, "properties": {"desired": {"b": 2}}},
        "iotHubHostName": dps.hub.address,
    }
    got = dps.call("GET", f"/enrollments/{name}")
    assert got.body == made.body
    assert {name: got.body[name] for name in expected} == expected
    assert got.headers["etag"] == f'"{got.body["etag"]}"'
    mechanism = dps.call("POST", f"/enrollments/{name}/attestationmechanism", Content_Type="")
    assert mechanism.body == {"type": "symmetricKey", "symmetricKey": keys}


def test_2_an_enrollment_that_was_read_can_be_sent_back_and_keeps_its_keys(dps: Provisioning) -> None:
    name, leaf = fresh(), Maker(time.time()).issue("any", None)
    keys = dps.enroll(name)["attestation"]
    read = dps.call("GET", f"/enrollments/{name}").body
    assert put(dps, name, {**read, "provisioningStatus": "disabled"}, If_Match=read["etag"]).body["attestation"] == keys
    slots = {"primary": {"certificate": leaf.pem.decode()}}
    assert (
        put(dps, name, {**read, "attestation": {"type": "x509", "x509": {"clientCertificates": slots}}}).status == 200
    )
    read = dps.call("GET", f"/enrollments/{name}").body
    shown = read["attestation"]["x509"]["clientCertificates"]["primary"]
    assert (shown["certificate"], shown["info"]["sha1Thumbprint"]) == (None, leaf.sha1)
    assert put(dps, name, read).body["attestation"] == read["attestation"]


def test_3_etags_guard_updates_and_deletes(dps: Provisioning) -> None:
    name = fresh()
    first = dps.enroll(name)["etag"]
    second = put(dps, name, If_Match=f'"{first}"').body["etag"]
    assert first != second
    for method in ("PUT", "DELETE"):
        body = {"registrationId": name, "attestation": KEYS} if method == "PUT" else None
        stale = dps.call(method, f"/enrollments/{name}", body, If_Match=first)
        assert (stale.status, stale.body["errorCode"]) == (412, 412001)
    assert put(dps, name, If_Match="*").status == 200
    third = dps.call("GET", f"/enrollments/{name}").body["etag"]
    assert dps.call("DELETE", f"/enrollments/{name}", If_Match=third).status == 204
    absent = dps.call("GET", f"/enrollments/{name}")
    assert (absent.status, absent.body["errorCode"]) == (404, 404201)
    assert put(dps, name, If_Match="*").status == 404


def test_4_paths_and_ids_are_one_in_any_case(dps: Provisioning) -> None:
    name = fresh("Group-X")
    assert dps.group(name)["enrollmentGroupId"] == name.lower()
    assert dps.call("POST", f"/enrollmentgroups/{name.upper()}/attestationmechanism").status == 200
    assert dps.call("GET", f"/ENROLLMENTGROUPS/{name}").body["enrollmentGroupId"] == name.lower()
    assert dps.call("DELETE", f"/enrollmentGroups/{name}").status == 204


WRONG = {
    "id-differs": ({"registrationId": "else"}, 400004, "registrationId"),
    "no-id": ({"registrationId": None}, 400005, "registrationId"),
    "no-attestation": ({"attestation": None}, 400005, "attestation"),
    "no-type": ({"attestation": {"x509": {"caReferences": {}}}}, 400005, "attestation.type"),
    "odd-type": ({"attestation": {"type": "password"}}, 400004, "attestation.type"),
    "no-certificate": ({"attestation": {"type": "x509"}}, 400005, "attestation.x509"),
    "odd-certificate": (
        {"attestation": {"type": "x509", "x509": {"clientCertificates": {"primary": {"certificate": "AAAA"}}}}},
        400004,
        "attestation.x509.clientCertificates.primary",
    ),
    "signing-for-one": (
        {"attestation": {"type": "x509", "x509": {"signingCertificates": {"primary": {"certificate": "AAAA"}}}}},
        400004,
        "signingCertificates",
    ),
    "odd-reference": (
        {"attestation": {"type": "x509", "x509": {"caReferences": {"primary": "a/b"}}}},
        400004,
        "attestation.x509.caReferences.primary",
    ),
    "short-key": (
        {"attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": "AAAA"}}},
        400004,
        "attestation.symmetricKey.primaryKey",
    ),
    "odd-device-id": ({"deviceId": "a b"}, 400004, "deviceId"),
    "odd-status": ({"provisioningStatus": "maybe"}, 400004, "provisioningStatus"),
    "unlinked-hub": ({"iotHubs": ["elsewhere.example"]}, 400004, "iotHubs[0]"),
    "odd-allocation": ({"allocationPolicy": "nearest"}, 400004, "allocationPolicy"),
    "custom-without": ({"allocationPolicy": "custom"}, 400004, "CustomAllocationDefinition"),
    "static-without": ({"allocationPolicy": "static"}, 400005, "iotHubs"),
    "odd-webhook": (
        {"customAllocationDefinition": {"webhookUrl": "ftp://x", "apiVersion": "2021-10-01"}},
        400004,
        "customAllocationDefinition.webhookUrl",
    ),
    "old-webhook": (
        {"customAllocationDefinition": {"webhookUrl": "https://x", "apiVersion": "2017-01-01"}},
        400004,
        "customAllocationDefinition.apiVersion",
    ),
    "odd-twin": ({"initialTwin": {"tags": {"a.b": 1}}}, 400004, "initialTwin.tags"),
    "odd-desired": ({"initialTwin": {"properties": {"desired": []}}}, 400004, "initialTwin.properties.desired"),
    "odd-information": ({"optionalDeviceInformation": 1}, 400004, "optionalDeviceInformation"),
    "odd-capabilities": ({"capabilities": {"iotEdge": "yes"}}, 400004, "capabilities.iotEdge"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_5_what_is_wrong_with_an_enrollment_is_named(dps: Provisioning, what: str) -> None:
    members, code, field = WRONG[what]
    answer = put(dps, "wrong", {"registrationId": "wrong", "attestation": KEYS, **members})
    assert (answer.status, answer.body["errorCode"]) == (400, code)
    assert field in answer.body["message"]
    assert dps.call("GET", "/enrollments/wrong").status == 404


def test_5a_a_first_twin_that_no_hub_would_take_is_refused_at_once(dps: Provisioning) -> None:
    twin = {"tags": {f"t{number}": "x" * 4000 for number in range(3)}}
    answer = put(dps, "wrong", {"registrationId": "wrong", "attestation": KEYS, "initialTwin": twin})
    assert (answer.status, answer.body["errorCode"]) == (413, 413001)
    assert "initialTwin.tags" in answer.body["message"]


@pytest.mark.parametrize("name", ["a%20b", "end.", "x" * 129, "%C3%BC"])
def test_6_an_id_that_is_none_is_refused(dps: Provisioning, name: str) -> None:
    answer = dps.call("GET", f"/enrollments/{name}")
    assert (answer.status, answer.body["errorCode"]) == (400, 400004)


def test_7_a_group_takes_no_certificates_of_devices(dps: Provisioning) -> None:
    leaf = Maker(time.time()).issue("leaf", None)
    for role, said in (("clientCertificates", "clientCertificates"), ("signingCertificates", "CA:TRUE")):
        slots = {"primary": {"certificate": leaf.pem.decode()}}
        body = {"enrollmentGroupId": "wrong", "attestation": {"type": "x509", "x509": {role: slots}}}
        answer = dps.call("PUT", "/enrollmentGroups/wrong", body)
        assert (answer.status, said in answer.body["message"]) == (400, True)


# --- many


def test_10_bulk_calls_do_each_item_by_itself(dps: Provisioning) -> None:
    one, two = fresh(), fresh()
    items = [{"registrationId": name, "attestation": KEYS} for name in (one, two)]

    def bulk(mode: str, *entries: Any) -> Any:
        answer = dps.call("POST", "/enrollments/", {"mode": mode, "enrollments": entries})
        assert answer.status == 200, answer
        return answer.body

    assert bulk("create", *items) == {"isSuccessful": True, "errors": []}
    again = bulk("create", items[0], {"registrationId": "x", "attestation": {"type": "odd"}})
    assert not again["isSuccessful"]
    assert [(one["registrationId"], one["errorCode"]) for one in again["errors"]] == [(one, 409201), ("x", 400004)]
    etag = dps.call("GET", f"/enrollments/{one}").body["etag"]
    matched = bulk("updateIfMatchEtag", {**items[0], "etag": etag}, {**items[1], "etag": "AAAA"})
    assert [(error["registrationId"], error["errorCode"]) for error in matched["errors"]] == [(two, 412001)]
    assert bulk("update", *items)["isSuccessful"]
    assert bulk("DELETE", {"registrationId": one}, {"registrationId": two})["isSuccessful"]
    assert bulk("update", items[0])["errors"][0]["errorCode"] == 404201


def test_11_bulk_calls_work_on_groups_too(dps: Provisioning) -> None:
    name = fresh("group")
    body = {"mode": "create", "enrollmentGroups": [{"enrollmentGroupId": name, "attestation": KEYS}]}
    assert dps.call("POST", "/enrollmentGroups", body).body == {"isSuccessful": True, "errors": []}
    again = dps.call("POST", "/enrollmentGroups", body).body
    assert again["errors"][0]["enrollmentGroupId"] == name
    body = {"mode": "delete", "enrollmentGroups": [{"enrollmentGroupId": name}]}
    assert dps.call("POST", "/enrollmentGroups", body).body["isSuccessful"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"enrollments": [{}]}, "mode"),
        ({"mode": "sometimes", "enrollments": [{}]}, "mode"),
        ({"mode": "create"}, "enrollments"),
        ({"mode": "create", "enrollments": [{}]}, "enrollments[0].registrationId"),
        ({"mode": "create", "enrollments": [{"registrationId": "a", "attestation": KEYS}] * 2}, "more than once"),
        ({"mode": "delete", "enrollments": [{"registrationId": f"a{n}"} for n in range(101)]}, "101"),
    ],
)
def test_12_a_bulk_call_that_makes_no_sense_does_nothing(dps: Provisioning, body: Any, said: str) -> None:
    answer = dps.call("POST", "/enrollments", body)
    assert (answer.status, said in answer.body["message"]) == (400, True)


def test_13_queries_go_page_by_page(dps: Provisioning) -> None:
    names = {fresh("paged") for _ in range(5)}
    for name in names:
        dps.enroll(name)
    found: list[str] = []
    more: dict[str, str] = {}
    while True:
        answer = dps.call(
            "POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"}, x_ms_max_item_count="2", **more
        )
        assert answer.status == 200
        assert answer.headers["x-ms-item-type"] == "enrollment"
        assert len(answer.body) <= 2
        found += [one["registrationId"] for one in answer.body]
        if "x-ms-continuation" not in answer.headers:
            break
        more = {"x_ms_continuation": answer.headers["x-ms-continuation"]}
    assert found == sorted(set(found))
    assert names <= set(found)


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        ("SELECT * FROM enrollmentGroups", {}),
        ("SELECT id FROM enrollments", {}),
        ("SELECT * FROM enrollments WHERE a = 1", {}),
        ("SELECT * FROM enrollments", {"x_ms_max_item_count": "many"}),
        ("SELECT * FROM enrollments", {"x_ms_continuation": "!"}),
    ],
)
def test_14_what_cannot_be_asked_is_refused(dps: Provisioning, query: str, headers: dict[str, str]) -> None:
    assert dps.call("POST", "/enrollments/query", {"query": query}, **headers).status == 400


# --- registrations


def test_20_registrations_of_a_group_are_listed_read_and_forgotten(dps: Provisioning) -> None:
    group = dps.group(fresh("group"))
    names = [fresh("member") for _ in range(3)]
    for name in names:
        dps.provision(name, dps.derived_token(name, group))
    path = f"/registrations/{group['enrollmentGroupId']}/query"
    page = dps.call("POST", path, x_ms_max_item_count="2", Content_Type="")
    rest = dps.call("POST", path, {"query": "select * from x"}, x_ms_continuation=page.headers["x-ms-continuation"])
    assert [one["registrationId"] for one in page.body + rest.body] == sorted(names)
    assert page.headers["x-ms-item-type"] == "deviceRegistration"
    state = dps.call("GET", f"/registrations/{names[0]}")
    assert state.body in page.body + rest.body
    assert (state.body["status"], state.body["assignedHub"]) == ("assigned", dps.hub.address)
    assert dps.call("DELETE", f"/registrations/{names[0]}", If_Match="AAAA").status == 412
    assert dps.call("DELETE", f"/registrations/{names[0]}", If_Match=state.body["etag"]).status == 204
    assert dps.call("GET", f"/registrations/{names[0]}").status == 404
    assert dps.hub.request("GET", f"/devices/{names[0]}")[0] == 200, "the device stays at its hub"
    assert dps.call("DELETE", f"/enrollmentGroups/{group['enrollmentGroupId']}").status == 204
    assert dps.call("GET", f"/registrations/{names[1]}").status == 404
    assert dps.hub.request("GET", f"/devices/{names[1]}")[0] == 200


def test_21_an_enrollment_shows_the_registration_of_its_device(dps: Provisioning) -> None:
    name = fresh()
    made = dps.enroll(name)
    assert "registrationState" not in made
    dps.provision(name, dps.token(name, made["attestation"]["symmetricKey"]["primaryKey"]))
    state = dps.call("GET", f"/enrollments/{name}").body["registrationState"]
    assert state == dps.call("GET", f"/registrations/{name}").body


# --- as the cloud has it


def test_25_the_clouds_limits_hold_in_its_profile(make_hub: Callable[..., HubProcess]) -> None:
    with make_hub("--profile", "azure") as hub:
        dps = Provisioning(hub)
        items = [{"registrationId": f"a{number}", "attestation": KEYS} for number in range(11)]
        answer = dps.call("POST", "/enrollments", {"mode": "create", "enrollments": items})
        assert (answer.status, "10 are allowed" in answer.body["message"]) == (400, True)
        for at in range(0, 110, 10):
            items = [{"registrationId": f"b{at + number}", "attestation": KEYS} for number in range(10)]
            assert dps.call("POST", "/enrollments", {"mode": "create", "enrollments": items}).body["isSuccessful"]
        page = dps.call("POST", "/enrollments/query", {"query": "SELECT * FROM enrollments"})
        assert (len(page.body), page.headers["x-ms-max-item-count"]) == (100, "100")
        group = dps.group("g")
        assert dps.register("d", dps.derived_token("d", group)).headers["retry-after"] == "3"


# --- who may


@pytest.mark.parametrize(
    "path", ["/enrollments/a", "/enrollmentGroups/a", "/registrations/a", "/$muster/provisioning/log"]
)
def test_30_only_the_provisioning_services_own_policies_count(dps: Provisioning, path: str) -> None:
    hub = dps.hub
    other = hub.token("", base64.b64encode(b"z" * 32).decode(), dps.policy)
    for token, cause in ((hub.owner_token(), "policy-unknown"), ("", "no-token"), (other, "wrong-key")):
        answer = dps.call("GET", path, Authorization=token)
        assert (answer.status, answer.body["errorCode"], answer.body["message"]) == (401, 401002, "Unauthorized")
        _, told = hub.request("GET", f"/$muster/why?trackingId={answer.body['trackingId']}")
        assert told["refusals"][0]["cause"] == cause
    status, _ = hub.request("GET", "/devices", Authorization=dps.service_token())
    assert status == 401, "it has no rights at the hub"


POLICIES = "/$muster/provisioning/policies"
ASKED = {
    "EnrollmentRead": [("GET", "/enrollments/a"), ("POST", "/enrollmentGroups/query")],
    "EnrollmentWrite": [
        ("PUT", "/enrollments/a"),
        ("DELETE", "/enrollmentGroups/a"),
        ("POST", "/enrollments"),
        ("POST", "/enrollments/a/attestationmechanism"),
    ],
    "RegistrationStatusRead": [
        ("GET", "/registrations/a"),
        ("POST", "/registrations/a/query"),
        ("GET", "/$muster/provisioning/log"),
        ("GET", "/$muster/provisioning/counts"),
    ],
    "RegistrationStatusWrite": [("DELETE", "/registrations/a")],
    "ServiceConfig": [("GET", "/$muster/provisioning/allocation"), ("PATCH", "/$muster/provisioning/allocation")],
    "DeviceConnect": [],
    "": [("GET", POLICIES), ("PUT", f"{POLICIES}/another"), ("DELETE", f"{POLICIES}/another")],
}
"""By the right that they ask for, operations; those at the end ask for all."""


def added(dps: Provisioning, name: str, rights: str, **keys: str) -> str:
    """A token of a policy that is added."""
    answer = dps.call("PUT", f"{POLICIES}/{name}", {"rights": rights, **keys})
    assert (answer.status, answer.body["keyName"], answer.body["rights"]) == (200, name, rights)
    return dps.hub.token("", answer.body["primaryKey"], name)


@pytest.mark.parametrize("right", [right for right in ASKED if right])
def test_33_every_operation_asks_for_its_right(dps: Provisioning, right: str) -> None:
    name = fresh()
    token = added(dps, name, right)
    for asked, operations in ASKED.items():
        for method, path in operations:
            answer = dps.call(method, path, {}, Authorization=token)
            if asked == right:
                assert answer.status not in (401, 403), (method, path)
                continue
            assert (answer.status, answer.body["errorCode"]) == (401, 401002), (method, path)
            _, told = dps.hub.request("GET", f"/$muster/why?trackingId={answer.body['trackingId']}")
            assert told["refusals"][0]["cause"] == "policy-lacks-right"
    dps.call("DELETE", f"{POLICIES}/{name}")


def test_34_a_token_counts_by_what_its_policy_grants_now(dps: Provisioning) -> None:
    name, path = fresh(), "/registrations/none"
    token = added(dps, name, "EnrollmentRead, RegistrationStatusRead")
    assert [dps.call("GET", path, Authorization=token).status for _ in range(2)] == [404, 404]
    assert added(dps, name, "EnrollmentRead") != "", "with the keys that it had"
    assert dps.call("GET", path, Authorization=token).status == 401
    assert dps.call("GET", "/enrollments/none", Authorization=token).status == 404
    added(dps, name, "EnrollmentRead", primaryKey=base64.b64encode(b"n" * 32).decode())
    assert dps.call("GET", "/enrollments/none", Authorization=token).status == 401
    token = added(dps, name, "EnrollmentRead")
    assert dps.call("GET", "/enrollments/none", Authorization=token).status == 404
    assert dps.call("DELETE", f"{POLICIES}/{name}").status == 204
    answer = dps.call("GET", "/enrollments/none", Authorization=token)
    _, told = dps.hub.request("GET", f"/$muster/why?trackingId={answer.body['trackingId']}")
    assert (answer.status, told["refusals"][0]["cause"]) == (401, "policy-unknown")


def test_35_policies_that_cannot_be_are_refused_by_name(dps: Provisioning) -> None:
    for name, body, code, word in (
        (dps.policy, {"rights": "EnrollmentRead"}, 400003, "owner"),
        ("a%20b", {"rights": "EnrollmentRead"}, 400004, "letters"),
        ("p", {"rights": "EnrollmentRead, RegistryRead"}, 400004, "EnrollmentWrite"),
        ("p", {"rights": "Everything"}, 400004, "Everything"),
        ("p", {"rights": ""}, 400004, "EnrollmentRead"),
        ("p", {}, 400005, "rights"),
        ("p", {"rights": "EnrollmentRead", "primaryKey": "short"}, 400004, "primary key"),
    ):
        answer = dps.call("PUT", f"{POLICIES}/{name}", body)
        assert (answer.status, answer.body["errorCode"]) == (400, code), name
        assert word in answer.body["message"]
    assert dps.call("DELETE", f"{POLICIES}/{dps.policy}").body["errorCode"] == 400003
    assert dps.call("DELETE", f"{POLICIES}/none").status == 404
    listed = dps.call("GET", POLICIES).body["policies"]
    assert listed[0]["keyName"] == dps.policy
    assert all(set(one) == {"keyName", "rights"} for one in listed), "keys are not listed"


def test_31_a_token_for_a_part_is_good_there_only(dps: Provisioning) -> None:
    name = fresh()
    dps.enroll(name)
    token = dps.service_token(f"enrollments/{name}")
    assert dps.call("GET", f"/enrollments/{name}", Authorization=token).status == 200
    assert dps.call("GET", "/enrollments/other", Authorization=token).status == 401


def test_32_wrong_methods_and_versions_are_told_in_the_services_shape(dps: Provisioning) -> None:
    wrong = dps.call("PATCH", "/enrollments/a")
    assert wrong.status == 405
    old = dps.call("GET", "/enrollments/a", query="api-version=1999-01-01")
    assert (old.status, old.body["errorCode"]) == (400, 400001)
    for version in ("2018-04-01", "2018-09-01-preview", "2019-03-31", "2021-10-01", "2025-07-01-preview", "2027-01-01"):
        assert dps.call("GET", "/enrollments/a", query=f"api-version={version}").status == 404
