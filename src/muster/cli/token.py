"""``muster token``: a SAS token for a policy, a device, a module or an Event Hubs client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muster.cli.network import HubClient
from muster.cli.registered import registered
from muster.cli.target import data_option, login_options, read_facts, running
from muster.core.ambient import SystemAmbient, iso
from muster.core.errors import INVALID_OPERATION, HubError
from muster.dialect.connection_string import ConnectionString, Kind, parse_connection_string
from muster.identity import sas
from muster.identity.model import IdentityKey

if TYPE_CHECKING:
    from muster.node.directory import DataDirectory


@click.command()
@click.option("--device", "device_id", metavar="ID", help="A token for this device, signed with its primary key.")
@click.option("--module", metavar="MODULE_ID", help="For this module of --device.")
@click.option("--about", metavar="ID", help="A policy's, good for calls about this device and its modules only.")
@click.option("--ttl", type=click.IntRange(1), default=3600, show_default=True, help="Seconds until it expires.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: token, resource and expiry.")
@data_option
@login_options
def token(
    *,
    device_id: str | None,
    module: str | None,
    about: str | None,
    ttl: int,
    as_json: bool,
    data: Path,
    login: str | None,
    ca: Path | None,
) -> None:
    """Print a SAS token.

    By default one of the iothubowner policy of the hub in --data. With --login one for that connection string,
    which may be a service's, a device's or an Event Hubs client's; nothing is asked over the network then,
    unless --device wants a key looked up.
    """
    if module is not None and device_id is None:
        raise click.UsageError("--module needs --device.")
    if about is not None and device_id is not None:
        raise click.UsageError("--about is for a policy's token; --device makes one with the device's own key.")
    if device_id is None:
        parsed = parse_connection_string(_facts(data)["HUB_CONNECTION_STRING"] if login is None else login)
    else:
        parsed = _of_device(running(data, login, ca), IdentityKey(device_id, module))
    resource = resource_of(parsed)
    if about is not None:
        if parsed.kind is not Kind.SERVICE:
            raise HubError(INVALID_OPERATION, "--about needs a connection string with SharedAccessKeyName.")
        resource = f"{resource}/devices/{about}"
    expiry = int(SystemAmbient.now()) + ttl
    made = sas.make(resource, expiry, _signing_bytes(parsed), parsed.policy or None)
    if as_json:
        click.echo(
            json.dumps({"token": made, "resource": resource, "expiry": expiry, "expiresAt": iso(expiry)}, indent=1)
        )
    else:
        click.echo(made)


def resource_of(parsed: ConnectionString) -> str:
    """What a token for a connection string is for: the ``sr`` before it is encoded."""
    if parsed.kind is Kind.EVENT_HUBS:
        return f"sb://{parsed.host}/{parsed.entity_path}".removesuffix("/")
    if parsed.kind is Kind.SERVICE:
        return parsed.host
    path = f"{parsed.host}/devices/{parsed.device_id}"
    return f"{path}/modules/{parsed.module_id}" if parsed.module_id else path


def _signing_bytes(parsed: ConnectionString) -> bytes:
    """Event Hubs clients sign with the key's text (service.md 4.2)."""
    return parsed.key.encode() if parsed.kind is Kind.EVENT_HUBS else parsed.key_bytes


def _facts(data: Path) -> dict[str, Any]:
    from muster.cli.env import facts_of  # noqa: PLC0415

    return read_facts(data) or facts_of(data)


def _of_device(target: HubClient | DataDirectory, key: IdentityKey) -> ConnectionString:
    """The connection string of a registered identity. Raises ``HubError`` when it has no symmetric key."""
    found = registered(target, key)
    if not found.primary:
        raise HubError(INVALID_OPERATION, f"{key} has no symmetric key to sign with; it authenticates by X.509.")
    return found.connection_string()
