"""What a node is made of besides its devices: the policy keys of each hub; id scope, authority and certificate of all.

Made at the first start and kept in the database; later starts find the same, so connection strings stay. An ephemeral
node has the public development keys instead, and an authority of its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from muster.core.ambient import Ambient
from muster.core.settings_store import HubSettingsStore
from muster.identity.hub import hub_name
from muster.identity.kept_policies import HUB, PROVISIONING, KeptPolicies, open_policies
from muster.identity.policies import (
    SharedAccessPolicy,
    development_policies,
    development_provisioning_policy,
    make_policies,
    make_provisioning_policy,
)
from muster.issuing.authority import Credentials, issue_server_certificate, make_authority, still_serves

DEVELOPMENT_ID_SCOPE = "0ne000DE4E10"
_NAME, _ID_SCOPE, _AUTHORITY, _SERVER = "hub-name", "id-scope", "authority", "server-certificate"
_ALL = (_ID_SCOPE, _AUTHORITY, _SERVER)


@dataclass(frozen=True, slots=True)
class HubKeys:
    """Name and policies of one hub.

    The first hub's ``name`` is made from its first host name at the first start and stays, whatever the host names
    become: identities are kept under it, and Event Hubs clients have it in their connection strings.
    """

    name: str
    policies: KeptPolicies


@dataclass(frozen=True, slots=True)
class Material:
    """What all hubs of a node share: certificates, and the id scope."""

    id_scope: str
    authority: Credentials
    server: Credentials


async def load_material(
    store: HubSettingsStore, ambient: Ambient, names: Sequence[str], *, development: bool
) -> Material:
    """What ``store`` holds; what is missing is made and put there first.

    ``names`` are the host names of all hubs, the first hub's own first. The server certificate is made anew when
    ``names`` are not those it was made for, or half its life is over.
    """
    kept = {name: await store.get_setting(name) for name in _ALL}
    fresh: dict[str, bytes] = {}
    scope = kept[_ID_SCOPE]
    if scope is None:
        scope = (DEVELOPMENT_ID_SCOPE if development else f"0ne{ambient.random_bytes(4).hex().upper()}").encode()
        fresh[_ID_SCOPE] = scope
    authority = _credentials_from(kept[_AUTHORITY])
    if authority is None:
        authority = make_authority(ambient)
        fresh[_AUTHORITY] = _credentials_text(authority)
    server = _credentials_from(kept[_SERVER])
    if server is None or not still_serves(server, authority, names, ambient):
        server = issue_server_certificate(authority, names, ambient)
        fresh[_SERVER] = _credentials_text(server)
    if fresh:
        await store.put_settings(fresh)
    return Material(scope.decode(), authority, server)


async def load_first_keys(store: HubSettingsStore, ambient: Ambient, host: str, *, development: bool) -> HubKeys:
    """Name and policies of the first hub as ``store`` holds them; what is missing is made and put there first, the name
    from ``host``."""
    name = await store.get_setting(_NAME)
    if name is None:
        name = hub_name(host).encode()
        await store.put_settings({_NAME: name})
    return await load_keys(store, ambient, name.decode(), development_policies if development else None)


async def load_keys(
    store: HubSettingsStore,
    ambient: Ambient,
    name: str,
    make: Callable[[], Iterable[SharedAccessPolicy]] | None = None,
) -> HubKeys:
    """The hub ``name`` with its policies as its ``store`` holds them; the first time these are ``make``'s, or new."""
    return HubKeys(name, await open_policies(HUB, store, ambient, make or partial(make_policies, ambient)))


async def load_provisioning_policies(store: HubSettingsStore, ambient: Ambient, *, development: bool) -> KeptPolicies:
    """Those of the provisioning service as ``store`` holds them; the first time its owner is made and put there."""

    def make() -> Iterable[SharedAccessPolicy]:
        return [development_provisioning_policy() if development else make_provisioning_policy(ambient)]

    return await open_policies(PROVISIONING, store, ambient, make)


def _credentials_text(credentials: Credentials) -> bytes:
    parts = {"certificate": credentials.certificate, "key": credentials.key}
    return json.dumps({name: base64.b64encode(part).decode() for name, part in parts.items()}).encode()


def _credentials_from(text: bytes | None) -> Credentials | None:
    if text is None:
        return None
    parts = {name: base64.b64decode(part) for name, part in json.loads(text).items()}
    return Credentials(parts["certificate"], parts["key"])
