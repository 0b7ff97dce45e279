"""The front of port 443, over real sockets: who is let into a WebSocket, who is handed to HTTP, who is told why not.

TLS is left out; an echo stands where MQTT and AMQP would be.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import websocket

from muster.core.ambient import SystemAmbient
from muster.core.limits import CONNECT_WAIT, REQUEST_HEAD_BYTES
from muster.heads import front
from muster.heads.front import FrontProtocol
from muster.heads.http.connection import HttpServer
from muster.heads.http.messages import Request, Response

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
PATIENCE = 10


class Echo:
    """Sends back what it gets; keeps what it was told, for the tests."""

    def __init__(self, name: str, made: list[Echo]) -> None:
        self.name = name
        self.transport: Any = None
        self.received = b""
        self.lost = asyncio.Event()
        self.pauses = 0
        made.append(self)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        if data == b"close":
            self.transport.close()
            assert self.transport.is_closing()
        elif data == b"abort":
            self.transport.abort()
        else:
            self.transport.write(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.lost.is_set(), "connection_lost is called once"
        self.lost.set()

    def pause_writing(self) -> None:
        self.pauses += 1
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


class Front:
    def __init__(self, port: int, inner: list[Echo]) -> None:
        self.port = port
        self.inner = inner

    async def raw(self, *data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"".join(data))
        return reader, writer

    async def answer(self, *data: bytes) -> bytes:
        """All the server says to ``data`` until it closes."""
        reader, writer = await self.raw(*data)
        async with asyncio.timeout(PATIENCE):
            said = await reader.read(-1)
        writer.close()
        return said


async def hello(request: Request) -> Response:
    if not request.raw_path.startswith("/devices/"):
        return Response(status=404)
    query = f"?{request.raw_query}" if request.raw_query else ""
    return Response(f"{request.method} {request.raw_path}{query} ".encode() + await request.body.read())


@pytest.fixture
async def hub() -> AsyncIterator[Front]:
    loop = asyncio.get_running_loop()
    made: list[Echo] = []
    http = HttpServer(hello, SystemAmbient.now)
    server = await loop.create_server(
        lambda: FrontProtocol(loop, lambda: Echo("mqtt", made), lambda: Echo("amqp", made), http),  # type: ignore[arg-type, return-value]
        "127.0.0.1",
        0,
    )
    yield Front(server.sockets[0].getsockname()[1], made)
    server.close()
    await http.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as client:
        yield client


def upgrade(path: str = "/$iothub/websocket", **changes: str | None) -> bytes:
    """A sound upgrade request; ``changes`` replace a header (``_`` for ``-``) or, with ``None``, leave it out."""
    headers: dict[str, str | None] = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Protocol": "mqtt",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if value is not None]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode()


def frame(first: int, body: bytes = b"") -> bytes:
    mask = b"\x01\x02\x03\x04"
    head = bytes((first, 0x80 | len(body))) if len(body) < 126 else bytes((first, 0xFE)) + struct.pack(">H", len(body))
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))


async def opened(hub: Front, *data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A raw socket on which the upgrade has been answered."""
    reader, writer = await hub.raw(upgrade(), *data)
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def bytes_of(reader: asyncio.StreamReader, count: int) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await reader.readexactly(count)


async def stream_of(reader: asyncio.StreamReader, count: int) -> bytes:
    """The payload of binary messages from the server until ``count`` bytes are there."""
    payload = b""
    while len(payload) < count:
        first, length = await bytes_of(reader, 2)
        assert first == 0x82
        if length == 126:
            length = int.from_bytes(await bytes_of(reader, 2), "big")
        elif length == 127:
            length = int.from_bytes(await bytes_of(reader, 8), "big")
        payload += await bytes_of(reader, length)
    return payload


# --- plain HTTP


async def test_01_plain_requests_reach_http_one_after_the_other(hub: Front, session: aiohttp.ClientSession) -> None:
    for number in range(3):
        url = f"http://127.0.0.1:{hub.port}/devices/d?n={number}"
        async with session.post(url, data="x" * 50_000) as answer:
            assert await answer.text() == f"POST /devices/d?n={number} " + "x" * 50_000
    assert hub.inner == []


async def test_02_a_request_in_single_bytes_reaches_http(hub: Front) -> None:
    reader, writer = await hub.raw()
    for byte in b"POST /devices/d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab":
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        assert (await reader.read(-1)).endswith(b"POST /devices/d ab")
    writer.close()


async def test_03_pipelined_requests_are_all_answered(hub: Front) -> None:
    one = b"GET /devices/1 HTTP/1.1\r\nHost: h\r\n\r\n"
    last = b"GET /devices/2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    said = await hub.answer(one, last)
    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert said.endswith(b"GET /devices/2 ")


async def test_04_what_is_no_http_is_answered_by_http_and_closed(hub: Front) -> None:
    assert b" 400 " in (await hub.answer(b"\x16\x03\x01 nonsense\r\n\r\n")).split(b"\r\n")[0]


async def test_05_an_upgrade_on_another_path_is_passed_over_and_the_connection_closed(hub: Front) -> None:
    assert (await hub.answer(upgrade("/devices/live"))).endswith(b"GET /devices/live ")
    assert hub.inner == []


async def test_06_an_unknown_path_is_https_own_404(hub: Front) -> None:
    assert (await hub.answer(upgrade("/$iothub/other", Connection="Upgrade, close"))).startswith(b"HTTP/1.1 404 ")


# --- WebSockets that are let in


@pytest.mark.parametrize(
    ("path", "subprotocol", "inner"),
    [
        ("/$iothub/websocket", "mqtt", "mqtt"),
        ("/$iothub/websocket", "MQTT", "mqtt"),
        ("/$iothub/websocket", "AMQPWSB10", "amqp"),
        ("/$iothub/websocket?iothub-no-client-cert=true", "mqtt", "mqtt"),
        ("/$iothub/websocket/", "mqtt", "mqtt"),
        ("/:9443/$iothub/websocket", "mqtt", "mqtt"),
        ("/%24iothub/websocket", "mqtt", "mqtt"),
        ("/$servicebus/websocket", "AMQPWSB10", "amqp"),
        ("/$servicebus/websocket/", "AMQPWSB10", "amqp"),
        ("/", "AMQPWSB10", "amqp"),
        ("/", "mqtt", "mqtt"),
        ("/mqtt", "MQTT", "mqtt"),
        ("/$servicebus/websocket", "amqpwsb10", "amqp"),
    ],
)
async def test_07_websocket_client_is_let_in(hub: Front, path: str, subprotocol: str, inner: str) -> None:
    def talk() -> tuple[str | None, bytes]:
        socket = websocket.create_connection(
            f"ws://127.0.0.1:{hub.port}{path}", subprotocols=[subprotocol], timeout=PATIENCE, origin="https://x:443"
        )
        try:
            socket.send_binary(b"ping me back")
            return socket.getsubprotocol(), socket.recv()
        finally:
            socket.close()

    # websocket-client lower-cases what it returns; the raw tests see the spelling itself.
    assert await asyncio.to_thread(talk) == (subprotocol.lower(), b"ping me back")
    assert [echo.name for echo in hub.inner] == [inner]
    async with asyncio.timeout(PATIENCE):
        await hub.inner[0].lost.wait()


async def test_08_aiohttp_is_let_in_and_exchanges_large_messages(hub: Front, session: aiohttp.ClientSession) -> None:
    url = f"http://127.0.0.1:{hub.port}/$iothub/websocket"
    async with session.ws_connect(url, protocols=("mqtt",), compress=15, max_msg_size=0) as socket:
        assert socket.protocol == "mqtt"
        assert socket.compress == 0
        data = bytes(range(256)) * 3000
        await socket.send_bytes(data)
        got = b""
        while len(got) < len(data):
            got += await socket.receive_bytes()
        assert got == data
        await socket.ping(b"p")


@pytest.mark.parametrize("offered", ["mqtt", "MQTT", "Mqtt", "soap, MQTT ,wamp", "x,AMQPWSB10"])
async def test_09_the_subprotocol_comes_back_as_it_was_spelt(hub: Front, offered: str) -> None:
    reader, writer = await hub.raw(upgrade(Sec_WebSocket_Protocol=offered))
    async with asyncio.timeout(PATIENCE):
        head = await reader.readuntil(b"\r\n\r\n")
    wanted = next(name.strip() for name in offered.split(",") if name.strip().lower() in {"mqtt", "amqpwsb10"})
    assert f"\r\nSec-WebSocket-Protocol: {wanted}\r\n".encode() in head
    writer.close()


async def test_10_header_names_and_tokens_are_read_in_any_case(hub: Front) -> None:
    request = (
        f"GET /$IoTHub/WebSocket HTTP/1.1\r\nhost:h\r\nUPGRADE:WebSocket\r\nconnection:keep-alive, uPGRADE\r\n"
        f"sec-websocket-version:13\r\nSEC-WEBSOCKET-KEY:{KEY}\r\nsec-websocket-protocol:wamp\r\n"
        "sec-websocket-protocol:mqtt\r\n\r\n"
    )
    reader, writer = await hub.raw(request.encode())
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.close()


async def test_11_frames_right_behind_the_request_are_not_lost(hub: Front) -> None:
    reader, writer = await opened(hub, frame(0x82, b"early"))
    assert await bytes_of(reader, 7) == b"\x82\x05early"
    writer.close()


async def test_12_single_bytes_make_a_request_and_a_message(hub: Front) -> None:
    reader, writer = await hub.raw()
    for byte in upgrade() + frame(0x82, b"slow"):
        writer.write(bytes((byte,)))
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(PATIENCE):
        await reader.readuntil(b"\r\n\r\n")
    assert await stream_of(reader, 4) == b"slow"
    writer.close()


async def test_13_fragments_with_a_ping_between_are_one_stream(hub: Front) -> None:
    reader, writer = await opened(hub)
    writer.write(frame(0x02, b"one ") + frame(0x89, b"hm") + frame(0x00, b"two ") + frame(0x80, b"three"))
    assert await stream_of(reader, 13) == b"one two three"
    assert await bytes_of(reader, 4) == b"\x8a\x02hm"
    assert hub.inner[0].received == b"one two three"
    writer.close()


async def test_14_the_inner_protocol_sees_a_transport_that_knows_it_is_a_websocket(hub: Front) -> None:
    _, writer = await opened(hub)
    transport = hub.inner[0].transport
    assert transport.get_extra_info("websocket") is True
    assert transport.get_extra_info("subprotocol") == "mqtt"
    assert transport.get_extra_info("peername") == writer.get_extra_info("sockname")
    assert transport.get_extra_info("nothing", "default") == "default"
    assert transport.get_write_buffer_size() == 0
    assert transport.get_protocol() is hub.inner[0]
    assert not transport.can_write_eof()
    transport.pause_reading()
    assert not transport.is_reading()
    transport.resume_reading()
    assert transport.is_reading()
    transport.writelines([b"a", b"", b"b"])
    transport.write(b"")
    writer.close()


async def test_15_a_peer_that_does_not_read_pauses_the_inner_protocol(hub: Front) -> None:
    reader, writer = await opened(hub)
    chunk, count = frame(0x82, bytes(60_000)), 0
    async with asyncio.timeout(PATIENCE):
        while not hub.inner[0].pauses:
            writer.write(chunk)
            count += 1
            await asyncio.sleep(0.001)
    assert not hub.inner[0].transport.is_reading()
    assert await stream_of(reader, count * 60_000) == bytes(count * 60_000)
    assert hub.inner[0].transport.is_reading()
    writer.close()


# --- the end


async def test_16_the_inner_protocol_closes_with_1000(hub: Front) -> None:
    reader, writer = await opened(hub, frame(0x82, b"close"))
    assert await bytes_of(reader, 4) == b"\x88\x02" + struct.pack(">H", 1000)
    async with asyncio.timeout(PATIENCE):
        assert await reader.read(-1) == b""
        await hub.inner[0].lost.wait()
    writer.close()


async def test_17_the_client_closes_and_is_echoed(hub: Front) -> None:
    reader, writer = await opened(hub, frame(0x88, struct.pack(">H", 1001) + b"away"))
    assert await bytes_of(reader, 4) == b"\x88\x02" + struct.pack(">H", 1001)
    async with asyncio.timeout(PATIENCE):
        assert await reader.read(-1) == b""
        await hub.inner[0].lost.wait()
    writer.close()


async def test_18_a_broken_connection_is_told_to_the_inner_protocol(hub: Front) -> None:
    _, writer = await opened(hub)
    writer.transport.abort()
    async with asyncio.timeout(PATIENCE):
        await hub.inner[0].lost.wait()


async def test_19_abort_ends_without_a_close_frame(hub: Front) -> None:
    reader, writer = await opened(hub, frame(0x82, b"abort"))
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read(-1) == b""
        await hub.inner[0].lost.wait()
    writer.close()


@pytest.mark.parametrize(
    ("bad", "code"), [(frame(0x81, b"text"), 1003), (b"\x82\x01x", 1002), (frame(0xC2, b"x"), 1002)]
)
async def test_20_a_breach_of_websocket_closes_with_its_code(hub: Front, bad: bytes, code: int) -> None:
    reader, writer = await opened(hub, frame(0x82, b"ok"), bad, frame(0x82, b"after"))
    assert await bytes_of(reader, 4) == b"\x82\x02ok"
    async with asyncio.timeout(PATIENCE):
        rest = await reader.read(-1)
    assert (rest[0], rest[2:4]) == (0x88, struct.pack(">H", code))
    assert hub.inner[0].received == b"ok"
    writer.close()


# --- WebSockets that are refused

REFUSALS = {
    "no upgrade": (upgrade(Upgrade=None), 426, "Upgrade: websocket"),
    "another upgrade": (upgrade(Upgrade="h2c"), 426, "Upgrade: websocket"),
    "no Connection": (upgrade(Connection="keep-alive"), 426, "Connection: Upgrade"),
    "version 8": (upgrade(Sec_WebSocket_Version="8"), 426, "Sec-WebSocket-Version must be 13"),
    "no version": (upgrade(Sec_WebSocket_Version=None), 426, "Sec-WebSocket-Version must be 13"),
    "no key": (upgrade(Sec_WebSocket_Key=None), 400, "Sec-WebSocket-Key"),
    "a bad key": (upgrade(Sec_WebSocket_Key="c2hvcnQ="), 400, "Sec-WebSocket-Key"),
    "no subprotocol": (upgrade(Sec_WebSocket_Protocol=None), 400, "none was offered"),
    "another subprotocol": (upgrade(Sec_WebSocket_Protocol="mqttv5, soap"), 400, "'mqttv5, soap'"),
    "POST": (upgrade().replace(b"GET ", b"POST "), 400, "GET"),
    "HTTP/1.0": (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 400, "HTTP/1.1"),
    "a header that is none": (upgrade(Host="h\r\nnonsense"), 400, "header"),
    "a folded header": (upgrade(Host="h\r\n folded: x"), 400, "header"),
}


@pytest.mark.parametrize(("request_bytes", "status", "reason"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_21_bad_upgrades_are_told_why(hub: Front, request_bytes: bytes, status: int, reason: str) -> None:
    head, _, body = (await hub.answer(request_bytes)).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert reason.encode() in body
    assert f"Content-Length: {len(body)}".encode() in head
    if "Version" in reason:
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in head
    assert hub.inner == []


async def test_22_a_head_that_never_ends_is_cut_off(hub: Front) -> None:
    endless = b"GET /$iothub/websocket HTTP/1.1\r\nX: " + b"x" * (REQUEST_HEAD_BYTES.open + 100)
    assert (await hub.answer(endless)).startswith(b"HTTP/1.1 431 ")


async def test_23_a_head_of_exactly_the_limit_is_read(hub: Front) -> None:
    request = upgrade(X="")
    padding = "x" * (REQUEST_HEAD_BYTES.open - len(request) + 4)
    reader, writer = await hub.raw(upgrade(X=padding))
    async with asyncio.timeout(PATIENCE):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    writer.close()
    assert (await hub.answer(upgrade(X=padding + "x"))).startswith(b"HTTP/1.1 431 ")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "CONNECT_WAIT", CONNECT_WAIT._replace(open=0.3))  # type: ignore[arg-type]


@pytest.mark.usefixtures("impatient")
async def test_24_a_head_that_does_not_come_in_time_is_answered_408(hub: Front) -> None:
    assert (await hub.answer()).startswith(b"HTTP/1.1 408 ")
    assert (await hub.answer(b"GET /devices/d HTTP/1.1\r\n")).startswith(b"HTTP/1.1 408 ")


@pytest.mark.usefixtures("impatient")
async def test_25_the_time_limit_ends_with_the_head(hub: Front) -> None:
    reader, writer = await opened(hub)
    await asyncio.sleep(0.5)
    writer.write(frame(0x82, b"still"))
    assert await bytes_of(reader, 7) == b"\x82\x05still"
    writer.close()


async def test_26_a_client_that_goes_before_its_head_is_complete_leaves_nothing(hub: Front) -> None:
    _, writer = await hub.raw(b"GET /dev")
    writer.close()
    await writer.wait_closed()
    assert (await hub.answer(b"GET /devices/1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")).endswith(
        b"/devices/1 "
    )
    assert hub.inner == []
