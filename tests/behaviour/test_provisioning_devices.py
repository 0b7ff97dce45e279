"""The provisioning service's device API over HTTPS: who registers is assigned, and finds his device at the hub."""

from __future__ import annotations

import base64
import http.client
import itertools
import json
import re
import time
from typing import Any

import pytest

from muster.identity.sas import sign
from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient
from tests.certificate_maker import Maker
from tests.provisioning_client import Provisioning

_names = itertools.count()
ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")
OPERATION = re.compile(r"5\.[0-9a-f]{16}\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.fixture
def dps(hub: HubProcess) -> Provisioning:
    return Provisioning(hub)


def fresh(what: str = "dev") -> str:
    return f"{what}-{next(_names)}"


def key_of(enrollment: dict[str, Any], slot: str = "primaryKey") -> str:
    return str(enrollment["attestation"]["symmetricKey"][slot])


def pasted(role: str, der: bytes) -> dict[str, Any]:
    return {"type": "x509", "x509": {role: {"primary": {"certificate": base64.b64encode(der).decode()}}}}


def test_1_register_answers_202_and_the_poll_the_whole_registration(dps: Provisioning) -> None:
    name = fresh()
    token = dps.token(name, key_of(dps.enroll(name)))
    begun = dps.register(name, token)
    operation = begun.body["operationId"]
    assert begun.status == 202
    assert begun.headers["retry-after"] == "2"
    assert OPERATION.fullmatch(operation)
    state = {"registrationId": name, "status": "assigning"}
    assert begun.body == {"operationId": operation, "status": "assigning", "registrationState": state}
    state = dps.provision(name, token)
    assert state == {
        "registrationId": name,
        "createdDateTimeUtc": state["createdDateTimeUtc"],
        "assignedHub": dps.hub.address,
        "deviceId": name,
        "status": "assigned",
        "substatus": state["substatus"],
        "lastUpdatedDateTimeUtc": state["lastUpdatedDateTimeUtc"],
        "etag": state["etag"],
        "symmetricKey": {},
    }
    assert ISO.fullmatch(state["createdDateTimeUtc"])
    assert re.fullmatch(r'"[A-Za-z0-9+/=]+"', base64.b64decode(state["etag"]).decode())


@pytest.mark.parametrize("slot", ["primaryKey", "secondaryKey"])
async def test_2_the_key_of_the_enrollment_is_the_devices_at_its_hub(dps: Provisioning, slot: str) -> None:
    name = fresh()
    key = key_of(dps.enroll(name), slot)
    state = dps.provision(name, dps.token(name, key))
    client = await MqttClient.open(state["assignedHub"], dps.hub.port("mqtt"), dps.hub.trust())
    device = state["deviceId"]
    token = dps.hub.token(f"devices/{device}", key)
    assert await client.connect(device, f"{dps.hub.address}/{device}/?api-version=2021-04-12", token) == (False, 0)
    await client.close()


def test_3_the_documents_group_vector_registers(dps: Provisioning) -> None:
    key = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="
    group = dps.group(fresh("vector"), {"type": "symmetricKey", "symmetricKey": {"primaryKey": key}})
    name = "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6"
    state = dps.provision(name, dps.token(name, "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="))
    assert state["symmetricKey"] == {"enrollmentGroupId": group["enrollmentGroupId"]}
    _, device = dps.hub.request("GET", f"/devices/{name}")
    assert device["authentication"]["symmetricKey"]["primaryKey"] == "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


def test_4_ids_are_one_whatever_their_case_and_the_device_keeps_its_own(dps: Provisioning) -> None:
    group = dps.group(fresh("case"))
    name = f"Case-{next(_names)}:A_b.c"
    state = dps.provision(name, dps.derived_token(name, group))
    assert (state["registrationId"], state["deviceId"]) == (name.lower(), name)
    again = dps.provision(name.lower(), dps.derived_token(name.lower(), group))
    assert again["deviceId"] == name, "in other letters it is the same device"
    assert dps.hub.request("GET", f"/devices/{name.lower()}")[0] == 404


def test_5_initial_twin_capabilities_and_device_id_are_the_enrollments(dps: Provisioning) -> None:
    name, device = fresh(), fresh("at-hub")
    twin = {"tags": {"site": "north"}, "properties": {"desired": {"rate": {"seconds": 5}}}}
    enrollment = dps.enroll(name, deviceId=device, initialTwin=twin, capabilities={"iotEdge": True})
    assert dps.provision(name, dps.token(name, key_of(enrollment)))["deviceId"] == device
    _, found = dps.hub.request("GET", f"/twins/{device}")
    assert found["tags"] == {"site": "north"}
    assert found["properties"]["desired"]["rate"] == {"seconds": 5}
    assert found["capabilities"] == {"iotEdge": True}


def test_6_registering_again_finds_the_same_hub_and_leaves_the_twin(dps: Provisioning) -> None:
    name = fresh()
    token = dps.token(name, key_of(dps.enroll(name, initialTwin={"properties": {"desired": {"a": 1}}})))
    first = dps.provision(name, token)
    assert first["substatus"] == "initialAssignment"
    dps.hub.request("PATCH", f"/twins/{name}", {"properties": {"desired": {"a": 2}}, "tags": {"seen": True}})
    again = dps.provision(name, token)
    assert (again["substatus"], again["assignedHub"]) == ("reprovisionedToInitialAssignment", first["assignedHub"])
    assert again["createdDateTimeUtc"] == first["createdDateTimeUtc"]
    old = dps.provision(name, token, query="api-version=2019-03-31")
    assert old["substatus"] == "initialAssignment", "older clients do not know the other"
    _, twin = dps.hub.request("GET", f"/twins/{name}")
    assert (twin["properties"]["desired"]["a"], twin["tags"]) == (2, {"seen": True})


def test_7_a_reset_gives_the_first_twin_back_where_the_device_is(dps: Provisioning) -> None:
    name = fresh()
    reset = {"updateHubAssignment": True, "migrateDeviceData": False}
    token = dps.token(
        name, key_of(dps.enroll(name, reprovisionPolicy=reset, initialTwin={"properties": {"desired": {"a": 1}}}))
    )
    dps.provision(name, token)
    dps.hub.request("PATCH", f"/twins/{name}", {"properties": {"desired": {"a": 2, "b": 3}}, "tags": {"seen": True}})
    assert dps.provision(name, token)["substatus"] == "deviceDataReset"
    _, twin = dps.hub.request("GET", f"/twins/{name}")
    assert (twin["properties"]["desired"]["a"], "b" in twin["properties"]["desired"], "tags" in twin) == (
        1,
        False,
        False,
    )


def test_8_a_device_that_was_deleted_at_the_hub_is_made_again(dps: Provisioning) -> None:
    name = fresh()
    token = dps.token(name, key_of(dps.enroll(name, initialTwin={"tags": {"a": 1}})))
    dps.provision(name, token)
    assert dps.hub.request("DELETE", f"/devices/{name}")[0] == 204
    assert dps.provision(name, token)["status"] == "assigned"
    assert dps.hub.request("GET", f"/twins/{name}")[1]["tags"] == {"a": 1}


def test_9_a_device_that_was_disabled_at_the_hub_stays_so_and_one_that_was_there_keeps_its_twin(
    dps: Provisioning,
) -> None:
    name = fresh()
    dps.hub.add_device(name)
    dps.hub.request("PATCH", f"/twins/{name}", {"tags": {"old": 1}})
    dps.hub.request("PUT", f"/devices/{name}", {"deviceId": name, "status": "disabled"}, **{"If-Match": "*"})
    key = key_of(dps.enroll(name, initialTwin={"tags": {"new": 1}}))
    dps.provision(name, dps.token(name, key))
    _, device = dps.hub.request("GET", f"/devices/{name}")
    assert (device["status"], device["authentication"]["symmetricKey"]["primaryKey"]) == ("disabled", key)
    assert dps.hub.request("GET", f"/twins/{name}")[1]["tags"] == {"old": 1}


def test_10_the_lookup_answers_the_bare_registration(dps: Provisioning) -> None:
    name = fresh()
    token = dps.token(name, key_of(dps.enroll(name)))
    path = f"/{dps.scope}/registrations/{name}"
    unknown = dps.call("POST", path, {"registrationId": name}, Authorization=token)
    assert (unknown.status, unknown.body["errorCode"]) == (404, 404202)
    state = dps.provision(name, token)
    assert dps.call("POST", path, {"registrationId": name}, Authorization=token).body == state
    asked = dps.call("POST", path, {"registrationId": name, "csr": "MII="}, Authorization=token)
    assert asked.status == 400


def test_11_an_operation_belongs_to_its_device(dps: Provisioning) -> None:
    one, two = fresh(), fresh()
    tokens = {name: dps.token(name, key_of(dps.enroll(name))) for name in (one, two)}
    begun = dps.register(one, tokens[one])
    path = f"/registrations/{two}/operations/{begun.body['operationId']}"
    answer = dps.call("GET", f"/{dps.scope}{path}", Authorization=tokens[two])
    assert (answer.status, answer.body["errorCode"]) == (404, 404203)
    answer = dps.call("GET", f"/{dps.scope}{path}", Authorization=tokens[one])
    assert (answer.status, answer.body["errorCode"]) == (401, 401002)


def test_12_java_signs_slashes_as_they_are_and_bodies_may_be_missing(dps: Provisioning) -> None:
    name = fresh()
    secret = base64.b64decode(key_of(dps.enroll(name)))
    resource, expiry = f"{dps.scope}/registrations/{name}", "4000000000"
    signature = base64.b64encode(sign(resource, expiry, secret)).decode().replace("+", "%2B").replace("=", "%3D")
    token = f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry}&skn="
    path = f"/{dps.scope.lower()}/registrations/{name.upper()}/register"
    answer = dps.call("PUT", path, Authorization=token, Content_Type="")
    assert answer.status == 202


@pytest.mark.parametrize("query", ["", "api-version=soon"])
def test_13_an_api_version_is_asked_for(dps: Provisioning, query: str) -> None:
    answer = dps.call("PUT", f"/{dps.scope}/registrations/d/register", {}, query=query)
    assert (answer.status, answer.body["errorCode"]) == (400, 400001)


@pytest.mark.parametrize(
    ("body", "code"), [("{}]", 400006), ("[]", 400004), ('{"registrationId": 7}', 400004), ('{"csr": "x"}', 400004)]
)
def test_14_what_is_wrong_with_a_body_is_said(dps: Provisioning, body: str, code: int) -> None:
    hub = dps.hub
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
    connection.request("PUT", f"/{dps.scope}/registrations/d/register?api-version=2021-10-01", body)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    connection.close()
    assert (answer.status, told["errorCode"]) == (400, code)
    assert set(told) == {"errorCode", "trackingId", "message", "timestampUtc"}


# --- certificates


def test_20_an_enrolled_certificate_registers_and_is_the_devices_at_its_hub(dps: Provisioning) -> None:
    name, make = fresh(), Maker(time.time())
    leaf, second = make.issue(name, None), make.issue(name, None)
    slots = {"primary": {"certificate": leaf.pem.decode()}, "secondary": {"certificate": second.pem.decode()}}
    dps.enroll(name, {"type": "x509", "x509": {"clientCertificates": slots}})
    for pair in (leaf, second):
        state = dps.provision(name, chain=[pair])
        assert state["x509"]["certificateInfo"]["sha256Thumbprint"] == pair.sha256
        assert set(state["x509"]["certificateInfo"]) == {
            "subjectName", "sha1Thumbprint", "sha256Thumbprint", "issuerName", "notBeforeUtc", "notAfterUtc",
            "serialNumber", "version",
        }  # fmt: skip
        _, device = dps.hub.request("GET", f"/devices/{name}")
        assert device["authentication"]["type"] == "selfSigned"
        assert device["authentication"]["x509Thumbprint"]["primaryThumbprint"] == pair.sha256


def test_21_a_certificate_pasted_into_a_group_is_itself_the_anchor(dps: Provisioning) -> None:
    make = Maker(time.time())
    root = make.root(fresh("root"))
    middle = make.intermediate(fresh("middle"), root)
    outer = dps.group(fresh("outer"), pasted("signingCertificates", root.der))
    inner = dps.group(fresh("inner"), pasted("signingCertificates", middle.der))
    name = fresh()
    state = dps.provision(name, chain=[make.issue(name, middle)])
    assert state["x509"]["enrollmentGroupId"] == inner["enrollmentGroupId"], "neither it nor its issuer was sent"
    assert state["x509"]["signingCertificateInfo"]["sha256Thumbprint"] == middle.sha256
    name = fresh()
    assert (
        dps.provision(name, chain=[make.issue(name, root)])["x509"]["enrollmentGroupId"] == outer["enrollmentGroupId"]
    )
    dps.call("DELETE", f"/enrollmentGroups/{inner['enrollmentGroupId']}")
    name = fresh()
    state = dps.provision(name, chain=[make.issue(name, middle), middle])
    assert state["x509"]["enrollmentGroupId"] == outer["enrollmentGroupId"], "upward to the root"


async def test_22_a_group_by_reference_needs_a_verified_authority_whose_devices_the_hub_then_knows(
    dps: Provisioning,
) -> None:
    make, hub = Maker(time.time()), dps.hub
    root, name = make.root(fresh("root")), fresh()
    authority = fresh("authority")
    path = (
        f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{hub.address}/certificates/{authority}"
    )
    group = fresh("referring")
    dps.group(group, {"type": "x509", "x509": {"caReferences": {"primary": authority}}})
    leaf = make.issue(name, root)
    assert dps.register(name, chain=[leaf, root]).status == 401
    assert dps.why(name) == "reference-unknown"
    body = {"properties": {"certificate": root.pem.decode()}}
    assert hub.request("PUT", path, body, **{"If-Match": "*"})[0] == 201
    assert dps.register(name, chain=[leaf]).status == 401
    assert dps.why(name) == "authority-not-verified"
    _, made = hub.request("POST", f"{path}/generateVerificationCode", **{"If-Match": "*"})
    proof = make.issue(made["properties"]["verificationCode"], root)
    body = {"certificate": base64.b64encode(proof.der).decode()}
    assert hub.request("POST", f"{path}/verify", body, **{"If-Match": "*"})[0] == 200
    assert dps.provision(name, chain=[leaf])["status"] == "assigned"
    _, device = hub.request("GET", f"/devices/{name}")
    assert device["authentication"]["type"] == "certificateAuthority", "a renewed certificate will do as well"
    dps.call("DELETE", f"/enrollmentGroups/{group}")  # else whoever is unknown hears of it
    hub.request("DELETE", path, **{"If-Match": "*"})


def test_23_one_device_may_refer_to_an_authority_too_and_no_other_of_it_may_register(dps: Provisioning) -> None:
    make, hub, name, authority = Maker(time.time()), dps.hub, fresh(), fresh("authority")
    root = make.root(fresh("root"))
    path = (
        f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{hub.address}/certificates/{authority}"
    )
    body = {"properties": {"certificate": root.pem.decode(), "isVerified": True}}
    assert hub.request("PUT", path, body, **{"If-Match": "*"})[0] == 201
    dps.enroll(name, {"type": "x509", "x509": {"caReferences": {"primary": authority}}})
    middle = make.intermediate(fresh("middle"), root)
    state = dps.provision(name, chain=[make.issue(name, middle), middle])
    assert (state["status"], "enrollmentGroupId" in state["x509"]) == ("assigned", False)
    other = fresh()
    assert dps.register(other, chain=[make.issue(other, root)]).status == 401
    hub.request("DELETE", path, **{"If-Match": "*"})


# --- what is told of it all


def test_30_the_timeline_tells_every_attempt_and_every_assignment(dps: Provisioning) -> None:
    name = fresh()
    key = key_of(dps.enroll(name))
    dps.register(name, dps.token("another", key))
    state = dps.provision(name, dps.token(name, key))
    entries = dps.log(name, 3)
    assert [one["entry"] for one in entries] == ["assignment", "attempt", "attempt"]
    settled, good, bad = entries
    assert (settled["status"], settled["assignedHub"], settled["deviceId"]) == ("assigned", state["assignedHub"], name)
    assert good["allowed"]
    assert good["enrollment"] == {"kind": "individual", "id": name}
    assert [check["name"] for check in good["checks"]] == [
        "id-scope", "registration-id", "credential", "token", "token-resource", "expiry", "enrollment", "attestation",
        "signature", "enabled",
    ]  # fmt: skip
    assert (bad["allowed"], bad["cause"]) == (False, "token-registration-differs")


def test_31_counts_tell_attempts_and_assignments_by_their_outcome(dps: Provisioning) -> None:
    def count(what: str, **members: str) -> int:
        rows = dps.call("GET", "/$muster/provisioning/counts").body[what]
        return sum(row["count"] for row in rows if members.items() <= row.items())

    hub, name = {"iotHubName": dps.hub.address}, fresh()
    token = dps.token(name, key_of(dps.enroll(name)))
    before = count("attestationAttempts", protocol="dps-https", status="allowed"), count("deviceAssignments", **hub)
    refused = count("attestationAttempts", status="no-attestation")
    assert dps.register(name).status == 401
    dps.provision(name, token)
    dps.log(name, 3)
    after = count("attestationAttempts", protocol="dps-https", status="allowed"), count("deviceAssignments", **hub)
    assert after == (before[0] + 1, before[1] + 1)
    assert count("attestationAttempts", status="no-attestation") == refused + 1
    assert count("registrationAttempts", status="assigned", **hub) == after[1]


def test_32_prometheus_reads_the_counts(dps: Provisioning) -> None:
    name = fresh()
    dps.provision(name, dps.token(name, key_of(dps.enroll(name))))
    dps.log(name, 2)
    hub = dps.hub
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
    connection.request("GET", "/metrics?api-version=2021-04-12", headers={"Authorization": hub.owner_token()})
    text = connection.getresponse().read().decode()
    connection.close()
    for line in (
        r'muster_attestation_attempts_total{protocol="dps-https",status="allowed"} [1-9]',
        rf'muster_registration_attempts_total{{status="assigned",hub="{hub.address}"}} [1-9]',
        rf'muster_device_assignments_total{{hub="{hub.address}"}} [1-9]',
    ):
        assert re.search(f"^{line}", text, re.MULTILINE), line


def test_99_registrations_and_what_services_ask_are_counted(dps: Provisioning) -> None:
    def counts() -> tuple[int, int]:
        _, body = dps.hub.request("GET", "/$muster/meters")
        found = {one["name"]: one["accepted"] for one in body["operations"]}
        return found["registrations"], found["provisioning"]

    registrations, operations = counts()
    name = fresh()
    token = dps.token(name, key_of(dps.enroll(name)))
    dps.register(name, token)
    assert counts() == (registrations + 1, operations + 1)
    assert dps.register(name, "no token").status == 401
    assert dps.call("GET", f"/enrollments/{name}", Authorization="no token").status == 401
    assert counts() == (registrations + 1, operations + 1)
