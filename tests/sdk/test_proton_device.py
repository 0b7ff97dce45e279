"""Qpid Proton as a device: another implementation of AMQP 1.0 talks to a hub over TLS, in the ways that Azure's do."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker

proton = pytest.importorskip("proton", reason="python-qpid-proton is not installed")
from proton import ConnectionException, Message, SSLDomain, symbol, ulong  # noqa: E402
from proton.reactor import AtMostOnce, LinkOption  # noqa: E402
from proton.utils import BlockingConnection, LinkDetached, SendException  # noqa: E402

pytestmark = pytest.mark.sdk
WAIT = 20


class Properties(LinkOption):
    """Link properties."""

    def __init__(self, **properties: Any) -> None:
        self._properties = properties

    def apply(self, link: Any) -> None:
        named = {f"com.microsoft:{name.replace('_', '-')}": value for name, value in self._properties.items()}
        link.properties = {symbol(name): value for name, value in named.items()}


@pytest.fixture
def connect(hub: HubProcess) -> Iterator[Callable[..., BlockingConnection]]:
    made: list[BlockingConnection] = []

    def make(*, certificate: Path | None = None, key: Path | None = None, **options: Any) -> BlockingConnection:
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        domain.set_trusted_ca_db(hub.facts["HUB_CA_FILE"])
        domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
        if certificate is not None:
            domain.set_credentials(str(certificate), str(key), None)
        url = f"amqps://{hub.address}:{hub.port('amqp')}"
        made.append(BlockingConnection(url, timeout=WAIT, ssl_domain=domain, heartbeat=10, **options))
        return made[-1]

    yield make
    for connection in made:
        try:
            connection.close()
        except Exception:
            continue


def device(hub: HubProcess, name: str) -> str:
    """A token of a new device."""
    return hub.token(f"devices/{name}", hub.add_device(name))


def put_token(
    connection: BlockingConnection, token: str, message_id: Any = "1", name: str = "whatever"
) -> tuple[int, Any]:
    """Status, and the id that the answer has."""
    answers = connection.create_receiver("$cbs", credit=1)
    requests = connection.create_sender("$cbs")
    properties = {"operation": "put-token", "type": "servicebus.windows.net:sastoken", "name": name}
    requests.send(Message(body=token, id=message_id, reply_to="cbs", properties=properties))
    answer = answers.receive(WAIT)
    return answer.properties["status-code"], answer.correlation_id


def telemetry(body: bytes, **fields: Any) -> Message:
    return Message(body=body, inferred=True, **fields)


@pytest.mark.parametrize("sasl", ["none", "ANONYMOUS"])
@pytest.mark.parametrize("message_id", ["text", uuid.UUID(int=7), ulong(0)])
def test_a_token_is_put_and_telemetry_sent(
    hub: HubProcess, connect: Callable[..., BlockingConnection], sasl: str, message_id: Any
) -> None:
    name = f"proton-{sasl}-{uuid.uuid4().hex[:8]}"
    options = {"sasl_enabled": False} if sasl == "none" else {"allowed_mechs": sasl}
    connection = connect(**options)
    assert put_token(connection, device(hub, name), message_id) == (200, message_id)
    sender = connection.create_sender(f"/devices/{name}/messages/events")
    for number in range(300):  # more than there is credit at once
        sender.send(telemetry(b"%d" % number, id=number, content_type="text/plain", properties={"n": number}))
    sender.send(telemetry(b"x" * 200_000))


def test_plain_lets_in_and_a_wrong_token_does_not(hub: HubProcess, connect: Callable[..., BlockingConnection]) -> None:
    token = device(hub, "proton-plain")
    user = f"proton-plain@sas.{hub.address.partition('.')[0]}"
    connection = connect(allowed_mechs="PLAIN", user=user, password=token)
    connection.create_sender("/devices/proton-plain/messages/events").send(telemetry(b"x"))
    with pytest.raises(ConnectionException):
        connect(allowed_mechs="PLAIN", user=user, password=token.replace("se=", "se=1"))


@pytest.mark.parametrize("sasl", ["none", "EXTERNAL", "ANONYMOUS"])
def test_a_certificate_lets_in(
    hub: HubProcess, connect: Callable[..., BlockingConnection], tmp_path: Path, sasl: str
) -> None:
    name = f"proton-x509-{sasl}"
    make = Maker(time.time())
    leaf, other = make.issue(name, None), make.issue(f"{name}-other", None)
    for device_id, pair in ((name, leaf), (f"{name}-other", other)):
        thumbprint = {"primaryThumbprint": pair.sha1, "secondaryThumbprint": None}
        body = {"deviceId": device_id, "authentication": {"type": "selfSigned", "x509Thumbprint": thumbprint}}
        status, answer = hub.request("PUT", f"/devices/{device_id}?api-version=2021-04-12", body)
        assert status == 200, answer
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certificate.write_bytes(leaf.pem)
    key.write_bytes(leaf.key_pem)
    options = {"sasl_enabled": False} if sasl == "none" else {"allowed_mechs": sasl}
    connection = connect(certificate=certificate, key=key, **options)
    connection.create_sender(f"/devices/{name}/messages/events").send(telemetry(b"x"))
    for stranger, condition, cause in (
        ("somebody-else", "amqp:not-found", "device-unknown"),
        (f"{name}-other", "amqp:unauthorized-access", "thumbprint-"),  # whose it is, unless many were looked for
    ):
        with pytest.raises(LinkDetached) as caught:
            connection.create_sender(f"/devices/{stranger}/messages/events")
        assert caught.value.condition == condition
        _, answer = hub.request("GET", f"/$muster/why?device={stranger}")
        refusal = answer["refusals"][0]
        assert refusal["cause"].startswith(cause)
        assert refusal["transport"] == "amqp"


def test_messages_that_are_settled_before_they_are_sent(
    hub: HubProcess, connect: Callable[..., BlockingConnection]
) -> None:
    connection = connect(sasl_enabled=False)
    put_token(connection, device(hub, "proton-settled"))
    sender = connection.create_sender("/devices/proton-settled/messages/events", options=AtMostOnce())
    for number in range(5):
        sender.send(telemetry(b"%d" % number))
    connection.create_sender("/devices/proton-settled/messages/events", name="waits").send(telemetry(b"last"))


def test_what_is_refused_is_told_with_its_condition(
    hub: HubProcess, connect: Callable[..., BlockingConnection]
) -> None:
    connection = connect(sasl_enabled=False)
    put_token(connection, device(hub, "proton-refused"))
    sender = connection.create_sender("/devices/proton-refused/messages/events")
    with pytest.raises(SendException):
        sender.send(Message(body="text is no binary data"))
    sender.send(telemetry(b"and it goes on"))
    with pytest.raises(LinkDetached) as caught:
        connection.create_sender("/devices/proton-refused/nowhere")
    assert caught.value.condition in {"amqp:not-found", "amqp:unauthorized-access"}


def test_a_twin(hub: HubProcess, connect: Callable[..., BlockingConnection]) -> None:
    name = "proton-twin"
    connection = connect(sasl_enabled=False)
    put_token(connection, device(hub, name))
    pair = Properties(channel_correlation_id="twin:1", api_version="2021-04-12")
    answers = connection.create_receiver(f"/devices/{name}/twin", credit=10, options=pair)
    requests = connection.create_sender(f"/devices/{name}/twin", options=[pair, AtMostOnce()])
    requests.send(telemetry(b" ", correlation_id="c", annotations={symbol("operation"): "GET"}))
    answer = answers.receive(WAIT)
    assert (answer.correlation_id, answer.annotations["status"]) == ("c", 200)
    assert json.loads(bytes(answer.body))["reported"] == {"$version": 1}


def test_commands_are_completed_and_given_back_and_come_in_frames(
    hub: HubProcess, connect: Callable[..., BlockingConnection]
) -> None:
    """As Java does: frames of 4096 bytes."""
    name = "proton-c2d"
    connection = connect(sasl_enabled=False, max_frame_size=4096)
    put_token(connection, device(hub, name))
    receiver = connection.create_receiver(f"/devices/{name}/messages/devicebound", credit=10)
    service = connect(allowed_mechs="ANONYMOUS")
    policy = dict(item.split("=", 1) for item in hub.facts["SERVICE_CONNECTION_STRING"].split(";"))
    put_token(service, hub.token("", policy["SharedAccessKey"], "service"), name=hub.address)
    sender = service.create_sender("/messages/devicebound")
    for body in (b"a" * 60_000, b"b"):
        sender.send(telemetry(body, address=f"/devices/{name}/messages/devicebound"))
    assert receiver.receive(WAIT).body == b"a" * 60_000
    receiver.release(delivered=True)
    bodies = []
    for _ in range(2):
        message = receiver.receive(WAIT)
        bodies.append((bytes(message.body[:1]), int(message.annotations["iothub-deliverycount"])))
        receiver.accept()
    assert sorted(bodies) == [(b"a", 1), (b"b", 0)]


def test_credit_is_given_back_to_who_drains(hub: HubProcess, connect: Callable[..., BlockingConnection]) -> None:
    connection = connect(sasl_enabled=False)
    put_token(connection, device(hub, "proton-drain"))
    receiver = connection.create_receiver("/devices/proton-drain/messages/devicebound", credit=0)
    receiver.link.drain(5)
    connection.wait(lambda: not receiver.link.draining(), timeout=WAIT)
    assert receiver.link.credit == 0
