"""Bearer tokens put to ``$cbs``: whatever clients call them, a role for each link, and the end when they expire."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from amqp_client import AmqpClient, partition
from command_hub import FEEDBACK, CommandHub, Service, aside, command, command_hub
from eventhub_server import POLICIES, EventHubServer

from muster.access.decision import Caller, Decision
from muster.access.issuers import Issuer, Issuers
from muster.access.roles import Action, DataAction
from muster.heads.amqp_roles import readmit
from muster.identity.bearer_gate import BearerGate
from muster.testing.clock import VirtualAmbient
from muster.wire.amqp.message import Message, Properties
from muster.wire.amqp.performatives import Accepted, Attach, Detach, Rejected
from tests.issuer_parts import HUBS, TestIssuer

EVENTS = "https://eventhubs.azure.net/"
RECEIVER, CONTRIBUTOR, READER = "Azure Event Hubs Data Receiver", "IoT Hub Data Contributor", "IoT Hub Data Reader"


@pytest.fixture
def clock() -> VirtualAmbient:
    return VirtualAmbient(time.time())


@pytest.fixture
def issuer(clock: VirtualAmbient) -> TestIssuer:
    return TestIssuer(clock.now)


@pytest.fixture
def server(tmp_path: Path, clock: VirtualAmbient, issuer: TestIssuer) -> Iterator[EventHubServer]:
    with EventHubServer(tmp_path, clock=clock, issuer=issuer) as server:
        yield server


def put(client: AmqpClient, token: str, name: str = "sb://localhost/events", kind: str = "jwt") -> tuple[int, str]:
    """Status and description of the answer to put-token."""
    properties = {"operation": "put-token", "type": kind, "name": name}
    request = Message(properties=Properties(message_id="1"), application_properties=properties, value=token)
    said = client.request("$cbs", request).application_properties or {}
    return said["status-code"], said["status-description"]


def cause(server: EventHubServer, tracking_id: str) -> Any:
    kept = server.run(server.refusals.find(tracking_id))
    assert kept is not None
    return kept.report["cause"]


@pytest.mark.parametrize(
    ("kind", "scheme", "name", "granted"),
    [
        ("jwt", "", "sb://localhost/events", (EVENTS, RECEIVER)),
        ("jwt", "", "amqps://localhost/events/ConsumerGroups/$Default/Partitions/0", (EVENTS, RECEIVER)),
        ("bearer", "Bearer ", "https://iothubs.azure.net/.default", (HUBS, CONTRIBUTOR)),
        ("servicebus.windows.net:sastoken", "Bearer ", "https://iothubs.azure.net/.default", (HUBS, CONTRIBUTOR)),
        ("Bearer", "Bearer ", "amqps://localhost:5671/", (HUBS, CONTRIBUTOR)),
        ("Bearer", "bearer ", "localhost", (HUBS, CONTRIBUTOR)),
    ],
)
def test_1_the_token_decides_and_not_what_it_is_called(
    server: EventHubServer, issuer: TestIssuer, *, kind: str, name: str, scheme: str, granted: tuple[str, str]
) -> None:
    audience, role = granted
    server.send("d", [b"a"])
    with AmqpClient(server.port) as client:
        assert put(client, scheme + issuer.token(aud=audience, roles=[role]), name, kind) == (200, "OK")
        client.credit(client.attach(source=partition()), 1)
        assert client.numbers(1) == [0]


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({"aud": "https://vault.azure.net"}, "bearer-audience"),
        ({"iss": "https://evil.test"}, "bearer-issuer"),
        ({"exp": 1_000_000_000}, "bearer-expired"),
        ({"signed_with": "k2"}, "bearer-signature"),
        ({"kid": "k9"}, "bearer-key-unknown"),
    ],
)
def test_2_a_token_that_does_not_count_is_answered_401(
    server: EventHubServer, issuer: TestIssuer, claims: dict[str, Any], named: str
) -> None:
    with AmqpClient(server.port) as client:
        status, description = put(client, issuer.token(**{"aud": EVENTS, "roles": [RECEIVER], **claims}))
        assert status == 401
        assert cause(server, description.partition("TrackingId:")[2]) == named
        client.attach(source=partition())
        assert client.refusal().condition == "amqp:unauthorized-access"


@pytest.mark.parametrize(
    ("audience", "roles"),
    [(EVENTS, []), (EVENTS, [READER]), (HUBS, [READER]), (HUBS, ["Reader", "Owner"])],
)
@pytest.mark.parametrize("address", [partition(), "messages/events"])
def test_3_a_caller_without_the_role_gets_no_link(
    server: EventHubServer, issuer: TestIssuer, audience: str, roles: list[str], address: str
) -> None:
    with AmqpClient(server.port) as client:
        assert put(client, issuer.token(aud=audience, roles=roles), "sb://localhost")[0] == 200
        client.attach(source=address)
        error = client.refusal()
        assert error.condition == "amqp:unauthorized-access"
        assert error.info["com.microsoft:error-code"] == 403000
        assert error.description.startswith(
            "Principal alice (https://issuer.test/tenant) is not authorized for messages/receive"
        )
        assert cause(server, error.info["com.microsoft:tracking-id"]) == "role-missing"


def test_3a_nor_an_answer(server: EventHubServer, issuer: TestIssuer) -> None:
    with AmqpClient(server.port) as client:
        asked = {"operation": "READ", "type": "com.microsoft:eventhub", "name": "events"}
        request = Message(properties=Properties(message_id="1"), application_properties=asked, value=None)
        put(client, issuer.token(aud=EVENTS, roles=[READER]), "sb://localhost")
        said = client.request("$management", request).application_properties or {}
        assert (said["status-code"], said["error-condition"]) == (403, "amqp:unauthorized-access")
        assert cause(server, said["status-description"].partition("TrackingId:")[2]) == "role-missing"
        put(client, issuer.token(aud=EVENTS, roles=[RECEIVER]), "sb://localhost")
        assert (client.request("$management", request).application_properties or {})["status-code"] == 200


def test_4_links_end_with_the_token_unless_it_is_renewed(
    server: EventHubServer, issuer: TestIssuer, clock: VirtualAmbient
) -> None:
    with AmqpClient(server.port) as client:
        put(client, issuer.token(aud=EVENTS, roles=[RECEIVER]))
        receiver = client.attach(source=partition())
        client.credit(receiver, 10)
        server.call(lambda: clock.advance(3000))
        assert put(client, issuer.token(aud=EVENTS, roles=[RECEIVER]))[0] == 200
        server.call(lambda: clock.advance(3000))
        server.send("d", [b"a"])
        assert client.numbers(1) == [0]
        server.call(lambda: clock.advance(1000))
        detach = client.wait_for(Detach).body
        assert (detach.handle, detach.closed, detach.error.condition) == (receiver, True, "amqp:unauthorized-access")


def test_5_a_renewal_without_the_role_ends_what_it_does_not_cover(server: EventHubServer, issuer: TestIssuer) -> None:
    with AmqpClient(server.port) as client:
        put(client, issuer.token(aud=EVENTS, roles=[RECEIVER]))
        receiver = client.attach(source=partition())
        client.wait_for(Attach)
        put(client, issuer.token(aud=EVENTS, roles=[]))
        ended = [came.body.handle for came in client.came if isinstance(came.body, Detach)]
        assert ended == [receiver], "before the answer"


def test_6_a_policys_token_beside_it_is_none_the_worse(server: EventHubServer, issuer: TestIssuer) -> None:
    server.send("d", [b"a"])
    with AmqpClient(server.port) as client:
        put(client, issuer.token(aud=EVENTS), "sb://localhost/other")
        clock = server.clock
        assert clock is not None
        client.put_token(POLICIES["service"].primary_key, now=clock.now())
        client.credit(client.attach(source=partition()), 1)
        assert client.numbers(1) == [0]


def test_7_without_an_issuer_it_is_told_how_to_name_one(tmp_path: Path, issuer: TestIssuer) -> None:
    with EventHubServer(tmp_path) as server, AmqpClient(server.port) as client:
        status, description = put(client, issuer.token(aud=EVENTS, roles=[RECEIVER]))
        assert status == 401
        assert cause(server, description.partition("TrackingId:")[2]) == "bearer-token"


# --- roles that are granted for some devices, and roles that change


class Granted:
    """Decides: the caller may send to ``devices``, or to all, and read what comes back if ``everything``."""

    def __init__(self, *devices: str, everything: bool = False) -> None:
        self.devices, self.everything = set(devices), everything

    async def __call__(self, caller: Caller, action: Action, hub: str, device_id: str | None) -> Decision:
        if self.everything:
            return Decision(allowed=True)
        if action is DataAction.C2D_SEND and device_id in self.devices:
            return Decision(allowed=True, everywhere=False)
        return Decision(allowed=False, roles=("some role",), elsewhere=", ".join(self.devices))


class Scene:
    """A hub with the devices ``d`` and ``e``, and a service with a bearer token, whose roles are ``granted``."""

    def __init__(self, hub: CommandHub, granted: Granted) -> None:
        self.hub, self.granted = hub, granted
        self.issuer = TestIssuer(hub.ambient.now)
        issuers = Issuers([Issuer(self.issuer.url, self.issuer.fetch, hub.ambient)])
        self.gate = BearerGate(issuers, granted, hub.ambient, hub.mqtt.refusals, "localhost")
        hub.mqtt.authenticator.bearer = self.gate
        self.gate.when_roles_change(partial(readmit, hub.mqtt.amqp, hub.mqtt.amqp.hubs.first))

    async def service(self) -> Service:
        service = await self.hub.service(policy="")
        assert await aside(put, service, f"Bearer {self.issuer.token(roles=[])}", "localhost") == (200, "OK")
        return service


@asynccontextmanager
async def scene_of(directory: Path, granted: Granted) -> AsyncIterator[Scene]:
    async with command_hub(directory) as hub:
        for device in ("d", "e"):
            await hub.mqtt.key(device)
        yield Scene(hub, granted)


async def test_8_commands_go_to_the_devices_that_the_role_is_for(tmp_path: Path) -> None:
    async with scene_of(tmp_path, Granted("d")) as scene:
        service = await scene.service()
        link = await aside(service.sender)
        assert isinstance(await aside(service.send_message, link, command(device="d")), Accepted)
        outcome = await aside(service.send_message, link, command(device="e"))
        assert isinstance(outcome, Rejected)
        assert outcome.error is not None
        assert (outcome.error.info or {})["com.microsoft:error-code"] == 403000
        assert (await scene.hub.depth("d"), await scene.hub.depth("e")) == (1, 0)
        kept = await scene.hub.mqtt.refusals.find((outcome.error.info or {})["com.microsoft:tracking-id"])
        assert kept is not None
        assert kept.report["cause"] == "role-elsewhere"
        assert isinstance(await aside(service.send_message, link, command(device="d")), Accepted), "the link goes on"


async def test_9_a_role_for_some_devices_reads_nobodys_feedback(tmp_path: Path) -> None:
    async with scene_of(tmp_path, Granted("d", "e")) as scene:
        service = await scene.service()
        await aside(service.attach, source=FEEDBACK)
        assert (await aside(service.refusal)).condition == "amqp:unauthorized-access"


async def test_10_a_role_that_is_taken_back_ends_the_links(tmp_path: Path) -> None:
    async with scene_of(tmp_path, Granted(everything=True)) as scene:
        service = await scene.service()
        sender, receiver = await aside(service.sender), await aside(service.receiver)
        scene.granted.everything, scene.granted.devices = False, {"e"}
        scene.gate.roles_changed()
        assert (await aside(service.wait_for, Detach)).body.handle == receiver
        assert isinstance(await aside(service.send_message, sender, command(device="e")), Accepted)
        assert isinstance(await aside(service.send_message, sender, command(device="d")), Rejected)
        scene.granted.devices = set()
        scene.gate.roles_changed()
        assert (await aside(service.wait_for, Detach)).body.handle == sender
        scene.granted.everything = True
        scene.gate.roles_changed()
        await aside(service.receiver)
