"""Roles granted on a running deployment: they count at once, where they were granted, and survive."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from amqp_client import AmqpClient
from issuer_server import bearer, issuer_server
from two_hubs import EAST, WEST, Answer, TwoHubs, two_hubs

from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import Accepted, Detach, Disposition, Flow, Rejected, Transfer
from tests.issuer_parts import TestIssuer

READER, TWINS = "IoT Hub Data Reader", "IoT Hub Twin Contributor"
CONTRIBUTOR, REGISTRY = "IoT Hub Data Contributor", "IoT Hub Registry Contributor"
BERLIN = "tags.site = 'berlin'"


class Scene:
    """Two hubs that trust an issuer, whose caller is ``ops`` unless said otherwise."""

    def __init__(self, hubs: TwoHubs, issuer: TestIssuer) -> None:
        self.hubs, self.issuer = hubs, issuer

    async def call(self, at: str, method: str, path: str, body: Any = None, **claims: Any) -> Answer:
        token = bearer(self.issuer, **({"sub": "somebody", "groups": ["ops"]} | claims))
        return await self.hubs.call(at, method, path, body, token=token)

    async def may(
        self, at: str, path: str = "/devices/d", method: str = "GET", body: Any = None, **claims: Any
    ) -> bool:
        answer = await self.call(at, method, path, body, **claims)
        assert answer.status != 401, answer.text
        assert answer.status != 403 or "GenericForbidden" in answer.text or "403000" in answer.text
        return answer.status != 403

    async def admin(self, method: str, path: str, body: Any = None) -> Any:
        answer = await self.hubs.call(EAST, method, path, body)
        assert answer.status < 300, answer.text
        return answer.json if answer.text else None

    async def grant(self, role: str, **members: str) -> str:
        scoped = {"group": "ops"} if not {"subject", "application"} & set(members) else {}
        made = await self.admin("POST", "/$muster/grants", {"role": role, **scoped, **members})
        return str(made["id"])

    async def revoke(self, grant: str) -> None:
        await self.admin("DELETE", f"/$muster/grants/{grant}")

    async def cause(self, at: str) -> tuple[str, str]:
        """Cause and what was seen of the last refusal."""
        (last,) = await self.hubs.hub(at).parts.refusals.newest(limit=1)
        failed = next(check for check in last.report["checks"] if check["outcome"] == "failed")
        return last.report["cause"], failed["seen"]


@pytest.fixture
async def issuer() -> AsyncIterator[TestIssuer]:
    async with issuer_server() as issuer:
        yield issuer


@pytest.fixture
async def scene(tmp_path: Path, issuer: TestIssuer) -> AsyncIterator[Scene]:
    async with two_hubs(tmp_path, oidc_issuers=(issuer.url,)) as hubs:
        for hub in (EAST, WEST):
            for device, site in (("d", "berlin"), ("p", "paris")):
                await hubs.add_device(hub, device)
                await hubs.call(hub, "PATCH", f"/twins/{device}", {"tags": {"site": site}})
        yield Scene(hubs, issuer)


async def test_a_grant_counts_at_once_and_no_longer_than_it_is_there(scene: Scene) -> None:
    assert not await scene.may(EAST)
    grant = await scene.grant(READER)
    for hub in (EAST, WEST):
        for _ in range(2):  # the second is answered by what the gate remembers
            assert await scene.may(hub)
        assert not await scene.may(hub, "/twins/d", "PATCH", {})
    assert not await scene.may(EAST, groups=["others"])
    await scene.revoke(grant)
    for hub in (EAST, WEST):
        assert not await scene.may(hub)


async def test_subject_application_and_issuer(scene: Scene) -> None:
    other = await scene.grant(READER, subject="somebody", issuer="https://other.test/")
    assert not await scene.may(EAST)
    await scene.revoke(other)
    await scene.grant(READER, subject="somebody", issuer=scene.issuer.url)
    assert await scene.may(EAST)
    assert not await scene.may(EAST, sub="else")
    await scene.grant(READER, application="app")
    assert await scene.may(EAST, sub="else", appid="app")


async def test_a_grant_at_one_hub_counts_there_alone(scene: Scene) -> None:
    name = scene.hubs.hub(WEST).name
    await scene.grant(CONTRIBUTOR, hub=name)
    assert await scene.may(WEST, "/twins/d", "PATCH", {})
    assert not await scene.may(EAST)
    cause, seen = await scene.cause(EAST)
    assert (cause, seen) == ("role-elsewhere", f"{CONTRIBUTOR} at {name}")
    refused = await scene.hubs.call(EAST, "POST", "/$muster/grants", {"role": READER, "group": "g", "hub": "nowhere"})
    assert refused.status == 400
    assert f"hub 'nowhere' is not there, name one of {scene.hubs.hub(EAST).name}, {name}, " in refused.text, (
        refused.text
    )


async def test_a_custom_role(scene: Scene) -> None:
    defined = await scene.admin(
        "PUT", "/$muster/roles/Field%20service", {"actions": ["devices/read", "directMethods/*"]}
    )
    assert defined["allows"] == [
        "Microsoft.Devices/IotHubs/devices/read", "Microsoft.Devices/IotHubs/directMethods/invoke/action",
    ]  # fmt: skip
    await scene.grant("Field service")
    assert await scene.may(EAST)
    assert not await scene.may(EAST, "/twins/d")
    assert await scene.may(EAST, groups=[], roles=["Field service"])
    await scene.admin("PUT", "/$muster/roles/Field%20service", {"actions": ["twins/read"]})
    assert not await scene.may(EAST)
    assert await scene.may(EAST, "/twins/d")
    busy = await scene.hubs.call(EAST, "DELETE", "/$muster/roles/Field%20service")
    assert (busy.status, "1 grants" in busy.text) == (400, True)


async def test_a_grant_for_some_devices_follows_their_tags(scene: Scene) -> None:
    await scene.grant(CONTRIBUTOR, devices=BERLIN)
    assert await scene.may(EAST)
    assert await scene.may(EAST, "/twins/d", "PATCH", {"tags": {"seen": True}})
    assert await scene.may(EAST, "/devices/d/modules/m")
    assert not await scene.may(EAST, "/devices/p")
    assert not await scene.may(EAST, "/twins/p", "PATCH", {"tags": {"site": "berlin"}})
    cause, seen = await scene.cause(EAST)
    assert cause == "role-elsewhere"
    assert seen.startswith("this device is none of them: ")
    for site, allowed in (("paris", False), ("berlin", True), ("paris", False)):
        await scene.hubs.call(EAST, "PATCH", "/twins/d", {"tags": {"site": site}})
        assert await scene.may(EAST) is allowed
        assert await scene.may(WEST)  # another device, of the same name
    # what he may do himself can put a device out of his reach, and none within it
    assert await scene.may(WEST, "/twins/d", "PATCH", {"tags": {"site": "paris"}})
    assert not await scene.may(WEST, "/twins/d", "PATCH", {"tags": {"site": "berlin"}})
    assert not await scene.may(WEST, "/devices/new", "PUT", {"deviceId": "new"})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/devices", None),
        ("POST", "/devices", []),
        ("POST", "/devices/query", {"query": f"SELECT * FROM devices WHERE {BERLIN}"}),
        ("GET", "/statistics/devices", None),
        ("GET", "/$muster/why", None),
        ("GET", "/$muster/monitor", None),
    ],
)
async def test_what_is_not_about_one_device_needs_more_than_some(
    scene: Scene, method: str, path: str, body: Any
) -> None:
    await scene.grant(CONTRIBUTOR, devices=BERLIN)
    assert not await scene.may(EAST, path, method, body)
    cause, seen = await scene.cause(EAST)
    assert cause == "role-elsewhere"
    assert seen.startswith("this operation is not about one device: ")


async def test_who_manages_one_hub_manages_neither_the_deployment_nor_its_roles(scene: Scene) -> None:
    """The first hub answers for all: a role there alone must not become one everywhere."""
    first = scene.hubs.hub(EAST).name
    grants = [await scene.grant("Owner", hub=first), await scene.grant("Owner", hub=first, devices="true")]
    own = ("GET", "/$muster/authorities")
    deployment = [
        ("GET", "/$muster/roles"), ("POST", "/$muster/grants"), ("GET", "/$muster/hubs"), ("DELETE", "/$muster/hubs/x"),
    ]  # fmt: skip
    for _ in range(2):
        assert await scene.may(EAST, own[1], own[0])
        for method, path in deployment:
            assert not await scene.may(EAST, path, method), path
    for grant in grants:
        await scene.revoke(grant)
    await scene.grant("User Access Administrator")
    assert await scene.may(EAST, "/$muster/roles")
    assert await scene.may(EAST, "/$muster/grants", "POST", {})
    assert not await scene.may(EAST, "/$muster/hubs/x", "DELETE")


async def test_grants_survive_a_restart_and_those_of_a_hub_do_not_survive_the_hub(
    tmp_path: Path, issuer: TestIssuer
) -> None:
    async with two_hubs(tmp_path, second=False, oidc_issuers=(issuer.url,)) as hubs:
        scene, there = Scene(hubs, issuer), hubs.addresses[WEST]
        await hubs.add_device(EAST, "d")
        await scene.admin("PUT", "/$muster/roles/Mine", {"actions": ["devices/*"]})
        await scene.admin("PUT", f"/$muster/hubs/{WEST}", {"hostNames": [there]})
        await scene.grant("Mine")
        await scene.grant(TWINS, hub=WEST)
        await scene.admin("DELETE", f"/$muster/hubs/{WEST}")
        await scene.admin("PUT", f"/$muster/hubs/{WEST}", {"hostNames": [there]})
        assert not await scene.may(WEST, "/twins/d")
    async with two_hubs(tmp_path, second=False, oidc_issuers=(issuer.url,)) as hubs:
        scene = Scene(hubs, issuer)
        assert await scene.may(EAST)
        assert [one["role"] for one in (await scene.admin("GET", "/$muster/roles"))["grants"]] == ["Mine"]


async def test_the_file_counts_and_is_taken_again(tmp_path: Path, issuer: TestIssuer) -> None:
    file = tmp_path / "roles.toml"
    file.write_text(
        f'[roles]\nFiled = ["devices/*"]\n[[grants]]\nrole = "Filed"\ngroup = "ops"\ndevices = "{BERLIN}"\n'
    )
    async with two_hubs(tmp_path, oidc_issuers=(issuer.url,), roles_file=file) as hubs:
        scene = Scene(hubs, issuer)
        await hubs.add_device(EAST, "d")
        assert not await scene.may(EAST)
        await hubs.call(EAST, "PATCH", "/twins/d", {"tags": {"site": "berlin"}})
        assert await scene.may(EAST)
        (filed,) = (await scene.admin("GET", "/$muster/roles"))["grants"]
        assert (filed["source"], filed["counts"], filed["devices"]) == ("file", True, BERLIN)
        for method, path in (("DELETE", f"/$muster/grants/{filed['id']}"), ("DELETE", "/$muster/roles/Filed")):
            refused = await hubs.call(EAST, method, path)
            assert (refused.status, "file of roles" in refused.text) == (400, True)
        file.write_text("")
        hubs.node.reload_files()
        async with asyncio.timeout(30):
            while await scene.may(EAST):
                await asyncio.sleep(0.01)
        assert (await scene.admin("GET", "/$muster/roles"))["grants"] == []
        file.write_text("[[grants]]\n")
        hubs.node.reload_files()
        async with asyncio.timeout(30):
            while "fileTrouble" not in (found := await scene.admin("GET", "/$muster/roles")):
                await asyncio.sleep(0.01)
        assert "grants[0] must have one of subject, group, application" in found["fileTrouble"]


async def test_commands_go_to_the_devices_of_the_grant_and_links_end_with_it(scene: Scene) -> None:
    """Over AMQP, on a link that stays: each command is judged by what the device's twin says then."""
    await scene.grant(CONTRIBUTOR, devices=BERLIN)
    token = bearer(scene.issuer, groups=["ops"])
    address = scene.hubs.addresses[EAST]
    port = scene.hubs.node.facts["ports"]["amqp"]
    client = await asyncio.to_thread(AmqpClient, port, host=address, hostname=address, context=scene.hubs.trust)
    with client:

        def begin() -> int:
            properties = {"operation": "put-token", "type": "jwt", "name": address}
            put = Message(properties=Properties(message_id="1"), application_properties=properties, value=token)
            assert (client.request("$cbs", put).application_properties or {})["status-code"] == 200
            link = client.attach(target="/messages/devicebound")
            client.wait_for(Flow)
            return link

        def send(link: int, device: str, number: int) -> Any:
            message = Message(properties=Properties(to=f"/devices/{device}/messages/devicebound"), data=[b"x"])
            client.send(Transfer(link, number, b"%d" % number, 0, False), encode_message(message))
            return client.wait_for(Disposition).body.state

        link = await asyncio.to_thread(begin)
        outcomes = []
        for number, (device, site) in enumerate((("d", ""), ("p", ""), ("d", "paris"), ("p", "berlin")), 1):
            if site:
                await scene.hubs.call(EAST, "PATCH", f"/twins/{device}", {"tags": {"site": site}})
            outcomes.append(await asyncio.to_thread(send, link, device, number))
        assert [type(one) for one in outcomes] == [Accepted, Rejected, Rejected, Accepted]
        (grant,) = (await scene.admin("GET", "/$muster/roles"))["grants"]
        await scene.revoke(grant["id"])
        assert (await asyncio.to_thread(client.wait_for, Detach)).body.handle == link


async def test_grants_at_the_provisioning_service(scene: Scene) -> None:
    scope = scene.hubs.node.facts["DPS_ID_SCOPE"]
    grant = await scene.grant("Device Provisioning Service Data Reader", hub=scope)
    for _ in range(2):
        assert await scene.may(EAST, "/enrollmentGroups/query", "POST", {"query": "*"})
    assert not await scene.may(EAST, "/enrollmentGroups/x", "DELETE")
    await scene.revoke(grant)
    assert not await scene.may(EAST, "/enrollmentGroups/query", "POST", {"query": "*"})


async def test_grants_count_in_the_management_api(scene: Scene) -> None:
    """A role at a hub manages that hub; what is about more needs it at all of them."""
    resources = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices"
    west, east, hubs, services = (
        f"{resources}/{path}"
        for path in (f"IotHubs/{WEST}", f"IotHubs/{scene.hubs.hub(EAST).name}", "IotHubs", "provisioningServices")
    )

    async def allowed() -> list[bool]:
        answers = [await scene.call(EAST, "GET", path) for path in (west, east, hubs, services)]
        assert {one.status for one in answers} <= {200, 403}, [one.text for one in answers]
        return [one.status == 200 for one in answers]

    assert await allowed() == [False] * 4
    grant = await scene.grant("Reader", hub=WEST)
    for _ in range(2):
        assert await allowed() == [True, False, False, False]
    assert (await scene.call(EAST, "DELETE", west)).status == 403
    await scene.revoke(grant)
    assert await allowed() == [False] * 4
    await scene.grant("Reader", devices="true")
    assert await allowed() == [False] * 4
    await scene.grant("Reader")
    assert await allowed() == [True] * 4


async def test_what_the_file_grants_is_on_record_when_it_changes_and_not_at_each_start(tmp_path: Path) -> None:
    file = tmp_path / "roles.toml"
    for content in ('[roles]\nFiled = ["twins/read"]\n', '[roles]\nFiled = ["twins/read"]\n', ""):
        file.write_text(content)
        async with two_hubs(tmp_path, second=False, roles_file=file) as hubs:
            lines = (await hubs.call(EAST, "GET", "/$muster/audit?subject=roles")).text.splitlines()
    made, emptied = (json.loads(line) for line in lines)
    assert (made["operation"], made["subject"], made["transport"]) == ("roles.file", "roles/file", "file")
    assert (made["before"], made["after"]["roles"]) == (None, {"Filed": ["twins/read"]})
    assert (emptied["before"], emptied["after"]["roles"]) == (made["after"], {})
