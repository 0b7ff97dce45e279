"""Every operation of the hub's own routing table by every role: each cell allows or denies as Azure's table says.

What an operation of the data plane needs stands here a second time, out of service.md 1.5: a route that is new, gone or
asks for something else fails here until somebody has thought about it, as does any for services that needs no action.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from amqp_client import AmqpClient
from issuer_server import bearer, issuer_server
from two_hubs import EAST, TwoHubs, two_hubs

from muster.access.roles import (
    ALL_ROLES,
    ALLOWED,
    Action,
    DataAction,
    ManagementAction,
    ProvisioningAction,
    StreamAction,
)
from muster.heads.http.operations import Operation
from muster.identity.verdict import Right
from muster.wire.amqp.message import Message, Properties
from muster.wire.amqp.performatives import Attach, Detach
from tests.issuer_parts import TestIssuer

D, P = DataAction, ProvisioningAction
_TWIN, _COMMANDS = "/twins/{device_id}", "/commands/{command}"
_MODULE = "/modules/{module_id}"

NEEDS: dict[str, tuple[Action, ...]] = {
    "GET /devices": (D.DEVICES_READ,),
    "POST /devices": (D.DEVICES_WRITE, D.DEVICES_DELETE),
    "POST /devices/keys/regenerate": (D.DEVICES_WRITE,),
    **{f"GET /devices/{{device_id}}{more}": (D.DEVICES_READ,) for more in ("", "/modules", _MODULE)},
    **{f"PUT /devices/{{device_id}}{more}": (D.DEVICES_WRITE,) for more in ("", _MODULE)},
    "PUT /devices/{device_id}/modules/{module_id}/modules/{inner_id}": (D.DEVICES_WRITE,),
    **{f"DELETE /devices/{{device_id}}{more}": (D.DEVICES_DELETE,) for more in ("", _MODULE)},
    "GET /$muster/identities": (D.DEVICES_READ, D.TWINS_READ),
    "POST /$muster/identities": (D.DEVICES_WRITE, D.DEVICES_DELETE, D.TWINS_WRITE),
    "GET /statistics/devices": (D.STATISTICS_READ,),
    "GET /statistics/service": (D.STATISTICS_READ,),
    "POST /devices/query": (D.TWINS_READ,),
    **{f"GET {_TWIN}{more}": (D.TWINS_READ,) for more in ("", _MODULE)},
    **{f"{method} {_TWIN}{more}": (D.TWINS_WRITE,) for method in ("PATCH", "PUT") for more in ("", _MODULE)},
    **{f"POST {_TWIN}{more}/methods": (D.METHODS_INVOKE,) for more in ("", _MODULE)},
    **{f"GET /digitaltwins/{{device_id}}{more}": (D.TWINS_READ,) for more in ("", _MODULE)},
    **{f"PATCH /digitaltwins/{{device_id}}{more}": (D.TWINS_WRITE,) for more in ("", _MODULE)},
    **{
        f"POST /digitaltwins/{{device_id}}{more}{component}{_COMMANDS}": (D.METHODS_INVOKE,)
        for more in ("", _MODULE)
        for component in ("", "/components/{component}")
    },
    **{f"DELETE /devices/{{device_id}}{more}/commands": (D.C2D_PURGE,) for more in ("", _MODULE)},
    "GET /messages/servicebound/feedback": (D.C2D_FEEDBACK,),
    "DELETE /messages/servicebound/feedback/{lock_token}": (D.C2D_FEEDBACK,),
    "POST /messages/servicebound/feedback/{lock_token}/abandon": (D.C2D_FEEDBACK,),
    # the provisioning service
    **{
        name.format(every): actions
        for every, (reading, writing, deleting) in {
            "/enrollments": (P.ENROLLMENTS_READ, P.ENROLLMENTS_WRITE, P.ENROLLMENTS_DELETE),
            "/enrollmentGroups": (P.GROUPS_READ, P.GROUPS_WRITE, P.GROUPS_DELETE),
        }.items()
        for name, actions in {
            "POST {}": (writing, deleting),
            "POST {}/query": (reading,),
            "GET {}/{{enrollment_id}}": (reading,),
            "PUT {}/{{enrollment_id}}": (writing,),
            "DELETE {}/{{enrollment_id}}": (deleting,),
            "POST {}/{{enrollment_id}}/attestationmechanism": (P.ATTESTATION_DETAILS,),
        }.items()
    },
    "GET /registrations/{registration_id}": (P.REGISTRATIONS_READ,),
    "DELETE /registrations/{registration_id}": (P.REGISTRATIONS_DELETE,),
    "POST /registrations/{registration_id}/query": (P.REGISTRATIONS_READ,),
    "GET /$muster/provisioning/log": (P.REGISTRATIONS_READ,),
    "GET /$muster/provisioning/counts": (P.REGISTRATIONS_READ,),
    # the hub's own, no part of Azure's data plane
    "GET /$muster/meters": (D.STATISTICS_READ,),
    "GET /metrics": (D.STATISTICS_READ,),
    "GET /$muster/limits": (D.STATISTICS_READ,),
    "GET /$muster/why": (D.DEVICES_READ,),
    "GET /$muster/methods": (D.DEVICES_READ,),
    "GET /$muster/monitor": (StreamAction.RECEIVE,),
}
DEPLOYMENT = re.compile(r"\w+ /\$muster/(hubs|nodes|roles|grants|audit)\b.*")
"""Asked for at every hub, not only at the first one, which answers."""
MANAGEMENT = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/subscriptions/|/\$muster/).*")
"""Management routes, where they are not among ``NEEDS``: who may only read changes nothing there."""
READING = {ManagementAction.READ, ManagementAction.ROLES_READ}

OPEN = re.compile(
    r"GET /health/(live|ready)|GET /\$muster/openapi"  # everybody
    r"|\w+ /\.well-known/est/.*|\w+ /\{id_scope\}/registrations/.*"  # devices, judged by the provisioning service
    r"|\w+ /muster-uploads/\{blob\.\.\.\}"  # who shows a signature, or a service: test_blob_access
)
"""Routes that ask no role, each judged where it says."""
AT_PROVISIONING = re.compile(r"\w+ /(enrollments|enrollmentGroups|registrations|\$muster/provisioning)\b.*")

NO_ROLE = "no role"
CASES = [*(role.name for role in ALL_ROLES), NO_ROLE]


def name_of(one: Operation) -> str:
    return f"{one.method} {one.path}"


class Scene:
    def __init__(self, hubs: TwoHubs, issuer: TestIssuer) -> None:
        self.hubs, self.issuer = hubs, issuer

    @property
    def routes(self) -> dict[str, Operation]:
        """The routing table of the first hub, which has all there are."""
        answer: Any = self.hubs.node.hubs.apps.first
        return {name_of(one): one for one in answer.__self__._operations.rows}

    @property
    def needs(self) -> dict[str, tuple[Action, ...]]:
        """What each operation for services needs, by the routing table."""
        return {
            name: one.actions
            for name, one in self.routes.items()
            if one.right is not Right.DEVICE_CONNECT and not OPEN.fullmatch(name)
        }

    async def refused(self, name: str, device: str = "nobody", **claims: Any) -> bool:
        """Whether the caller is refused for want of a role; whatever else comes of the call is not looked at."""
        method, _, template = name.partition(" ")
        path = re.sub(r"\{(\w+)[.]*\}", lambda found: device if found[1] == "device_id" else "x", template)
        headers = {
            "Authorization": bearer(self.issuer, **claims), "Content-Type": "application/json", "If-Match": '"never"',
        }  # fmt: skip
        async with self.hubs.session.request(
            method, self.hubs.url(EAST, path), headers=headers, ssl=self.hubs.trust
        ) as answer:
            if answer.status not in {401, 403}:
                return False
            text = await answer.text()
            assert answer.status == 403, f"{name}: {text}"
            assert "GenericForbidden" in text or "403000" in text  # methods have another shape
            return True

    async def cells(self, names: Iterable[str], **claims: Any) -> set[str]:
        """Those of ``names`` that are allowed."""
        wanted = list(names)
        turns = asyncio.Semaphore(8)  # connections are made once

        async def refused_in_turn(name: str) -> bool:
            async with turns:
                return await self.refused(name, **claims)

        refused = await asyncio.gather(*map(refused_in_turn, wanted))
        return {name for name, no in zip(wanted, refused, strict=True) if not no}

    async def grant(self, **members: str) -> str:
        made = await self.hubs.call(EAST, "POST", "/$muster/grants", members)
        assert made.status == 200, made.text
        return str(made.json["id"])


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with (
        issuer_server() as issuer,
        two_hubs(tmp_path, oidc_issuers=(issuer.url,)) as hubs,
    ):
        for device, site in (("ours", "berlin"), ("theirs", "paris")):
            await hubs.add_device(EAST, device)
            assert (await hubs.call(EAST, "PATCH", f"/twins/{device}", {"tags": {"site": site}})).status == 200
        yield Scene(hubs, issuer)


def expected(needs: dict[str, tuple[Action, ...]], role: str) -> set[str]:
    held = ALLOWED.get(role, frozenset())
    return {name for name, actions in needs.items() if held.issuperset(actions)}


async def test_every_route_asks_for_what_it_must(scene: Scene) -> None:
    routes, needs = scene.routes, scene.needs
    management = {name: actions for name, actions in needs.items() if name not in NEEDS}
    assert {name: actions for name, actions in needs.items() if name in NEEDS} == NEEDS
    for name, actions in management.items():
        found = MANAGEMENT.fullmatch(name)
        assert found, f"{name} is new: say in NEEDS what it needs"
        assert actions, f"{name} needs no action"
        assert set(actions) <= set(ManagementAction), name
        assert found[1] in {"GET", "POST"} or not set(actions) <= READING, name
    assert {name for name, one in routes.items() if one.scope == ""} == set(filter(DEPLOYMENT.fullmatch, routes))
    assert not {name for name, one in routes.items() if OPEN.fullmatch(name) and (one.right or one.actions)}
    assert {action for actions in NEEDS.values() for action in actions if isinstance(action, DataAction)} | {
        D.C2D_SEND, D.UPLOAD_NOTIFICATIONS,  # of AMQP's links alone
        D.JOBS_READ, D.JOBS_WRITE, D.JOBS_DELETE,  # not built yet
        D.CONFIGURATIONS_READ, D.CONFIGURATIONS_WRITE, D.CONFIGURATIONS_DELETE, D.CONFIGURATIONS_APPLY,
        D.CONFIGURATIONS_TEST,
    } == set(DataAction)  # fmt: skip


@pytest.mark.parametrize("role", CASES)
async def test_a_role_in_the_token(scene: Scene, role: str) -> None:
    claims = {} if role == NO_ROLE else {"roles": [role]}
    assert await scene.cells(scene.needs, sub=role, **claims) == expected(scene.needs, role)


@pytest.mark.parametrize("role", CASES[:-1])
async def test_a_role_granted_everywhere_and_at_the_hub(scene: Scene, role: str) -> None:
    grant = await scene.grant(role=role, group=role)
    assert await scene.cells(scene.needs, groups=[role]) == expected(scene.needs, role)
    await scene.hubs.call(EAST, "DELETE", f"/$muster/grants/{grant}")
    assert await scene.cells(scene.needs, groups=[role]) == set()
    here, elsewhere = set(), set()
    for name in expected(scene.needs, role):
        if not DEPLOYMENT.fullmatch(name):
            (elsewhere if AT_PROVISIONING.fullmatch(name) else here).add(name)
    await scene.grant(role=role, group="here", hub=scene.hubs.hub(EAST).name)
    assert await scene.cells(scene.needs, groups=["here"]) == here
    await scene.grant(role=role, group="there", hub=scene.hubs.node.facts["DPS_ID_SCOPE"])
    assert await scene.cells(scene.needs, groups=["there"]) == elsewhere


@pytest.mark.parametrize("role", CASES[:-1])
async def test_a_role_granted_for_some_devices(scene: Scene, role: str) -> None:
    await scene.grant(role=role, subject=role, devices="tags.site = 'berlin'")
    about_one = {name for name in expected(scene.needs, role) if "{device_id}" in name}
    assert await scene.cells(scene.needs, sub=role, device="ours") == about_one
    assert await scene.cells(scene.needs, sub=role, device="theirs") == set()
    assert await scene.cells(scene.needs, sub=role, device="nobody") == set()


async def test_devices_take_no_bearer_tokens(scene: Scene) -> None:
    """Whatever the role: device operations are the devices' own."""
    of_devices = [name for name, one in scene.routes.items() if one.right is Right.DEVICE_CONNECT]
    assert len(of_devices) >= 11
    token = bearer(scene.issuer, roles=[role.name for role in ALL_ROLES])
    for name in of_devices:
        method, _, template = name.partition(" ")
        path = re.sub(r"\{\w+\}", "ours", template)
        async with scene.hubs.session.request(
            method, scene.hubs.url(EAST, path), headers={"Authorization": token}, ssl=scene.hubs.trust
        ) as answer:
            assert answer.status == 401, name


LINKS: dict[str, tuple[Action, ...]] = {
    "to /messages/devicebound": (D.C2D_SEND,),
    "from /messages/servicebound/feedback": (D.C2D_FEEDBACK,),
    "from /messages/servicebound/filenotifications": (D.UPLOAD_NOTIFICATIONS,),
    "from /messages/servicebound/fileuploadnotifications": (D.UPLOAD_NOTIFICATIONS,),
    "from messages/events/ConsumerGroups/$Default/Partitions/0": (StreamAction.RECEIVE,),
}
"""Links of services, and what each needs."""


def answered(client: AmqpClient, handle: int) -> Any:
    """The error that a link is refused with, ``None`` for one that is let be: another is refused behind it."""
    marker = client.attach(source="/nowhere")
    given: dict[str, int] = {}
    errors: dict[int, Any] = {}
    while given.get(f"link-{marker}") not in errors:
        came = client.next()
        assert came is not None
        if isinstance(came.body, Attach):
            given[came.body.name] = came.body.handle
        elif isinstance(came.body, Detach):
            errors[came.body.handle] = came.body.error
    return errors.get(given[f"link-{handle}"])


def attached(scene: Scene, token: str) -> set[str]:
    """Those of ``LINKS`` that the hub lets the caller have."""
    address = scene.hubs.addresses[EAST]
    found = set()
    with AmqpClient(
        scene.hubs.node.facts["ports"]["amqp"], host=address, hostname=address, context=scene.hubs.trust
    ) as client:
        properties = {"operation": "put-token", "type": "jwt", "name": address}
        put = Message(properties=Properties(message_id="1"), application_properties=properties, value=token)
        assert (client.request("$cbs", put).application_properties or {})["status-code"] == 200
        for name in LINKS:
            way, _, path = name.partition(" ")
            error = answered(client, client.attach(**{"source" if way == "from" else "target": path}))
            if error is None:
                found.add(name)
            else:
                assert error.info["com.microsoft:error-code"] == 403000
    return found


@pytest.mark.parametrize("role", CASES)
async def test_links_by_role(scene: Scene, role: str) -> None:
    claims = {} if role == NO_ROLE else {"roles": [role]}
    token = bearer(scene.issuer, **claims)
    assert await asyncio.to_thread(attached, scene, token) == expected(LINKS, role)
    if role != NO_ROLE:
        await scene.grant(role=role, group=role)
        token = bearer(scene.issuer, groups=[role])
        assert await asyncio.to_thread(attached, scene, token) == expected(LINKS, role)
        await scene.grant(role=role, subject=role, devices="tags.site = 'berlin'")
        token = bearer(scene.issuer, sub=role)
        some = expected(LINKS, role) & {"to /messages/devicebound"}
        assert await asyncio.to_thread(attached, scene, token) == some
