"""Files and a hub in a process of its own: memory does not grow, a kill leaves no half file, no log has a grant."""

from __future__ import annotations

import hashlib
import http.client
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess

MIB = 1024 * 1024
FILE_MIB, MOST_GROWTH_MIB = 250, 64
ZEROS = bytes(MIB)
PORTS = ("--https-port", "0", "--mqtt-port", "0", "--amqp-port", "0")


def peak_mib(pid: int) -> float:
    """The most memory that a process had at once."""
    found = re.search(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


class Device:
    """Sends files to a hub, bit by bit, and reads them back."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub, self.token = hub, hub.token("devices/d", hub.add_device("d"))
        self.told: dict[str, str] = {}

    def begin(self) -> None:
        status, self.told = self.hub.request("POST", "/devices/d/files", {"blobName": "f"}, Authorization=self.token)
        assert status == 200

    def send(self, method: str, query: str = "", body: object = None, **headers: str) -> tuple[int, str, int]:
        """Status, the digest of what came, and how much that was."""
        hub = self.hub
        connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=120)
        path = f"/{self.told['containerName']}/{self.told['blobName']}{self.told['sasToken']}{query}"
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        digest, count = hashlib.md5(), 0
        while data := answer.read(MIB):
            digest.update(data)
            count += len(data)
        connection.close()
        return answer.status, digest.hexdigest(), count

    def report(self) -> int:
        body = {"correlationId": self.told["correlationId"], "isSuccess": True, "statusCode": 201}
        return self.hub.request("POST", "/devices/d/files/notifications", body, Authorization=self.token)[0]


in_the_hub = pytest.mark.embedded("several nodes have no endpoint for files of their own")


@pytest.fixture
def device(make_hub: Callable[..., HubProcess]) -> Iterator[Device]:
    with make_hub(*PORTS) as hub:
        device = Device(hub)
        device.begin()
        yield device


def zeros(count: int) -> Iterator[bytes]:
    return (ZEROS for _ in range(count))


def digest_of_zeros() -> str:
    digest = hashlib.md5()
    for _ in range(FILE_MIB):
        digest.update(ZEROS)
    return digest.hexdigest()


@in_the_hub
def test_250_mib_in_one_request_and_back(device: Device) -> None:
    device.send("PUT", body=ZEROS, x_ms_blob_type="BlockBlob")
    before = peak_mib(device.hub.pid)
    size = str(FILE_MIB * MIB)
    sent = device.send("PUT", body=zeros(FILE_MIB), x_ms_blob_type="BlockBlob", Content_Length=size)
    assert sent[0] == 201
    assert device.send("GET") == (200, digest_of_zeros(), FILE_MIB * MIB)
    assert device.report() == 204
    grown = peak_mib(device.hub.pid) - before
    assert grown < MOST_GROWTH_MIB, f"the hub took {grown:.0f} MiB more"


@in_the_hub
def test_a_hub_killed_in_the_midst_of_a_file_has_no_half_of_it(device: Device) -> None:
    hub = device.hub
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=60)
    path = f"/{device.told['containerName']}/{device.told['blobName']}{device.told['sasToken']}"
    connection.putrequest("PUT", path)
    for name, value in (("Content-Length", str(10 * MIB)), ("x-ms-blob-type", "BlockBlob")):
        connection.putheader(name, value)
    connection.endheaders()
    for _ in range(8):
        connection.send(ZEROS)
    hub.kill()
    connection.close()
    hub.start()
    folder = hub.directory / "data" / "blobs"
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    assert device.send("GET")[0] == 404
    assert device.send("PUT", body=ZEROS, x_ms_blob_type="BlockBlob")[0] == 201, "the grant outlives the hub's restart"
    assert device.report() == 204, "so does the slot"


@in_the_hub
def test_no_log_holds_a_grant_or_a_token(make_hub: Callable[..., HubProcess]) -> None:
    with make_hub(*PORTS, "--log-level", "debug") as hub:
        device = Device(hub)
        device.begin()
        sas = device.told["sasToken"]
        assert device.send("PUT", body=b"hello", x_ms_blob_type="BlockBlob")[0] == 201
        assert device.send("PUT", "&comp=nonsense", b"hello")[0] == 400
        assert device.send("DELETE")[0] == 403
        device.told["sasToken"] = sas.replace("sp=rw", "sp=rwd")
        assert device.send("DELETE")[0] == 403
        assert device.report() == 204
        assert device.report() == 400
        signature = sas.partition("sig=")[2]
        assert hub.stop() == 0
        log = hub.log_file.read_text()
    assert "AuthenticationFailed" in log, "refusals are told"
    assert "sig=" not in log
    assert signature not in log
    assert device.token not in log


def test_a_hub_without_storage_and_one_with_a_connection_string_that_is_none(
    make_hub: Callable[..., HubProcess],
) -> None:
    with make_hub(*PORTS, "--storage", "off") as hub:
        token = hub.token("devices/d", hub.add_device("d"))
        status, body = hub.request("POST", "/devices/d/files", {"blobName": "f"}, Authorization=token)
        assert (status, "DefaultStorageEndpointNotConfigured" in body["Message"]) == (400, True)
        assert hub.request("GET", "/muster-uploads/d/f")[0] == 404
    with pytest.raises(RuntimeError, match="AccountKey is missing from the storage connection string"):
        make_hub(*PORTS, "--storage-connection-string", "AccountName=a").start()


@in_the_hub
def test_uploads_that_are_under_way_do_not_keep_the_hub_from_ending(device: Device) -> None:
    hub = device.hub
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=60)
    connection.putrequest("PUT", f"/{device.told['containerName']}/{device.told['blobName']}{device.told['sasToken']}")
    for name, value in (("Content-Length", str(10 * MIB)), ("x-ms-blob-type", "BlockBlob")):
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(ZEROS)
    assert hub.stop() == 0
    connection.close()
    assert "Traceback" not in hub.log_file.read_text()
    assert [path for path in (hub.directory / "data" / "blobs").rglob("*") if path.is_file()] == []
