"""packaging/compose*.yaml, the image and the servers' configurations: what can be proven of them without Docker."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_files import UnsetVariableError, interpolated, services_of
from packaging_commands import PACKAGING, settings_from, unknown_variables

from muster.testing.hub import STOP_SECONDS
from tests.nats_servers import binary

ROOT = PACKAGING.parent
FILES = sorted(PACKAGING.glob("compose*.yaml"))
VARIABLES = {"POSTGRES_PASSWORD": "p1", "NATS_PASSWORD": "p2", "MUSTER_HOSTNAME": "hub.example.com"}
NODES = [(path, name) for path in FILES for name in services_of(path, VARIABLES) if name.startswith("muster")]
DOCKERFILE = (PACKAGING / "Dockerfile").read_text().replace("\\\n", " ")
_UNITS = {"s": 1, "m": 60}


def service(path: Path, name: str) -> dict[str, Any]:
    return services_of(path, VARIABLES)[name]


def seconds(text: str) -> float:
    return float(text[:-1]) * _UNITS[text[-1]]


def test_there_are_files_to_look_at() -> None:
    assert [path.name for path in FILES] == ["compose.one.yaml", "compose.yaml"]
    assert [name for _, name in NODES] == ["muster", "muster1", "muster2", "muster3"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_is_a_compose_file(path: Path) -> None:
    """By the Compose Specification, which refuses keys that it does not know."""
    compose = pytest.importorskip("compose_spec", reason="requirements/packaging.lock is not installed").PyCompose
    text = yaml.safe_dump(yaml.safe_load(interpolated(path, VARIABLES)))  # with what services inherit
    compose.from_yaml(text).validate()
    with pytest.raises(ValueError, match="restrat"):
        compose.from_yaml(text.replace("restart:", "restrat:")).validate()
    services = services_of(path, VARIABLES)
    for name, one in services.items():
        assert set(one.get("depends_on", {})) <= set(services), name
        for other, when in one.get("depends_on", {}).items():
            assert when["condition"] != "service_healthy" or "healthcheck" in services[other], other
    for config in yaml.safe_load(text).get("configs", {}).values():
        assert (PACKAGING / config["file"]).is_file()


def test_passwords_must_be_given() -> None:
    for missing in ("POSTGRES_PASSWORD", "NATS_PASSWORD"):
        with pytest.raises(UnsetVariableError, match=missing):
            interpolated(PACKAGING / "compose.yaml", {**VARIABLES, missing: ""})


@pytest.mark.parametrize(("path", "name"), NODES, ids=lambda one: getattr(one, "name", one))
def test_the_program_takes_the_nodes_command_lines(path: Path, name: str) -> None:
    one = service(path, name)
    image = dict(re.findall(r"(MUSTER_\w+)=(\S+)", DOCKERFILE))
    command = one.get("command") or yaml.safe_load(re.findall(r"^CMD (.*)$", DOCKERFILE, re.MULTILINE)[0])
    environment = {**image, **one["environment"]}
    assert unknown_variables(environment) == []
    settings = settings_from(command, environment)
    assert (settings.hostnames, settings.bind) == (("hub.example.com",), ("0.0.0.0",))
    assert settings.data == Path(re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)[0])
    assert settings.clustered is (len(NODES) > 1 and path.name == "compose.yaml")
    if settings.clustered:
        assert settings.database == "postgresql://muster:p1@postgres:5432/muster"
        assert settings.bus == tuple(f"nats://muster:p2@nats{number}:4222" for number in (1, 2, 3))
    else:
        assert one["volumes"] == [f"data:{settings.data}"], "what it keeps outlives the container"
    assert seconds(one["stop_grace_period"]) >= STOP_SECONDS
    ports = {str(port) for port in (settings.mqtt_port, settings.amqp_port, settings.https_port)}
    assert set(re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[0].split()) == ports
    published = one.get("ports") or service(path, "balancer")["ports"]
    assert set(published) == {f"{port}:{port}" for port in ports}


def test_nats_takes_its_configuration(tmp_path: Path) -> None:
    """With the environment that the services give it; and what it says is what a deployment needs."""
    text = (PACKAGING / "nats.conf").read_text()
    one = service(PACKAGING / "compose.yaml", "nats1")
    config = tmp_path / "nats.conf"
    config.write_text(text)

    def tried(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environment = {**environment, "PATH": os.environ["PATH"]}
        command = [binary(), "-t", "-c", str(config)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "-c" in one["command"] or "--config" in one["command"]
    done = tried(one["environment"])
    assert done.returncode == 0, done.stderr
    assert tried({}).returncode != 0, "the variables are used"
    assert re.search(r"^\s*sync_interval: always$", text, re.MULTILINE)
    volumes = [one for number in (1, 2, 3) for one in service(PACKAGING / "compose.yaml", f"nats{number}")["volumes"]]
    store = re.findall(r'store_dir: "(.*)"', text)[0]
    assert volumes == [f"nats{number}:{store}" for number in (1, 2, 3)]
    nodes = settings_from(["serve"], service(PACKAGING / "compose.yaml", "muster1")["environment"])
    assert int(re.findall(r"max_file: (\d+)G", text)[0]) * 10**9 > nodes.retention_bytes
    assert re.findall(r"nats-route://(\w+):6222", text) == ["nats1", "nats2", "nats3"]


@pytest.mark.skipif(shutil.which("haproxy", path="/usr/sbin:/usr/bin") is None, reason="there is no haproxy")
def test_haproxy_takes_its_configuration(tmp_path: Path) -> None:
    text = re.sub(r"muster(\d):", r"127.0.0.\1:", (PACKAGING / "haproxy.cfg").read_text())
    config = tmp_path / "haproxy.cfg"
    for changed, fine in ((text, True), (text.replace("mode tcp", "mode tpc"), False)):
        config.write_text(changed)
        command = [shutil.which("haproxy", path="/usr/sbin:/usr/bin") or "", "-c", "-f", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is fine, done.stderr
        assert "WARNING" not in done.stderr or not fine
    servers = re.findall(r"^    server (\w+) (\w+):(\d+)$", (PACKAGING / "haproxy.cfg").read_text(), re.MULTILINE)
    names = [name for _, name in NODES if name != "muster"]
    assert servers == [(name, name, port) for port in ("8883", "5671", "443") for name in names]


def test_the_image_is_made_of_files_that_are_there() -> None:
    for path in FILES:
        for one in services_of(path, VARIABLES).values():
            if "build" in one:
                assert (PACKAGING / one["build"]["context"] / one["build"]["dockerfile"]).is_file()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
    assert copied
    for line in copied:
        for name in shlex.split(line):
            assert (ROOT / name).exists(), name
    used = re.findall(r"-r (requirements/\S+)", DOCKERFILE)
    assert sorted(used) == ["requirements/cluster.lock", "requirements/run.lock"]
    assert DOCKERFILE.count("--require-hashes") == len(used)
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
