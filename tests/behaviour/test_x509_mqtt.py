"""Devices with client certificates over real TLS: what ends their sessions, and failed handshakes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.identity.authority_contract import RevocationRules
from muster.identity.changes import ANY, Draft
from muster.identity.explain import explain
from muster.identity.keys import Credentials
from muster.identity.model import Authentication, AuthenticationType, IdentityKey, Status
from muster.testing.mqtt import MqttClient, connect, publish
from tests.behaviour.mqtt_hub import MqttHub, ends_silently, mqtt_hub
from tests.behaviour.x509_bench import AUTHENTICATION, Bench


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
def bench(hub: MqttHub, tmp_path: Path) -> Bench:
    return Bench(hub, tmp_path)


# --- what ends a session


async def test_a_revoked_certificate_ends_its_session_and_no_other(bench: Bench) -> None:
    _, middle, leaf = await bench.chain()
    await bench.register(IdentityKey("other"), Authentication(AUTHENTICATION))
    client, code = await bench.connect(IdentityKey("dev"), leaf, middle)
    other, other_code = await bench.connect(IdentityKey("other"), bench.make.issue("other", middle), middle)
    assert (code, other_code) == (0, 0)
    await bench.hub.authorities.put_list("root", bench.make.revoked(middle, leaf))
    await ends_silently(client)
    assert await bench.hub.last_cause() == "certificate-revoked"
    await other.send(publish("devices/other/messages/events/", b"x"))
    await other.expect("PUBACK")
    _, code = await bench.connect(IdentityKey("dev"), leaf, middle)
    assert code == 5


async def test_a_revoked_intermediate_ends_the_sessions_below_it(bench: Bench) -> None:
    root, middle, leaf = await bench.chain()
    client, _ = await bench.connect(IdentityKey("dev"), leaf, middle)
    await bench.hub.authorities.put_list("root", bench.make.revoked(root, middle))
    await ends_silently(client)


async def test_a_deleted_authority_ends_the_sessions_below_it(bench: Bench) -> None:
    _, middle, leaf = await bench.chain()
    client, code = await bench.connect(IdentityKey("dev"), leaf, middle)
    assert code == 0
    await bench.hub.authorities.delete("root", ANY)
    await ends_silently(client)
    assert await bench.hub.last_cause() == "authority-not-verified"


async def test_an_authority_that_is_not_verified_any_more_ends_the_sessions_below_it(bench: Bench) -> None:
    root, middle, leaf = await bench.chain()
    client, _ = await bench.connect(IdentityKey("dev"), leaf, middle)
    await bench.trust("root", root, verified=False)
    await ends_silently(client)


async def test_failing_closed_from_now_on_ends_sessions_of_which_nothing_is_known(bench: Bench) -> None:
    _, middle, leaf = await bench.chain()
    client, _ = await bench.connect(IdentityKey("dev"), leaf, middle)
    await bench.hub.authorities.set_rules("root", RevocationRules(fail_closed=True))
    await ends_silently(client)
    assert await bench.hub.last_cause() == "revocation-unknown"


async def test_a_disabled_device_loses_its_session(bench: Bench) -> None:
    _, middle, leaf = await bench.chain()
    client, _ = await bench.connect(IdentityKey("dev"), leaf, middle)
    draft = Draft(key=IdentityKey("dev"), credentials=Credentials(AUTHENTICATION), status=Status.DISABLED)
    await bench.hub.registry.update(draft, ANY)
    await ends_silently(client)


async def test_a_deleted_device_loses_its_session(bench: Bench) -> None:
    _, middle, leaf = await bench.chain()
    client, _ = await bench.connect(IdentityKey("dev"), leaf, middle)
    await bench.hub.registry.delete(IdentityKey("dev"))
    await ends_silently(client)


async def test_thumbprints_roll_over_with_no_downtime_and_one_taken_away_ends_the_session(bench: Bench) -> None:
    old, new, key = bench.make.issue("dev", None), bench.make.issue("dev", None), IdentityKey("dev")
    await bench.register(key, Authentication(AuthenticationType.SELF_SIGNED, primary_thumbprint=old.sha256))
    client, code = await bench.connect(key, old)
    assert code == 0

    async def write(primary: str, secondary: str | None) -> None:
        held = Credentials(primary_thumbprint=primary, secondary_thumbprint=secondary)
        await bench.hub.registry.update(Draft(key=key, credentials=held), ANY)

    await write(new.sha1, old.sha256)
    await client.send(publish("devices/dev/messages/events/", b"still here"))
    await client.expect("PUBACK")
    await write(new.sha1, None)
    await ends_silently(client)
    assert (await bench.connect(key, old))[1] == 5
    client, code = await bench.connect(key, new)
    assert code == 0
    keys = Credentials(AuthenticationType.SAS)
    await bench.hub.registry.update(Draft(key=key, credentials=keys), ANY)
    await ends_silently(client)


async def test_a_certificate_that_ends_takes_the_connection_with_it(bench: Bench) -> None:
    root = bench.make.root()
    await bench.trust("root", root)
    await bench.register(IdentityKey("dev"), Authentication(AUTHENTICATION))
    client, code = await bench.connect(IdentityKey("dev"), bench.make.issue("dev", root, days=(-1, 1)))
    assert code == 0
    bench.hub.ambient.advance(86_400)
    await client.send(publish("devices/dev/messages/events/", b"within the skew"))
    await client.expect("PUBACK")
    bench.hub.ambient.advance(301)
    await ends_silently(client)
    assert await bench.hub.last_cause() == "certificate-end"


async def test_roots_roll_over_with_no_downtime(bench: Bench) -> None:
    _, middle, leaf = await bench.chain()
    client, _ = await bench.connect(IdentityKey("dev"), leaf, middle)
    new = bench.make.root("New root")
    await bench.trust("new", new)
    await client.send(publish("devices/dev/messages/events/", b"still here"))
    await client.expect("PUBACK")
    second, code = await bench.connect(IdentityKey("dev"), bench.make.issue("dev", new))
    assert code == 0
    await bench.hub.authorities.delete("root", ANY)
    await second.send(publish("devices/dev/messages/events/", b"on the new one"))
    await second.expect("PUBACK")


# --- failed handshakes


def blocking(hub: MqttHub, context: ssl.SSLContext, name: str = "localhost") -> None:
    """A handshake as SDKs make it; asyncio's own client does not send the alert that tells why it goes."""
    with (
        socket.create_connection(("127.0.0.1", hub.port), 10) as plain,
        context.wrap_socket(plain, server_hostname=name),
    ):
        pass


async def send_plain(hub: MqttHub, content: bytes) -> None:
    """Bytes that are no TLS, and wait for the end."""
    client = await MqttClient.open("localhost", hub.port)
    await client.send(content)
    with contextlib.suppress(ConnectionError):
        await client.reader.read()
    client.abort()


async def kept(hub: MqttHub, cause: str) -> None:
    await hub.settled(lambda: cause in hub.refusals.counts())
    text = explain((await hub.refusals.newest())[0].report)
    assert "TLS handshake" in text


async def test_a_client_that_does_not_trust_the_hub_is_explained(bench: Bench) -> None:
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(blocking, bench.hub, ssl.create_default_context())
    await kept(bench.hub, "hub-not-trusted")


async def test_a_client_with_an_old_tls_is_explained(bench: Bench) -> None:
    context = bench.context(None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.to_thread(blocking, bench.hub, context)
    await kept(bench.hub, "tls-version")


async def test_a_client_that_calls_the_hub_by_a_foreign_name_is_explained(bench: Bench) -> None:
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(blocking, bench.hub, bench.hub.client_trust, "foreign.example")
    await kept(bench.hub, "hub-name-not-in-certificate")


@pytest.mark.parametrize("content", [b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", b"GET / HTTP/1.1\r\n\r\n"])
async def test_a_client_that_speaks_no_tls_is_explained(bench: Bench, content: bytes) -> None:
    await send_plain(bench.hub, content)
    await kept(bench.hub, "tls-not-spoken")


async def test_a_client_that_goes_away_in_between_is_explained(bench: Bench) -> None:
    client = await MqttClient.open("localhost", bench.hub.port)
    await client.send(b"\x16\x03\x01\x02\x00\x01\x00")
    client.writer.close()
    await kept(bench.hub, "handshake-broken-off")


async def test_a_flood_of_failed_handshakes_is_kept_in_part_only(bench: Bench) -> None:
    for _ in range(30):
        await send_plain(bench.hub, b"GET / HTTP/1.1\r\n\r\n")
    assert bench.hub.refusals.counts() == {"tls-not-spoken": 20}


# --- besides


async def test_certificates_pass_through_a_websocket(bench: Bench) -> None:
    _, middle, leaf = await bench.chain()
    context = bench.context(leaf, middle)
    client = await MqttClient.open("localhost", bench.hub.websocket_port, context)
    client.writer.write(
        b"GET /$iothub/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    assert b" 101 " in await client.reader.readuntil(b"\r\n\r\n")
    packet = connect("dev", "localhost/dev/?api-version=2021-04-12")
    masked = bytes((0x82, 0x80 | len(packet))) + b"\0\0\0\0" + packet
    client.writer.write(masked)
    assert await client.reader.readexactly(6) == b"\x82\x04\x20\x02\x00\x00"
    client.abort()
