"""HTTP connections over real sockets: order, bodies that come slowly or not at all, clients that do not read or go."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hub_rest import serving

from muster.core.ambient import SystemAmbient
from muster.core.errors import HubError
from muster.core.limits import HTTP_BODY_BYTES
from muster.heads.http import connection
from muster.heads.http.messages import Request, Response, StreamResponse

PATIENCE = 10
Handler = Callable[[Request], Awaitable[Response | StreamResponse]]


class Served:
    """What the handler of a test was asked, and a socket to ask with."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def open(self, *data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"".join(data))
        return reader, writer

    async def answer(self, *data: bytes) -> bytes:
        """All that is said to ``data`` until the end."""
        reader, writer = await self.open(*data)
        async with asyncio.timeout(PATIENCE):
            said = await reader.read(-1)
        writer.close()
        return said


@contextlib.asynccontextmanager
async def served(handler: Handler, idle_seconds: float = 60) -> AsyncIterator[Served]:
    async with serving(handler, SystemAmbient(asyncio.get_running_loop()), idle_seconds) as port:
        yield Served(port)


async def echo(request: Request) -> Response:
    try:
        return Response(await request.body.read())
    except HubError as error:
        return Response(error.row.name.encode(), error.row.status)


def post(body: bytes, *headers: str, path: str = "/") -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


CLOSE = "Connection: close"


async def test_01_pipelined_requests_are_answered_in_order_and_one_at_a_time() -> None:
    busy, most = 0, 0

    async def slow(request: Request) -> Response:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        await asyncio.sleep(0)
        busy -= 1
        return Response(request.raw_path.encode())

    async with served(slow) as hub:
        said = await hub.answer(*[post(b"", path=f"/{n}") for n in range(200)], post(b"", CLOSE, path="/last"))
    bodies = [part.split(b"\r\n\r\n", 1)[1] for part in said.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [f"/{n}".encode() for n in range(200)] + [b"/last"]
    assert most == 1


async def test_02_a_body_in_single_bytes_and_one_in_chunks_arrive_whole() -> None:
    async with served(echo) as hub:
        reader, writer = await hub.open()
        for byte in post(b"slowly", CLOSE):
            writer.write(bytes((byte,)))
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            assert (await reader.read(-1)).endswith(b"\r\n\r\nslowly")
        writer.close()
        chunked = (
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )
        assert (await hub.answer(chunked)).endswith(b"\r\n\r\nabc")


async def test_03_continue_is_said_once_somebody_wants_the_body_and_only_then() -> None:
    async def refuse(_: Request) -> Response:
        return Response(status=401)

    head = post(b"x" * 9, "Expect: 100-continue")[:-9]
    async with served(echo) as hub:
        reader, writer = await hub.open(head)
        async with asyncio.timeout(PATIENCE):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"123456789")
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"123456789")).startswith(b"HTTP/1.1 200 ")
        writer.close()
    async with served(refuse) as hub:
        assert (await hub.answer(head)).startswith(b"HTTP/1.1 401 ")


async def test_04_a_body_above_the_limit_is_refused_and_the_client_gets_to_know() -> None:
    async with served(echo) as hub:
        reader, writer = await hub.open(post(bytes(HTTP_BODY_BYTES.open + 1)))
        async with asyncio.timeout(PATIENCE):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413 ")
        writer.close()


async def test_05_the_rest_of_an_unwanted_body_is_thrown_away_so_that_the_answer_is_not_lost() -> None:
    async def unwanted(_: Request) -> Response:
        return Response(b"no", 403)

    async with served(unwanted) as hub:
        reader, writer = await hub.open(post(bytes(20_000_000)))
        async with asyncio.timeout(PATIENCE):
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        assert b"\r\nConnection: close\r\n" in head
        writer.close()


async def test_06_that_lasts_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unwanted(_: Request) -> Response:
        return Response(b"no", 403)

    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)
    async with served(unwanted) as hub:
        assert (await hub.answer(post(b"x" * 100)[:-1])).startswith(b"HTTP/1.1 403 ")


async def test_07_an_operation_that_takes_its_time_with_a_body_holds_its_client_back() -> None:
    go, most = asyncio.Event(), 0

    async def lazy(request: Request) -> Response:
        nonlocal most
        await go.wait()
        size = 0
        async for piece in request.body.chunks():
            most = max(most, len(piece) + request.body.waiting)
            size += len(piece)
        return Response(str(size).encode())

    async with served(lazy) as hub:
        reader, writer = await hub.open(post(bytes(50_000_000), CLOSE))
        await asyncio.sleep(0.2)
        go.set()
        async with asyncio.timeout(PATIENCE):
            assert (await reader.read(-1)).endswith(b"\r\n\r\n50000000")
        writer.close()
    assert most < 2_000_000


async def test_08_a_stream_waits_for_a_client_that_does_not_read() -> None:
    sent = 0

    async def endless(request: Request) -> StreamResponse:
        nonlocal sent
        answer = StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(bytes(65_536))
            sent += 65_536
            await asyncio.sleep(0)

    async with served(endless) as hub:
        _, writer = await hub.open(post(b""))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        before = -1
        async with asyncio.timeout(PATIENCE):
            while before != sent:
                before = sent
                await asyncio.sleep(0.1)
        assert sent < 50_000_000
        writer.transport.abort()
        await asyncio.sleep(0.1)
        assert sent - before < 1_000_000, "it ends when the client is gone"


async def test_09_a_stream_of_known_length_is_sent_as_it_is() -> None:
    async def file(request: Request) -> StreamResponse:
        answer = StreamResponse(headers={"Content-Length": "6"})
        await answer.prepare(request)
        for piece in (b"abc", b"def"):
            await answer.write(piece)
        return answer

    async with served(file) as hub:
        said = await hub.answer(post(b""), post(b"", CLOSE))
        assert said.count(b"\r\n\r\nabcdef") == 2
        assert b"chunked" not in said
        head = await hub.answer(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert head.endswith(b"\r\n\r\n")
        assert b"\r\nContent-Length: 6\r\n" in head


async def test_10_a_client_that_goes_in_the_midst_of_its_body_is_told_to_the_reader() -> None:
    outcome = asyncio.get_running_loop().create_future()

    async def reads(request: Request) -> Response:
        try:
            await request.body.read()
        except ConnectionError as error:
            outcome.set_result(error)
            raise
        return Response()

    async with served(reads) as hub:
        _, writer = await hub.open(post(b"xyz")[:-2])
        await asyncio.sleep(0.05)
        writer.transport.abort()
        assert isinstance(await asyncio.wait_for(outcome, PATIENCE), ConnectionResetError)


async def test_11_keep_alive_follows_the_version_and_the_header() -> None:
    async with served(echo, idle_seconds=0.2) as hub:
        old = await hub.answer(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" * 2)
        assert old.count(b"HTTP/1.0 200 ") == 2
        assert old.count(b"\r\nConnection: keep-alive\r\n") == 2
        assert (await hub.answer(b"GET / HTTP/1.0\r\n\r\n" * 2)).count(b"HTTP/1.0 200 ") == 1
        assert (await hub.answer(post(b"", CLOSE), post(b""))).count(b"HTTP/1.1 200 ") == 1


async def test_12_a_good_request_before_a_broken_one_is_answered_first() -> None:
    async with served(echo) as hub:
        said = await hub.answer(post(b"one"), b"nonsense\r\n\r\n")
    assert said.index(b"one") < said.index(b"HTTP/1.1 400 ")


async def test_13_draining_lets_requests_finish_and_answers_others_each_the_last_on_its_connection() -> None:
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        if request.raw_path == "/slow":
            begun.set()
            await go.wait()
        return Response(b"done")

    loop = asyncio.get_running_loop()
    http = connection.HttpServer(slow, SystemAmbient.now)
    server = await loop.create_server(http, "127.0.0.1", 0)  # type: ignore[arg-type]
    hub = Served(server.sockets[0].getsockname()[1])
    reader, writer = await hub.open(post(b"", path="/slow"))
    await begun.wait()
    draining = asyncio.create_task(http.drain())
    await asyncio.sleep(0)
    probed = await hub.answer(post(b""), post(b""))
    assert probed.count(b"done") == 1
    assert not draining.done()
    go.set()
    async with asyncio.timeout(PATIENCE):
        said = await reader.read(-1)
        await draining
    assert said.endswith(b"\r\n\r\ndone")
    assert b"\r\nConnection: close\r\n" in said
    writer.close()
    server.close()
    await http.close()


async def test_14_closing_ends_what_is_idle_and_cancels_what_is_not() -> None:
    cancelled = asyncio.Event()

    async def stuck(_: Request) -> Response:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return Response()

    loop = asyncio.get_running_loop()
    http = connection.HttpServer(stuck, SystemAmbient.now)
    server = await loop.create_server(http, "127.0.0.1", 0)  # type: ignore[arg-type]
    hub = Served(server.sockets[0].getsockname()[1])
    idle, idle_writer = await hub.open()
    reader, writer = await hub.open(post(b""))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(PATIENCE):
        await http.close()
        for one in (idle, reader):
            with contextlib.suppress(ConnectionResetError):
                assert await one.read(-1) == b""
    assert cancelled.is_set()
    for end in (idle_writer, writer):
        end.close()
    server.close()
