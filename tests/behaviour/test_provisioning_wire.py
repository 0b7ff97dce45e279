"""The provisioning service's device API over MQTT and AMQP: what SDKs' parsers want to the letter, and what ends a
connection. Wrong attestations over all transports are in ``test_provisioning_refused``."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish, subscribe
from muster.wire.amqp.performatives import Detach
from muster.wire.amqp.sasl import SaslInit
from tests.behaviour.amqp_client import AmqpClient
from tests.certificate_maker import Maker, Pair
from tests.provisioning_client import Provisioning
from tests.provisioning_wire import RESPONSES, AmqpRegistrant, Heard, MqttRegistrant

_names = itertools.count()
REGISTER = "$dps/registrations/PUT/iotdps-register/?$rid=1"


@pytest.fixture
def dps(hub: HubProcess) -> Provisioning:
    return Provisioning(hub)


def fresh(what: str = "wire") -> str:
    return f"{what}-{next(_names)}"


def key_of(enrollment: dict[str, Any]) -> str:
    return str(enrollment["attestation"]["symmetricKey"]["primaryKey"])


def pasted(role: str, one: Pair) -> dict[str, Any]:
    return {"type": "x509", "x509": {role: {"primary": {"certificate": base64.b64encode(one.der).decode()}}}}


# --- MQTT


@pytest.mark.parametrize("qos", [0, 1])
async def test_1_over_mqtt_register_is_202_with_a_pause_and_the_poll_200_without(dps: Provisioning, qos: int) -> None:
    name = fresh()
    device = await MqttRegistrant.open(dps, name, dps.token(name, key_of(dps.enroll(name))))
    heard = await device.register(json.dumps({"registrationId": name, "payload": None}).encode(), qos=qos)
    state = {"registrationId": name, "status": "assigning"}
    operation = heard.body["operationId"]
    assert heard == (202, 2, {"operationId": operation, "status": "assigning", "registrationState": state})
    state = await device.provision()
    assert (state["assignedHub"], state["deviceId"], state["symmetricKey"]) == (dps.hub.address, name, {})
    await device.close()
    _, log = dps.hub.request("GET", f"/$muster/why?device={name}")
    assert log["refusals"] == []


async def test_2_a_kept_session_is_none_and_a_body_may_be_anything_empty(dps: Provisioning) -> None:
    name = fresh()
    token = dps.token(name, key_of(dps.enroll(name)))
    for body in (b"", b" ", b"{}"):
        device = await MqttRegistrant.open(dps, name, token, clean_session=False)
        assert (await device.provision(body))["status"] == "assigned"
        await device.close()


async def test_3_what_the_device_says_of_itself_is_ascii_in_the_answer(dps: Provisioning) -> None:
    name = fresh()
    enrollment = dps.enroll(name, deviceId=name, allocationPolicy="custom", customAllocationDefinition={
        "webhookUrl": "http://127.0.0.1:9/größe", "apiVersion": "2019-03-31"})  # fmt: skip
    device = await MqttRegistrant.open(dps, name, dps.token(name, key_of(enrollment)))
    state = await device.provision()
    assert (state["status"], state["errorCode"]) == ("failed", 400207)
    await device.close()


async def test_4_by_certificate_over_mqtt_alone_and_in_a_group(dps: Provisioning) -> None:
    make, name, grouped = Maker(time.time()), fresh(), fresh()
    root = make.root("Root of the wire")
    middle = make.intermediate("Middle of the wire", root)
    leaf, member = make.issue(name, None), make.issue(grouped, middle)
    dps.enroll(name, pasted("clientCertificates", leaf))
    dps.group(fresh("group"), pasted("signingCertificates", root))
    for device_id, chain in ((name, [leaf]), (grouped, [member, middle])):
        device = await MqttRegistrant.open(dps, device_id, chain=chain)
        state = await device.provision()
        assert (state["status"], "x509" in state) == ("assigned", True)
        await device.close()


async def test_5_requests_in_one_write_are_answered_in_their_order(dps: Provisioning) -> None:
    name = fresh()
    device = await MqttRegistrant.open(dps, name, dps.token(name, key_of(dps.enroll(name))))
    topics = [f"$dps/registrations/PUT/iotdps-register/?$rid={number}" for number in range(5)]
    await device.client.send(*(publish(topic, packet_id=7 + number) for number, topic in enumerate(topics)))
    for number in range(5):
        assert (await device.client.expect("PUBACK")).packet_id == 7 + number
        assert f"?$rid={number}&".encode() in (await device.client.expect("PUBLISH")).body
    await device.close()


async def test_6_another_filter_is_not_granted(dps: Provisioning) -> None:
    device = await MqttRegistrant.open(dps, fresh())
    await device.client.send(subscribe(9, [("$dps/#", 1), (RESPONSES, 0), ("devices/d/messages/devicebound/#", 1)]))
    assert (await device.client.expect("SUBACK")).body == b"\x00\x09\x80\x00\x80"
    await device.close()


TOPICS = {
    "registration-topic": [
        "$dps/registrations/PUT/iotdps-register/",
        "$dps/registrations/PUT/iotdps-register/?$rid=",
        "$dps/registrations/PUT/iotdps-register/?$rid=a$b",
        "$dps/registrations/PUT/iotdps-register/?$rid=a b",
        f"$dps/registrations/PUT/iotdps-register/?$rid={'r' * 129}",
        "$dps/registrations/GET/iotdps-get-operationstatus/?$rid=1",
        "$dps/registrations/POST/iotdps-register/?$rid=1",
        "devices/d/messages/events/",
    ],
}


@pytest.mark.parametrize("topic", TOPICS["registration-topic"])
async def test_7_a_wrong_topic_ends_the_connection_and_has_a_name(dps: Provisioning, topic: str) -> None:
    name = fresh()
    device = await MqttRegistrant.open(dps, name, "")
    await device.client.send(publish(topic))
    assert await device.client.expect_end() == b""
    assert dps.why(name) == "registration-topic"


@pytest.mark.parametrize(
    ("packets", "cause"),
    [
        ([publish(REGISTER)], "registration-unheard"),
        ([subscribe(1, [(RESPONSES, 1)]), publish(REGISTER, qos=2)], "qos"),
        ([b"\x62\x02\x00\x01"], "packet"),
        ([b"\x00\x00"], "packet"),
    ],
)
async def test_8_what_else_ends_a_connection(dps: Provisioning, packets: list[bytes], cause: str) -> None:
    name = fresh()
    client = await MqttClient.open(dps.hub.address, dps.hub.port("mqtt"), dps.hub.trust())
    user = f"{dps.scope}/registrations/{name}/api-version=2019-03-31"
    assert await client.connect(name, user, "no token") == (False, 0)
    await client.send(*packets)
    await client.expect_end()
    assert dps.why(name) == cause


@pytest.mark.parametrize("rest", ["", "/", "/x", "/x/", "/x/api-version=", "/x/api-version=soon", "/x/ClientVersion=1"])
async def test_9_a_malformed_user_name_is_refused_at_connect(dps: Provisioning, rest: str) -> None:
    name = fresh()
    client = await MqttClient.open(dps.hub.address, dps.hub.port("mqtt"), dps.hub.trust())
    _, code = await client.connect(name, f"{dps.scope}/registrations{rest}", "token")
    assert code in (4, 5)
    await client.expect_end()
    assert dps.why(name) == "user-name"


async def test_10_a_hubs_device_of_the_name_registrations_is_the_hubs(dps: Provisioning) -> None:
    dps.hub.add_device("registrations")
    key = dps.hub.add_device("registrations", "module")
    client = await MqttClient.open(dps.hub.address, dps.hub.port("mqtt"), dps.hub.trust())
    user = f"{dps.hub.address}/registrations/module/?api-version=2021-04-12"
    token = dps.hub.token("devices/registrations/modules/module", key)
    assert await client.connect("registrations/module", user, token) == (False, 0)
    await client.send(publish("devices/registrations/modules/module/messages/events/", b"hub's"))
    await client.expect("PUBACK")
    await client.close()


async def test_11_a_body_that_is_too_large_or_no_json_is_refused_and_the_device_may_go_on(dps: Provisioning) -> None:
    name = fresh()
    device = await MqttRegistrant.open(dps, name, dps.token(name, key_of(dps.enroll(name))))
    for body, status in ((b"x" * 98_305, 413), (b"{", 400), (b"[]", 400), (b'{"csr": "MII="}', 400)):
        heard = await device.register(body)
        assert (heard.status, heard.body["errorCode"] // 1000, len(heard.body["trackingId"])) == (status, status, 36)
    assert (await device.status("5.no.such")).body["errorCode"] // 1000 == 404
    assert (await device.provision())["status"] == "assigned"
    await device.client.send(publish(REGISTER, b"x" * 110_000))
    await device.client.expect_end()
    assert dps.why(name) == "packet"


async def test_12_who_falls_silent_is_cut_off(dps: Provisioning) -> None:
    name = fresh()
    device = await MqttRegistrant.open(dps, name, "", keep_alive=1)
    assert await device.client.expect_end() == b""
    assert dps.why(name) == "keep-alive"


# --- AMQP


@pytest.mark.parametrize("form", ["{path}", "/{path}", "amqps://{host}/{path}"])
def test_13_over_amqp_in_every_spelling_of_the_address(dps: Provisioning, form: str) -> None:
    name = fresh()
    address = form.format(path=f"{dps.scope}/registrations/{name}", host=dps.hub.address)
    with AmqpRegistrant(dps, name, dps.token(name, key_of(dps.enroll(name))), address=address) as device:
        heard = device.register(json.dumps({"payload": {"a": 1}}).encode())
        state = {"registrationId": name, "status": "assigning"}
        operation = heard.body["operationId"]
        assert heard == (202, 2, {"operationId": operation, "status": "assigning", "registrationState": state})
        state = device.provision()
        assert (state["assignedHub"], state["deviceId"]) == (dps.hub.address, name)


def test_14_by_certificate_without_sasl(dps: Provisioning) -> None:
    make, name = Maker(time.time()), fresh()
    leaf = make.issue(name, None)
    dps.enroll(name, pasted("clientCertificates", leaf))
    with AmqpRegistrant(dps, name, chain=[leaf]) as device:
        assert device.provision()["status"] == "assigned"


def test_15_a_link_without_an_api_version_is_refused(dps: Provisioning) -> None:
    client = AmqpClient(dps.hub.port("amqp"), host=dps.hub.address, context=dps.hub.trust())
    client.attach(target=f"{dps.scope}/registrations/{fresh()}")
    error = client.wait_for(Detach).body.error
    assert "com.microsoft:api-version" in error.description
    client.socket.close()


def test_16_a_request_that_is_none_is_rejected_and_the_link_goes_on(dps: Provisioning) -> None:
    name = fresh()
    with AmqpRegistrant(dps, name, dps.token(name, key_of(dps.enroll(name)))) as device:
        for properties in (
            None,
            {"iotdps-operation-type": "x"},
            {"iotdps-operation-type": "iotdps-get-operationstatus"},
        ):
            heard = device.ask(properties)
            assert (heard.status, heard.body["errorCode"]) == (400, 400004)
        assert device.register(b"{").status == 400
        assert device.status("5.no.such").status == 404
        assert device.provision()["status"] == "assigned"


def test_17_a_device_that_cannot_hear_is_rejected(dps: Provisioning) -> None:
    name = fresh()
    with AmqpRegistrant(dps, name, dps.token(name, key_of(dps.enroll(name)))) as device:
        device.client.send(Detach(0, True))
        heard = device.register()
        assert (heard.status, "receiver" in heard.body["message"]) == (400, True)


@pytest.mark.parametrize("mechanism", ["EXTERNAL", "ANONYMOUS"])
def test_18_by_certificate_with_a_sasl_layer_that_says_nothing(dps: Provisioning, mechanism: str) -> None:
    name = fresh()
    leaf = Maker(time.time()).issue(name, None)
    dps.enroll(name, pasted("clientCertificates", leaf))
    with AmqpRegistrant(dps, name, chain=[leaf], sasl=SaslInit(mechanism, b"")) as device:
        assert device.provision()["status"] == "assigned"


async def test_19_a_device_that_asks_too_often_hears_429_and_when_to_come_again_over_all_transports(
    make_hub: Callable[..., HubProcess],
) -> None:
    with make_hub("--profile", "azure") as hub:
        dps = Provisioning(hub)
        names = [fresh("often") for _ in range(3)]
        over_https, over_mqtt, over_amqp = [dps.token(name, key_of(dps.enroll(name))) for name in names]
        path = f"/{dps.scope}/registrations/{names[0]}/operations/5.no.such"
        answers = [dps.call("GET", path, Authorization=over_https) for _ in range(6)]
        heard = [Heard(one.status, int(one.headers.get("retry-after", 0)), one.body) for one in answers]
        check_polls(heard)
        device = await MqttRegistrant.open(dps, names[1], over_mqtt)
        check_polls([await device.status("5.no.such") for _ in range(6)])
        await device.close()
        with AmqpRegistrant(dps, names[2], over_amqp) as registrant:
            check_polls([registrant.status("5.no.such") for _ in range(6)])


def check_polls(heard: list[Heard]) -> None:
    """Five are answered, the sixth is told when it may come again."""
    assert [one.status for one in heard] == [404] * 5 + [429]
    assert heard[5].body["errorCode"] == 429001
    assert 1 <= heard[5].retry_after <= 10
