"""The embedded blob endpoint: what clients of Azure Storage need to send a file, over real TLS sockets."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote

import pytest
from file_hub import FileHub, Place, file_hub, md5, refused, storage_error

from muster.core.upload_limits import BLOB_BLOCKS
from muster.dialect import blob_sas, blob_xml
from muster.messages import blobs as blobs_room

pytestmark = pytest.mark.embedded("several nodes have no endpoint for files of their own")
MIB = 1024 * 1024


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[FileHub]:
    async with file_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
async def place(hub: FileHub) -> Place:
    return await hub.begin()


# --- Put Blob


async def test_1_put_blob_keeps_bytes_properties_and_metadata(hub: FileHub, place: Place) -> None:
    answer = await hub.put(
        place, b"hello", Content_Type="text/x", x_ms_blob_content_type="text/plain", x_ms_blob_cache_control="no-store",
        x_ms_blob_content_encoding="x-own", x_ms_blob_content_language="de", x_ms_blob_content_disposition="inline",
        x_ms_meta_Colour="blue", x_ms_version="2026-10-06", x_ms_client_request_id="mine",
    )  # fmt: skip
    assert answer.status == 201
    etag = answer.headers["ETag"]
    assert re.fullmatch('"0x[0-9A-F]{14}"', etag)
    assert answer.headers["Last-Modified"] == formatdate(hub.ambient.now(), usegmt=True)
    assert answer.headers["Content-MD5"] == md5(b"hello")
    assert answer.headers["x-ms-request-server-encrypted"] == "false"
    assert (answer.headers["x-ms-version"], answer.headers["x-ms-client-request-id"]) == ("2026-10-06", "mine")
    assert re.fullmatch("[0-9a-f-]{36}", answer.headers["x-ms-request-id"])
    for method in ("GET", "HEAD"):
        answer = await hub.get(place, method)
        assert (answer.status, answer.body) == (200, b"hello" if method == "GET" else b"")
        expected = {
            "Content-Type": "text/plain", "Content-Length": "5", "Cache-Control": "no-store", "ETag": etag,
            "Content-Encoding": "x-own", "Content-Language": "de", "Content-Disposition": "inline",
            "Content-MD5": md5(b"hello"), "x-ms-meta-colour": "blue", "x-ms-blob-type": "BlockBlob",
            "Accept-Ranges": "bytes",
        }  # fmt: skip
        assert {name: answer.headers[name] for name in expected} == expected


async def test_2_what_is_not_said_of_a_blob_has_defaults(hub: FileHub, place: Place) -> None:
    await hub.put(place, b"")
    answer = await hub.get(place)
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["x-ms-version"] == blob_sas.VERSION
    await hub.put(place, b"x", Content_Type="text/html")
    assert (await hub.get(place)).headers["Content-Type"] == "text/html"


async def test_3_a_blob_is_written_over_and_its_old_bytes_go(hub: FileHub, place: Place) -> None:
    tags = {(await hub.put(place, data)).headers["ETag"] for data in (b"one", b"two", b"three")}
    assert len(tags) == 3
    assert (await hub.get(place)).body == b"three"
    assert hub.files() == 1
    assert hub.blobs.used == 5


async def test_4_a_digest_that_does_not_fit_leaves_nothing(hub: FileHub, place: Place) -> None:
    assert (await hub.put(place, b"hello", Content_MD5=md5(b"hello"))).status == 201
    assert refused(await hub.put(place, b"other", Content_MD5=md5(b"hello"))) == "Md5Mismatch"
    assert refused(await hub.put(place, b"other", Content_MD5="x")) == "InvalidHeaderValue"
    assert (await hub.get(place)).body == b"hello"
    assert hub.files() == 1


@pytest.mark.parametrize(
    ("headers", "status", "error"),
    [
        ({"x_ms_blob_type": "PageBlob"}, 400, "InvalidHeaderValue"),
        ({"x_ms_copy_source": "https://e/x"}, 400, "UnsupportedHeader"),
        ({"x_ms_structured_body": "XSM/1.0; properties=crc64"}, 400, "UnsupportedHeader"),
        ({"x_ms_lease_id": "x"}, 400, "UnsupportedHeader"),
        ({"x_ms_meta_a": "ü"}, 400, "InvalidHeaderValue"),
        ({"x_ms_meta_a": "x" * 8000, "x_ms_meta_b": "x" * 200}, 400, "InvalidHeaderValue"),
        ({"If_Unmodified_Since": "yesterday"}, 400, "InvalidHeaderValue"),
    ],
)  # fmt: skip
async def test_5_what_cannot_be_kept_is_refused_before_the_body(
    hub: FileHub, place: Place, headers: dict[str, str], status: int, error: str
) -> None:
    assert storage_error(await hub.put(place, b"hello", **headers)) == (status, error)
    assert hub.files() == 0


async def test_6_put_blob_must_say_its_kind_and_length(hub: FileHub, place: Place) -> None:
    assert refused(await hub.call("PUT", place.path, data=b"x", query=place.sas)) == "MissingRequiredHeader"

    async def stream() -> AsyncIterator[bytes]:
        yield b"hello"

    assert storage_error(await hub.put(place, stream())) == (411, "MissingContentLengthHeader")
    assert refused(await hub.put(place, b"x", "comp=metadata")) == "InvalidQueryParameterValue"


async def test_7_packed_bodies_are_kept_as_they_come(hub: FileHub, place: Place) -> None:
    assert (await hub.put(place, b"not gzip at all", Content_Encoding="gzip")).status == 201
    answer = await hub.get(place, "HEAD")
    assert (answer.headers["Content-Encoding"], answer.headers["Content-Length"]) == ("gzip", "15")


async def test_8_a_client_that_asks_before_it_sends_is_answered(hub: FileHub, place: Place) -> None:
    reader, writer = await hub.raw()
    writer.write(
        f"PUT {place.path}?{place.sas} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
        "Expect: 100-continue\r\nx-ms-blob-type: BlockBlob\r\n\r\n".encode()
    )
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 100 ")
    writer.write(b"hello")
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 201 ")
    writer.close()
    assert (await hub.get(place)).body == b"hello"


# --- Put Block, Put Block List


async def test_10_blocks_are_committed_in_the_list_s_order(hub: FileHub, place: Place) -> None:
    for number in range(4):
        answer = await hub.stage(place, number, b"%d" % number * 3)
        assert (answer.status, answer.headers["Content-MD5"]) == (201, md5(b"%d" % number * 3))
    assert refused(await hub.get(place)) == "BlobNotFound", "nothing is to be seen yet"
    answer = await hub.commit(
        place, [("Latest", 2), ("Uncommitted", 0), ("Latest", 1)], x_ms_blob_content_type="a/b", Content_Type="x/xml"
    )
    assert answer.status == 201
    read = await hub.get(place)
    assert (read.body, read.headers["Content-Type"], read.headers["ETag"]) == (
        b"222000111",
        "a/b",
        answer.headers["ETag"],
    )
    assert hub.files() == 3, "the block that was not named is gone"


async def test_11_committed_uncommitted_and_latest(hub: FileHub, place: Place) -> None:
    await hub.stage(place, 1, b"old1")
    await hub.stage(place, 2, b"old2")
    await hub.commit(place, [("Latest", 1), ("Latest", 2)])
    await hub.stage(place, 1, b"new1")
    await hub.commit(place, [("Committed", 1), ("Committed", 2), ("Latest", 1)])
    assert (await hub.get(place)).body == b"old1old2new1"
    assert refused(await hub.commit(place, [("Uncommitted", 1)])) == "InvalidBlockList"
    assert refused(await hub.commit(place, [("Latest", 9)])) == "InvalidBlockList"
    assert (await hub.get(place)).body == b"old1old2new1", "a refused list changes nothing"
    await hub.commit(place, [("Latest", 2), ("Latest", 2)])
    assert (await hub.get(place)).body == b"old2old2"
    assert hub.files() == 1
    await hub.commit(place, [])
    assert ((await hub.get(place)).body, hub.files(), hub.blobs.used) == (b"", 0, 0)


async def test_12_a_block_that_comes_again_replaces_itself(hub: FileHub, place: Place) -> None:
    await hub.stage(place, 1, b"one")
    await hub.stage(place, 1, b"two")
    assert hub.files() == 1
    await hub.commit(place, [("Latest", 1)])
    assert (await hub.get(place)).body == b"two"


async def test_13_put_blob_drops_blocks_that_wait(hub: FileHub, place: Place) -> None:
    await hub.stage(place, 1, b"one")
    await hub.put(place, b"whole")
    assert refused(await hub.commit(place, [("Latest", 1)])) == "InvalidBlockList"
    assert hub.files() == 1


@pytest.mark.parametrize(
    ("identifier", "error"),
    [
        ("", "InvalidQueryParameterValue"), ("%%%", "InvalidQueryParameterValue"),
        ("YQ", "InvalidQueryParameterValue"), (base64.b64encode(bytes(65)).decode(), "InvalidQueryParameterValue"),
        (base64.b64encode(bytes(64)).decode(), "InvalidBlobOrBlock"),
    ],
)  # fmt: skip
async def test_14_block_ids_are_base64_and_of_one_length(
    hub: FileHub, place: Place, identifier: str, error: str
) -> None:
    await hub.stage(place, 1, b"one")
    assert refused(await hub.put(place, b"x", f"comp=block&blockid={quote(identifier, safe='')}")) == error
    assert hub.files() == 1


async def test_15_only_so_many_blocks_wait(hub: FileHub, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (blobs_room, blob_xml):
        monkeypatch.setattr(module, "BLOB_BLOCKS", BLOB_BLOCKS._replace(open=2))
    for number in (1, 2, 2):
        assert (await hub.stage(place, number, b"x")).status == 201
    assert storage_error(await hub.stage(place, 3, b"x")) == (409, "BlockCountExceedsLimit")
    assert refused(await hub.commit(place, [("Latest", 1)] * 3)) == "BlockCountExceedsLimit"


BOMB = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]><BlockList><Latest>&b;</Latest></BlockList>'


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"<BlockList>", b"<Blocks/>", b"<BlockList><Newest>YQ==</Newest></BlockList>", BOMB,
        b"<BlockList><Latest><Latest>YQ==</Latest></Latest></BlockList>", b"<BlockList/><BlockList/>", b"\xff\xfe",
    ],
)  # fmt: skip
async def test_16_a_block_list_that_is_none(hub: FileHub, place: Place, body: bytes) -> None:
    assert storage_error(await hub.put(place, body, "comp=blocklist")) == (400, "InvalidXmlDocument")


async def test_16_1_an_entry_that_is_no_block_id_is_not_repeated(hub: FileHub, place: Place) -> None:
    for entry in (b"", b"not base64", b"A" * 1_000_000):
        answer = await hub.put(place, b"<BlockList><Latest>" + entry + b"</Latest></BlockList>", "comp=blocklist")
        assert storage_error(answer) == (400, "InvalidBlockList")
        assert len(answer.body) < 500


async def test_17_a_block_list_is_bounded(hub: FileHub, place: Place) -> None:
    answer = await hub.put(place, b" " * (8 * MIB + 1), "comp=blocklist")
    assert storage_error(answer)[0] == 413


async def test_18_blocks_that_were_never_committed_go_with_the_grant(hub: FileHub, place: Place) -> None:
    await hub.stage(place, 1, b"one")
    hub.ambient.advance(1800)
    other = await hub.begin("other")
    await hub.stage(other, 1, b"two")
    hub.ambient.advance(1800)
    await hub.settled(lambda: hub.files() == 1)
    assert (await hub.commit(other, [("Latest", 1)])).status == 201
    hub.ambient.advance(3600)
    await asyncio.sleep(0.05)
    assert (hub.files(), hub.blobs.used) == (1, 3), "what was committed stays"


# --- reading


@pytest.mark.parametrize(
    ("header", "status", "expected"),
    [
        ("bytes=0-3", 206, (0, 4)), ("bytes=7-", 206, (7, 20)), ("bytes=19-100", 206, (19, 20)),
        ("bytes=-3", 206, (17, 20)), ("bytes=5-4", 200, (0, 20)), ("lines=1-2", 200, (0, 20)),
        ("bytes=0-1,3-4", 200, (0, 20)),
    ],
)  # fmt: skip
async def test_20_ranges(hub: FileHub, place: Place, header: str, status: int, expected: tuple[int, int]) -> None:
    whole = bytes(range(65, 85))
    for number in range(4):
        await hub.stage(place, number, whole[number * 5 : number * 5 + 5])
    await hub.commit(place, [("Latest", number) for number in range(4)], x_ms_blob_content_md5=md5(whole))
    start, stop = expected
    for headers in ({"Range": header}, {"x_ms_range": header, "Range": "bytes=0-0"}):
        answer = await hub.get(place, **headers)
        assert (answer.status, answer.body) == (status, whole[start:stop])
        if status == 206:
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/20"
            assert "Content-MD5" not in answer.headers
            assert answer.headers["x-ms-blob-content-md5"] == md5(whole)
        else:
            assert answer.headers["Content-MD5"] == md5(whole)


async def test_21_a_range_behind_the_end(hub: FileHub, place: Place) -> None:
    await hub.put(place, b"hello")
    answer = await hub.get(place, Range="bytes=5-6")
    assert storage_error(answer) == (416, "InvalidRange")
    assert answer.headers["Content-Range"] == "bytes */5"
    await hub.put(place, b"")
    assert storage_error(await hub.get(place, x_ms_range="bytes=0-99")) == (416, "InvalidRange")


async def test_22_conditions_of_readers(hub: FileHub, place: Place) -> None:
    etag = (await hub.put(place, b"hello")).headers["ETag"]
    now = hub.ambient.now()
    before, after = (formatdate(now + seconds, usegmt=True) for seconds in (-1, 1))
    for headers, status in (
        ({"If_Match": etag}, 200), ({"If_Match": '"x"'}, 412), ({"If_None_Match": etag}, 304),
        ({"If_None_Match": '"x"'}, 200), ({"If_None_Match": "*"}, 304), ({"If_Modified_Since": before}, 200),
        ({"If_Modified_Since": after}, 304), ({"If_Unmodified_Since": before}, 412),
        ({"If_Unmodified_Since": after}, 200), ({"If_Match": f'"x", {etag}'}, 200),
        ({"If_Match": etag.strip('"')}, 200),
    ):  # fmt: skip
        answer = await hub.get(place, **headers)
        assert answer.status == status, headers
        assert answer.body if status in {200, 412} else not answer.body


async def test_23_conditions_of_writers(hub: FileHub, place: Place) -> None:
    assert storage_error(await hub.put(place, b"a", If_Match="*")) == (412, "ConditionNotMet")
    first = (await hub.put(place, b"a", If_None_Match="*")).headers["ETag"]
    assert storage_error(await hub.put(place, b"b", If_None_Match="*")) == (409, "BlobAlreadyExists")
    assert storage_error(await hub.put(place, b"b", If_Match='"x"')) == (412, "ConditionNotMet")
    assert (await hub.put(place, b"b", If_Match=first)).status == 201
    assert storage_error(await hub.put(place, b"c", If_Match=first)) == (412, "ConditionNotMet")
    await hub.stage(place, 1, b"d")
    assert storage_error(await hub.commit(place, [("Latest", 1)], If_None_Match="*")) == (409, "BlobAlreadyExists")
    race = await hub.begin("race")
    answers = await asyncio.gather(*(hub.put(race, b"x", If_None_Match="*") for _ in range(8)))
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7
    assert hub.files() == 3


async def test_23_1_what_else_there_is_to_read_in_azure_is_refused(hub: FileHub, place: Place) -> None:
    await hub.put(place, b"hello")
    for query in ("comp=blocklist", "comp=tags", "snapshot=2026-01-01T00:00:00Z", "versionid=x"):
        for method in ("GET", "DELETE"):
            answer = await hub.as_service(method, place.path, query=query)
            assert storage_error(answer) == (400, "InvalidQueryParameterValue")
    assert (await hub.get(place)).body == b"hello"


async def test_24_who_reads_while_a_blob_is_replaced_reads_it_to_its_end(hub: FileHub, place: Place) -> None:
    old, new = random.Random(1).randbytes(9 * MIB), random.Random(2).randbytes(MIB)
    for number in range(3):
        await hub.stage(place, number, old[number * 3 * MIB : (number + 1) * 3 * MIB])
    await hub.commit(place, [("Latest", number) for number in range(3)])
    reader, writer = await hub.raw()
    writer.write(f"GET {place.path}?{place.sas} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    assert (await hub.put(place, new)).status == 201
    assert await asyncio.wait_for(reader.readexactly(len(old)), 10) == old
    writer.close()
    assert (await hub.get(place)).body == new
    await hub.settled(lambda: hub.files() == 1)
    assert hub.blobs.used == MIB


async def test_25_a_page_that_a_device_has_sent_does_not_act_in_the_hub_s_name(hub: FileHub, place: Place) -> None:
    await hub.put(place, b"<script>alert(1)</script>", Content_Type="text/html")
    headers = (await hub.get(place)).headers
    assert headers["Content-Security-Policy"] == "sandbox"
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("value", ["x" * 1025, "\udcff", "ü"])
async def test_26_a_client_id_that_cannot_be_sent_back_is_left_out(hub: FileHub, place: Place, value: str) -> None:
    _, writer = opened = await hub.raw()
    writer.write(
        f"GET {place.path}?{place.sas} HTTP/1.1\r\nHost: localhost\r\nx-ms-client-request-id: ".encode()
        + value.encode("utf-8", "surrogateescape")
        + b"\r\n\r\n"
    )
    answer = await asyncio.wait_for(opened[0].readuntil(b"\r\n\r\n"), 10)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"client-request-id" not in answer
    writer.close()
