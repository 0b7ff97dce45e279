"""Every operation that changes something leaves its record, allowed and refused, and no secret is in any of them.

Walks the operation table of a real node: an operation that is added must be called here, or excused with a reason.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from two_hubs import EAST, Answer, TwoHubs, two_hubs

from muster.audit.chain import verify
from muster.dialect.connection_string import parse_connection_string
from muster.heads.arm import unsupported
from muster.heads.arm.answers import HUB, SERVICE, SUBSCRIPTION
from muster.heads.http import app
from muster.heads.http.operations import Operation, OperationTable
from muster.identity.sas import decode_key, make
from muster.identity.verdict import Right
from tests.certificate_maker import Maker, Pair
from tests.engines import clustered

GET = "only reads"
MESSAGE = "a message to a device or about one, nothing that is kept of it"
DEVICE = "what a device does itself is not administrative; the timeline has its registrations"
FILE = "a device's file, by the grant that it or a service has of it"
EXEMPT = {
    ("PUT", "/devices/{device_id}/modules/{module_id}/modules/{inner_id}"): "always refused: a module has no modules",
    ("POST", "/devices/query"): GET,
    ("POST", "/enrollments/query"): GET,
    ("POST", "/enrollmentGroups/query"): GET,
    ("POST", "/enrollments/{enrollment_id}/attestationmechanism"): GET,
    ("POST", "/enrollmentGroups/{enrollment_id}/attestationmechanism"): GET,
    ("POST", "/registrations/{registration_id}/query"): GET,
    ("POST", "/twins/{device_id}/methods"): MESSAGE,
    ("POST", "/twins/{device_id}/modules/{module_id}/methods"): MESSAGE,
    ("POST", "/digitaltwins/{device_id}/commands/{command}"): MESSAGE,
    ("POST", "/digitaltwins/{device_id}/components/{component}/commands/{command}"): MESSAGE,
    ("POST", "/digitaltwins/{device_id}/modules/{module_id}/commands/{command}"): MESSAGE,
    ("POST", "/digitaltwins/{device_id}/modules/{module_id}/components/{component}/commands/{command}"): MESSAGE,
    ("DELETE", "/messages/servicebound/feedback/{lock_token}"): MESSAGE,
    ("POST", "/messages/servicebound/feedback/{lock_token}/abandon"): MESSAGE,
    ("PUT", "/{id_scope}/registrations/{registration_id}/register"): DEVICE,
    ("POST", "/{id_scope}/registrations/{registration_id}"): DEVICE,
    ("POST", "/.well-known/est/simpleenroll"): DEVICE,
    ("POST", "/.well-known/est/{label}/simpleenroll"): DEVICE,
    ("POST", "/.well-known/est/simplereenroll"): DEVICE,
    ("POST", "/.well-known/est/{label}/simplereenroll"): DEVICE,
    ("PUT", "/muster-uploads/{blob...}"): FILE,
    ("DELETE", "/muster-uploads/{blob...}"): FILE,
    ("POST", f"{SUBSCRIPTION}/checkNameAvailability"): GET,
    ("POST", f"{SUBSCRIPTION}/checkProvisioningServiceNameAvailability"): GET,
    ("POST", f"{HUB}/listkeys"): GET,
    ("POST", f"{HUB}/IotHubKeys/{{policy}}/listkeys"): GET,
    ("POST", f"{SERVICE}/listkeys"): GET,
    ("POST", f"{SERVICE}/keys/{{policy}}/listkeys"): GET,
    **{(row.method, row.path): "always refused: Azure has it, Muster not" for row in unsupported.ROWS},
}
SECRETS = re.compile(r'"(?:primaryKey|secondaryKey|verificationCode|[A-Z_]*CONNECTION_STRING)":\s*"([^"]+)"')
GIVEN = base64.b64encode(b"a key that a caller has made up.").decode()


class Walk:
    """Calls operations one by one and looks at the record of each."""

    def __init__(self, hubs: TwoHubs, rows: Iterable[Operation]) -> None:
        self.hubs = hubs
        self.rows = {(row.method, row.path): row for row in rows}
        self.called: set[tuple[str, str]] = set()
        self.secrets = {GIVEN}
        owner = parse_connection_string(hubs.node.facts["DPS_CONNECTION_STRING"])
        self.scope: str = hubs.node.facts["DPS_ID_SCOPE"]
        expiry = int(time.time()) + 600
        self.service = make(hubs.addresses[EAST], expiry, owner.key_bytes, "provisioningserviceowner")

    async def records(self) -> list[dict[str, Any]]:
        head, lines = await self.hubs.call(EAST, "GET", "/$muster/audit/head"), []
        while (last := len(lines)) < head.json["number"]:
            answer = await self.hubs.call(EAST, "GET", f"/$muster/audit?after={last}&count=1000")
            lines += answer.text.encode().splitlines()
        lines = lines[: head.json["number"]]
        mark = verify(lines, head=head.json["written"])
        assert mark.hash == head.json["hash"]
        return [json.loads(line) for line in lines]

    async def __call__(self, method: str, template: str, body: Any = None, *, at: str = "", **headers: str) -> Any:
        """Call an operation as a stranger, who must be refused, and as the owner; its answer."""
        row = self.rows[method, template]
        self.called.add((method, template))
        path, before = at or filled(template, self.hubs.hub(EAST).name), await self.records()
        token = self.service if row.right is None and "IotHubs" not in template else self.hubs.token(EAST)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        stranger = token[:-3] + ("AAA" if token[-3:] != "AAA" else "BBB")
        assert (await self._call_elsewhere(method, path, body, stranger, named)) == 401, path
        answer = await self._call(method, path, body, token, named)
        assert answer.status < 300, (path, answer.text)
        self.secrets |= {token, stranger, *SECRETS.findall(answer.text)}
        if (method, template) == ("DELETE", HUB):  # it is done later
            while (await self._call("GET", path, None, token, named)).status != 404:
                await asyncio.sleep(0.05)
        self._check(row, await self._made_since(len(before)))
        return json.loads(answer.text) if answer.text else None

    async def _made_since(self, count: int) -> list[dict[str, Any]]:
        """Records after the first ``count``, the refused one first: it may be written behind its answer."""
        async with asyncio.timeout(10):
            while True:
                made = sorted((await self.records())[count:], key=lambda one: str(one["verdict"]), reverse=True)
                if made and made[0]["verdict"] == "refused":
                    return made
                await asyncio.sleep(0.01)

    def _check(self, row: Operation, made: list[dict[str, Any]]) -> None:
        kept_out, *allowed = made
        assert (kept_out["verdict"], kept_out["operation"]) == ("refused", row.changes)
        assert 401_000 <= kept_out["error"] < 402_000
        assert allowed, f"{row.method} {row.path} left no record"
        for record in allowed:
            assert (record["verdict"], record["operation"]) == ("allowed", row.changes)
            assert record["caller"] in {"iothubowner (policy)", "provisioningserviceowner (policy)"}
            assert record["before"] != record["after"]
            assert record["scope"] == kept_out["scope"]
        for record in made:
            assert record["from"].startswith("127."), record
            assert (record["transport"], len(record["trackingId"])) == ("https", 32)

    async def _call_elsewhere(self, method: str, path: str, body: Any, token: str, headers: dict[str, str]) -> int:
        """As ``_call``, from an address of its own: the answers to one that fails again and again are held back."""
        connector = aiohttp.TCPConnector(local_addr=(f"127.99.0.{len(self.called)}", 0))
        async with aiohttp.ClientSession(connector=connector) as session:
            there = replace(self.hubs, session=session)
            return (await there.call(EAST, method, path, body, token=token, **headers)).status

    async def _call(self, method: str, path: str, body: Any, token: str, headers: dict[str, str]) -> Answer:
        return await self.hubs.call(EAST, method, path, body, token=token, **headers)


def filled(template: str, hub: str) -> str:
    """The path for the things that the walk makes."""
    names = {
        "device_id": "d", "module_id": "m", "enrollment_id": "e", "registration_id": "r", "policy": "p", "name": "ca",
        "subscription": "s", "group": "g", "hub": "north" if template.startswith("/$muster") else hub,
        "role": "mine", "service": hub, "endpoint": "events",
    }  # fmt: skip
    return re.sub(r"\{(\w+)\}", lambda found: names[found[1]], template)


@pytest.fixture
async def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Walk]:
    seen: list[Operation] = []

    class Watched(OperationTable):
        def __init__(self, operations: Iterable[Operation]) -> None:
            seen.extend(rows := list(operations))
            super().__init__(rows)

    monkeypatch.setattr(app, "OperationTable", Watched)
    async with two_hubs(tmp_path, second=False) as hubs:
        yield Walk(hubs, seen)


async def identities(walk: Walk) -> None:
    device, module = "/devices/{device_id}", "/devices/{device_id}/modules/{module_id}"
    keys = {"type": "sas", "symmetricKey": {"primaryKey": GIVEN, "secondaryKey": GIVEN}}
    await walk("PUT", device, {"deviceId": "d", "authentication": keys})
    await walk("PUT", module, {"deviceId": "d", "moduleId": "m"})
    await walk("POST", "/devices", [{"id": "d", "importMode": "update", "status": "disabled"}])
    await walk("POST", "/$muster/identities", {"id": "i", "authentication": keys, "tags": {"a": GIVEN}})
    regenerate = {"policyKey": "both", "devices": [{"id": "d"}]}
    await walk("POST", "/devices/keys/regenerate", regenerate)
    for path in ("/twins/{device_id}", "/twins/{device_id}/modules/{module_id}"):
        hidden = f"HostName=h;DeviceId=d;SharedAccessKey={GIVEN}"
        await walk("PATCH", path, {"tags": {"a": hidden}, "properties": {"desired": {"b": 1}}})
        await walk("PUT", path, {"properties": {"desired": {"c": {"d": GIVEN}}}})
        patch = [{"op": "add", "path": "/e", "value": 1}]
        await walk("PATCH", path.replace("twins", "digitaltwins"), patch)
        await walk("DELETE", path.replace("twins", "devices") + "/commands")
    await walk("DELETE", module)
    await walk("DELETE", device)


async def certificates(walk: Walk) -> None:
    makes = Maker(time.time())
    root = makes.root("Root of the walk")
    for at in (f"{SERVICE}/certificates", f"{HUB}/certificates"):
        await proven(walk, makes, root, at + "/{name}")
    one, body = f"{HUB}/certificates/{{name}}", {"properties": {"certificate": base64.b64encode(root.pem).decode()}}
    await walk("PUT", one, body)
    await walk("PUT", "/$muster/authorities/{name}/rules", {"failClosed": True})
    content = {"list": base64.b64encode(makes.revoked(root)).decode()}
    await walk("PUT", "/$muster/authorities/{name}/list", content)


async def proven(walk: Walk, makes: Maker, root: Pair, one: str) -> None:
    """A certificate is registered, proven and deleted."""
    body = {"properties": {"certificate": base64.b64encode(root.pem).decode()}}
    await walk("PUT", one, body)
    made = await walk("POST", one + "/generateVerificationCode", If_Match="*")
    proof = makes.issue(made["properties"]["verificationCode"], root)
    await walk("POST", one + "/verify", {"certificate": base64.b64encode(proof.pem).decode()}, If_Match="*")
    await walk("DELETE", one, If_Match="*")


async def provisioning(walk: Walk) -> None:
    keys = {"type": "symmetricKey", "symmetricKey": {"primaryKey": GIVEN, "secondaryKey": GIVEN}}
    for every, name in (("/enrollments", "registrationId"), ("/enrollmentGroups", "enrollmentGroupId")):
        one = every + "/{enrollment_id}"
        await walk("PUT", one, {name: "e", "attestation": keys})
        items = [{name: "f", "attestation": {"type": "symmetricKey"}}]
        await walk("POST", every, {"mode": "create", every[1:]: items})
        if every == "/enrollments":
            await registered(walk, "e")
        await walk("DELETE", one)
    await walk("PATCH", "/$muster/provisioning/allocation", {"allocationPolicy": "static"})
    policy = "/$muster/provisioning/policies/{policy}"
    await policies(walk, policy, "EnrollmentRead")
    await policies(walk, "/$muster/policies/{policy}", "RegistryRead")


async def policies(walk: Walk, one: str, rights: str) -> None:
    await walk("PUT", one, {"rights": rights, "primaryKey": GIVEN})
    await walk("POST", one + "/rotate", {"key": "primary"})
    await walk("DELETE", one)


async def registered(walk: Walk, name: str) -> None:
    """A device registers; then its registration is deleted."""
    secret, place = decode_key(GIVEN), f"/{walk.scope}/registrations/{name}"
    assert secret is not None
    token = make(f"{walk.scope}/registrations/{name}", int(time.time()) + 600, secret, "registration")
    answer = await walk.hubs.call(EAST, "PUT", f"{place}/register", {"registrationId": name}, token=token)
    while answer.json["status"] == "assigning":
        await asyncio.sleep(0.05)
        operation = answer.json["operationId"]
        answer = await walk.hubs.call(EAST, "GET", f"{place}/operations/{operation}", token=token)
    assigned = [one for one in await walk.records() if one["operation"] == "registration.assign"]
    assert [(one["subject"], one["caller"]) for one in assigned] == [(f"devices/{name}", "provisioning service")]
    await walk("DELETE", "/registrations/{registration_id}", at=f"/registrations/{name}")


async def network(walk: Walk) -> None:
    rule = {"filterName": "all", "action": "Accept", "ipMask": "127.0.0.0/8"}
    for path in ("/$muster/network", "/$muster/provisioning/network"):
        await walk("PUT", path, {"ipFilterRules": [rule]})


async def management(walk: Walk) -> None:
    await walk("PUT", HUB, {"tags": {"a": "b"}, "properties": {"cloudToDevice": {"maxDeliveryCount": 3}}})
    await walk("PATCH", HUB, {"tags": {"c": "d"}})
    group = f"{HUB}/eventHubEndpoints/{{endpoint}}/ConsumerGroups/{{name}}"
    await walk("PUT", group, {"properties": {"name": "ca"}})
    await walk("DELETE", group)
    await walk("PUT", SERVICE, {"properties": {"allocationPolicy": "GeoLatency"}})
    await walk("PATCH", SERVICE, {"tags": {"c": "d"}})
    await walk.hubs.call(EAST, "PUT", "/$muster/hubs/south", {"hostNames": ["south.example"]})
    await walk("DELETE", HUB, at=filled(HUB, "south"))


async def deployment(walk: Walk) -> None:
    await walk("PUT", "/$muster/hubs/{hub}", {"hostNames": ["north.example"]})
    await walk("PATCH", "/$muster/hubs/{hub}", {"disableDeviceSAS": True})
    await walk("DELETE", "/$muster/hubs/{hub}")
    await walk("PUT", "/$muster/roles/{role}", {"actions": ["twins/read"]})
    made = await walk("POST", "/$muster/grants", {"role": "mine", "group": "g", "devices": "tags.a = 'b'"})
    await walk("DELETE", "/$muster/grants/{grant}", at=f"/$muster/grants/{made['id']}")
    await walk("DELETE", "/$muster/roles/{role}")


@pytest.mark.timeout(300)
async def test_every_operation_that_changes_something_is_on_record_and_no_secret_is(walk: Walk) -> None:
    for part in (identities, certificates, provisioning, network, management, deployment):
        await part(walk)
    owed = {
        key
        for key, row in walk.rows.items()
        if row.method != "GET" and row.right is not Right.DEVICE_CONNECT and key not in EXEMPT
    }
    assert not (left := sorted(owed - walk.called)), f"call {left} above, or say in EXEMPT why they need no record"
    exempt = {key for key in EXEMPT if not (clustered() and key[1].startswith("/muster-uploads/"))}
    assert sorted(exempt - set(walk.rows)) == [], "these are no operations any more"
    assert not [key for key in exempt if walk.rows[key].changes], "excused, and yet on record"
    text = json.dumps(await walk.records())
    assert len(walk.secrets) > 6, "keys made by the hub, a code, tokens"
    assert not [secret for secret in walk.secrets if secret in text or json.dumps(secret)[1:-1] in text]
