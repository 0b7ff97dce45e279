"""The embedded blob endpoint beside Azurite: the same requests, the same answers."""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from azurite import Azurite

from muster.dialect import blob_sas
from muster.dialect.storage_account import parse_storage_account
from muster.testing.hub import HubProcess

pytestmark = [pytest.mark.sdk, pytest.mark.embedded("several nodes have no endpoint for files of their own")]

BLOCK_BLOB = {"x-ms-blob-type": "BlockBlob"}
OURS_ALONE = {"content-security-policy", "x-content-type-options"}
THEIRS_ALONE = {"x-ms-access-tier", "x-ms-access-tier-change-time", "x-ms-access-tier-inferred"}
OF_THE_CONNECTION = {"connection", "content-length", "content-md5", "date", "keep-alive", "server", "transfer-encoding",
                     "vary", "x-ms-blob-content-md5", "x-ms-version"}  # fmt: skip
"""Headers that say nothing of the blob, and digests, of which Azurite gives more than Azure Storage documents."""


class Place(NamedTuple):
    """A blob somewhere. ``sas`` is for it, ``other_sas`` for another one."""

    connection: http.client.HTTPConnection
    path: str
    sas: str
    other_sas: str


def block(number: int) -> str:
    return base64.b64encode(f"{number:04}".encode()).decode()


def put_block(number: int) -> str:
    return f"comp=block&blockid={quote(block(number), safe='')}"


def block_list(*entries: tuple[str, int]) -> bytes:
    listed = "".join(f"<{source}>{block(number)}</{source}>" for source, number in entries)
    return f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'.encode()


STORY: list[tuple[str, str, dict[str, str], bytes | None]] = [
    ("GET", "", {}, None),
    ("HEAD", "", {}, None),
    ("PUT", "", {**BLOCK_BLOB, "Content-Type": "text/plain", "x-ms-meta-a": "b"}, b"hello"),
    ("GET", "", {}, None),
    ("HEAD", "", {}, None),
    ("GET", "", {"Range": "bytes=1-2"}, None),
    ("GET", "", {"x-ms-range": "bytes=1-"}, None),
    ("GET", "", {"x-ms-range": "bytes=9-10"}, None),
    ("PUT", "", {**BLOCK_BLOB, "If-None-Match": "*"}, b"x"),
    ("PUT", "", {**BLOCK_BLOB, "If-Match": '"x"'}, b"x"),
    ("PUT", put_block(1), {}, b"one"),
    ("PUT", put_block(2), {}, b"two"),
    ("PUT", "comp=block&blockid=%25", {}, b"x"),
    ("PUT", "comp=block&blockid=YQ%3D%3D", {}, b"x"),
    ("PUT", "comp=blocklist", {"x-ms-blob-content-type": "a/b"}, block_list(("Latest", 1), ("Latest", 2))),
    ("GET", "", {}, None),
    ("PUT", put_block(1), {}, b"ONE"),
    ("PUT", "comp=blocklist", {}, block_list(("Committed", 1), ("Uncommitted", 1), ("Committed", 2))),
    ("GET", "", {}, None),
    ("PUT", "comp=blocklist", {}, block_list(("Latest", 7))),
    ("PUT", "comp=blocklist", {}, block_list(("Uncommitted", 1))),
    ("PUT", "comp=blocklist", {}, block_list()),
    ("GET", "", {"x-ms-range": "bytes=0-9"}, None),
    ("DELETE", "", {}, None),
]


def tell(place: Place) -> list[tuple[int, str, bytes, set[str]]]:
    """Status, error, content and the names of the headers of each answer."""
    answers = []
    for method, query, headers, body in STORY:
        place.connection.request(
            method, f"{place.path}?{query}&{place.sas}", body, {"x-ms-version": "2021-12-02", **headers}
        )
        answer = place.connection.getresponse()
        content = answer.read()
        names = {name.lower() for name in answer.headers} - OF_THE_CONNECTION - OURS_ALONE - THEIRS_ALONE
        if answer.headers["Cache-Control"] == "no-store":  # ours, where the blob says nothing
            names.discard("cache-control")
        error = answer.headers.get("x-ms-error-code", "")
        good = answer.status < 300
        answers.append((answer.status, error, content if good else b"", names if good else set()))
    place.connection.request("GET", f"{place.path}?{place.other_sas}")
    answer = place.connection.getresponse()
    answer.read()
    return [*answers, (answer.status, "", b"", set())]


def embedded(hub: HubProcess) -> Place:
    token = hub.token("devices/f-beside", hub.add_device("f-beside"))
    told = []
    for name in ("f", "other"):
        status, one = hub.request("POST", "/devices/f-beside/files", {"blobName": name}, Authorization=token)
        assert status == 200
        told.append(one)
    context = ssl.create_default_context(cafile=hub.facts["HUB_CA_FILE"])
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=context, timeout=30)
    path = f"/{told[0]['containerName']}/{told[0]['blobName']}"
    return Place(connection, path, told[0]["sasToken"][1:], told[1]["sasToken"][1:])


def test_the_same_requests_get_the_same_answers(hub: HubProcess, tmp_path: Path) -> None:
    with Azurite(tmp_path) as azurite:
        azurite.add_container("box")
        storage, end = parse_storage_account(azurite.connection_string), time.time() + 600
        host, _, account = storage.place.partition("/")
        sas, other = (blob_sas.make(storage.account, "box", name, "rw", end) for name in ("d/f", "d/other"))
        theirs = tell(Place(http.client.HTTPConnection(host, timeout=30), f"/{account}/box/d/f", sas, other))
    ours = tell(embedded(hub))
    for request, our, their in zip([*STORY, ("other SAS",)], ours, theirs, strict=True):
        assert our == their, request
