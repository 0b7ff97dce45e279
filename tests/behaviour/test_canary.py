"""The secrets canary: keys, tokens and passwords put into every input come out nowhere.

Not in the hub's log at its most talkative, not in an answer to whoever sent them, not in a verdict, not in the kept
refusals. What the caller's own registry entry holds is of course answered to who may read keys.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from amqp_client import AmqpClient
from amqp_device import Device
from hub_rows import rows_of

from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish, subscribe
from muster.wire.amqp.message import Message, encode_message
from muster.wire.amqp.performatives import Attach
from muster.wire.amqp.sasl import SaslInit
from muster.wire.mqtt.packets import Will
from tests.certificate_maker import Maker, Pair
from tests.engines import clustered

KEY = base64.b64encode(bytes(range(100, 132))).decode()
SIGNATURE = base64.b64encode(bytes(range(50, 82))).decode()
TOKEN = f"SharedAccessSignature sr=x%2Fdevices%2Fdev&sig={urllib.parse.quote(SIGNATURE, safe='')}&se=4000000000"
CONNECTION_STRING = f"HostName=x;DeviceId=dev;SharedAccessKey={KEY}"
SECRETS = (KEY, TOKEN, CONNECTION_STRING)


def forms(secret: str) -> set[str]:
    """A secret as it may come out again: the parts that nobody could have by chance, encoded or not."""
    parts = {KEY} if KEY in secret else {SIGNATURE}
    encoded = {urllib.parse.quote(part, safe="") for part in parts}
    return parts | encoded | {part.rstrip("=") for part in parts} | {one.lower() for one in encoded}


@pytest.fixture
def hub(make_hub: Callable[..., HubProcess]) -> Iterator[HubProcess]:
    ports = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0", "--amqp-plain-port", "0")
    with make_hub(*ports, "--bind", "127.0.0.1", "--log-level", "debug") as hub:
        yield hub


def clean(what: str, text: str) -> None:
    for secret in SECRETS:
        for form in forms(secret):
            assert form not in text, f"{what} shows a secret: {text[max(0, text.find(form) - 200) :][:400]}"


# --- inputs


async def over_mqtt(hub: HubProcess, secret: str) -> None:
    good = hub.token("devices/dev", base64.b64encode(b"the device's own key, 32 bytes..").decode())
    user = f"{hub.address}/dev/?api-version=2021-04-12"
    for login in (
        (secret, user, good),
        ("dev", f"{hub.address}/{secret}/?api-version=2021-04-12", good),
        ("dev", f"{secret}/dev/?api-version=2021-04-12", good),
        ("dev", secret, good),
        ("dev", f"{user}&{secret}", secret),
        ("dev", user, secret),
        ("dev", user, f"{secret} "),
        ("dev", user, f"Bearer {secret}"),
        ("dev", user, hub.token("devices/dev", KEY, secret)),
        ("dev", user, hub.token(secret, KEY)),
    ):
        await once(hub, *login)
    for extra in (
        publish(secret, b"x"),
        publish(f"$iothub/twin/PATCH/properties/reported/?$rid=1&{secret}", b"{"),
        publish("devices/dev/messages/events/" + secret, secret.encode()),
        publish(f"$iothub/twin/{secret}", b"{"),
        publish(f"$iothub/methods/res/{secret}", b""), subscribe(1, [(secret, 1)]),
        publish("$iothub/twin/PATCH/properties/reported/?$rid=1", json.dumps({f"a.{secret}": secret}).encode()),
    ):  # fmt: skip
        await once(hub, "dev", user, good, extra)
    await once(hub, "dev", user, good, will=Will(secret, secret.encode(), 1, False))


async def once(hub: HubProcess, *login: str | bytes, will: Will | None = None) -> None:
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    identifier, user, password, *extra = login
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        await client.connect(str(identifier), str(user), password, will=will)
        for packet in extra:
            assert isinstance(packet, bytes)
            await client.send(packet)
        async with asyncio.timeout(0.2):
            content = await client.reader.read(65_536)
            clean("an MQTT answer", content.decode("latin-1"))
    client.abort()


def rest_calls(hub: HubProcess, secret: str) -> list[tuple[str, str, str | None, dict[str, str]]]:
    """Method, path, body, headers: the secret in each place of them."""
    text, quoted = json.dumps(secret), urllib.parse.quote(secret, safe="")
    authentication = json.dumps({"type": "sas", "symmetricKey": {"primaryKey": secret, "secondaryKey": f"{secret}!"}})
    certificates = f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{hub.address}/certificates"
    return [
        ("GET", "/devices", None, {"Authorization": secret}),
        ("GET", "/devices", None, {"Authorization": f"SharedAccessKey {secret}"}),
        ("GET", "/devices", None, {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}),
        ("GET", f"/{quoted}", None, {}),
        ("GET", f"/devices/{quoted}", None, {}),
        ("GET", f"/devices/dev/modules/{quoted}", None, {}),
        ("GET", f"/twins/{quoted}", None, {}),
        ("DELETE", f"/devices/{quoted}", None, {"If-Match": "*"}),
        ("POST", f"/twins/{quoted}/methods", json.dumps({"methodName": secret}), {}),
        ("POST", "/twins/dev/methods", json.dumps({"methodName": "m", "payload": secret}), {}),
        ("GET", f"/devices?top={quoted}", None, {}),
        ("GET", f"/devices?api-version={quoted}", None, {}),
        ("GET", f"/$muster/why?device={quoted}&count={quoted}", None, {}),
        ("GET", f"/$muster/why?trackingId={quoted}", None, {}),
        ("PUT", "/devices/new", f'{{"deviceId": "new", "authentication": {authentication}}}', {}),
        ("PUT", "/devices/new", f'{{"deviceId": {text}}}', {}),
        ("PUT", "/devices/new", f'{{"deviceId": "new", "status": {text}}}', {}),
        ("PUT", "/devices/new", f'{{"deviceId": "new", "deviceScope": {text}}}', {}),
        ("PUT", "/devices/new", f"{{{text}", {}),
        ("POST", "/devices", f'[{{"id": "new", "importMode": {text}, "eTag": {text}}}]', {}),
        ("PATCH", "/twins/dev", f'{{"tags": {{{json.dumps("$" + secret)}: {text}}}}}', {}),
        ("PATCH", "/twins/dev", f'{{"properties": {{"desired": {{"a": [{text}, {{"$x": {text}}}]}}}}}}', {}),
        ("PUT", "/devices/dev", '{"deviceId": "dev"}', {"If-Match": secret}),
        ("PUT", "/devices/dev", '{"deviceId": "dev"}', {"Content-Type": secret}),
        ("POST", "/devices/dev", "{}", {"X-HTTP-Method-Override": secret}),
        ("PUT", f"{certificates}/{quoted}", f'{{"properties": {{"certificate": {text}}}}}', {}),
        ("PUT", f"{certificates}/new", f'{{"properties": {{"certificate": {text}, "isVerified": {text}}}}}', {}),
        ("POST", f"{certificates}/{quoted}/verify", f'{{"certificate": {text}}}', {"If-Match": "*"}),
        ("PUT", f"/$muster/authorities/{quoted}/list", f'{{"list": {text}}}', {}),
        ("PUT", f"/$muster/authorities/{quoted}/rules", f'{{"listUrl": {text}}}', {}),
        ("PUT", "/$muster/authorities/new/rules", f'{{"responderUrl": {text}, "refreshSeconds": {text}}}', {}),
        ("GET", certificates.replace(hub.address, quoted), None, {}),
        *device_calls(secret),
        *provisioning_calls(hub, secret),
    ]


def device_calls(secret: str) -> list[tuple[str, str, str | None, dict[str, str]]]:
    """What devices ask on HTTPS, queries, and files."""
    text, quoted = json.dumps(secret), urllib.parse.quote(secret, safe="")
    given, query = {"Authorization": secret}, json.dumps({"query": f"SELECT * FROM devices WHERE tags.a = '{secret}'"})
    return [
        ("POST", f"/devices/{quoted}/messages/events", secret, given),
        ("POST", "/devices/dev/messages/events", secret, {**given, "iothub-app-a": secret, "iothub-messageid": secret}),
        ("POST", "/devices/dev/messages/events", text, {"Content-Type": "application/vnd.microsoft.iothub.json"}),
        ("GET", "/devices/dev/messages/deviceBound", None, given),
        ("DELETE", f"/devices/dev/messages/deviceBound/{quoted}", None, {}),
        ("POST", "/devices/dev/files", f'{{"blobName": {text}}}', given),
        ("POST", "/devices/dev/files", f'{{"blobName": [{text}]}}', {}),
        ("POST", "/devices/dev/files/notifications", f'{{"correlationId": {text}, "isSuccess": {text}}}', {}),
        ("PUT", f"/muster-uploads/dev/{quoted}?sv=2018-03-28&sig={quoted}", secret, {"x-ms-blob-type": secret}),
        ("GET", f"/muster-uploads/dev/a?{quoted}", None, {}),
        ("POST", "/devices/query", query, {}),
        ("POST", "/devices/query", json.dumps({"query": f"SELECT {secret}"}), {}),
        ("POST", "/devices/query", f'{{"query": [{text}]}}', {"x-ms-continuation": secret}),
        ("PATCH", "/digitaltwins/dev", f'[{{"op": {text}, "path": {text}, "value": {text}}}]', {}),
        ("POST", f"/digitaltwins/dev/commands/{quoted}", text, {}),
    ]


def provisioning_calls(hub: HubProcess, secret: str) -> list[tuple[str, str, str | None, dict[str, str]]]:
    """What devices and services ask of provisioning."""
    text, quoted, scope = json.dumps(secret), urllib.parse.quote(secret, safe=""), hub.facts["DPS_ID_SCOPE"]
    parts = dict(part.split("=", 1) for part in hub.facts["DPS_CONNECTION_STRING"].split(";"))
    service = {"Authorization": hub.token("", parts["SharedAccessKey"], parts["SharedAccessKeyName"])}
    given = {"Authorization": secret}
    attestation = f'"attestation": {{"type": "symmetricKey", "symmetricKey": {{"primaryKey": {text}}}}}'
    return [
        (
            "PUT",
            f"/{scope}/registrations/{quoted}/register",
            f'{{"registrationId": {text}}}',
            given,
        ),
        ("PUT", f"/{scope}/registrations/new/register", f'{{"registrationId": "new", "payload": {text}}}', {}),
        ("PUT", f"/{quoted}/registrations/new/register", "{}", {"Authorization": secret}),
        ("POST", f"/{scope}/registrations/new", text, {"Authorization": secret}),
        ("GET", f"/{scope}/registrations/new/operations/{quoted}", None, {"Authorization": secret}),
        ("GET", f"/enrollments/{quoted}", None, {**service, "X-Other": secret}),
        ("PUT", "/enrollments/new", f'{{"registrationId": "new", {attestation}}}', {"Authorization": secret}),
        ("PUT", "/enrollments/new", f'{{"registrationId": {text}, "attestation": {text}}}', service),
        ("PUT", "/enrollments/new", f'{{"registrationId": "new", "attestation": {{"type": {text}}}}}', service),
        ("PUT", "/enrollmentGroups/new", f'{{"enrollmentGroupId": "new", "allocationPolicy": {text}}}', service),
        ("POST", "/enrollments/query", f'{{"query": {text}}}', service),
    ]


def over_https(hub: HubProcess, secret: str) -> None:
    quoted, owner = urllib.parse.quote(secret, safe=""), hub.owner_token()
    for method, path, body, headers in rest_calls(hub, secret):
        connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
        given = {"Authorization": owner, "Content-Type": "application/json", "X-Other": secret, **headers}
        target = path if "api-version" in path else f"{path}{'&' if '?' in path else '?'}api-version=2021-04-12"
        connection.request(method, target, body, given)
        answer = connection.getresponse()
        content = f"{answer.status} {answer.reason} {answer.headers.as_string()} {answer.read().decode('latin-1')}"
        clean(f"the answer to {method} {path.replace(quoted, '...')}", content)
        connection.close()


def over_websocket(hub: HubProcess, secret: str) -> None:
    quoted = urllib.parse.quote(secret, safe="")
    for head in (
        f"GET /{quoted} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        f"GET /$iothub/websocket?{quoted} HTTP/1.1\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: {secret}\r\n\r\n",
        f"{quoted} / HTTP/1.1\r\n\r\n", f"GET {secret}\r\n\r\n",
    ):  # fmt: skip
        raw = ssl_socket(hub, hub.trust())
        raw.sendall(head.encode())
        raw.settimeout(2)
        with contextlib.suppress(OSError):
            clean("the answer to an upgrade", raw.recv(65_536).decode("latin-1"))
        raw.close()


def ssl_socket(hub: HubProcess, context: ssl.SSLContext, name: str = "", protocol: str = "https") -> ssl.SSLSocket:
    import socket

    plain = socket.create_connection((hub.address, hub.port(protocol)), 10)
    return context.wrap_socket(plain, server_hostname=name or hub.address)


def over_amqp(hub: HubProcess, secret: str) -> None:
    for sasl in (
        SaslInit("PLAIN", f"\0{secret}\0{secret}".encode()), SaslInit("PLAIN", secret.encode()),
        SaslInit(secret, secret.encode()),
        SaslInit("PLAIN", f"\0service@sas.root.{hub.address}\0{secret}".encode()),
    ):  # fmt: skip
        with contextlib.suppress(Exception), AmqpClient(hub.port("amqp_plain"), sasl=sasl) as client:
            clean("an AMQP answer", repr(client.next(0.3)))
    over_amqp_as_device(hub, secret)
    with AmqpClient(hub.port("amqp_plain")) as client:
        clean("a put-token answer", repr(client.put_token(secret)))
        client.attach(source=f"{secret}/ConsumerGroups/$Default/Partitions/0")
        for _ in range(3):
            came = client.next(0.3)
            if came is not None and not isinstance(came.body, Attach):  # which repeats the address, as it must
                clean("an AMQP answer", repr(came))


def over_amqp_as_device(hub: HubProcess, secret: str) -> None:
    """Tokens, addresses, and what is sent on links."""
    port = hub.port("amqp_plain")
    for login in (f"\0dev@sas.{hub.address}\0{secret}", f"\0{secret}@sas.{hub.address}\0x"):
        with contextlib.suppress(Exception), Device(port, sasl=SaslInit("PLAIN", login.encode())) as device:
            clean("an AMQP answer", repr(device.next(0.3)))
    good = hub.token("devices/dev", base64.b64encode(b"the device's own key, 32 bytes..").decode())
    with Device(port) as device:
        clean("a put-token answer", repr(device.put(secret, f"{hub.address}/devices/dev")))
        clean("a put-token answer", repr(device.put(f"SharedAccessSignature {secret}", secret)))
        assert device.put(good, f"{hub.address}/devices/dev")[0] == 200
        for tail in (f"{secret}/messages/events", f"dev/{secret}", f"dev/modules/{secret}"):
            device.attach(target=f"/devices/{tail}")
            for _ in range(2):
                with contextlib.suppress(TimeoutError):
                    came = device.next(0.3)
                    if came is not None and not isinstance(came.body, Attach):
                        clean("an AMQP answer", repr(came))
    with Device(port) as device:
        assert device.put(good, f"{hub.address}/devices/dev")[0] == 200
        link = device.link("dev", "messages/events")
        named = {secret: secret}
        body = Message(data=(secret.encode(),), application_properties={"a": secret}, message_annotations=named)
        clean("what became of telemetry", repr(device.settlement(device.transfer(link, encode_message(body)))))
        device.transfer(link, secret.encode())
        with contextlib.suppress(TimeoutError):
            clean("an AMQP answer", repr(device.next(0.3)))


async def with_certificates(hub: HubProcess, directory: Path, secret: str) -> None:
    """Certificates that bear the secret as a name, and the name of a server."""
    make = Maker(time.time())
    root = make.root(secret[:60])
    name = secret[:60]
    leaf: Pair = make.issue(name, root)
    (directory / "client.pem").write_bytes(leaf.pem + root.pem + leaf.key_pem)
    context = hub.trust()
    context.load_cert_chain(directory / "client.pem")
    for user in ("ca", "thumb"):
        client = await MqttClient.open(hub.address, hub.port("mqtt"), context)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await client.connect(user, f"{hub.address}/{user}/?api-version=2021-04-12")
        client.abort()
    with contextlib.suppress(OSError, ValueError):
        await asyncio.to_thread(ssl_socket, hub, ssl.create_default_context(), f"{KEY[:40].lower()}.example", "mqtt")


async def test_no_secret_comes_out(hub: HubProcess, tmp_path: Path) -> None:
    own = base64.b64encode(b"the device's own key, 32 bytes..").decode()
    keys = {"symmetricKey": {"primaryKey": own, "secondaryKey": own}}
    assert hub.request("PUT", "/devices/dev", {"deviceId": "dev", "authentication": keys})[0] == 200
    for name, kind in (("ca", "certificateAuthority"), ("thumb", "selfSigned")):
        thumbprint = {"primaryThumbprint": "AB" * 20}
        body = {"deviceId": name, "authentication": {"type": kind, "x509Thumbprint": thumbprint}}
        assert hub.request("PUT", f"/devices/{name}", body)[0] == 200
    for secret in SECRETS:
        await over_mqtt(hub, secret)
        await asyncio.to_thread(over_https, hub, secret)
        await asyncio.to_thread(over_websocket, hub, secret)
        await asyncio.to_thread(over_amqp, hub, secret)
        await with_certificates(hub, tmp_path, secret)
    _, kept = await asyncio.to_thread(hub.request, "GET", "/$muster/why?count=100")
    assert len(kept["refusals"]) > 30
    clean("muster why", json.dumps(kept))
    clean("a kept private key", await asyncio.to_thread(told_by_command, hub))
    await asyncio.to_thread(hub.stop)
    log = hub.log_file.read_text()
    clean("the log", log)
    assert own not in log
    refusals = await kept_refusals(hub)
    assert "trackingId" in refusals
    clean("the kept refusals", refusals)


def told_by_command(hub: HubProcess) -> str:
    command = [sys.executable, "-m", "muster", "why", "--last", "--count", "100", "--data", str(hub.directory / "data")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


async def kept_refusals(hub: HubProcess) -> str:
    """What an ended hub has kept of them; of a file also what was deleted, and is not overwritten yet."""
    data = hub.directory / "data"
    if clustered():
        name = next(iter(hub.facts["hubs"]))
        return "".join((await rows_of(data, (hub.directory / "database").read_text(), name))["refusals"])
    stored = b"".join(path.read_bytes() for path in (data / "hub.db", data / "hub.db-wal") if path.exists())
    return b"".join(re.findall(rb'\{"trackingId".*?\]\}', stored, re.DOTALL)).decode("latin-1")
