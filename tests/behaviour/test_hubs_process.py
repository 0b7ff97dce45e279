"""Several hubs by `muster serve`, muster.toml and the commands: each command goes to the hub that --hub names."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")


@pytest.fixture
def hub(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[HubProcess]:
    """A process with a hub `west` from its muster.toml."""
    options = getattr(request, "param", ())
    west = loopback()
    config = tmp_path / "muster.toml"
    config.write_text(f"""
        [hubs.west]
        hostname = ["{west}", "west.example"]
        partitions = 3
        retention-days = 1.5
        consumer-group = "own"
        disable-module-sas = true
        """)
    prefix = ("env", f"MUSTER_CONFIG={config}")
    hub = hub_process(tmp_path, loopback(), "--bind", west, "--partitions", "2", *ANY_PORTS, *options, prefix=prefix)
    yield hub
    hub.kill()


def muster(hub: HubProcess, *arguments: str, code: int = 0) -> str:
    """What a command prints, or of what it complains."""
    done = subprocess.run(
        [sys.executable, "-m", "muster", *arguments, "--data", str(hub.directory / "data")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


def test_01_commands_go_to_the_hub_that_is_named(hub: HubProcess) -> None:
    hub.start()
    west = hub.other("west")
    assert json.loads(muster(hub, "env", "--hub", "west", "--format", "json"))["HUB_HOST"] == west.address
    assert json.loads(muster(hub, "env", "--format", "json"))["HUB_HOST"] == hub.address
    added = muster(hub, "device", "add", "d", "--hub", "west").strip()
    assert added.startswith(f"HostName={west.address};DeviceId=d;")
    assert "no hub east" in muster(hub, "device", "add", "d", "--hub", "east", code=1).lower()
    assert "DeviceNotFound" in muster(hub, "device", "show", "d", code=1)
    token = muster(hub, "token", "--hub", "west", "--device", "d").strip()
    assert f"sr={west.address}%2Fdevices%2Fd" in token
    assert muster(hub, "query", "SELECT * FROM devices", "--hub", "west").count('"d"') == 1
    assert muster(hub, "query", "SELECT * FROM devices") == ""
    status, _ = west.request("GET", "/devices/d", Authorization=hub.owner_token().replace(hub.address, west.address))
    assert status == 401
    assert "wrong-key" in muster(hub, "why", "--hub", "west", "--json")
    assert "No refusal" in muster(hub, "why", code=1)
    lines = muster(hub, "hub", "list").splitlines()
    assert lines[0].startswith(f"{hub.address}  {hub.address}  2 partitions, 0 devices")
    assert lines[1].startswith(f"west  {west.address}, west.example  3 partitions, 1 devices")
    assert json.loads(muster(hub, "hub", "show", "west"))["declared"]
    assert re.search(rf"hub +{re.escape(west.address)}: add --hub west to commands", hub.log_file.read_text())


@pytest.mark.embedded("without a hub that runs, commands open hub.db")
def test_01_1_also_when_it_has_ended(hub: HubProcess) -> None:
    hub.start()
    west = hub.other("west")
    added = muster(hub, "device", "add", "d", "--hub", "west").strip()
    assert hub.stop() == 0
    assert muster(hub, "device", "show", "d", "--hub", "west").strip() == added
    assert json.loads(muster(hub, "env", "--hub", "west", "--format", "json"))["HUB_HOST"] == west.address
    assert "has no hub east" in muster(hub, "env", "--hub", "east", code=1)
    assert "No such device" in muster(hub, "device", "show", "d", code=1)
    assert [line.split()[0] for line in muster(hub, "hub", "list").splitlines()] == [hub.address, "west"]


def test_02_hubs_are_added_and_removed_from_the_command_line(hub: HubProcess) -> None:
    hub.start()
    assert "third serves third.example" in muster(hub, "hub", "add", "third", "third.example", "--partitions", "1")
    assert json.loads(muster(hub, "env", "--hub", "third", "--format", "json"))["HUB_HOST"] == "third.example"
    muster(hub, "device", "add", "d", "--hub", "third")
    assert "third.example" in muster(hub, "hub", "list")
    assert "is a name of the hub third already" in muster(hub, "hub", "add", "fourth", "third.example", code=1)
    assert "in the settings of muster serve" in muster(hub, "hub", "remove", "west", "--yes", code=1)
    muster(hub, "hub", "remove", "third", "--yes")
    assert "third" not in muster(hub, "hub", "list")
    assert "no hub third" in muster(hub, "env", "--hub", "third", code=1).lower()


@pytest.mark.parametrize("hub", [("--disable-local-auth",)], indirect=True)
def test_03_each_hub_is_called_by_a_policy_that_it_takes(hub: HubProcess) -> None:
    hub.start()
    assert "DeviceId=d;" in muster(hub, "device", "add", "d")
    assert "DeviceId=d;" in muster(hub, "device", "add", "d", "--hub", "west"), "it takes its owner's tokens"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--hub", "west"), "is not NAME=HOST"),
        (("--hub", "west=localhost"), "localhost is a name of every hub"),
        (("--hub", "West=west.example"), "cannot be named"),
        (("--hub", "a=same.example", "--hub", "b=same.example"), "same.example is a name of the hub a already"),
        (("--hub", "a=a.example", "--hub", "a=b.example"), "a hub named a already"),
    ],
)
def test_04_hubs_that_cannot_be_are_named(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-m", "muster", "serve", "--data", str(tmp_path / "data"), "--bind", loopback()]
    done = subprocess.run([*command, *ANY_PORTS, *options], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("hubs.west = 5", "hubs.west is not a table"),
        ("[hubs.west]\npartitions = 3", "needs hostname"),
        ('[hubs.west]\nhostname = "w"\npartitions = 99', "partitions"),
        ('[hubs.west]\nhostname = "w"\ncolour = "red"', "'colour' is not known there"),
        ('[hubs.west]\nhostname = ["w", 5]', "give a text"),
        ('[hubs.west]\nhostname = "w"\nevents = "weather"', "'weather' is none of"),
    ],
)
def test_05_tables_that_are_wrong_are_named(tmp_path: Path, table: str, said: str) -> None:
    config = tmp_path / "muster.toml"
    config.write_text(table)
    done = subprocess.run(
        [sys.executable, "-m", "muster", "--config", str(config), "serve", "--data", str(tmp_path / "data")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.parametrize("hub", [("--throttle", "on")], indirect=True)
def test_06_a_hub_is_changed_from_the_command_line_at_once_and_for_good(hub: HubProcess) -> None:
    hub.start()
    own = hub.address
    changed = ("--retention-days", "3", "--c2d-ttl-minutes", "90", "--c2d-max-deliveries", "7", "--tier", "S2")
    told = json.loads(muster(hub, "hub", "set", own, *changed, "--units", "2", "--tag", "line=7", "--tag", "a=b"))
    assert told["sku"] == {"name": "S2", "tier": "Standard", "capacity": 2}
    assert told["tags"] == {"line": "7", "a": "b"}
    assert told["properties"]["eventHubEndpoints"]["events"]["retentionTimeInDays"] == 3
    to_devices = told["properties"]["cloudToDevice"]
    assert (to_devices["defaultTtlAsIso8601"], to_devices["maxDeliveryCount"]) == ("PT1H30M", 7)
    muster(hub, "hub", "set", own, "--tag", "a=")
    assert "has a single unit" in muster(hub, "hub", "set", "west", "--tier", "F1", "--units", "2", code=1)
    assert "TotalMessages  0 of " in muster(hub, "hub", "stats", "west")
    assert json.loads(muster(hub, "hub", "stats", own, "--json"))["endpoints"][0]["healthStatus"] == "healthy"
    muster(hub, "hub", "group", "add", "west", "reports")
    assert muster(hub, "hub", "group", "list", "west").split() == ["reports", "$Default", "own"]
    assert "in the settings of muster serve" in muster(hub, "hub", "group", "remove", "west", "own", code=1)
    assert "There is no consumer group nix" in muster(hub, "hub", "group", "remove", "west", "nix", code=1)
    service = json.loads(muster(hub, "provisioning", "show"))
    assert [one["name"] for one in service["properties"]["iotHubs"]] == [own, hub.other("west").address]

    def check() -> None:
        meters = hub.request("GET", "/$muster/meters")[1]
        assert (meters["tier"], meters["units"]) == ("S2", 2)
        assert json.loads(muster(hub, "hub", "set", own))["tags"] == {"line": "7"}

    check()
    assert hub.stop() == 0
    hub.start()
    check()
    muster(hub, "hub", "group", "remove", "west", "reports")
    assert muster(hub, "hub", "group", "list", "west").split() == ["$Default", "own"]
