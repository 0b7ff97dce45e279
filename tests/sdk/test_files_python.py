"""File upload with azure-iot-device and azure-storage-blob: to the hub's own storage, and to Azurite."""

from __future__ import annotations

import base64
import io
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceExistsError
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.aio import IoTHubDeviceClient as AsyncIoTHubDeviceClient
from azure.iot.device.exceptions import ClientError
from azure.storage.blob import BlobClient, BlobSasPermissions, ContentSettings
from azure.storage.blob._shared_access_signature import BlobSharedAccessSignature
from azure.storage.blob.aio import BlobClient as AsyncBlobClient
from azurite import Azurite

from muster.dialect import blob_sas
from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk
in_the_hub = pytest.mark.embedded("several nodes have no endpoint for files of their own")

KIB = 1024
SMALL, LARGE = b"hello \x00\xff", random.Random(0).randbytes(3_000_000)
IN_BLOCKS = {"max_single_put_size": 64 * KIB, "max_block_size": 512 * KIB}


@pytest.fixture
def device(https_443: HubProcess) -> Callable[..., IoTHubDeviceClient]:
    """Makes clients of azure-iot-device; they need no connection to upload."""

    def make(name: str, hub: HubProcess = https_443, kind: Any = IoTHubDeviceClient) -> Any:
        return kind.create_from_connection_string(
            hub.device_connection_string(name, hub.add_device(name)),
            server_verification_cert=Path(hub.facts["HUB_CA_FILE"]).read_text(),
        )

    return make


def url_of(info: dict[str, str]) -> str:
    """As every sample of Microsoft's builds it."""
    return f"https://{info['hostName']}/{info['containerName']}/{info['blobName']}{info['sasToken']}"


def refusal(call: Callable[..., object], *arguments: object) -> int:
    """The status with which a call of the device client is refused."""
    with pytest.raises(ClientError) as caught:
        call(*arguments)
    found = re.search(r"\b[45][0-9]{2}\b", str(caught.value.__cause__))
    assert found is not None, caught.value.__cause__
    return int(found[0])


@in_the_hub
@pytest.mark.parametrize(("data", "options"), [(SMALL, {}), (LARGE, IN_BLOCKS)], ids=["whole", "in blocks"])
def test_a_file_goes_to_the_hub_and_back(
    https_443: HubProcess, device: Callable[..., Any], data: bytes, options: dict[str, int]
) -> None:
    client = device(f"f-sync-{len(data)}")
    info = client.get_storage_info_for_blob("a/b c.bin")
    assert (info["hostName"], info["containerName"]) == (https_443.address, "muster-uploads")
    assert info["blobName"] == f"f-sync-{len(data)}/a/b c.bin"
    with BlobClient.from_blob_url(url_of(info), connection_verify=https_443.facts["HUB_CA_FILE"], **options) as blob:
        written = blob.upload_blob(
            io.BytesIO(data), overwrite=True, metadata={"colour": "blue"}, max_concurrency=4,
            content_settings=ContentSettings(content_type="text/plain"),
        )  # fmt: skip
        client.notify_blob_upload_status(info["correlationId"], True, 200, "fine")
        properties = blob.get_blob_properties()
        assert blob.download_blob(max_concurrency=2).readall() == data
        assert blob.download_blob(offset=2, length=3).readall() == data[2:5]
        assert blob.exists()
        with pytest.raises(ResourceExistsError) as exists:
            blob.upload_blob(b"again")
        assert exists.value.error_code == "BlobAlreadyExists"
    assert (properties.size, properties.etag, properties.metadata) == (len(data), written["etag"], {"colour": "blue"})
    assert properties.content_settings.content_type == "text/plain"
    assert refusal(client.notify_blob_upload_status, info["correlationId"], True, 200, "twice") == 400


@in_the_hub
async def test_a_file_goes_to_the_hub_from_the_async_clients(https_443: HubProcess, device: Callable[..., Any]) -> None:
    client = device("f-async", kind=AsyncIoTHubDeviceClient)
    info = await client.get_storage_info_for_blob("f")
    verify = https_443.facts["HUB_CA_FILE"]
    for data, options in ((SMALL, {}), (LARGE, IN_BLOCKS), (b"", {})):
        async with AsyncBlobClient.from_blob_url(url_of(info), connection_verify=verify, **options) as blob:
            await blob.upload_blob(data, overwrite=True, max_concurrency=4)
            assert await (await blob.download_blob()).readall() == data
    await client.notify_blob_upload_status(info["correlationId"], True, 201, "")
    await client.shutdown()


@in_the_hub
def test_refusals_come_as_the_client_knows_them(https_443: HubProcess, device: Callable[..., Any]) -> None:
    client = device("f-refused")
    mine, other = (client.get_storage_info_for_blob(name) for name in ("mine", "other"))
    verify = https_443.facts["HUB_CA_FILE"]
    wrong = {**mine, "sasToken": other["sasToken"]}
    with BlobClient.from_blob_url(url_of(wrong), connection_verify=verify) as blob:
        with pytest.raises(ClientAuthenticationError) as caught:
            blob.upload_blob(b"x")
        assert (caught.value.status_code, caught.value.error_code) == (403, "AuthenticationFailed")
    with BlobClient.from_blob_url(url_of(mine), connection_verify=verify) as blob:
        with pytest.raises(HttpResponseError) as refused:
            blob.delete_blob()
        assert refused.value.error_code == "AuthorizationPermissionMismatch"
        assert blob.exists() is False
    assert refusal(client.notify_blob_upload_status, mine["correlationId"], True, 200, "not sent") == 400
    assert refusal(client.get_storage_info_for_blob, "a/../b") == 400


def test_our_signatures_are_those_of_azure_storage_s_own_client() -> None:
    account = blob_sas.Account("muster", bytes(range(64)))
    theirs = BlobSharedAccessSignature(account.name, account_key=base64.b64encode(account.key).decode())
    theirs.x_ms_version = blob_sas.VERSION
    for name in ("d/f", "d/a b/ü+%41.txt"):
        made = theirs.generate_blob("box", name, permission=BlobSasPermissions(read=True, write=True),
                                    expiry="2030-01-01T00:00:00Z")  # fmt: skip
        ours = blob_sas.make(account, "box", name, "rw", 1_893_456_000)
        assert blob_sas.fields_of(made) == blob_sas.fields_of(ours)


def test_files_go_to_a_storage_account_by_its_connection_string(
    https_443: HubProcess, device: Callable[..., Any], make_hub: Callable[..., HubProcess], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Azurite with the shared hub's certificate, which the other hubs trust."""
    monkeypatch.setenv("SSL_CERT_FILE", https_443.facts["HUB_CA_BUNDLE"])
    authority = https_443.facts["HUB_CA_FILE"]
    with Azurite(tmp_path, Path(authority).parent) as azurite:
        azurite.add_container("files")
        storage = ["--storage-connection-string", azurite.connection_string, "--storage-container"]
        hub, wrong = make_hub(*storage, "files").start(), make_hub(*storage, "nowhere").start()
        client = device("f-azurite", hub)
        info = client.get_storage_info_for_blob("a/b c.bin")
        assert info["containerName"] == "files"
        assert info["hostName"].endswith("/checkpoints"), "host, port and path"
        assert refusal(client.notify_blob_upload_status, info["correlationId"], True, 200, "not sent yet") == 400
        with BlobClient.from_blob_url(url_of(info), connection_verify=authority, **IN_BLOCKS) as blob:
            blob.upload_blob(LARGE, overwrite=True)
            assert blob.download_blob().readall() == LARGE
        client.notify_blob_upload_status(info["correlationId"], True, 200, "")

        lost = device("f-nowhere", wrong)
        info = lost.get_storage_info_for_blob("f")
        assert refusal(lost.notify_blob_upload_status, info["correlationId"], True, 200, "") == 400
        assert "404 ContainerNotFound" in wrong.log_file.read_text(), "the owner is told what the device is not"
        info = client.get_storage_info_for_blob("later")
    assert refusal(client.notify_blob_upload_status, info["correlationId"], True, 200, "the storage is gone") == 503
