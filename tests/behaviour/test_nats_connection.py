"""The connection to NATS: against real servers that die, come back, want credentials and TLS."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from muster.core.errors import INVALID_OPERATION, UNAVAILABLE, HubError
from muster.stores.nats import connection as connections
from muster.stores.nats.connection import NatsConnection
from tests.addresses import loopback
from tests.certificate_maker import Maker, address
from tests.nats_servers import PATIENCE, NatsCluster, running


async def echo(connection: NatsConnection, text: bytes) -> bytes:
    """``text`` by way of the server."""
    arrived = await connection.client.subscribe("echo")
    await connection.client.publish("echo", text)
    message = await arrived.next_msg(PATIENCE)
    await arrived.unsubscribe()
    return message.data


async def test_a_message_goes_through(nats: NatsCluster) -> None:
    connection = await NatsConnection.open(nats.urls)
    assert connection.connected
    assert await echo(connection, b"hello") == b"hello"
    await connection.close()
    await connection.close()
    assert not connection.connected


async def test_loss_and_return_are_told_and_subscriptions_come_back(tmp_path: Path) -> None:
    with running(tmp_path) as cluster:
        connection = await NatsConnection.open(cluster.urls)
        told: asyncio.Queue[bool] = asyncio.Queue()
        forget = connection.when_changed(told.put_nowait)
        connection.when_changed(lambda connected: 1 // 0)  # who fails keeps nobody else from hearing
        later: list[bool] = []
        connection.when_changed(later.append)
        arrived = await connection.client.subscribe("news")
        cluster.servers[0].kill()
        assert await asyncio.wait_for(told.get(), PATIENCE) is False
        assert not connection.connected
        await connection.client.publish("news", b"waits for the connection")
        cluster.servers[0].start()
        assert await asyncio.wait_for(told.get(), PATIENCE) is True
        assert connection.connected
        assert (await arrived.next_msg(PATIENCE)).data == b"waits for the connection"
        forget()
        await connection.close()
        assert told.empty(), "an end that was asked for is no loss"
        assert later == [False, True]


async def test_another_server_of_the_cluster_takes_over_also_one_that_was_not_named(tmp_path: Path) -> None:
    with running(tmp_path, 3) as cluster:
        connection = await NatsConnection.open(cluster.urls[:1])
        told: asyncio.Queue[bool] = asyncio.Queue()
        connection.when_changed(told.put_nowait)
        cluster.servers[0].kill()
        assert [await asyncio.wait_for(told.get(), PATIENCE) for _ in range(2)] == [False, True]
        assert await echo(connection, b"elsewhere") == b"elsewhere"
        await connection.close()


async def test_a_server_is_left_for_another_one_each_time(tmp_path: Path) -> None:
    with running(tmp_path, 3) as cluster:
        connection = await NatsConnection.open(cluster.urls)
        told: asyncio.Queue[bool] = asyncio.Queue()
        connection.when_changed(told.put_nowait)
        for _ in range(4):
            before = connection.client.connected_url
            await connection.leave_server()
            assert [await asyncio.wait_for(told.get(), PATIENCE) for _ in range(2)] == [False, True]
            assert connection.client.connected_url != before
            assert await echo(connection, b"elsewhere") == b"elsewhere"
        await connection.close()


async def test_the_only_server_is_not_left(nats: NatsCluster) -> None:
    connection = await NatsConnection.open(nats.urls)
    await connection.leave_server()
    assert connection.connected
    assert connection.client.is_connected
    await connection.close()


async def test_an_error_of_the_server_is_no_end(nats: NatsCluster) -> None:
    connection = await NatsConnection.open(nats.urls)
    told: asyncio.Queue[bool] = asyncio.Queue()
    connection.when_changed(told.put_nowait)
    await connection.client._send_command(b"NONSENSE\r\n")  # the server answers -ERR and hangs up
    await connection.client._flush_pending()
    assert [await asyncio.wait_for(told.get(), PATIENCE) for _ in range(2)] == [False, True]
    assert await echo(connection, b"on again") == b"on again"
    await connection.close()


@pytest.mark.parametrize("login", ["hub:s3cret-s3cret@", "t0ken-t0ken-t0ken@"], ids=["user", "token"])
async def test_credentials_stand_in_the_url_and_in_no_log(
    tmp_path: Path, login: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    user, _, password = login[:-1].partition(":")
    wanted = f'{{ user: "{user}", password: "{password}" }}' if password else f'{{ token: "{user}" }}'
    with running(tmp_path, extra=f"authorization {wanted}") as cluster:
        url = cluster.urls[0].replace("//", f"//{login}")
        connection = await NatsConnection.open([url])
        assert connection.servers == cluster.urls[0]
        assert await echo(connection, b"let in") == b"let in"
        await connection.close()
        monkeypatch.setattr(connections, "OPENING_SECONDS", 4.0)
        with pytest.raises(HubError, match="Authorization Violation") as caught:
            await NatsConnection.open([url.replace("s3cret-", "wr0ng-").replace("t0ken-", "wr0ng-")])
        assert caught.value.row is UNAVAILABLE
    said = caplog.text + str(caught.value)
    assert not any(secret in said for secret in ("s3cret", "t0ken", "wr0ng"))


async def test_tls_by_an_authority_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, maker = loopback(), Maker(time.time())
    root = maker.root()
    server, client = maker.issue("nats", root, extensions=[address(host)]), maker.issue("muster", root)
    for name, content in {
        "ca.pem": root.pem, "server.pem": server.pem, "server.key": server.key_pem,
        "client.pem": client.pem, "client.key": client.key_pem,
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(content)
    tls = "tls { " + "".join(
        f'{option}: "{tmp_path / name}", '
        for option, name in (("ca_file", "ca.pem"), ("cert_file", "server.pem"), ("key_file", "server.key"))
    )
    files = f"tls_ca={tmp_path}/ca.pem&tls_cert={tmp_path}/client.pem&tls_key={tmp_path}/client.key"
    with running(tmp_path, extra=f"{tls} verify: true }}", address=host):
        connection = await NatsConnection.open([f"tls://{host}?{files}"])
        assert await echo(connection, b"unseen") == b"unseen"
        await connection.close()
        monkeypatch.setattr(connections, "OPENING_SECONDS", 1.0)
        with pytest.raises(HubError, match="no NATS server can be used"):
            await NatsConnection.open([f"tls://{host}"])


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("", "wants nats://"),
        ("http://host", "wants nats://"),
        ("nats://", "wants nats://"),
        ("nats://host/path", "wants nats://"),
        ("nats://host:port", "cannot be read"),
        ("nats://host?ca=x", "has 'ca' behind '\\?'; known are tls_ca"),
        ("nats://host?tls_ca=/no/such", "tls_ca names '/no/such', which is no file"),
        (f"nats://host?tls_ca={__file__}", "TLS files cannot be used"),
    ],
)
async def test_a_url_that_is_none_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(HubError, match=complaint) as caught:
        await NatsConnection.open([url])
    assert caught.value.row is INVALID_OPERATION


async def test_a_start_without_a_server_fails_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "OPENING_SECONDS", 0.5)
    host = loopback()
    with pytest.raises(HubError, match=f"at nats://{host}:4222, nats://{host}:4223: .*start one, or correct --bus"):
        await NatsConnection.open([f"nats://{host}", f"nats://secret@{host}:4223"])
    with pytest.raises(HubError, match="names no server"):
        await NatsConnection.open([])
