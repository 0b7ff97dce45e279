"""`muster serve` with the rates and quota of a tier, and what `muster limits --live` shows of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from muster.cli.main import main
from muster.testing.hub import HubProcess
from muster.testing.mqtt import MqttClient, publish

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
Make = Callable[..., HubProcess]


def muster(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(main, arguments, env=environment)
    assert result.exit_code == 0, result.output
    return result.stdout


def limits_of(hub: HubProcess, *options: str) -> str:
    return muster("limits", "--live", "--data", str(hub.directory / "data"), *options)


def meters(hub: HubProcess) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(limits_of(hub, "--json"))
    return told


def test_1_by_default_nothing_is_throttled(make_hub: Make) -> None:
    hub = make_hub(*ANY_PORTS).start()
    hub.add_device("d")
    told = meters(hub)
    assert (told["tier"], told["units"], told["quota"]) == (None, None, None)
    registry = next(one for one in told["operations"] if one["name"] == "registry")
    assert (registry["accepted"], registry["limit"], registry["rate"] is None) == (1, None, False)
    lines = limits_of(hub).splitlines()
    assert lines[0] == "Nothing is throttled."
    assert next(line.split() for line in lines if line.startswith("registry"))[:4] == ["registry", "1", "0", "0"]


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        (("--profile", "azure"), ("S1", 1)),
        (("--profile", "azure", "--tier", "s3", "--units", "2"), ("S3", 2)),
        (("--throttle", "on", "--tier", "S2"), ("S2", 1)),
        (("--profile", "azure", "--throttle", "off"), (None, None)),
    ],
)
def test_2_the_azure_profile_or_a_switch_enforces_a_tier(
    make_hub: Make, options: tuple[str, ...], plan: tuple[str | None, int | None]
) -> None:
    told = meters(make_hub(*ANY_PORTS, *options).start())
    assert (told["tier"], told["units"]) == plan
    limit = {None: None, "S1": 100, "S2": 120, "S3": 12_000}[plan[0]]
    assert next(one["limit"] for one in told["operations"] if one["name"] == "telemetry") == limit


def test_3_the_free_tier_has_one_unit() -> None:
    result = CliRunner().invoke(main, ["serve", "--tier", "F1"], env={"MUSTER_UNITS": "2"})
    assert result.exit_code == 2
    assert "single unit" in result.stderr


async def test_4_what_is_used_of_the_day_survives_a_restart(make_hub: Make, tmp_path: Path) -> None:
    hub = make_hub(*ANY_PORTS, "--throttle", "on", "--tier", "F1").start()
    token = hub.token("devices/d", hub.add_device("d"))
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust(), hub.address)
    await client.connect("d", f"{hub.address}/d/?api-version=2021-04-12", token)
    await client.send(publish("devices/d/messages/events/", bytes(5 * 512)), publish("devices/d/messages/events/"))
    for _ in range(2):
        await client.expect("PUBACK")
    before = meters(hub)["quota"]
    assert before["messages"] == 8000
    assert hub.stop() == 0
    hub.start()
    after = meters(hub)["quota"]
    assert before["used"] == 6
    assert after["used"] == (6 if after["resetsAt"] == before["resetsAt"] else 0)
    assert "of 8,000 (blocks of 512 bytes)" in limits_of(hub)
