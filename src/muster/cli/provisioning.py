"""``muster provisioning``: enroll devices, and see what became of those that registered."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from muster.cli.enrollments import commands_of
from muster.cli.network_rules import network_commands
from muster.cli.policies import Surface, policy_group
from muster.cli.resources import services_path, values
from muster.cli.target import deployment_option, login_options, provisioning_client
from muster.identity.explain import explain
from muster.identity.policies import RIGHTS_AT_PROVISIONING
from muster.provisioning.attestation.tpm import CHALLENGED
from muster.provisioning.model import AllocationKind, EnrollmentKind


@click.group()
def provisioning() -> None:
    """Enroll devices, and see what became of those that registered."""


provisioning.add_command(network_commands(deployment_option, provisioning_client, hub=False))
provisioning.add_command(
    policy_group(
        Surface("/$muster/provisioning/policies", provisioning_client, deployment_option, RIGHTS_AT_PROVISIONING),
        "Shared access policies of the provisioning service; provisioningserviceowner may do all.",
    )
)
for _kind in EnrollmentKind:
    provisioning.add_command(commands_of(_kind))


@provisioning.command()
@click.argument("registration_id", required=False)
@click.option("--count", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many entries.")
@click.option("--checks", is_flag=True, help="Every check that was made of each attempt.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one entry a line.")
@deployment_option
@login_options
def log(
    *, registration_id: str | None, count: int, checks: bool, as_json: bool, data: Path, login: str | None,
    ca: Path | None,
) -> None:  # fmt: skip
    """Print the timeline of registrations, the newest first: attempts with their verdicts, and assignments."""
    wanted = {"count": count, **({} if registration_id is None else {"registration": registration_id})}
    found = provisioning_client(data, login, ca).call("GET", f"/$muster/provisioning/log?{urlencode(wanted)}")
    for entry in found["entries"]:
        if as_json:
            click.echo(json.dumps(entry))
        else:
            click.echo("\n".join(_lines(entry, checks=checks)))


def _lines(entry: Mapping[str, Any], *, checks: bool) -> Iterator[str]:
    head = f"{entry['at'][:23]}Z  {entry['registrationId']}"
    if entry["entry"] == "attempt":
        if checks:
            yield f"{head}\n{explain(entry)}\n"
        elif entry["allowed"]:
            found = entry["enrollment"]
            yield f"{head}  proved who it is ({found['kind']} {found['id']}) over {entry['transport']}"
        elif entry["cause"] == CHALLENGED:
            yield f"{head}  was sent a key that only its TPM can take in, over {entry['transport']}"
        else:
            yield f"{head}  refused, {entry['cause']}: {entry['headline']}"
    elif entry["status"] == "assigned":
        yield f"{head}  assigned to {entry['assignedHub']} as {entry['deviceId']} ({entry['substatus']})"
    else:
        yield f"{head}  {entry['status']}, {entry['errorCode']}: {entry['errorMessage']}"


@provisioning.command()
@click.option("--policy", type=click.Choice([kind.value for kind in AllocationKind][:3]),
              help="The default policy, of enrollments that name none.")  # fmt: skip
@click.option("--weight", "weights", metavar="HOST=N", multiple=True,
              help="The share of a hub under hashed allocation, 0 to take it out. Repeatable.")  # fmt: skip
@deployment_option
@login_options
def allocation(*, policy: str | None, weights: tuple[str, ...], data: Path, login: str | None, ca: Path | None) -> None:
    """Print how devices are spread over the linked hubs, after changing what is given."""
    client, path = provisioning_client(data, login, ca), "/$muster/provisioning/allocation"
    hubs = []
    for text in weights:
        host, _, number = text.rpartition("=")
        if not host or not number.isdecimal():
            raise click.UsageError(f"--weight {text} is not HOST=N.")
        hubs.append({"name": host, "allocationWeight": int(number)})
    wanted = {"iotHubs": hubs, **({} if policy is None else {"allocationPolicy": policy})}
    found = client.call("PATCH", path, wanted) if hubs or policy else client.call("GET", path)
    click.echo(f"policy  {found['allocationPolicy']}")
    for hub in found["iotHubs"]:
        click.echo(f"{hub['allocationWeight']:6}  {hub['name']}")


@provisioning.command()
@deployment_option
@login_options
def show(*, data: Path, login: str | None, ca: Path | None) -> None:
    """Print the provisioning service as the management API has it, as JSON."""
    client = provisioning_client(data, login, ca)
    for one in values(client, services_path()):
        click.echo(json.dumps(one, indent=1))


@provisioning.command()
@deployment_option
@login_options
def counts(*, data: Path, login: str | None, ca: Path | None) -> None:
    """Print how many attempts and assignments there were since the start, by what became of them."""
    for what, rows in provisioning_client(data, login, ca).call("GET", "/$muster/provisioning/counts").items():
        for row in rows:
            of = "  ".join(str(value) for name, value in row.items() if name != "count")
            click.echo(f"{row['count']:8}  {what}  {of}")
