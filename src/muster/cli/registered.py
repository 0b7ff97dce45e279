"""A registered identity as commands see it: asked of a running hub, or read from the directory of one that stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from muster.cli.network import HubClient
from muster.cli.target import offline
from muster.dialect.connection_string import ConnectionString
from muster.identity.model import AuthenticationType, IdentityKey

if TYPE_CHECKING:
    from muster.node.directory import DataDirectory
    from muster.node.offline import OfflineHub

_X509 = (AuthenticationType.SELF_SIGNED, AuthenticationType.CERTIFICATE_AUTHORITY)


class Registered(NamedTuple):
    """An identity, the host of its hub, how it authenticates, and its symmetric keys."""

    key: IdentityKey
    host: str
    auth: AuthenticationType
    primary: str | None
    secondary: str | None

    def connection_string(self) -> ConnectionString:
        """With the primary key, or with ``x509=true`` for those with a certificate."""
        return ConnectionString(
            host_name=self.host, device_id=self.key.device_id, module_id=self.key.module_id or "",
            key=self.primary or "", x509=self.auth in _X509,
        )  # fmt: skip


def path_of(key: IdentityKey) -> str:
    """Where the REST interface has an identity."""
    path = f"/devices/{quote(key.device_id, safe='')}"
    return path if key.module_id is None else f"{path}/modules/{quote(key.module_id, safe='')}"


def registered(target: HubClient | DataDirectory, key: IdentityKey) -> Registered:
    """The identity ``key`` of the hub ``target``. Raises ``HubError`` or ``ClickException`` when there is none."""
    if isinstance(target, HubClient):
        found = target.call("GET", path_of(key))["authentication"]
        keys = found.get("symmetricKey") or {}
        kind = AuthenticationType(found.get("type", "sas"))
        return Registered(key, target.host, kind, keys.get("primaryKey"), keys.get("secondaryKey"))

    async def read(hub: OfflineHub) -> Registered:
        found = (await hub.registry.get(key)).authentication
        return Registered(key, hub.host, found.type, found.primary_key, found.secondary_key)

    return offline(target, read)
