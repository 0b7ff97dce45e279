"""The rate of one caller, over real HTTPS: it is his alone, and says when to come again."""

from __future__ import annotations

import http.client
from collections.abc import Callable

from amqp_client import AmqpClient

from muster.testing.hub import HubProcess
from muster.wire.amqp.message import Message, Properties, encode_message
from muster.wire.amqp.performatives import Accepted, Attach, Disposition, Rejected, Transfer
from muster.wire.amqp.sasl import SaslInit
from tests.provisioning_client import Provisioning

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")


def test_who_floods_throttles_himself_alone(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub("--principal-rate", "1", *ANY_PORTS).start()
    key = hub.add_device("d")
    owner = hub.owner_token()
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
    statuses = []
    for _ in range(40):
        connection.request("GET", "/devices/d?api-version=2021-04-12", headers={"Authorization": owner})
        answer = connection.getresponse()
        body = answer.read()
        statuses.append(answer.status)
        if answer.status == 429:
            break
    assert statuses[-1] == 429, "more than a burst of ten in far less than half a minute"
    assert statuses.count(200) >= 9
    assert int(answer.headers["Retry-After"]) >= 1
    assert b"ErrorCode:ThrottlingException" in body
    device = hub.token("devices/d", key)
    assert hub.request("POST", "/devices/d/messages/events", {}, Authorization=device)[0] == 204, "devices have none"
    dps = Provisioning(hub)
    told = [dps.call("GET", "/enrollments/none")]
    while told[-1].status == 404 and len(told) < 300:
        told.append(dps.call("GET", "/enrollments/none"))
    assert (told[0].status, told[-1].status) == (404, 429), "another principal, with a rate of its own"
    assert told[-1].headers["retry-after"] == "1"
    connection.close()


def test_commands_over_amqp_count_with_the_calls(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub("--principal-rate", "1", *ANY_PORTS).start()
    hub.add_device("d")
    name = hub.facts["HUB_CONNECTION_STRING"].partition("=")[2].partition(";")[0]
    plain = SaslInit("PLAIN", f"\0iothubowner@sas.root.{name}\0{hub.owner_token()}".encode())
    port, context = hub.port("amqp"), hub.trust()
    client = AmqpClient(port, host=hub.address, hostname=hub.address, context=context, sasl=plain)
    link = client.attach(target="/messages/devicebound")
    client.wait_for(Attach)
    outcomes = []
    for number in range(40):
        message = encode_message(Message(properties=Properties(to="/devices/d/messages/deviceBound"), data=(b"x",)))
        client.send(Transfer(link, number, bytes((number,)), 0, False), message)
        outcomes.append(client.wait_for(Disposition).body.state)
        if isinstance(outcomes[-1], Rejected):
            break
    assert str(outcomes[-1].error.condition) == "com.microsoft:device-container-throttled"
    assert sum(isinstance(one, Accepted) for one in outcomes) >= 8
