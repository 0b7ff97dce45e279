"""RabbitMQ as a peer over AMQP 1.0 and MQTT: Debian's package as nodes of their own, in directories of their own."""

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
    """One node with one quorum queue, taking AMQP 1.0: a message is accepted once it is in the queue's log, synced.

    ``number`` tells nodes of a cluster apart; those after the first have the port mapper and the cookie of ``first``.
    """

    name = "RabbitMQ"
    plugin = "rabbitmq_amqp1_0"
    patience = 90.0

    def __init__(
        self, directory: Path, accounts: Accounts, number: int = 0, first: RabbitMQ | None = None, members: int = 1
    ) -> None:
        super().__init__(directory / f"member{number}" if members > 1 else directory, accounts)
        self.identities = self.directory / "identities.tsv"
        self._members = members
        self._first = first
        self._mapper: subprocess.Popen[bytes] | None = None
        mapper = first or self
        self._mapper_port: int = free_port() if first is None else first._mapper_port
        self._environment = {
            **os.environ,
            "HOME": str(mapper.directory),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOG_BASE": str(self.directory / "logs"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_NODENAME": _node(number),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_BUSY_WAIT_OFF} -kernel inet_dist_use_interface {{127,0,0,1}}",
        }

    def environment(self) -> dict[str, str]:
        return self._environment

    def listeners(self) -> dict[str, object]:
        """The lines of its configuration that say where clients come in."""
        return {"listeners.tcp": "none", "listeners.ssl.1": f"{HOST}:{self.port}"}

    def definitions(self) -> dict[str, list[dict[str, object]]]:
        """The queue, and what leads to it."""
        queue = {
            "name": QUEUE, "vhost": "/", "durable": True, "auto_delete": False,
            "arguments": {"x-queue-type": "quorum"},
        }  # fmt: skip
        return {"queues": [queue]}

    def command(self) -> list[str]:
        settings = {
            **self.listeners(),
            "ssl_options.certfile": self.certificate,
            "ssl_options.keyfile": self.key,
            "ssl_options.versions.1": "tlsv1.3",
            "ssl_options.verify": "verify_none",
            "ssl_options.fail_if_no_peer_cert": "false",
            "load_definitions": self.directory / "users.json",
            "log.file.level": "warning",
            "log.console.level": "error",
        }
        if self._members > 1:
            settings["cluster_formation.peer_discovery_backend"] = "classic_config"
            for number in range(self._members):
                settings[f"cluster_formation.classic_config.nodes.{number + 1}"] = _node(number)
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        users = {
            "vhosts": [{"name": "/"}],
            "users": [{"name": USER, "password": PASSWORD, "tags": ""}],
            "permissions": [{"user": USER, "vhost": "/", **everything}],
        }
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self.directory / "rabbitmq.conf").write_text("".join(lines))
        (self.directory / "users.json").write_text(json.dumps(users))
        (self.directory / "definitions.json").write_text(json.dumps(self.definitions()))
        (self.directory / "enabled_plugins").write_text(f"[{self.plugin}].\n")
        lines = [f"{device.name}\t{USER}\t{PASSWORD}\n" for device in self.accounts.devices]
        self.identities.write_text("".join(lines))
        return [str(PROGRAMS / "rabbitmq-server")]

    def start(self) -> None:
        shutil.rmtree(self.directory / "data", ignore_errors=True)  # a node that was killed would recover first
        if self._first is None:
            # A port mapper of our own: one that the node starts itself would be nobody's child and outlive it.
            with on_core(SERVER_CORE):
                self._mapper = subprocess.Popen(["epmd"], env=self._environment, stdin=subprocess.DEVNULL)
        super().start()
        if self._members == 1:
            self.define()

    def define(self) -> None:
        """Make the queue: in a cluster once all nodes are there, so that each has it."""
        self._control("import_definitions", str(self.directory / "definitions.json"))
        members = f"{_QUEUE}, length(maps:get(nodes, amqqueue:get_type_state(Q)))."
        if (found := self._control("eval", members)) != str(self._members):
            raise RuntimeError(f"RabbitMQ's queue has {found} members, not {self._members}")

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
        said = self._control("eval", f"{_QUEUE}, rabbit_amqqueue:purge(Q).")
        held = re.fullmatch(r"\{ok,(\d+)\}", said)
        if held is None:
            raise RuntimeError(f"RabbitMQ's queue could not be purged: {said}")
        return int(held[1])

    def _control(self, *command: str) -> str:
        """What rabbitmqctl says."""
        with on_core(LOAD_CORE):
            said = subprocess.run(
                [str(PROGRAMS / "rabbitmqctl"), *command], env=self._environment, capture_output=True, text=True,
                timeout=CONTROL_SECONDS, check=False,
            )  # fmt: skip
        if said.returncode:
            raise RuntimeError(f"rabbitmqctl {command[0]} failed: {said.stdout}{said.stderr}")
        return said.stdout.strip()


class MqttRabbitMQ(RabbitMQ):
    """The same taking MQTT: what is published goes by the topic exchange into the queue, PUBACK after its confirm."""

    plugin = "rabbitmq_mqtt"

    def listeners(self) -> dict[str, object]:
        return {
            "listeners.tcp": "none", "mqtt.listeners.tcp": "none", "mqtt.listeners.ssl.1": f"{HOST}:{self.port}",
            "mqtt.allow_anonymous": "false", "mqtt.exchange": "amq.topic",
        }  # fmt: skip

    def definitions(self) -> dict[str, list[dict[str, object]]]:
        binding: dict[str, object] = {
            "source": "amq.topic", "vhost": "/", "destination": QUEUE, "destination_type": "queue", "routing_key": "#",
            "arguments": {},
        }  # fmt: skip
        return {**super().definitions(), "bindings": [binding]}

    @property
    def pids(self) -> list[int]:
        """Of the node, and of the port mapper if it is this node's."""
        return [self.pid] if self._mapper is None else [self.pid, self._mapper.pid]


def _node(number: int) -> str:
    return f"muster-bench{number}@localhost"


def version() -> str:
    """The version of the RabbitMQ and the Erlang that are installed."""
    found = {}
    for package in ("rabbitmq-server", "erlang-base"):
        shown = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True, check=False
        )
        found[package] = re.sub(r"^\d+:|[+-].*$", "", shown.stdout) or "?"
    return f"{found['rabbitmq-server']} on Erlang {found['erlang-base']}"
