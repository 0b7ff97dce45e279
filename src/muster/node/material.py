"""What a hub is made of besides its identities: policy keys, id scope, authority, certificate.

Made at the first start of a data directory and kept in the hub's database; later starts find the same, so
connection strings stay. An ephemeral hub has the public development keys instead, and an authority of its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from muster.core.ambient import Ambient
from muster.core.settings_store import HubSettingsStore
from muster.identity.policies import BUILT_IN, SharedAccessPolicy, development_policies, make_policies
from muster.issuing.authority import Credentials, issue_server_certificate, make_authority, still_serves

DEVELOPMENT_ID_SCOPE = "0ne000DE4E10"
_POLICIES, _ID_SCOPE, _AUTHORITY, _SERVER = "policies", "id-scope", "authority", "server-certificate"


@dataclass(frozen=True, slots=True)
class Material:
    """Keys and certificates of one hub."""

    policies: tuple[SharedAccessPolicy, ...]
    id_scope: str
    authority: Credentials
    server: Credentials


async def load_material(
    store: HubSettingsStore, ambient: Ambient, names: Sequence[str], *, development: bool
) -> Material:
    """What ``store`` holds; what is missing is made and put there first.

    The server certificate is made anew when ``names`` are not those it was made for, or its end is near.
    """
    kept = {name: await store.get_setting(name) for name in (_POLICIES, _ID_SCOPE, _AUTHORITY, _SERVER)}
    fresh: dict[str, bytes] = {}
    policies = _policies_from(kept[_POLICIES]) if kept[_POLICIES] else None
    if policies is None:
        policies = development_policies() if development else make_policies(ambient)
        fresh[_POLICIES] = _policies_text(policies)
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
    return Material(policies, scope.decode(), authority, server)


def _policies_text(policies: Sequence[SharedAccessPolicy]) -> bytes:
    return json.dumps({policy.name: [policy.primary_key, policy.secondary_key] for policy in policies}).encode()


def _policies_from(text: bytes | None) -> tuple[SharedAccessPolicy, ...] | None:
    if text is None:
        return None
    return tuple(
        SharedAccessPolicy(name, BUILT_IN[name], primary, secondary)
        for name, (primary, secondary) in json.loads(text).items()
    )


def _credentials_text(credentials: Credentials) -> bytes:
    parts = {"certificate": credentials.certificate, "key": credentials.key}
    return json.dumps({name: base64.b64encode(part).decode() for name, part in parts.items()}).encode()


def _credentials_from(text: bytes | None) -> Credentials | None:
    if text is None:
        return None
    parts = {name: base64.b64decode(part) for name, part in json.loads(text).items()}
    return Credentials(parts["certificate"], parts["key"])
