"""The end of `muster serve`: probes hear of it, REST calls in progress are answered, and nobody can put it off."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

from muster.testing import mqtt
from muster.testing.hub import HubProcess

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
MOST_SECONDS = 10.0
"""What SIGTERM may take: a promise to whoever supervises the process."""
KEY = "c2VjcmV0IG9mIGFsbCBkZXZpY2VzIGluIHRoaXMgdGVzdA=="
CONNECTIONS = 1000


@pytest.fixture
def hub(make_hub: Callable[..., HubProcess]) -> HubProcess:
    return make_hub(*ANY_PORTS).start()


@contextlib.contextmanager
def dial(
    hub: HubProcess, protocol: str, receive_bytes: int = 0, trust: ssl.SSLContext | None = None
) -> Iterator[ssl.SSLSocket]:
    """A TLS connection; ``receive_bytes`` is how much the client's kernel takes in without being read."""
    with socket.socket() as sock:
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(30)
        sock.connect((hub.address, hub.port(protocol)))
        with (trust or hub.trust()).wrap_socket(sock, server_hostname=hub.address) as secured:
            yield secured


def connect(hub: HubProcess, secured: ssl.SSLSocket, device_id: str) -> None:
    token = hub.token(f"devices/{device_id}", KEY)
    secured.sendall(mqtt.connect(device_id, f"{hub.address}/{device_id}/?api-version=2021-04-12", token))
    assert secured.recv(4) == b"\x20\x02\x00\x00"


def register(hub: HubProcess, *device_ids: str) -> None:
    """Devices that all have the same key: it is not what is looked at here."""
    authentication = {"symmetricKey": {"primaryKey": KEY, "secondaryKey": KEY}}
    for at in range(0, len(device_ids), 100):
        items = [
            {"id": name, "importMode": "create", "authentication": authentication} for name in device_ids[at:][:100]
        ]
        status, _ = hub.request("POST", "/devices", items)
        assert status == 200


@contextlib.contextmanager
def call_in_progress(hub: HubProcess) -> Iterator[ssl.SSLSocket]:
    """A PUT of device ``late`` that lacks the last byte of its body."""
    body = b'{"deviceId": "late"}'
    head = (
        f"PUT /devices/late?api-version=2021-04-12 HTTP/1.1\r\nHost: h\r\nAuthorization: {hub.owner_token()}\r\n"
        f"Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with dial(hub, "https") as secured:
        secured.sendall(head.encode())
        assert secured.recv(100).startswith(b"HTTP/1.1 100 "), "it is being served"
        secured.sendall(body[:-1])
        yield secured


def ask(hub: HubProcess, path: str, **headers: str) -> tuple[int, str | None]:
    """Status and ``Connection`` of an answer to a new connection."""
    connection = http.client.HTTPSConnection(hub.address, hub.port("https"), context=hub.trust(), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("Connection")


def until_draining(hub: HubProcess) -> None:
    hub.signal(signal.SIGTERM)
    while ask(hub, "/health/ready")[0] == 200:
        time.sleep(0.01)


def rest_of(secured: ssl.SSLSocket) -> bytes:
    """What still comes, to the end."""
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := secured.recv(65_536):
            answer += data
    return answer


def ends_in_time(hub: HubProcess) -> None:
    since = time.monotonic()
    assert hub.stop() == 0
    assert time.monotonic() - since < MOST_SECONDS
    assert "Traceback" not in hub.log_file.read_text()
    assert not (hub.directory / "data" / "run.json").exists()


def test_1_while_it_drains_probes_hear_503_and_the_call_in_progress_is_answered(hub: HubProcess) -> None:
    register(hub, "d")
    with call_in_progress(hub) as call, dial(hub, "mqtt") as device:
        connect(hub, device, "d")
        until_draining(hub)
        assert ask(hub, "/health/ready") == (503, "close")
        assert ask(hub, "/health/live") == (200, "close")
        upgrade = {
            "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Protocol": "mqtt",
        }  # fmt: skip
        assert ask(hub, "/$iothub/websocket", **upgrade)[0] == 503
        assert rest_of(device) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((hub.address, hub.port("mqtt")))
        call.sendall(b"}")
        answer = rest_of(call)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" in answer
        ends_in_time(hub)
    hub.start()
    assert hub.request("GET", "/devices/late")[0] == 200


def test_2_a_call_that_does_not_end_does_not_put_the_end_off(hub: HubProcess) -> None:
    with call_in_progress(hub) as call:
        ends_in_time(hub)
        assert rest_of(call) == b""


def test_3_a_thousand_devices_do_not_put_the_end_off(hub: HubProcess) -> None:
    names = [f"d{number}" for number in range(CONNECTIONS)]
    register(hub, *names)
    with contextlib.ExitStack() as stack:
        trust = hub.trust()
        devices = [stack.enter_context(dial(hub, "mqtt", trust=trust)) for _ in names]
        for device, name in zip(devices, names, strict=True):
            connect(hub, device, name)
        ends_in_time(hub)
        assert {rest_of(device) for device in devices} == {b""}


def test_4_a_device_and_a_service_that_do_not_read_do_not_put_the_end_off(hub: HubProcess) -> None:
    register(hub, "d", "s")
    with dial(hub, "mqtt", 4096) as device, dial(hub, "https", 4096) as service, dial(hub, "mqtt") as sender:
        connect(hub, device, "d")
        device.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:  # until the hub has had enough of it
                device.sendall(mqtt.PINGREQ * 8000)
        path, token = "/$muster/monitor?api-version=2021-04-12", hub.owner_token()
        service.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {token}\r\n\r\n".encode())
        assert service.recv(12) == b"HTTP/1.1 200"
        connect(hub, sender, "s")
        for number in range(1, 60):  # more than the kernel and the hub queue for it
            sender.sendall(mqtt.publish("devices/s/messages/events/", b"x" * 250_000, packet_id=number))
            assert len(sender.recv(4)) == 4
        ends_in_time(hub)


@pytest.mark.parametrize(
    "sign", [pytest.param("hub.db", marks=pytest.mark.embedded("there is none")), "server.pem", "run.json"]
)
def test_5_whoever_is_told_to_end_while_starting_ends(make_hub: Callable[..., HubProcess], sign: str) -> None:
    hub = make_hub(*ANY_PORTS)
    hub.spawn()
    path = hub.directory / "data" / sign
    while not path.exists():
        time.sleep(0.0005)
    ends_in_time(hub)
    assert not (hub.directory / "ready.json").exists()
    hub.start()
    assert ask(hub, "/health/ready")[0] == 200
