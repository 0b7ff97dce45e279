"""Thousands of devices of one process: MQTT over TLS with a SAS token each, silent but for their keep-alive.

A device that loses its connection comes back as azure-iot-device-mqtt does: at once, then by the exponential back-off
with jitter of azure-iot-common (``Delay``), each attempt at the next address of the list, first the one where it was.
One thread and one epoll, asked by its parent: a line of JSON in is a command, a line of JSON out is its answer.
"""

from __future__ import annotations

import errno
import heapq
import json
import random
import select
import socket
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from bench import machine
from bench.peers import CONNACK, cut
from bench.servers import Device
from muster.testing.mqtt import DISCONNECT, PINGREQ, connect, publish

KEEP_ALIVE = 60
"""Seconds, the default of azure-iot-device, the shortest of all SDKs."""
CONNECT_SECONDS = 60.0
"""How long a device waits for its CONNACK: connectTimeout of azure-iot-mqtt-base."""
PUBACK = 4
PAYLOAD = b"x" * 256
_IN, _OUT = select.EPOLLIN, select.EPOLLIN | select.EPOLLOUT
_READ_BYTES = 4096
_IP_BIND_ADDRESS_NO_PORT = 24

NOWHERE, WAITING, DIALLING, SHAKING, ASKING, CONNECTED = range(6)


class Delay:
    """``ExponentialBackOffWithJitter`` of azure-iot-common: seconds before the ``retry``-th retry, from 0."""

    FIRST, MOST, LESS, MORE = 0.1, 10.0, 0.5, 0.25

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def before(self, retry: int) -> float:
        """The first one is made at once."""
        if retry == 0:
            return 0.0
        jitter = self._chance.uniform(self.FIRST * (1 - self.LESS), self.FIRST * (1 - self.MORE))
        return float(min(self.FIRST + (2.0 ** (min(retry, 30) - 1) - 1) * jitter, self.MOST))


class Client:
    """One device and its connection, if it has one."""

    __slots__ = (
        "at",
        "buffer",
        "due",
        "hello",
        "home",
        "lost_at",
        "name",
        "retry",
        "secured",
        "sent_at",
        "sock",
        "state",
    )

    def __init__(self, name: str, hello: bytes, home: int) -> None:
        self.name, self.hello, self.home = name, hello, home
        self.at = home
        """The number of the address where it is, or tries next."""
        self.state, self.retry = NOWHERE, 0
        self.due = float("inf")
        """When it has to do something: try again, give up, say that it is there."""
        self.sock: socket.socket | None = None
        self.secured: ssl.SSLSocket | None = None
        self.buffer = bytearray()
        self.lost_at = self.sent_at = 0.0


class Devices:
    """All devices of the process; ``counts`` and the times are those since ``mark``."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._addresses: list[tuple[str, int]] = [(host, told["port"]) for host in told["addresses"]]
        self._hostname, self._source = told["hostname"], told["source"]
        self._trust = ssl.create_default_context(cafile=told["trust"])
        self._delay = Delay(told["seed"])
        expiry = int(time.time()) + 86_400
        self._all = [self._client(name, told["home"], expiry) for name in told["names"]]
        self._by_file: dict[int, Client] = {}
        self._poll = select.epoll()
        self._timers: list[tuple[float, int, Client]] = []
        self._timer = 0
        self._line: deque[Client] = deque()
        self._at_once = self._under_way = 0
        self._interval = self._next_message = 0.0
        self._turn = 0
        self._left: int | None = None
        self.connected = 0
        self.mark()

    def _client(self, name: str, home: int, expiry: int) -> Client:
        token = Device(name).token(expiry, self._hostname)
        user = f"{self._hostname}/{name}/?api-version=2021-04-12"
        return Client(name, connect(name, user, token, keep_alive=KEEP_ALIVE), home)

    # --- what the parent asks for

    def mark(self) -> None:
        """Count anew."""
        self.counts: Counter[str] = Counter()
        self.back: list[float] = []
        """Seconds from a loss to the CONNACK."""
        self.acknowledged: list[float] = []
        """Seconds from a message to its PUBACK."""

    def connect(self, at_once: int) -> None:
        """Have all who are not connected connect at their home, so many at a time."""
        self._at_once, self._under_way = at_once, 0
        self._line.extend(client for client in self._all if client.state == NOWHERE)
        self._go_on()

    def go_home(self, at_once: int) -> None:
        """Have those who are elsewhere say good-bye and connect at home, so many at a time."""
        self._at_once, self._under_way = at_once, 0
        self._line.extend(client for client in self._all if client.state == CONNECTED and client.at != client.home)
        self._go_on()

    def send(self, rate: float, count: int | None = None) -> None:
        """From now on send so many messages a second, the devices taking turns, ``count`` in all; 0 ends it."""
        self._interval, self._next_message, self._left = 1 / rate if rate else 0.0, time.monotonic(), count

    def tell(self) -> dict[str, Any]:
        """What has become of all."""
        waiting = sum(bool(client.sent_at) for client in self._all)
        return {
            "devices": len(self._all), "connected": self.connected, "waiting": waiting, "counts": dict(self.counts),
        }  # fmt: skip

    def times(self) -> dict[str, list[float]]:
        """How long things took."""
        return {"back": self.back, "acknowledged": self.acknowledged}

    # --- the loop

    def turn(self, longest: float = 0.1) -> None:
        """What there is to do now, or comes within ``longest`` seconds."""
        now = time.monotonic()
        if self._interval:
            longest = min(longest, self._interval)
            while self._next_message <= now and self._left != 0:
                self._next_message += self._interval
                self._turn += 1
                self._left = None if self._left is None else self._left - 1
                self._publish(self._all[self._turn % len(self._all)])
        while self._timers and self._timers[0][0] <= now:
            due, _, client = heapq.heappop(self._timers)
            if due == client.due:
                self._is_due(client)
        if self._timers:
            longest = min(longest, max(0.0, self._timers[0][0] - now))
        for file, events in self._poll.poll(longest, 512):
            if (found := self._by_file.get(file)) is not None:
                self._event(found, events)

    def _set_due(self, client: Client, seconds: float) -> None:
        client.due = time.monotonic() + seconds
        self._timer += 1
        heapq.heappush(self._timers, (client.due, self._timer, client))

    def _is_due(self, client: Client) -> None:
        if client.state == WAITING:
            self._dial(client)
        elif client.state == CONNECTED:
            self._write(client, PINGREQ)
            self.counts["pings"] += 1
        else:
            self._lose(client, "too late")

    def _go_on(self) -> None:
        """Those in line, as many as may be under way."""
        while self._line and self._under_way < self._at_once:
            client = self._line.popleft()
            if client.state == CONNECTED:
                assert client.secured is not None
                client.secured.send(DISCONNECT)
                self._drop(client)
                client.at = client.home
            if client.state == NOWHERE:  # else it was lost meanwhile, and comes back by itself
                self._under_way += 1
                client.retry = 0
                self._dial(client)

    def _dial(self, client: Client) -> None:
        client.state, sock = DIALLING, socket.socket()
        client.sock = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._source, 0))
        problem = sock.connect_ex(self._addresses[client.at])
        self._by_file[sock.fileno()] = client
        self._poll.register(sock.fileno(), _OUT)
        self._set_due(client, CONNECT_SECONDS)
        if problem not in (0, errno.EINPROGRESS):
            self._lose(client, "not taken")

    def _event(self, client: Client, events: int) -> None:
        try:
            if client.state == DIALLING:
                assert client.sock is not None
                if client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or events & select.EPOLLERR:
                    self._lose(client, "not taken")
                    return
                client.secured = self._trust.wrap_socket(
                    client.sock, server_hostname=self._hostname, do_handshake_on_connect=False
                )
                client.sock = client.secured
                client.state = SHAKING
            if client.state == SHAKING:
                self._shake(client)
            if client.state >= ASKING:
                self._read(client)
        except ssl.SSLCertVerificationError:
            self._lose(client, "hub not trusted")
        except (OSError, EOFError):
            self._lose(client, "lost" if client.state == CONNECTED else "broken off")

    def _shake(self, client: Client) -> None:
        assert client.secured is not None
        try:
            client.secured.do_handshake()
        except ssl.SSLWantReadError:
            self._poll.modify(client.secured.fileno(), _IN)
        except ssl.SSLWantWriteError:
            self._poll.modify(client.secured.fileno(), _OUT)
        else:
            self._poll.modify(client.secured.fileno(), _IN)
            client.state = ASKING
            client.secured.send(client.hello)

    def _read(self, client: Client) -> None:
        assert client.secured is not None
        while client.secured is not None:
            try:
                data = client.secured.recv(_READ_BYTES)
            except ssl.SSLWantReadError:
                return
            if not data:
                raise EOFError
            client.buffer += data
            for first, body in list(cut(client.buffer)):
                self._packet(client, first >> 4, body)

    def _packet(self, client: Client, kind: int, body: bytes) -> None:
        if kind == CONNACK and client.state == ASKING:
            if body[1]:
                self._lose(client, f"refused with {body[1]}")
                return
            client.state, client.retry = CONNECTED, 0
            self.connected += 1
            self.counts["connects"] += 1
            if client.lost_at:
                self.back.append(time.monotonic() - client.lost_at)
                client.lost_at = 0.0
            self._settled()
            self._set_due(client, KEEP_ALIVE)
            if client.sent_at:
                self.counts["sent again"] += 1
                self._write(client, _message(client, dup=True))
        elif kind == PUBACK and client.sent_at:
            self.acknowledged.append(time.monotonic() - client.sent_at)
            client.sent_at = 0.0
            self.counts["acknowledged"] += 1

    def _publish(self, client: Client) -> None:
        if client.state == CONNECTED and not client.sent_at:
            client.sent_at = time.monotonic()
            self.counts["messages"] += 1
            self._write(client, _message(client))

    def _write(self, client: Client, data: bytes) -> None:
        assert client.secured is not None
        self._set_due(client, KEEP_ALIVE)
        try:
            client.secured.send(data)
        except OSError:
            self._lose(client, "lost")

    def _settled(self) -> None:
        """One of those in line is connected."""
        if self._under_way:
            self._under_way -= 1
            self._go_on()

    def _lose(self, client: Client, how: str) -> None:
        """The connection, or the attempt to have one, has ended as ``how`` says; there will be another."""
        self.counts[how] += 1
        if client.state == CONNECTED:
            client.lost_at, client.retry = time.monotonic(), 0
        else:
            client.at, client.retry = (client.at + 1) % len(self._addresses), client.retry + 1
        self._drop(client)
        client.state = WAITING
        self._set_due(client, self._delay.before(client.retry))

    def _drop(self, client: Client) -> None:
        if client.state == CONNECTED:
            self.connected -= 1
        assert client.sock is not None
        del self._by_file[client.sock.fileno()]
        self._poll.unregister(client.sock.fileno())
        client.sock.close()
        client.state, client.sock, client.secured = NOWHERE, None, None
        client.buffer.clear()
        client.due = float("inf")


def _message(client: Client, *, dup: bool = False) -> bytes:
    return publish(f"devices/{client.name}/messages/events/", PAYLOAD, dup=dup)


def main() -> None:
    """Do what the lines of standard input say, the first of which is what ``Devices`` is made of, until they end."""
    machine.raise_file_limit(0)
    commands = b""
    with open(0, "rb", buffering=0) as given:
        while b"\n" not in commands:
            commands += given.read(1 << 20)
        first, _, commands = commands.partition(b"\n")
        devices = Devices(json.loads(first))
        calls: dict[str, Callable[..., Any]] = {
            one.__name__: one
            for one in (
                devices.mark,
                devices.connect,
                devices.go_home,
                devices.send,
                devices.tell,
                devices.times,
            )
        }
        print(json.dumps(None), flush=True)
        while True:
            devices.turn()
            if select.select([given], [], [], 0)[0]:
                if not (more := given.read(1 << 20)):
                    return
                commands += more
            while b"\n" in commands:
                line, _, commands = commands.partition(b"\n")
                name, *values = json.loads(line)
                print(json.dumps(calls[name](*values)), flush=True)


if __name__ == "__main__":
    main()
