"""What goes on record of identities, policies and authorities: all that can be changed, keys as fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from muster.core.audit import Act, Draft, draft, fingerprint, fingerprints
from muster.identity.authority_contract import Authority, AuthorityNote
from muster.identity.contract import Note
from muster.identity.model import Identity, IdentityKey
from muster.identity.policies import SharedAccessPolicy, rights_text


def noted(hub: str, by: Act, at: float) -> Note:
    """Makes the records of what ``by`` changes in ``hub`` at ``at`` (seconds since 1970)."""

    def note(before: Identity | None, after: Identity | None) -> Draft:
        changed = after or before
        assert changed is not None, "something has changed"
        return draft(hub, by, subject_of(changed.key), at, before=_told(before), after=_told(after))

    return note


def subject_of(key: IdentityKey) -> str:
    """How records name an identity and what belongs to it: ``devices/d`` or ``devices/d/modules/m``."""
    device_id, module_id = key
    return f"devices/{device_id}" if module_id is None else f"devices/{device_id}/modules/{module_id}"


def policies_told(
    before: Mapping[str, SharedAccessPolicy], after: Mapping[str, SharedAccessPolicy]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those policies of both that are not in the other just so, in a record."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    was, now = ({name: _policy(held[name]) for name in changed if name in held} for held in (before, after))
    return was, now


def _policy(policy: SharedAccessPolicy) -> dict[str, Any]:
    keys = {"primaryKey": policy.primary_key, "secondaryKey": policy.secondary_key}
    return {"rights": rights_text(policy.rights), **fingerprints(keys)}


def authority_noted(hub: str, by: Act, name: str, at: float) -> AuthorityNote:
    """As ``noted``, of a certificate authority."""

    def note(before: Authority | None, after: Authority | None) -> Draft:
        return draft(hub, by, f"certificates/{name}", at, before=_authority(before), after=_authority(after))

    return note


def _authority(one: Authority | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "version": one.version, "thumbprint": hashlib.sha256(one.certificate).hexdigest().upper(),
        "verified": one.verified, "verificationCode": fingerprint(one.code) if one.code else None,
        "revocation": asdict(one.rules),
    }  # fmt: skip


def _told(identity: Identity | None) -> dict[str, Any] | None:
    """What has a value; thumbprints are public."""
    if identity is None:
        return None
    held = identity.authentication
    members = {
        "generationId": identity.generation_id,
        "version": identity.version,
        "status": identity.status,
        "statusReason": identity.status_reason,
        "authentication": held.type,
        "primaryKey": fingerprint(held.primary_key),
        "secondaryKey": fingerprint(held.secondary_key),
        "primaryThumbprint": held.primary_thumbprint,
        "secondaryThumbprint": held.secondary_thumbprint,
        "iotEdge": identity.iot_edge or None,
        "deviceScope": identity.device_scope,
        "parentScopes": list(identity.parent_scopes) or None,
        "managedBy": identity.managed_by,
    }
    return {name: value for name, value in members.items() if value is not None}
