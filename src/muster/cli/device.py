"""``muster device``: register devices and modules."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from muster.cli.network import HubClient
from muster.cli.target import data_option, login_options, offline, running
from muster.dialect.connection_string import ConnectionString
from muster.identity.model import AuthenticationType, IdentityKey

if TYPE_CHECKING:
    from muster.node.offline import OfflineHub

_TYPES = {
    "sas": AuthenticationType.SAS,
    "x509-thumbprint": AuthenticationType.SELF_SIGNED,
    "x509-ca": AuthenticationType.CERTIFICATE_AUTHORITY,
}


@click.group()
def device() -> None:
    """Register devices and modules."""


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
    named = ConnectionString(device_id=device_id, module_id=module or "", x509=auth != "sas")
    named.text()  # an id that cannot stand in one is refused before anything is made
    host, keys = _create(running(data, login, ca), IdentityKey(device_id, module), _TYPES[auth], thumbprints)
    text = replace(named, host_name=host, key=keys[0] or "").text()
    if not as_json:
        click.echo(text)
        return
    facts = {
        "hostName": host,
        "deviceId": device_id,
        "moduleId": module,
        "auth": auth,
        "primaryKey": keys[0],
        "secondaryKey": keys[1],
        "connectionString": text,
    }
    click.echo(json.dumps({name: value for name, value in facts.items() if value is not None}, indent=1))


def _hex(thumbprint: str | None) -> str | None:
    """As the registry wants it, without what openssl prints between the digits."""
    return None if thumbprint is None else thumbprint.replace(":", "").replace(" ", "")


Thumbprints = tuple[str | None, ...]


def _create(
    target: Any, key: IdentityKey, kind: AuthenticationType, thumbprints: Thumbprints
) -> tuple[str, tuple[str | None, str | None]]:
    """Create the identity; the hub's host name and the identity's symmetric keys."""
    if isinstance(target, HubClient):
        return target.host, _create_remotely(target, key, kind, thumbprints)

    async def create(hub: OfflineHub) -> tuple[str, tuple[str | None, str | None]]:
        from muster.identity.changes import Draft  # noqa: PLC0415
        from muster.identity.keys import Credentials  # noqa: PLC0415

        credentials = Credentials(kind, primary_thumbprint=thumbprints[0], secondary_thumbprint=thumbprints[1])
        made = (await hub.registry.create(Draft(key=key, credentials=credentials))).authentication
        return hub.facts["HUB_HOST"], (made.primary_key, made.secondary_key)

    return offline(target, create)


def _create_remotely(
    hub: HubClient, key: IdentityKey, kind: AuthenticationType, thumbprints: Thumbprints
) -> tuple[str | None, str | None]:
    path = f"/devices/{quote(key.device_id, safe='')}"
    body: dict[str, Any] = {"deviceId": key.device_id, "authentication": {"type": kind.value}}
    if key.module_id is not None:
        path += f"/modules/{quote(key.module_id, safe='')}"
        body["moduleId"] = key.module_id
    if thumbprints[0] is not None:
        body["authentication"]["x509Thumbprint"] = {
            "primaryThumbprint": thumbprints[0],
            "secondaryThumbprint": thumbprints[1],
        }
    made = hub.call("PUT", path, body)["authentication"].get("symmetricKey") or {}
    return made.get("primaryKey"), made.get("secondaryKey")
