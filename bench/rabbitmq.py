"""RabbitMQ as a peer over AMQP 1.0: Debian's package as a node of its own, in a directory of its own, on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.machine import LOAD_CORE, SERVER_CORE, free_port, on_core
from bench.servers import HOST, Accounts, Program

PROGRAMS = Path("/usr/lib/rabbitmq/bin")
"""The package's own scripts; those on PATH change to the user of the system's service."""

QUEUE = "telemetry"
USER, PASSWORD = "bench", "bench-password"
CONTROL_SECONDS = 60
_BUSY_WAIT_OFF = "+sbwt none +sbwtdcpu none +sbwtdio none"
"""What RabbitMQ's guide to runtime tuning advises where CPU counts: schedulers that have nothing to do sleep."""

_QUEUE = f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{QUEUE}">>))'


class RabbitMQ(Program):
    """One node with one quorum queue: a message is accepted once it is in the queue's log, synced."""

    name = "RabbitMQ"
    patience = 90.0

    def __init__(self, directory: Path, accounts: Accounts) -> None:
        super().__init__(directory, accounts)
        self.identities = self.directory / "identities.tsv"
        self._mapper: subprocess.Popen[bytes] | None = None
        self._environment = {
            **os.environ,
            "HOME": str(self.directory),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.directory / "logs"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_NODENAME": "muster-bench@localhost",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_BUSY_WAIT_OFF} -kernel inet_dist_use_interface {{127,0,0,1}}",
        }

    def environment(self) -> dict[str, str]:
        return self._environment

    def command(self) -> list[str]:
        settings = {
            "listeners.tcp": "none",
            "listeners.ssl.1": f"{HOST}:{self.port}",
            "ssl_options.certfile": self.certificate,
            "ssl_options.keyfile": self.key,
            "ssl_options.versions.1": "tlsv1.3",
            "ssl_options.verify": "verify_none",
            "ssl_options.fail_if_no_peer_cert": "false",
            "load_definitions": self.directory / "definitions.json",
            "log.file.level": "warning",
            "log.console.level": "error",
        }
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        definitions = {
            "vhosts": [{"name": "/"}],
            "users": [{"name": USER, "password": PASSWORD, "tags": ""}],
            "permissions": [{"user": USER, "vhost": "/", **everything}],
            "queues": [{
                "name": QUEUE, "vhost": "/", "durable": True, "auto_delete": False,
                "arguments": {"x-queue-type": "quorum"},
            }],
        }  # fmt: skip
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self.directory / "rabbitmq.conf").write_text("".join(lines))
        (self.directory / "definitions.json").write_text(json.dumps(definitions))
        (self.directory / "enabled_plugins").write_text("[rabbitmq_amqp1_0].\n")
        lines = [f"{device.name}\t{USER}\t{PASSWORD}\n" for device in self.accounts.devices]
        self.identities.write_text("".join(lines))
        return [str(PROGRAMS / "rabbitmq-server")]

    def start(self) -> None:
        shutil.rmtree(self.directory / "data", ignore_errors=True)  # a node that was killed would recover first
        # A port mapper of our own: one that the node starts itself would be nobody's child and outlive it.
        with on_core(SERVER_CORE):
            self._mapper = subprocess.Popen(["epmd"], env=self._environment, stdin=subprocess.DEVNULL)
        super().start()

    def stop(self) -> None:
        super().stop()
        if self._mapper is not None:
            self._mapper.kill()
            self._mapper.wait()
            self._mapper = None

    def load_options(self, _links: int) -> list[str]:
        """Options of amqpload: where to send, and as whom."""
        assert self._mapper is not None
        return [
            "-p", str(self.port), "-P", str(self.pid), "-P", str(self._mapper.pid), "-I", str(self.identities),
            "-t", f"/amq/queue/{QUEUE}",
        ]  # fmt: skip

    def empty(self) -> int:
        """Purge the queue; how many messages it held. The answer comes through the queue's log, so nothing is late."""
        with on_core(LOAD_CORE):
            said = subprocess.run(
                [str(PROGRAMS / "rabbitmqctl"), "eval", f"{_QUEUE}, rabbit_amqqueue:purge(Q)."],
                env=self._environment, capture_output=True, text=True, timeout=CONTROL_SECONDS, check=False,
            )  # fmt: skip
        held = re.fullmatch(r"\{ok,(\d+)\}", said.stdout.strip())
        if held is None:
            raise RuntimeError(f"RabbitMQ's queue could not be purged: {said.stdout}{said.stderr}")
        return int(held[1])


def version() -> str:
    """The version of the RabbitMQ and the Erlang that are installed."""
    found = {}
    for package in ("rabbitmq-server", "erlang-base"):
        shown = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False
        )
        found[package] = re.sub(r"^\d+:|[+-].*$", "", shown.stdout) or "?"
    return f"{found['rabbitmq-server']} on Erlang {found['erlang-base']}"
