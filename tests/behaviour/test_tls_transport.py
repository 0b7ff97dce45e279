"""The TLS transport, over real sockets, against the ``ssl`` module of Python as the other side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from muster.core.ambient import SystemAmbient
from muster.heads.secure import SecureConnection
from muster.heads.tls import TlsTransport
from muster.issuing.authority import make_authority
from tests.behaviour.tls_server import Echo, Server, echo_server, until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with echo_server(tmp_path) as server:
        yield server


async def test_echo_of_small_and_large_messages(server: Server) -> None:
    reader, writer = await server.connect()
    for size in (1, 100, 16_384, 16_385, 300_000):
        message = bytes(range(256)) * (size // 256 + 1)
        writer.write(message)
        assert await reader.readexactly(len(message)) == message
    writer.close()
    await until(lambda: server.made[0].lost == [None])
    assert server.listener.connections == 0


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_tls_versions_are_spoken(server: Server, version: ssl.TLSVersion) -> None:
    server.client.minimum_version = server.client.maximum_version = version
    reader, writer = await server.connect()
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    assert server.made[0].transport.get_extra_info("tls_version") == str(version.name).replace("_", ".")
    writer.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_gets_no_ticket_to_come_back_with(server: Server, version: ssl.TLSVersion) -> None:
    server.client.minimum_version = server.client.maximum_version = version
    reader, writer = await server.connect()
    writer.write(b"x")
    await reader.readexactly(1)  # behind the tickets, if there were any
    session = writer.get_extra_info("ssl_object").session
    assert session is None or not session.has_ticket
    writer.close()


async def test_tls_1_1_is_refused(server: Server) -> None:
    server.client.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.client.minimum_version = ssl.TLSVersion.TLSv1
        server.client.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await server.connect()
    await until(lambda: server.listener.connections == 0)
    assert server.listener.failed_handshakes == 1, "the client's hello must have reached the server"
    assert not server.made


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_self_signed_client_certificate_is_taken_and_shown(
    server: Server, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    server.client.minimum_version = server.client.maximum_version = version
    stranger = make_authority(SystemAmbient(asyncio.get_running_loop()))
    (tmp_path / "client.pem").write_bytes(stranger.certificate + stranger.key)
    server.client.load_cert_chain(tmp_path / "client.pem")
    reader, writer = await server.connect()
    writer.write(b"x")
    await reader.readexactly(1)
    sent = x509.load_pem_x509_certificate(stranger.certificate).public_bytes(Encoding.DER)
    assert server.made[0].transport.get_extra_info("peer_certificates") == (sent,)
    writer.close()


async def test_no_client_certificate_is_fine(server: Server) -> None:
    reader, writer = await server.connect()
    writer.write(b"x")
    await reader.readexactly(1)
    assert server.made[0].transport.get_extra_info("peer_certificates") is None
    writer.close()


async def test_close_sends_what_is_queued_and_says_goodbye(server: Server) -> None:
    reader, writer = await server.connect()
    message = b"m" * 2_000_000 + b"quit"
    writer.write(message)
    received = await reader.read(-1)  # to a clean end: close_notify came, no reset
    assert received == message[: len(received)]
    assert received
    await until(lambda: server.listener.connections == 0)


async def test_an_answer_given_before_closing_survives_unread_input(server: Server) -> None:
    reader, writer = await server.connect()
    writer.write(b"quit")
    await writer.drain()
    with contextlib.suppress(ConnectionError):
        for _ in range(50):  # what the server will not read would turn an early close into a reset
            writer.write(b"z" * 10_000)
            await asyncio.sleep(0)
    assert await reader.readexactly(4) == b"quit"


async def test_a_slow_reader_pauses_the_protocol_and_resumes_it(server: Server) -> None:
    reader, writer = await server.connect()
    writer.write(b"x")
    await reader.readexactly(1)
    echo = server.made[0]
    total = 0
    while not echo.paused:
        echo.transport.write(b"w" * 100_000)
        total += 100_000
        assert total < 50_000_000
        await asyncio.sleep(0)
    assert len(await reader.readexactly(total)) == total
    await until(lambda: not echo.paused)
    assert echo.transport.get_write_buffer_size() == 0
    writer.close()


async def test_paused_reading_leaves_data_in_the_kernel(server: Server) -> None:
    reader, writer = await server.connect()
    writer.write(b"1")
    await reader.readexactly(1)
    transport = server.made[0].transport
    transport.pause_reading()
    writer.write(b"2")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.readexactly(1), 0.2)
    transport.resume_reading()
    assert await reader.readexactly(1) == b"2"
    writer.close()


async def test_a_broken_connection_is_reported_once(server: Server) -> None:
    reader, writer = await server.connect()
    writer.write(b"x")
    await reader.readexactly(1)
    writer.transport.abort()
    await until(lambda: len(server.made[0].lost) == 1)
    await asyncio.sleep(0.05)
    assert len(server.made[0].lost) == 1
    assert server.listener.connections == 0


async def test_garbage_instead_of_a_handshake_is_dropped(server: Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await reader.read(-1)
    await until(lambda: server.listener.connections == 0)
    assert server.listener.failed_handshakes == 1
    assert not server.made
    writer.close()


async def test_silent_sockets_do_not_hinder_others(server: Server) -> None:
    silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(200)]
    reader, writer = await server.connect()
    writer.write(b"through")
    assert await reader.readexactly(7) == b"through"
    for _, other in silent:
        other.close()
    writer.close()


async def test_a_handshake_sent_byte_by_byte_succeeds(server: Server) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = server.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    while True:
        try:
            client.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            done = False
        for byte in outgoing.read():
            writer.write(bytes([byte]))
            await writer.drain()
        if done:
            break
        incoming.write(await reader.read(65_536))
    client.write(b"ok")
    writer.write(outgoing.read())
    await until(lambda: bool(server.made))
    writer.close()


def hello() -> bytes:
    """A client's first flight."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def test_who_waits_for_a_handshake_in_a_storm_costs_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = 0
    ready = TlsTransport.ready

    def count(transport: TlsTransport, events: int) -> None:
        nonlocal told
        told += 1
        ready(transport, events)

    monkeypatch.setattr(TlsTransport, "ready", count)
    first, storm = hello(), 200
    with contextlib.ExitStack() as stack:
        for _ in range(storm):  # the server does not run meanwhile
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            sock.sendall(first)
        await until(lambda: len(server.listener._begun) == storm)
        assert told < 2 * storm


async def test_what_the_socket_takes_goes_out_at_once_however_many_records_it_is(server: Server) -> None:
    reader, writer = await server.connect()
    await until(lambda: bool(server.made) and server.made[0].transport is not None)
    transport = server.made[0].transport
    data = bytes(range(256)) * 400  # seven records, less than any socket's buffer
    transport.write(data)
    assert transport.get_write_buffer_size() == 0, "nothing waits for the loop's next round"
    assert await reader.readexactly(len(data)) == data
    writer.close()


async def test_a_protocol_that_closes_when_it_may_write_again_says_goodbye_once(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    goodbyes: list[SecureConnection] = []
    shut_down = SecureConnection.shut_down
    monkeypatch.setattr(SecureConnection, "shut_down", lambda one: goodbyes.append(one) or shut_down(one))
    reader, writer = await server.connect()
    await until(lambda: bool(server.made) and server.made[0].transport is not None)
    echo = server.made[0]
    monkeypatch.setattr(Echo, "resume_writing", lambda echo: echo.transport.close())
    echo.transport._out += b"the rest"
    echo.transport._writing_paused = True
    echo.transport._writable()
    assert await reader.read() == b"the rest"
    assert len(goodbyes) == 1
    writer.close()
