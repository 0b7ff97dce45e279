"""The REST data plane and bodies that come slowly, or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hub_rest import RestHub, rest_hub

from muster.heads.http import connection, messages

PUT = (
    "PUT /devices/slow?api-version=2021-04-12 HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\n"
    "Content-Type: application/json\r\n{}\r\n\r\n"
)
DEVICE = b'{"deviceId": "slow", "statusReason": "' + b"x" * 100 + b'"}'
LENGTH = f"Content-Length: {len(DEVICE)}"


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RestHub]:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.2)
    async with rest_hub(tmp_path) as hub:
        yield hub


def allow(monkeypatch: pytest.MonkeyPatch, seconds: float, rate: int) -> None:
    """Other limits than those of the table."""
    monkeypatch.setattr(messages, "HTTP_BODY_WAIT", messages.HTTP_BODY_WAIT._replace(open=seconds))  # type: ignore[arg-type]
    monkeypatch.setattr(messages, "HTTP_BODY_RATE", messages.HTTP_BODY_RATE._replace(open=rate))


@pytest.mark.parametrize("sent", [b"", DEVICE[:-1]])
async def test_1_a_body_that_stops_is_408_and_the_end(
    hub: RestHub, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    allow(monkeypatch, 0.2, 1000)
    answer = await hub.raw(PUT.format(hub.authorization, LENGTH).encode() + sent)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in answer
    assert b"ErrorCode:GenericRequestTimeout;The body stops" in answer


@pytest.mark.parametrize("framing", [LENGTH, "Transfer-Encoding: chunked"])
async def test_2_a_body_that_trickles_is_408(hub: RestHub, monkeypatch: pytest.MonkeyPatch, framing: str) -> None:
    allow(monkeypatch, 0.3, 1000)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(PUT.format(hub.authorization, framing).encode())

    async def trickle() -> None:
        for number in range(len(DEVICE) - 1):
            byte = DEVICE[number : number + 1]
            writer.write(byte if framing == LENGTH else b"1\r\n" + byte + b"\r\n")
            await asyncio.sleep(0.02)

    trickling = asyncio.create_task(trickle())
    answer = await asyncio.wait_for(reader.readline(), 10)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert not trickling.done()
    trickling.cancel()
    writer.close()


async def test_3_a_body_may_take_longer_than_a_pause_may(hub: RestHub, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, 1.0, 10)
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(PUT.format(hub.authorization, LENGTH).encode())
    for at in range(0, len(DEVICE), 2):
        writer.write(DEVICE[at : at + 2])
        await asyncio.sleep(0.02)
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_4_a_refused_call_s_body_is_not_waited_for(hub: RestHub) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", hub.port)
    writer.write(PUT.format("", LENGTH).encode())
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 401 ")
    await asyncio.wait_for(reader.read(), 20)
    writer.close()
