"""Files of devices where several workers serve them out of one folder: each call may come to another one."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from azure.storage.blob import BlobClient

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.cluster.processes import workers_of

pytestmark = pytest.mark.sdk
IN_BLOCKS = {"max_single_put_size": 64 * 1024, "max_block_size": 64 * 1024}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with HubProcess(tmp_path_factory.mktemp("hub"), loopback(), "--workers", "2") as hub:
        yield hub


class Device:
    """Begins uploads and sends files, each call on a connection of its own."""

    def __init__(self, hub: HubProcess, name: str) -> None:
        self.hub, self.name = hub, name
        self.token = hub.token(f"devices/{name}", hub.add_device(name))

    def begin(self, file: str) -> tuple[str, str]:
        """Where ``file`` goes, and what its upload is called."""
        path = f"/devices/{self.name}/files"
        status, info = self.hub.request("POST", path, {"blobName": file}, Authorization=self.token)
        assert status == 200, info
        url = f"https://{info['hostName']}/{info['containerName']}/{info['blobName']}{info['sasToken']}"
        return url, info["correlationId"]

    def report(self, correlation_id: str) -> int:
        body = {"correlationId": correlation_id, "isSuccess": True}
        return self.hub.request("POST", f"/devices/{self.name}/files/notifications", body, Authorization=self.token)[0]

    def put(self, url: str, data: bytes) -> None:
        with self.client(url, **IN_BLOCKS) as client:
            client.upload_blob(data, overwrite=True)

    def get(self, url: str) -> bytes:
        with self.client(url) as client:
            return bytes(client.download_blob().readall())

    def client(self, url: str, **options: int) -> BlobClient:
        return BlobClient.from_blob_url(url, connection_verify=self.hub.facts["HUB_CA_FILE"], **options)


def test_files_are_sent_and_read_at_any_worker(hub: HubProcess) -> None:
    device = Device(hub, "files")
    for number in range(8):
        url, correlation_id = device.begin(f"f{number % 2}")
        data = random.Random(number).randbytes(number * 50_000)
        device.put(url, data)
        assert device.report(correlation_id) == 204
        for _ in range(4):
            assert device.get(url) == data


def test_a_worker_that_starts_takes_nothing_away_from_uploads(hub: HubProcess) -> None:
    device = Device(hub, "busy")
    urls = [device.begin(f"f{number}")[0] for number in range(9)]

    def upload(number: int) -> bool:
        data = random.Random(number).randbytes(600_000)
        device.put(urls[number], data)
        return device.get(urls[number]) == data

    with ThreadPoolExecutor(3) as threads:
        done = [threads.submit(upload, number) for number in range(len(urls))]
        done[0].result()
        os.kill(workers_of(hub)[0], signal.SIGKILL)
        assert all(one.result() for one in done), "clients try again what was cut off"
    folder = Path(hub.directory / "data" / "blobs")
    assert sum(path.stat().st_size for path in folder.glob("??/*")) >= 9 * 600_000
