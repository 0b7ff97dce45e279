"""IP filter rules of a running hub, from several addresses: who is refused, on every transport, and how it is told."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from amqp_client import AmqpClient, partition
from every_hub import TRANSPORTS
from transports import Ability, Login, Place, RefusedError, Transport, over

from muster.testing.hub import HubProcess, HubUser
from muster.wire.amqp.performatives import Attach, Close, Detach
from muster.wire.amqp.sasl import SaslInit
from tests.addresses import loopback
from tests.coming_from import coming_from
from tests.engines import hub_process
from tests.provisioning_client import Provisioning
from tests.provisioning_wire import AmqpRegistrant, MqttRegistrant

HERE, THERE = "127.0.0.1", "127.9.9.9"
ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
MakeHub = Callable[..., HubProcess]


def rule(name: str, mask: str, action: str = "Reject", **more: str) -> dict[str, str]:
    return {"filterName": name, "action": action, "ipMask": mask, **more}


NOT_THERE = {"ipFilterRules": [rule("not from there", "127.9.0.0/16")]}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub whose rules each test sets."""
    west = loopback()
    with hub_process(
        tmp_path_factory.mktemp("guarded"), loopback(), *ANY_PORTS, "--bind", west, "--hub", f"west={west}"
    ) as hub:
        yield hub


@pytest.fixture
def hub(guarded: HubProcess) -> Iterator[HubProcess]:
    yield guarded
    put(guarded, {})
    Provisioning(guarded).call("PUT", "/$muster/provisioning/network", {})


def put(hub: HubUser, rules: dict[str, Any], **headers: str) -> dict[str, Any]:
    status, body = hub.request("PUT", "/$muster/network", rules, **headers)
    assert status == 200, body
    told: dict[str, Any] = body
    return told


def place_of(hub: HubUser) -> Place:
    return Place(hub.address, hub.port("mqtt"), hub.port("amqp"), hub.port("https"))


def login_of(hub: HubUser, name: str) -> Login:
    token = hub.token(f"devices/{name}", hub.add_device(name))
    return Login(name, token, hub.trust(), host=hub.address)


def why(hub: HubUser, device: str = "") -> dict[str, Any]:
    _, found = hub.request("GET", f"/$muster/why?device={device}" if device else "/$muster/why")
    kept: dict[str, Any] = found["refusals"][0]
    return kept


def muster(hub: HubProcess, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "muster", *arguments, "--data", str(hub.directory / "data")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


async def _connected_and_heard(transport: Transport, place: Place, login: Login) -> None:
    device = await transport.connect(place, login)
    try:
        await device.send(b"x")  # over HTTPS that is the first that is asked
    finally:
        await device.close()


@over(TRANSPORTS)
async def test_1_a_device_is_refused_by_its_address_and_the_verdict_says_which_rule(
    hub: HubProcess, transport: Transport
) -> None:
    name = f"d-{transport.name}"
    login, place = login_of(hub, name), place_of(hub)
    put(hub, NOT_THERE)
    with coming_from(THERE), pytest.raises(RefusedError) as refused:
        await _connected_and_heard(transport, place, login)
    assert re.search("CONNACK 5|401|unauthorized", str(refused.value))
    kept = why(hub)
    assert kept["cause"] == "network-rule"
    assert kept["peer"].startswith(f"{THERE}:")
    assert [(check["name"], check["outcome"]) for check in kept["checks"]] == [("network", "failed")]
    assert "not from there" in kept["checks"][0]["seen"]
    assert "muster hub network" in kept["remedy"]
    if transport.family == "mqtt":
        assert kept["principal"] == name
    device = await transport.connect(place, login)
    await device.close()


@over(TRANSPORTS, Ability.SESSION)
async def test_2_who_is_connected_and_would_be_refused_now_is_ended_and_others_stay(
    hub: HubProcess, transport: Transport
) -> None:
    place, names = place_of(hub), [f"{where}-{transport.name}" for where in ("here", "there")]
    logins = [login_of(hub, name) for name in names]
    stays = await transport.connect(place, logins[0])
    with coming_from(THERE):
        goes = await transport.connect(place, logins[1])
    await asyncio.to_thread(put, hub, NOT_THERE)
    condition = await goes.ended()
    assert condition in ("", "amqp:unauthorized-access")
    assert why(hub, names[1])["cause"] == "network-rule"
    await stays.send(b"still here")
    await stays.close()


def test_3_rest_says_401_with_a_tracking_id_and_no_word_of_addresses(hub: HubProcess) -> None:
    put(hub, {"networkRuleSets": {"defaultAction": "Deny", "ipRules": [
        {"filterName": "here", "action": "Allow", "ipMask": HERE}]}})  # fmt: skip
    with coming_from(THERE):
        status, body = hub.request("GET", "/devices/none")
        assert status == 401
        assert body["Message"] == "ErrorCode:IotHubUnauthorizedAccess;Unauthorized"
        assert hub.request("GET", "/health/ready")[0] == 200, "a balancer's question is nobody's data"
    tracking = body["ExceptionMessage"].partition("Tracking ID:")[2][:32]
    kept = hub.request("GET", f"/$muster/why?trackingId={tracking}")[1]["refusals"][0]
    assert (kept["cause"], kept["error"]["code"]) == ("network-default", 401002)
    assert hub.request("GET", "/devices/none")[0] == 404
    assert muster(hub, "why", tracking).count("No IP filter rule allows") == 1


def test_4_service_clients_over_amqp_hear_unauthorized_for_login_token_and_link(hub: HubProcess) -> None:
    put(hub, NOT_THERE)
    context, port = hub.trust(), hub.port("amqp")
    name = hub.facts["HUB_CONNECTION_STRING"].partition("=")[2].partition(";")[0]
    plain = SaslInit("PLAIN", f"\0iothubowner@sas.root.{name}\0{hub.owner_token()}".encode())
    with coming_from(THERE):
        assert AmqpClient(port, host=hub.address, hostname=hub.address, context=context, sasl=plain).outcome == 1
        with AmqpClient(port, host=hub.address, hostname=hub.address, context=context) as client:
            answer = client.put_token("", audience=f"sb://{hub.address}/messages/events")
            assert (answer.application_properties or {})["status-code"] == 401
            client.attach(target="/messages/devicebound")
            client.wait_for(Attach)
            assert str(client.wait_for(Detach).body.error.condition) == "amqp:unauthorized-access"
    assert AmqpClient(port, host=hub.address, hostname=hub.address, context=context, sasl=plain).outcome == 0


def events_reader(hub: HubProcess) -> AmqpClient:
    """Who reads the first partition, as Event Hubs clients do."""
    text = hub.facts["EVENTHUB_CONNECTION_STRING"]
    facts = dict(part.split("=", 1) for part in text.split(";"))
    entity = facts["EntityPath"]
    client = AmqpClient(hub.port("amqp"), host=hub.address, hostname=hub.address, context=hub.trust())
    audience = f"sb://{hub.address}/{entity}"
    answer = client.put_token(facts["SharedAccessKey"], policy=facts["SharedAccessKeyName"], audience=audience)
    assert (answer.application_properties or {})["status-code"] == 200
    client.attach(source=partition(0, entity=entity))
    assert client.wait_for(Attach).body.source is not None
    return client


def test_5_the_built_in_endpoint_is_behind_the_rules_only_if_they_say_so(hub: HubProcess) -> None:
    default = {"defaultAction": "Deny", "ipRules": [{"filterName": "h", "action": "Allow", "ipMask": HERE}]}
    put(hub, {"networkRuleSets": default})
    with coming_from(THERE):
        client = events_reader(hub)
        client.attach(target="/messages/devicebound")
        client.wait_for(Attach)
        assert str(client.wait_for(Detach).body.error.condition) == "amqp:unauthorized-access", "that is the hub's"
    put(hub, {"networkRuleSets": {**default, "applyToBuiltInEventHubEndpoint": True}})
    assert str(client.wait_for(Close).body.error.condition) == "amqp:unauthorized-access"
    with coming_from(THERE), pytest.raises(AssertionError):
        events_reader(hub)
    events_reader(hub).socket.close()


def test_6_without_public_access_the_command_line_of_the_machine_still_mends_it(hub: HubProcess) -> None:
    key = hub.add_device("shut-out")
    muster(hub, "hub", "network", "set", "--public-access", "disabled")
    assert hub.request("GET", "/devices/shut-out")[0] == 401, "the data plane is shut, from here too"
    assert hub.request("GET", "/$muster/network")[1]["publicNetworkAccess"] == "Disabled"
    shown = muster(hub, "hub", "network", "show")
    assert shown.startswith("public access: disabled")
    assert "is refused: public network access" in muster(hub, "hub", "network", "check", HERE)
    muster(hub, "hub", "network", "set", "--private-network", "127.9.0.0/16")
    with coming_from(THERE):
        token = hub.token("devices/shut-out", key)
        path = "/devices/shut-out/messages/events"
        assert hub.request("POST", path, {}, Authorization=token)[0] == 204, "as over a private endpoint"
    muster(hub, "hub", "network", "set", "--public-access", "enabled", "--no-private-network")
    assert hub.request("GET", "/devices/shut-out")[0] == 200


def test_7_commands_add_rules_in_their_order_and_say_which_decides(hub: HubProcess) -> None:
    network = ("hub", "network")
    muster(hub, *network, "add", "everybody", "0.0.0.0/0", "--reject")
    muster(hub, *network, "add", "here", HERE, "--before", "EVERYBODY")
    assert [one.split("  ")[0] for one in muster(hub, *network, "show").splitlines()[1:]] == ["Accept", "Reject"]
    assert "'here' (Accept 127.0.0.1)" in muster(hub, *network, "check", HERE)
    assert "is refused: the rule 'everybody'" in muster(hub, *network, "check", "fd00::1")
    assert "may come" in muster(hub, *network, "check", "fd00::1", "--at-built-in-endpoint")
    assert "two ip filter rules" in muster(hub, *network, "add", "HERE", THERE, code=1).lower()
    assert "ipFilterRules[2].ipMask" in muster(hub, *network, "add", "x", "300.1.1.1", code=1)
    assert "no rule" in muster(hub, *network, "remove", "none", code=1)
    kept = json.loads(muster(hub, *network, "show", "--json"))
    muster(hub, *network, "remove", "everybody")
    stale = hub.request("PUT", "/$muster/network", kept, **{"If-Match": f'"{kept["etag"]}"'})
    assert (stale[0], stale[1]["Message"].partition(";")[0]) == (412, "ErrorCode:PreconditionFailed")
    assert put(hub, {**kept, "ipFilterRules": []})["etag"] != kept["etag"]
    assert hub.request("PUT", "/$muster/network", {"ipFilterRules": [rule("a", "b")]})[0] == 400


def test_8_each_hub_has_rules_of_its_own(hub: HubProcess) -> None:
    west = hub.other("west")
    west.add_device("w")
    put(west, {"publicNetworkAccess": "Disabled"})
    assert west.request("GET", "/devices/w")[0] == 401
    assert hub.request("GET", "/devices/none")[0] == 404
    assert "disabled" in muster(hub, "hub", "network", "show", "--hub", "west")
    assert "enabled" in muster(hub, "hub", "network", "show")
    put(west, {})
    assert west.request("GET", "/devices/w")[0] == 200


async def test_9_provisioning_has_rules_for_devices_and_for_services(hub: HubProcess) -> None:
    dps = Provisioning(hub)
    key = dps.enroll("ruled")["attestation"]["symmetricKey"]["primaryKey"]
    token = dps.token("ruled", key)
    path = f"/{dps.scope}/registrations/ruled/register"
    rules = {"ipFilterRules": [rule("no devices", "127.9.0.0/16", target="deviceApi")]}
    assert dps.call("PUT", "/$muster/provisioning/network", rules).status == 200
    with coming_from(THERE):
        assert dps.call("GET", "/enrollments/ruled").status == 200
        answer = dps.call("PUT", path, {"registrationId": "ruled"}, Authorization=token)
        assert (answer.status, answer.body["errorCode"]) == (401, 401002)
        tracking = answer.body["trackingId"]
        over_mqtt = await MqttRegistrant.open(dps, "ruled", token)
        assert (await over_mqtt.register()).status == 401
        await over_mqtt.close()
        with AmqpRegistrant(dps, "ruled", token) as over_amqp:
            assert over_amqp.register().status == 401
    assert "The device" not in muster(hub, "why", tracking)
    kept = why(hub, "ruled")
    assert (kept["cause"], [check["name"] for check in kept["checks"][:1]]) == ("network-rule", ["network"])
    assert dps.call("PUT", path, {"registrationId": "ruled"}, Authorization=token).status == 202
    muster(hub, "provisioning", "network", "add", "no services", "127.9.9.9", "--reject", "--target", "serviceApi")
    muster(hub, "provisioning", "network", "remove", "no devices")
    with coming_from(THERE):
        assert dps.call("GET", "/enrollments/ruled").status == 401
        assert dps.call("PUT", path, {"registrationId": "ruled"}, Authorization=token).status == 202
    assert "is refused" in muster(hub, "provisioning", "network", "check", THERE, "--target", "serviceApi")


def test_10_rules_outlive_a_kill(make_hub: MakeHub) -> None:
    hub = make_hub(*ANY_PORTS).start()
    dps = Provisioning(hub)
    put(hub, NOT_THERE)
    dps.call("PUT", "/$muster/provisioning/network", {"ipFilterRules": [rule("no", THERE)]})
    hub.kill()
    hub.start()
    with coming_from(THERE):
        assert hub.request("GET", "/devices/none")[0] == 401
        assert Provisioning(hub).call("GET", "/enrollments/none").status == 401


@pytest.mark.embedded("without a hub that runs, commands open hub.db")
def test_10_1_rules_can_be_changed_while_nothing_runs(make_hub: MakeHub) -> None:
    hub = make_hub(*ANY_PORTS).start()
    put(hub, NOT_THERE)
    assert hub.stop() == 0
    assert "not from there" in muster(hub, "hub", "network", "show")
    assert "is refused" in muster(hub, "hub", "network", "check", THERE)
    muster(hub, "hub", "network", "remove", "not from there")
    hub.start()
    with coming_from(THERE):
        assert hub.request("GET", "/devices/none")[0] == 404
