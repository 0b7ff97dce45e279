"""``muster device``: register devices and modules, and show their connection strings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from muster.cli.network import HubClient
from muster.cli.registered import Registered, path_of, registered
from muster.cli.target import data_option, login_options, offline, running
from muster.core.audit import Act
from muster.identity.model import AuthenticationType, IdentityKey

if TYPE_CHECKING:
    from muster.node.directory import DataDirectory
    from muster.node.offline import OfflineHub

_TYPES = {
    "sas": AuthenticationType.SAS,
    "x509-thumbprint": AuthenticationType.SELF_SIGNED,
    "x509-ca": AuthenticationType.CERTIFICATE_AUTHORITY,
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


@click.group()
def device() -> None:
    """Register devices and modules, show their connection strings."""


@device.command()
@click.argument("device_id", metavar="ID")
@click.option("--auth", type=click.Choice(list(_TYPES)), default="sas", show_default=True,
              help="How it proves itself: by symmetric keys, by one certificate, or by any of a CA.")  # fmt: skip
@click.option("--module", metavar="MODULE_ID", help="Register this module of the device instead.")
@click.option("--thumbprint", metavar="HEX", help="Of its certificate, SHA-1 or SHA-256, with --auth x509-thumbprint.")
@click.option("--secondary-thumbprint", metavar="HEX", help="Of a second certificate that is good too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ids, keys and connection string.")
@data_option
@login_options
def add(
    *,
    device_id: str,
    auth: str,
    module: str | None,
    thumbprint: str | None,
    secondary_thumbprint: str | None,
    as_json: bool,
    data: Path,
    login: str | None,
    ca: Path | None,
) -> None:
    """Create the identity ID and print its connection string.

    The hub makes the symmetric keys.
    """
    if (auth == "x509-thumbprint") != bool(thumbprint):
        raise click.UsageError("--auth x509-thumbprint and --thumbprint need each other.")
    thumbprints = tuple(_hex(text) for text in (thumbprint, secondary_thumbprint))
    key, kind = IdentityKey(device_id, module), _TYPES[auth]
    # An id that cannot stand in a connection string is refused before anything is made.
    Registered(key, "", kind, None, None).connection_string().text()
    _tell(_create(running(data, login, ca), key, kind, thumbprints), as_json=as_json)


@device.command()
@click.argument("device_id", metavar="ID")
@click.option("--module", metavar="MODULE_ID", help="This module of the device instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: ids, keys and connection string.")
@data_option
@login_options
def show(*, device_id: str, module: str | None, as_json: bool, data: Path, login: str | None, ca: Path | None) -> None:
    """Print the connection string of the identity ID."""
    _tell(registered(running(data, login, ca), IdentityKey(device_id, module)), as_json=as_json)


def _tell(identity: Registered, *, as_json: bool) -> None:
    text = identity.connection_string().text()
    if not as_json:
        click.echo(text)
        return
    facts = {
        "hostName": identity.host,
        "deviceId": identity.key.device_id,
        "moduleId": identity.key.module_id,
        "auth": _NAMES.get(identity.auth, identity.auth.value),
        "primaryKey": identity.primary,
        "secondaryKey": identity.secondary,
        "connectionString": text,
    }
    click.echo(json.dumps({name: value for name, value in facts.items() if value is not None}, indent=1))


def _hex(thumbprint: str | None) -> str | None:
    """As the registry wants it, without what openssl prints between the digits."""
    return None if thumbprint is None else thumbprint.replace(":", "").replace(" ", "")


Thumbprints = tuple[str | None, ...]


def _create(
    target: HubClient | DataDirectory, key: IdentityKey, kind: AuthenticationType, thumbprints: Thumbprints
) -> Registered:
    if isinstance(target, HubClient):
        made = target.call("PUT", path_of(key), _body(key, kind, thumbprints))["authentication"]["symmetricKey"]
        return Registered(key, target.host, kind, made["primaryKey"], made["secondaryKey"])

    async def create(hub: OfflineHub) -> Registered:
        from muster.identity.changes import Draft  # noqa: PLC0415
        from muster.identity.keys import Credentials  # noqa: PLC0415

        credentials = Credentials(kind, primary_thumbprint=thumbprints[0], secondary_thumbprint=thumbprints[1])
        by = Act("device.put" if key.module_id is None else "module.put", f"user {os.getuid()}", transport="offline")
        made = (await hub.registry.create(Draft(key=key, credentials=credentials), by)).authentication
        return Registered(key, hub.host, kind, made.primary_key, made.secondary_key)

    return offline(target, create)


def _body(key: IdentityKey, kind: AuthenticationType, thumbprints: Thumbprints) -> dict[str, Any]:
    authentication: dict[str, Any] = {"type": kind.value}
    if thumbprints[0] is not None:
        authentication["x509Thumbprint"] = {
            "primaryThumbprint": thumbprints[0],
            "secondaryThumbprint": thumbprints[1],
        }
    body: dict[str, Any] = {"deviceId": key.device_id, "authentication": authentication}
    return body if key.module_id is None else {**body, "moduleId": key.module_id}
