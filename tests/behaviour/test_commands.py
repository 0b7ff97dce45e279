"""The commands against a hub of their own, running, stopped, killed and over the network."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from muster.dialect.connection_string import parse_connection_string
from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish, subscribe

PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")


of_the_file = pytest.mark.embedded("without a hub that runs, commands open hub.db")


class Cli:
    """``muster`` on the data directory of one hub."""

    def __init__(self, hub: HubProcess) -> None:
        self.hub = hub
        self.data = str(hub.directory / "data")

    def popen(self, *arguments: str, data: bool = True) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MUSTER_")}
        where = ["--data", self.data] if data else []
        return subprocess.Popen(
            [sys.executable, "-m", "muster", *arguments, *where],
            env=environment, cwd=self.hub.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def fail(self, *arguments: str, data: bool = True) -> str:
        """Run it; it must end with 1. What it said."""
        process = self.popen(*arguments, data=data)
        output, error = process.communicate(timeout=30)
        assert (process.returncode, output) == (1, "")
        return error

    def __call__(self, *arguments: str, data: bool = True) -> str:
        """Run it; it must end with 0. What it printed."""
        process = self.popen(*arguments, data=data)
        output, error = process.communicate(timeout=30)
        assert process.returncode == 0, error
        return output.strip()

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments))


@pytest.fixture
def cli(make_hub: Callable[..., HubProcess]) -> Cli:
    """Of a hub that no other test uses."""
    return Cli(make_hub(*PORTS).start())


async def send(hub: HubProcess, device_id: str, password: str, *bodies: str) -> int:
    """Connect as a device and send; the CONNACK's return code."""
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust(), hub.address)
    try:
        _, code = await client.connect(device_id, f"{hub.address}/{device_id}/?api-version=2021-04-12", password)
        for number, body in enumerate(bodies, start=1):
            await client.send(publish(f"devices/{device_id}/messages/events/k=v", body.encode(), packet_id=number))
            await client.expect("PUBACK")
        return code
    finally:
        client.abort()


@of_the_file
def test_env_says_the_same_of_a_running_a_stopped_and_a_killed_hub(cli: Cli) -> None:
    names = cli.json("env", "--format", "json")
    assert names == {name: value for name, value in cli.hub.facts.items() if isinstance(value, str)}
    assert Path(names["HUB_CA_FILE"]).read_bytes() in Path(names["HUB_CA_BUNDLE"]).read_bytes()
    assert cli.hub.stop() == 0
    assert cli.json("env", "--format", "json") == names
    cli.hub.start()
    again = cli.json("env", "--format", "json")
    assert {name for name in names if again[name] != names[name]} <= {
        "HUB_CONNECTION_STRING", "SERVICE_CONNECTION_STRING", "EVENTHUB_CONNECTION_STRING", "DPS_CONNECTION_STRING",
        "MQTT_PORT", "AMQP_PORT", "HTTPS_PORT",
    }  # fmt: skip
    for name in ("HUB_CONNECTION_STRING", "SERVICE_CONNECTION_STRING", "DPS_CONNECTION_STRING"):
        assert parse_connection_string(again[name]).key == parse_connection_string(names[name]).key
    cli.hub.kill()
    assert (Path(cli.data) / "run.json").exists()
    assert cli.json("env", "--format", "json") == again


def test_env_can_be_read_by_a_shell_and_as_a_dotenv_file(cli: Cli) -> None:
    names = cli.json("env", "--format", "json")
    lines = cli("env").splitlines()
    assert dict(line.split("=", 1) for line in lines) == names
    script = f"{cli('env', '--format', 'shell')}\nenv"
    path = {"PATH": os.environ["PATH"]}
    shell = subprocess.run(["sh", "-c", script], check=True, env=path, capture_output=True, text=True)
    assert names.items() <= dict(line.split("=", 1) for line in shell.stdout.splitlines()).items()


@of_the_file
async def test_an_added_device_connects_with_a_token_of_its_connection_string(cli: Cli) -> None:
    def add_live_and_dead() -> list[str]:
        strings = [cli("device", "add", "live"), cli("device", "add", "live", "--module", "m")]
        assert cli.hub.stop() == 0
        strings += [cli("device", "add", "dead"), cli("device", "add", "dead", "--module", "m")]
        cli.hub.start()
        return strings

    strings = await asyncio.to_thread(add_live_and_dead)
    for text in strings:
        identity = parse_connection_string(text).identity
        token = await asyncio.to_thread(cli, "token", "--login", text, data=False)
        assert await send(cli.hub, str(identity), token) == 0
        module = [] if identity.module_id is None else ["--module", identity.module_id]
        token = await asyncio.to_thread(cli, "token", "--device", identity.device_id, *module)
        assert await send(cli.hub, str(identity), token) == 0


@pytest.mark.parametrize("stopped", [False, pytest.param(True, marks=of_the_file)])
def test_device_add_knows_every_way_to_authenticate_and_refuses_a_second_time(cli: Cli, stopped: bool) -> None:
    thumbprint = ":".join(["A1"] * 20)
    if stopped:
        assert cli.hub.stop() == 0
    name = f"x{stopped}"
    made = cli.json("device", "add", name, "--auth", "x509-thumbprint", "--thumbprint", thumbprint, "--json")
    assert made["connectionString"] == f"HostName={cli.hub.address};DeviceId={name};x509=true"
    assert "primaryKey" not in made
    assert cli.json("device", "show", name, "--json") == made
    assert "x509=true" in cli("device", "add", f"ca{stopped}", "--auth", "x509-ca")
    made = cli.json("device", "add", f"s{stopped}", "--json")
    assert made["primaryKey"] in made["connectionString"]
    assert made["primaryKey"] != made["secondaryKey"]
    assert cli.json("device", "show", f"s{stopped}", "--json") == made
    assert cli("device", "show", f"s{stopped}") == made["connectionString"]
    module = cli("device", "add", f"s{stopped}", "--module", "m")
    assert cli("device", "show", f"s{stopped}", "--module", "m") == module
    assert "No such device is registered" in cli.fail("device", "show", "nobody")
    assert "already" in cli.fail("device", "add", name)
    assert "holds a ';'" in cli.fail("device", "add", "a;b")
    assert "a;b: No such device is registered. Run: muster device add" in cli.fail("token", "--device", "a;b")
    assert "name/m: No such module" in cli.fail("token", "--device", name, "--module", "m").replace(name, "name")
    assert "no symmetric key" in cli.fail("token", "--device", name)
    assert "DeviceNotFound" in cli.fail("token", "--device", "nobody") or stopped
    assert "thumbprint" in cli.fail("device", "add", "y", "--auth", "x509-thumbprint", "--thumbprint", "zz")


@of_the_file
def test_commands_at_the_same_time_on_a_stopped_hub_take_turns(cli: Cli) -> None:
    assert cli.hub.stop() == 0
    running = [cli.popen("device", "add", f"d{number}") for number in range(4)]
    errors = [process.communicate(timeout=30)[1] for process in running]
    assert [process.returncode for process in running] == [0] * 4, errors
    cli.hub.start()
    _, devices = cli.hub.request("GET", "/devices")
    assert {device["deviceId"] for device in devices} == {f"d{number}" for number in range(4)}


def test_commands_work_over_the_network_with_a_connection_string(cli: Cli) -> None:
    facts = cli.hub.facts
    login = ["--login", facts["HUB_CONNECTION_STRING"], "--ca", facts["HUB_CA_FILE"]]
    text = cli("device", "add", "far", *login, data=False)
    assert parse_connection_string(text).host == cli.hub.address
    assert cli("token", "--device", "far", *login, data=False).startswith("SharedAccessSignature sr=")
    assert "No refusal is kept" in cli.fail("why", *login, data=False)
    assert "is not trusted" in cli.fail("why", *login[:2], data=False)
    weak = ["--login", facts["SERVICE_CONNECTION_STRING"], "--ca", facts["HUB_CA_FILE"]]
    error = cli.fail("device", "add", "other", *weak, data=False)
    tracking_id = error.rpartition("muster why ")[2].strip()
    assert "401" in error
    report = cli.json("why", tracking_id, "--json")
    assert (report["cause"], report["principal"]) == ("policy-lacks-right", "service (policy)")
    gone = login[1].replace(f":{cli.hub.port('https')}", ":9")
    assert "no hub can be reached" in cli.fail("why", "--login", gone, data=False)


@of_the_file
async def test_why_explains_a_refusal_also_after_a_restart(cli: Cli) -> None:
    text = await asyncio.to_thread(cli, "device", "add", "dev1")
    assert await send(cli.hub, "dev1", text) == 5
    report = await asyncio.to_thread(cli.json, "why", "--last", "--json")
    assert (report["cause"], report["principal"], report["transport"]) == ("connection-string-as-token", "dev1", "mqtt")
    assert await send(cli.hub, "dev2", text) == 5
    said = await asyncio.to_thread(cli, "why", report["trackingId"])
    assert said.startswith("dev1 was refused: A whole connection string was sent")
    assert "✗ credential" in said
    assert "✓ registry" in said
    assert parse_connection_string(text).key not in said

    def later() -> None:
        assert cli("why", "--device", "dev1") == said
        assert cli("why").startswith("dev2 was refused")
        assert len(cli("why", "--last", "--count", "5", "--json").splitlines()) == 2
        assert cli.hub.stop() == 0
        assert cli("why", report["trackingId"][:32]) == said
        assert cli("why").startswith("dev2 was refused")
        cli.hub.start()
        assert cli("why", "--device", "dev1") == said
        assert "No refusal of dev3" in cli.fail("why", "--device", "dev3")

    await asyncio.to_thread(later)


def lines_of(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


async def test_monitor_prints_what_arrives_until_it_is_interrupted(cli: Cli) -> None:
    login = await asyncio.to_thread(cli, "device", "add", "dev1")
    token = await asyncio.to_thread(cli, "token", "--login", login, data=False)
    other = await asyncio.to_thread(cli, "token", "--device", "dev1", "--ttl", "60")
    await send(cli.hub, "dev1", token, "early")
    monitor, kept = cli.popen("monitor"), cli.popen("monitor", "--from", "start", "--json", "--count", "3")
    mine = cli.popen("monitor", "--device", "nobody", "--json")
    try:
        first = json.loads((await asyncio.to_thread(lines_of, kept, 1))[0])
        assert (first["device_id"], first["body"], first["properties"]) == ("dev1", "early", {"k": "v"})
        await asyncio.sleep(2)  # the others are attached by now, at the end of the partitions
        await send(cli.hub, "dev1", other, '{"t": 1}', "two")
        assert [json.loads(line)["body"] for line in await asyncio.to_thread(lines_of, kept, 2)] == ['{"t": 1}', "two"]
        assert await asyncio.to_thread(kept.wait, 10) == 0
        lines = await asyncio.to_thread(lines_of, monitor, 2)
        assert "dev1" in lines[0] and '{"t": 1}' in lines[0] and "k=v" in lines[0]  # noqa: PT018 - one line
        monitor.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(monitor.wait, 10) == 0
        mine.send_signal(signal.SIGINT)
        output, error = await asyncio.to_thread(mine.communicate, None, 10)
        assert (output, error) == ("", "")
    finally:
        for process in (monitor, kept, mine):
            process.kill()


def test_a_monitor_does_not_keep_the_hub_from_stopping(cli: Cli) -> None:
    process = cli.popen("monitor")
    time.sleep(2)
    started = time.monotonic()
    assert cli.hub.stop() == 0
    assert time.monotonic() - started < 8
    process.communicate(timeout=10)
    assert process.returncode in {0, 1}
    assert "no hub runs" in cli.fail("monitor")


def test_limits_in_force_are_served(hub: HubProcess) -> None:
    status, body = hub.request("GET", "/$muster/limits")
    assert (status, body["profile"]) == (200, "open")
    assert {"name", "value", "unit", "source", "reason", "azure", "open"} <= set(body["limits"][0])


async def test_methods_lists_the_calls_that_were_made_and_a_waiting_call_does_not_keep_the_hub_from_stopping(
    cli: Cli,
) -> None:
    hub = cli.hub
    token = hub.token("devices/d", hub.add_device("d"))
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust(), hub.address)
    await client.connect("d", f"{hub.address}/d/?api-version=2021-04-12", token)
    await client.send(subscribe(1, [("$iothub/methods/POST/#", 0)]))
    await client.expect("SUBACK")

    def call(device: str, **body: Any) -> asyncio.Task[tuple[int, Any]]:
        body = {"methodName": "reboot", **body}
        return asyncio.create_task(asyncio.to_thread(hub.request, "POST", f"/twins/{device}/methods", body))

    answered = call("d")
    request = (await client.expect("PUBLISH")).body
    request_id = request[2 : 2 + int.from_bytes(request[:2], "big")].decode().partition("$rid=")[2]
    await client.send(publish(f"$iothub/methods/res/207/?$rid={request_id}", b'"done"', qos=0))
    assert await answered == (200, {"status": 207, "payload": "done"})
    assert (await call("un%1bknown"))[0] == 404
    newest, oldest = await asyncio.to_thread(cli, "methods"), await asyncio.to_thread(cli, "methods", "--device", "d")
    assert re.fullmatch(r"\S+Z  d  reboot  status 207  \d+\.\d{3} s  iothubowner.*", oldest)
    assert newest.splitlines()[0] == oldest
    assert re.fullmatch(r"\S+Z  un\\x1bknown  reboot  DeviceNotFound  \d+\.\d{3} s  .*", newest.splitlines()[1])
    told = await asyncio.to_thread(cli.json, "methods", "--device", "d", "--json", "--count", "1")
    assert (told["status"], told["error"], told["moduleId"]) == (207, None, None)

    asked = call("d", responseTimeoutInSeconds=300)
    await client.expect("PUBLISH")
    await asyncio.to_thread(hub.add_device, "later")
    waiting = call("later", connectTimeoutInSeconds=300)
    await asyncio.sleep(0.2)
    assert await asyncio.to_thread(hub.stop) == 0
    assert "no hub runs" in await asyncio.to_thread(cli.fail, "methods")
    assert (await asked)[0] == 404
    assert (await waiting)[0] == 503


def test_query_prints_the_rows_of_all_pages(make_hub: Callable[..., HubProcess]) -> None:
    cli = Cli(make_hub(*PORTS, "--index", "tags.kind", "--index", "properties.reported.[[a-b]]").start())
    for hundred in range(2):
        many = [{"id": f"d{number}", "importMode": "create"} for number in range(hundred * 100, hundred * 100 + 100)]
        assert cli.hub.request("POST", "/devices", many)[0] == 200
    cli.hub.request("PATCH", "/twins/d7", {"tags": {"kind": "é\x9b"}})
    rows = cli("query", "SELECT deviceId FROM devices").splitlines()
    assert len({json.loads(row)["deviceId"] for row in rows}) == len(rows) == 200
    assert cli("query", "SELECT tags.kind FROM devices WHERE tags.kind = 'é\x9b'") == '{"kind": "é\\u009b"}'
    assert "Query has a syntax error at character 8: expected" in cli.fail("query", "SELECT FROM devices")
    cli.hub.stop()
    assert "no hub runs" in cli.fail("query", "SELECT * FROM devices")


def test_only_properties_can_be_indexed(make_hub: Callable[..., HubProcess]) -> None:
    with pytest.raises(RuntimeError, match="deviceId cannot be indexed, name a property"):
        make_hub(*PORTS, "--index", "deviceId").start()


@pytest.mark.parametrize("path", ["why?count=0", "why?count=x", "monitor?partition=99", "monitor?from=then"])
def test_a_wrong_question_is_answered_400_naming_the_parameter(hub: HubProcess, path: str) -> None:
    status, body = hub.request("GET", f"/$muster/{path}")
    assert status == 400
    assert path.partition("?")[2].partition("=")[0] in body["Message"]
