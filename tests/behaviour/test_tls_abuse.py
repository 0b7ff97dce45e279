"""The TLS transport against clients that mean harm, or break off at a bad moment."""

from __future__ import annotations

import asyncio
import ctypes
import ctypes.util
import fcntl
import itertools
import os
import resource
import socket
import ssl
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from muster.core.limits import TLS_HANDSHAKES
from muster.heads.listener import RESERVED_FILES
from tests.behaviour.tls_server import Server, echo_server, until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with echo_server(tmp_path) as server:
        yield server


def small_socket(port: int) -> socket.socket:
    """A connected socket whose kernel takes little."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 262_144)
    sock.connect(("127.0.0.1", port))
    return sock


def shrink(server: Server) -> None:
    """The kernel takes little of what the server sends to its first client."""
    served: socket.socket = server.made[0].transport.get_extra_info("socket")
    served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)


class Client:
    """A TLS client whose bytes go out when the test says so; in the midst of things it does not wait for the loop."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = server.client.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.sock = small_socket(server.port)
        self.sock.setblocking(False)

    async def attempt(self, step: Any, *arguments: Any) -> Any:
        """Do ``step`` of ``tls``, exchanging bytes with the server as long as it asks for it."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(20):
            while True:
                try:
                    answer = step(*arguments)
                except ssl.SSLWantReadError:
                    answer = self
                await loop.sock_sendall(self.sock, self.outgoing.read())
                if answer is not self:
                    return answer
                self.incoming.write(await loop.sock_recv(self.sock, 65_536))

    async def connect(self) -> Client:
        await self.attempt(self.tls.do_handshake)
        return self

    def break_off(self) -> None:
        """Reset the connection."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


async def echoed(server: Server) -> None:
    """The server serves somebody else."""
    reader, writer = await server.connect()
    writer.write(b"hello")
    assert await asyncio.wait_for(reader.readexactly(5), 20) == b"hello"
    writer.close()


async def test_a_reset_behind_unread_input_ends_the_connection(server: Server) -> None:
    client = await Client(server).connect()
    for _ in range(6):
        client.tls.write(b"y" * 1000)
    client.sock.send(client.outgoing.read())
    client.break_off()  # the server has seen none of it yet
    await until(lambda: server.listener.connections == 0)
    assert len(server.made[0].lost) == 1


async def test_a_reset_in_the_midst_of_a_handshake_leaves_nothing(server: Server) -> None:
    client = Client(server)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.sock.send(client.outgoing.read())
    await until(lambda: server.listener.connections == 1)
    client.break_off()
    await until(lambda: server.listener.connections == 0)
    assert not server.made


async def test_a_client_that_says_goodbye_still_gets_its_answers(server: Server) -> None:
    client = await Client(server).connect()
    await until(lambda: bool(server.made))
    shrink(server)
    message = b"a" * 3_000_000
    loop = asyncio.get_running_loop()
    client.tls.write(message)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()  # close_notify is sent; TLS 1.3 lets it go on reading
    await loop.sock_sendall(client.sock, client.outgoing.read())
    await until(lambda: server.made[0].ended)
    received = 0
    while received < len(message):
        read = await client.attempt(client.tls.read, 65_536)
        assert read
        received += len(read)
    await until(lambda: server.made[0].lost == [None])


async def test_a_protocol_that_fails_loses_its_connection_and_no_other(server: Server) -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    reader, writer = await server.connect()
    writer.write(b"fail")
    assert await reader.read(-1) == b""
    await until(lambda: server.listener.connections == 0)
    assert isinstance(server.made[0].lost[0], RuntimeError)
    assert len(problems) == 1
    await echoed(server)


async def test_a_protocol_that_cannot_begin_does_not_stop_handshakes(server: Server) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    make, server.listener.make_protocol = server.listener.make_protocol, lambda: 1 / 0  # type: ignore[return-value, assignment]
    _, writer = await server.connect()
    await until(lambda: server.listener.connections == 0)
    server.listener.make_protocol = make
    await echoed(server)
    writer.close()


async def test_only_so_many_handshakes_are_in_progress(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("muster.heads.listener.TLS_HANDSHAKES", TLS_HANDSHAKES._replace(open=5))
    monkeypatch.setattr("muster.heads.listener.CLIENT_SECONDS", 0.5)
    stalled = [Client(server) for _ in range(8)]
    for client in stalled:
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.sock.send(client.outgoing.read())
    await until(lambda: server.listener.failed_handshakes == 3)
    assert server.listener.connections == 5
    await echoed(server)
    for client in stalled:
        client.sock.close()


async def test_a_herd_of_more_clients_than_may_be_in_progress_is_let_in(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("muster.heads.listener.TLS_HANDSHAKES", TLS_HANDSHAKES._replace(open=20))
    herd = [Client(server) for _ in range(80)]
    for client in herd:
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.do_handshake()
        client.sock.send(client.outgoing.read())
    for client in herd:
        await client.attempt(client.tls.do_handshake)
    assert server.listener.failed_handshakes == 0
    for client in herd:
        client.sock.close()


@pytest.mark.parametrize(("late", "order"), [(1000.0, [0, 1, 2, 3]), (-1.0, [3, 2, 1, 0])])
async def test_when_the_first_in_line_waits_too_long_the_newest_go_first(
    server: Server, monkeypatch: pytest.MonkeyPatch, late: float, order: list[int]
) -> None:
    monkeypatch.setattr("muster.heads.listener.LATE_SECONDS", late)
    begun: list[int] = []

    class Waiting:
        def __init__(self, number: int) -> None:
            self.number = number

        def step_handshake(self) -> None:
            begun.append(self.number)

    for number in range(4):
        server.listener.enqueue_handshake(Waiting(number))  # type: ignore[arg-type]
    await until(lambda: len(begun) == 4)
    assert begun == order


@pytest.fixture
def few_files() -> Iterator[None]:
    """Room for 100 open files, those of the test's own clients included, above what the transport keeps free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = {int(name) for name in os.listdir("/proc/self/fd")}
    free = (number for number in itertools.count() if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, RESERVED_FILES + 100, None)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
async def test_connections_leave_files_for_the_rest_of_the_hub(tmp_path: Path) -> None:
    async with echo_server(tmp_path) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(80)]
        await until(lambda: server.listener.connections > 0)
        await asyncio.sleep(0.1)
        assert server.listener.connections < len(silent)
        assert os.dup(silent[0].fileno()) > 0, "files are left"
        for sock in silent:
            sock.close()
        await echoed(server)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_nothing_is_resumed(server: Server, version: ssl.TLSVersion) -> None:
    def visit(session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        raw = socket.create_connection(("127.0.0.1", server.port))
        with server.client.wrap_socket(raw, server_hostname="localhost", session=session) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            return sock.session, sock.session_reused

    server.client.minimum_version = server.client.maximum_version = version
    session, _ = await asyncio.to_thread(visit, None)
    assert await asyncio.to_thread(visit, session) != (session, True)


# --- what Python's ssl module cannot do: OpenSSL itself as the client, in a thread


class OpenSsl:
    """A blocking TLS client on the system's libssl."""

    UPDATE_REQUESTED, MAX_VERSION, TLS_1_2 = 1, 124, 0x0303

    def __init__(self, port: int, *, tls_1_2: bool = False) -> None:
        name = ctypes.util.find_library("ssl")
        if name is None:
            pytest.skip("the system has no libssl to be a client with")
        self.lib = lib = ctypes.CDLL(name)
        for function in ("TLS_client_method", "SSL_CTX_new", "SSL_new", "BIO_new", "BIO_s_mem"):
            getattr(lib, function).restype = ctypes.c_void_p
        self.sock = small_socket(port)
        context = ctypes.c_void_p(lib.SSL_CTX_new(ctypes.c_void_p(lib.TLS_client_method())))
        if tls_1_2:
            lib.SSL_CTX_ctrl(context, self.MAX_VERSION, ctypes.c_long(self.TLS_1_2), None)
        self.ssl = ctypes.c_void_p(lib.SSL_new(context))
        lib.SSL_set_fd(self.ssl, self.sock.fileno())

    def connect(self) -> OpenSsl:
        assert self.lib.SSL_connect(self.ssl) == 1
        return self

    def update_keys(self) -> bool:
        """Send a key update that asks for one in return; whether the socket took it."""
        self.lib.SSL_key_update(self.ssl, self.UPDATE_REQUESTED)
        return bool(self.lib.SSL_do_handshake(self.ssl) == 1)

    def key_updates(self, count: int) -> bytes:
        """What so many key updates look like on the wire; nothing can be sent by ``ssl`` afterwards."""
        memory = ctypes.c_void_p(self.lib.BIO_new(ctypes.c_void_p(self.lib.BIO_s_mem())))
        self.lib.SSL_set0_wbio(self.ssl, memory)
        assert all(self.update_keys() for _ in range(count))
        buffer = ctypes.create_string_buffer(100 * count)
        length = self.lib.BIO_read(memory, buffer, len(buffer))
        return buffer.raw[:length]


async def test_a_flood_of_key_updates_leaves_time_for_others(server: Server) -> None:
    client = await asyncio.to_thread(OpenSsl(server.port).connect)
    flood = await asyncio.to_thread(client.key_updates, 60_000)
    sending = asyncio.create_task(asyncio.to_thread(client.sock.sendall, flood))
    await until(lambda: server.made[0].transport is not None)
    served: socket.socket = server.made[0].transport.get_extra_info("socket")
    await echoed(server)
    unread = fcntl.ioctl(served, termios.FIONREAD, b"....")
    assert not sending.done() or int.from_bytes(unread, sys.byteorder) > 0
    await sending
    client.sock.close()


async def test_a_client_that_reads_no_answer_to_its_key_updates_costs_no_time(server: Server) -> None:
    client = await asyncio.to_thread(OpenSsl(server.port).connect)
    client.sock.setblocking(False)
    shrink(server)

    def flood() -> None:
        while client.update_keys():
            pass

    async def busy() -> float:
        """The share of a moment in which this process, the server in it, has worked."""
        wall, cpu = time.monotonic(), time.process_time()
        await asyncio.sleep(0.3)
        return (time.process_time() - cpu) / (time.monotonic() - wall)

    async with asyncio.timeout(30):
        await asyncio.to_thread(flood)
        while await busy() > 0.5:  # until neither side takes any more
            await asyncio.to_thread(flood)
    await echoed(server)
    client.sock.close()


async def test_renegotiation_is_refused(server: Server) -> None:
    client = await asyncio.to_thread(OpenSsl(server.port, tls_1_2=True).connect)

    def renegotiate() -> int:
        client.lib.SSL_renegotiate(client.ssl)
        return int(client.lib.SSL_do_handshake(client.ssl))

    assert await asyncio.to_thread(renegotiate) != 1
    client.sock.close()
    await until(lambda: server.listener.connections == 0)
