"""``muster hub set``, ``muster hub stats`` and ``muster hub group``: what the management API has of a hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from muster.cli.resources import hub_path, running_client, values
from muster.cli.target import deployment_option, login_options
from muster.core.throttles import Tier

_GROUPS = ("eventHubEndpoints", "events", "ConsumerGroups")
_ON_OFF = click.Choice(["on", "off"])
_SWITCHES = {"local_auth": "disableLocalAuth", "device_sas": "disableDeviceSAS", "module_sas": "disableModuleSAS"}
_NO_LIMIT = 2**63 - 1


@click.command("set")
@click.argument("name")
@click.option("--retention-days", type=click.IntRange(1), help="How long telemetry is kept.")
@click.option("--c2d-ttl-minutes", type=click.IntRange(1, 2880), help="How long a message to a device waits.")
@click.option("--c2d-max-deliveries", type=click.IntRange(1, 100), help="How often its delivery may fail.")
@click.option("--tier", type=click.Choice([*Tier], case_sensitive=False), help="The tier whose rates count.")
@click.option("--units", type=click.IntRange(1, 200), help="How many units of it.")
@click.option("--local-auth", type=_ON_OFF, help="Whether it takes tokens of shared access policies.")
@click.option("--device-sas", type=_ON_OFF, help="Whether it takes SAS tokens of devices.")
@click.option("--module-sas", type=_ON_OFF, help="Whether it takes SAS tokens of modules.")
@click.option("--tag", "tags", metavar="NAME=VALUE", multiple=True, help="Set a tag; no value removes it. Repeatable.")
@deployment_option
@login_options
def set_hub(
    *,
    name: str,
    retention_days: int | None,
    c2d_ttl_minutes: int | None,
    c2d_max_deliveries: int | None,
    tier: str | None,
    units: int | None,
    tags: tuple[str, ...],
    data: Path,
    login: str | None,
    ca: Path | None,
    **kinds: str | None,
) -> None:
    """Change the hub NAME, at once and for every start from now on, and print it as JSON.

    What came by a kind of token that is switched off ends. Without policies services come with bearer tokens, devices
    go on as they do, and so do commands on the data directory. Tier and units count where the hub has quotas: serve
    --throttle on.
    """
    target, path = running_client(data, login, ca), hub_path(name)
    found = target.call("GET", path)
    for kind, value in kinds.items():
        if value is not None:
            found["properties"][_SWITCHES[kind]] = value == "off"
    if tier is not None or units is not None:
        free = tier == Tier.F1
        found["sku"] = {
            "name": tier or found["sku"]["name"],
            "capacity": units or (1 if free else found["sku"]["capacity"]),
        }
    properties = found["properties"]
    if retention_days is not None:
        properties["eventHubEndpoints"]["events"]["retentionTimeInDays"] = retention_days
    if c2d_max_deliveries is not None:
        properties["cloudToDevice"]["maxDeliveryCount"] = c2d_max_deliveries
    if c2d_ttl_minutes is not None:
        properties["cloudToDevice"]["defaultTtlAsIso8601"] = f"PT{c2d_ttl_minutes}M"
    for text in tags:
        tag, equals, value = text.partition("=")
        if not tag or not equals:
            raise click.UsageError(f"--tag {text} is not NAME=VALUE.")
        if value:
            found["tags"][tag] = value
        else:
            found["tags"].pop(tag, None)
    click.echo(json.dumps(target.call("PUT", path, found), indent=1))


@click.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@deployment_option
@login_options
def stats(*, name: str, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """Print how many devices the hub NAME has, what of its quotas is used, and how its endpoint is."""
    target = running_client(data, login, ca)
    told: dict[str, Any] = {
        **target.call("GET", hub_path(name, "IotHubStats")),
        "quotas": values(target, hub_path(name, "quotaMetrics")),
        "endpoints": values(target, hub_path(name, "routingEndpointsHealth")),
    }
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(f"{told['enabledDeviceCount']} devices enabled, {told['disabledDeviceCount']} disabled")
    for one in told["quotas"]:
        most = "" if one["maxValue"] == _NO_LIMIT else f" of {one['maxValue']}"
        click.echo(f"{one['name']}  {one['currentValue']}{most}")
    for one in told["endpoints"]:
        click.echo(f"{one['endpointId']}  {one['healthStatus']}")


@click.group()
def group() -> None:
    """Consumer groups of a hub's built-in endpoint, through which readers keep out of each other's way."""


@group.command("list")
@click.argument("hub")
@deployment_option
@login_options
def list_groups(*, hub: str, data: Path, login: str | None, ca: Path | None) -> None:
    """List the consumer groups of HUB."""
    for one in values(running_client(data, login, ca), hub_path(hub, *_GROUPS)):
        click.echo(one["name"])


@group.command()
@click.argument("hub")
@click.argument("name")
@deployment_option
@login_options
def add(*, hub: str, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Add the consumer group NAME to HUB: it can be read through at once."""
    running_client(data, login, ca).call("PUT", hub_path(hub, *_GROUPS, name), {"properties": {"name": name}})


@group.command()
@click.argument("hub")
@click.argument("name")
@deployment_option
@login_options
def remove(*, hub: str, name: str, data: Path, login: str | None, ca: Path | None) -> None:
    """Remove the consumer group NAME of HUB."""
    target, path = running_client(data, login, ca), hub_path(hub, *_GROUPS, name)
    target.call("GET", path)  # to be told when there is none
    target.call("DELETE", path)
