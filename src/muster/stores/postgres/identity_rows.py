"""An identity as a row of PostgreSQL."""

from __future__ import annotations

import json
from typing import Any

import asyncpg

from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.stores.postgres.texts import meant, meant_json, spelled, spelled_json

COLUMNS = (
    "device_id, module_id, generation_id, version, authentication, primary_key, secondary_key, primary_thumbprint, "
    "secondary_thumbprint, status, status_reason, status_updated, iot_edge, device_scope, parent_scopes, managed_by"
)
"""The columns that ``identity_of`` takes, in their order."""
TYPES = (
    "text, text, text, bigint, text, text, text, text, text, text, text, double precision, boolean, text, jsonb, text"
)
"""Their types."""
_STATUS = {status.value: status for status in Status}
_AUTHENTICATION = {kind.value: kind for kind in AuthenticationType}


def row_of(identity: Identity) -> tuple[Any, ...]:
    """The row of ``COLUMNS`` that holds ``identity``."""
    authentication = identity.authentication
    return (
        identity.key.device_id,
        identity.key.module_id or "",
        identity.generation_id,
        identity.version,
        authentication.type,
        authentication.primary_key,
        authentication.secondary_key,
        authentication.primary_thumbprint,
        authentication.secondary_thumbprint,
        identity.status,
        _spelled(identity.status_reason),
        identity.status_updated,
        identity.iot_edge,
        _spelled(identity.device_scope),
        spelled_json(json.dumps(identity.parent_scopes)) if identity.parent_scopes else None,
        _spelled(identity.managed_by),
    )


def identity_of(row: asyncpg.Record | tuple[Any, ...]) -> Identity:
    """The identity that a row of ``COLUMNS`` holds."""
    (
        device_id, module_id, generation_id, version, kind, primary_key, secondary_key, primary_thumbprint,
        secondary_thumbprint, status, reason, updated, iot_edge, device_scope, parent_scopes, managed_by,
    ) = row  # fmt: skip
    return Identity(
        key=IdentityKey(device_id, module_id or None),
        generation_id=generation_id,
        version=version,
        authentication=Authentication(
            _AUTHENTICATION[kind], primary_key, secondary_key, primary_thumbprint, secondary_thumbprint
        ),
        status=_STATUS[status],
        status_reason=_meant(reason),
        status_updated=updated,
        iot_edge=iot_edge,
        device_scope=_meant(device_scope),
        parent_scopes=tuple(meant_json(parent_scopes)) if parent_scopes else (),
        managed_by=_meant(managed_by),
    )


def _spelled(text: str | None) -> str | None:
    return None if text is None else spelled(text)


def _meant(text: str | None) -> str | None:
    return None if text is None else meant(text)
