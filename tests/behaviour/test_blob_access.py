"""Who may read and write files at the embedded blob endpoint, over real TLS sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from file_hub import ACCOUNT, FileHub, Place, file_hub, refused, storage_error

from muster.dialect import blob_sas
from muster.dialect.blob_sas import CONTAINER, Account

pytestmark = pytest.mark.embedded("several nodes have no endpoint for files of their own")


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[FileHub]:
    async with file_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
async def place(hub: FileHub) -> Place:
    return await hub.begin()


# --- who may


async def test_30_without_a_signature_nobody_reads_or_writes(hub: FileHub, place: Place) -> None:
    await hub.put(place, b"hello")
    for method in ("GET", "PUT", "DELETE"):
        answer = await hub.call(method, place.path, query="", x_ms_blob_type="BlockBlob", data=b"x")
        assert storage_error(answer) == (401, "NoAuthenticationInformation")
    answer = await hub.call("HEAD", place.path, query="")
    assert (answer.status, answer.headers["x-ms-error-code"], answer.body) == (401, "NoAuthenticationInformation", b"")


async def test_31_a_signature_is_for_its_file_only(hub: FileHub, place: Place) -> None:
    await hub.put(place, b"hello")
    other, foreign = await hub.begin("f.bin2"), await hub.begin("f.bin", "e")
    for wrong in (other, foreign):
        for method in ("GET", "PUT", "DELETE"):
            answer = await hub.call(method, place.path, query=wrong.sas, x_ms_blob_type="BlockBlob", data=b"x")
            assert storage_error(answer) == (403, "AuthenticationFailed")
            assert b"another file" in answer.body
    assert (await hub.get(place)).body == b"hello"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sp=rw", "sp=rwd"), ("sp=rw", "sp="), ("sp=rw", "sp=r"), ("sr=b", "sr=c"), ("sv=2020-12-06", "sv=2019-02-02"),
        ("sig=", "sig=AA"), ("sig=", "sig=%25"), ("sig=", "sgi="), ("se=20", "se=21"), ("se=", "se=x"), ("sp=rw&", ""),
        ("sr=b", "sr=b&sip=127.0.0.1"), ("sr=b", "sr=b&st=2020-01-01T00%3A00%3A00Z"), ("sr=b", "sr=b&rsct=text/html"),
        ("sig=", "sig=%ff"),
    ],
)  # fmt: skip
async def test_32_a_signature_that_was_changed_is_none(hub: FileHub, place: Place, old: str, new: str) -> None:
    assert old in place.sas
    answer = await hub.put(place._replace(sas=place.sas.replace(old, new)), b"x")
    assert storage_error(answer) in {(403, "AuthenticationFailed"), (401, "NoAuthenticationInformation")}
    assert hub.files() == 0


async def test_33_a_signature_permits_what_it_says(hub: FileHub, place: Place) -> None:
    def signed(permissions: str, account: Account = ACCOUNT, seconds: int = 60) -> Place:
        now = hub.ambient.now()
        return place._replace(sas=blob_sas.make(account, CONTAINER, place.blob_name, permissions, now + seconds))

    await hub.put(place, b"hello")
    assert storage_error(await hub.put(signed("r"), b"x")) == (403, "AuthorizationPermissionMismatch")
    assert storage_error(await hub.get(signed("w"))) == (403, "AuthorizationPermissionMismatch")
    assert storage_error(await hub.call("DELETE", place.path, query=place.sas)) == (
        403,
        "AuthorizationPermissionMismatch",
    )
    assert storage_error(await hub.get(signed("r", seconds=0))) == (403, "AuthenticationFailed")
    assert storage_error(await hub.get(signed("r", Account("muster", bytes(64))))) == (403, "AuthenticationFailed")
    assert (await hub.get(signed("r"))).status == 200
    assert (await hub.call("DELETE", place.path, query=signed("d").sas)).status == 202


async def test_34_spellings_of_one_name_are_one_file(hub: FileHub) -> None:
    place = await hub.begin("a b/ü+%41.txt")
    await hub.put(place, b"hello")
    for path in ("d%2Fa%20b%2F%C3%BC%2B%2541.txt", "d/a%20b/%c3%bc+%2541.txt"):  # Java and C# encode the slashes
        assert (await hub.call("GET", f"/{CONTAINER}/{path}", query=place.sas)).body == b"hello"
    for path in ("d/a%20b/%C3%BC+A.txt", "D/a%20b/%C3%BC+%2541.txt"):
        answer = await hub.call("GET", f"/{CONTAINER}/{path}", query=place.sas)
        assert storage_error(answer) == (403, "AuthenticationFailed")


async def test_35_services_read_and_delete_with_their_token(hub: FileHub, place: Place) -> None:
    await hub.put(place, b"hello")
    assert (await hub.as_service("GET", place.path)).body == b"hello"
    answer = await hub.as_service("GET", place.path, "registryReadWrite")
    assert (answer.status, await hub.last_cause()) == (401, "policy-lacks-right")
    answer = await hub.call("GET", place.path, Authorization=await hub.device_token("d"))
    assert (answer.status, await hub.last_cause()) == (401, "device-token-on-service")
    assert refused(await hub.as_service("PUT", place.path, data=b"x")) == "NoAuthenticationInformation"
    assert (await hub.as_service("DELETE", place.path)).status == 202
    assert refused(await hub.as_service("DELETE", place.path)) == "BlobNotFound"
    assert refused(await hub.as_service("GET", place.path)) == "BlobNotFound"
    assert (hub.files(), hub.blobs.used) == (0, 0)


async def test_36_names_lead_nowhere_else(hub: FileHub) -> None:
    for path in ("..%2F..%2Fhub.db", "%2E%2E/hub.db", "d/..%2f..%2f..%2fetc/passwd", "%00", "d/" + "x" * 5000):
        answer = await hub.as_service("GET", f"/{CONTAINER}/{path}")
        assert refused(answer) == "BlobNotFound"
