"""A hub in a process of its own, for tests: started, asked, killed, started again."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from muster.identity.sas import decode_key, make

START_SECONDS = 90.0
"""A hub is there after three; on a machine with ten times as much to do as it can a start has taken more than thirty.
"""
STOP_SECONDS = 15.0
TOKEN_SECONDS = 3600


class HubUser:
    """What clients need of a running hub at ``address``, and what they ask of it first."""

    def __init__(self, address: str, facts: dict[str, Any]) -> None:
        self.address = address
        self.facts = facts

    def port(self, protocol: str) -> int:
        """The port of ``mqtt``, ``amqp``, ``https`` or ``amqp_plain``."""
        return int(self.facts["ports"][protocol])

    def trust(self) -> ssl.SSLContext:
        """A client context that trusts this hub only."""
        return ssl.create_default_context(cafile=self.facts["HUB_CA_FILE"])

    def token(self, resource: str, key: str, policy: str | None = None, seconds: float = TOKEN_SECONDS) -> str:
        """A SAS token for ``resource`` (unencoded, without the host for a device: ``devices/d``)."""
        secret = decode_key(key)
        assert secret is not None
        target = f"{self.address}/{resource}" if resource else self.address
        return make(target, int(time.time() + seconds), secret, policy)

    def owner_token(self) -> str:
        """A token of the iothubowner policy."""
        parts = dict(part.split("=", 1) for part in self.facts["HUB_CONNECTION_STRING"].split(";"))
        return self.token("", parts["SharedAccessKey"], parts["SharedAccessKeyName"])

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """One REST call with the owner's token: its status, and the decoded JSON body (``None`` without one)."""
        connection = http.client.HTTPSConnection(self.address, self.port("https"), context=self.trust(), timeout=30)
        try:
            separator = "&" if "?" in path else "?"
            connection.request(
                method,
                f"{path}{separator}api-version=2021-04-12",
                None if body is None else json.dumps(body),
                {"Authorization": self.owner_token(), "Content-Type": "application/json", **headers},
            )
            answer = connection.getresponse()
            content = answer.read()
            return answer.status, json.loads(content) if content else None
        finally:
            connection.close()

    def add_device(self, device_id: str, module_id: str | None = None) -> str:
        """Register a device, or a module of one that is there; its primary key, base64."""
        path = f"/devices/{urllib.parse.quote(device_id, safe='')}"
        names = {"deviceId": device_id}
        if module_id is not None:
            path += f"/modules/{urllib.parse.quote(module_id, safe='')}"
            names["moduleId"] = module_id
        status, identity = self.request("PUT", path, names)
        if status not in (200, 201):
            raise RuntimeError(f"cannot add {device_id}: {status} {identity}")
        return str(identity["authentication"]["symmetricKey"]["primaryKey"])

    def device_connection_string(self, device_id: str, key: str, module_id: str | None = None) -> str:
        """As ``muster device add`` prints it."""
        module = "" if module_id is None else f"ModuleId={module_id};"
        return f"HostName={self.address};DeviceId={device_id};{module}SharedAccessKey={key}"


class HubProcess(HubUser):
    """``muster serve`` on an address of its own, so that clients with fixed ports can have their own hub each.

    ``facts`` is what the ready file says: the names of ``muster env``, ``pid`` and ``ports``. Any loopback address
    (127.x.y.z) will do as ``address``; it is the hub's host name as well, unless clients know the hub by another
    ``hostname``, that of a balancer say. Options beyond that go to ``serve`` as they are. ``prefix`` is a command that
    starts another in its own place, as ``prlimit --nofile=256`` does. It has ``patience`` seconds to start.
    """

    def __init__(
        self,
        directory: Path,
        address: str = "127.0.0.1",
        *options: str,
        ephemeral: bool = False,
        prefix: Sequence[str] = (),
        hostname: str = "",
    ) -> None:
        super().__init__(address, {})
        self.directory = directory
        self.patience = START_SECONDS
        self.log_file = directory / "hub.log"
        self._ready_file = directory / "ready.json"
        data = ["--ephemeral"] if ephemeral else ["--data", str(directory / "data")]
        self._command = [
            *prefix, sys.executable, "-m", "muster", "serve", *data, "--bind", address, "--hostname",
            hostname or address, "--ready-file", str(self._ready_file), *options,
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    # --- its life

    def spawn(self) -> None:
        """Start, and wait for nothing."""
        self._ready_file.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)  # noqa: S603

    def start(self) -> Self:
        """Start and wait until ready. Raises ``RuntimeError`` with the hub's log when it does not get there."""
        self.spawn()
        assert self._process is not None
        deadline = time.monotonic() + self.patience
        while not self._ready_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the hub did not start: {self.log_file.read_text()}")
            time.sleep(0.02)
        self.facts = json.loads(self._ready_file.read_bytes())
        return self

    def stop(self) -> int:
        """SIGTERM, and the exit code. Raises ``subprocess.TimeoutExpired`` when it does not end in time."""
        assert self._process is not None
        self._process.terminate()
        try:
            return self._process.wait(STOP_SECONDS)
        finally:
            self.kill()

    def signal(self, number: int) -> None:
        """Send a signal, as SIGTERM to have it end without waiting for that."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL; harmless when it has ended."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self.stop()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process is not None
        return self._process.pid

    def other(self, name: str) -> HubUser:
        """The hub ``name`` of the same process, one of ``serve --hub``."""
        own = self.facts["hubs"][name]
        return HubUser(own["HUB_HOST"], {**self.facts, **own})
