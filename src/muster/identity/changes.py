"""What each operation of the registry does to one identity: pure functions that a store runs in its transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from enum import StrEnum
from typing import Any, NamedTuple

from muster.core.errors import (
    ARGUMENT_INVALID,
    DEVICE_EXISTS,
    DEVICE_NOT_FOUND,
    KEYS_NOT_REGENERATED,
    MODULE_EXISTS,
    MODULE_NOT_FOUND,
    PRECONDITION_FAILED,
    SYSTEM_MODULE,
    TOO_MANY_MODULES,
    HubError,
)
from muster.core.limits import MODULES_PER_DEVICE, STATUS_REASON_CHARACTERS
from muster.core.values import value
from muster.identity import keys, scopes
from muster.identity.contract import Change, Standing
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType, Identity, IdentityKey, Status


@value(frozen=True, slots=True, kw_only=True)
class Draft:
    """What a caller wants an identity to be. Everything but the credentials replaces what was there.

    Modules use only ``credentials`` and ``managed_by``. ``keeps_scope``: an edge device that is new takes the scope
    it is given, for its children, which come from elsewhere as it does, name it.
    """

    key: IdentityKey
    credentials: Credentials = field(default_factory=Credentials)
    status: Status = Status.ENABLED
    status_reason: str | None = None
    iot_edge: bool = False
    device_scope: str | None = None
    parent_scopes: tuple[str, ...] = ()
    managed_by: str | None = None
    keeps_scope: bool = False


class Match(NamedTuple):
    """A precondition: the identity must be there, and have this version (``None``: any)."""

    version: int | None = None


ANY = Match()


class KeyChoice(StrEnum):
    """Which symmetric keys to make anew."""

    PRIMARY = "primaryKey"
    SECONDARY = "secondaryKey"
    BOTH = "both"


class Fresh(NamedTuple):
    """What a change cannot make by itself: moment (seconds since 1970), ticks, a version to begin with, two keys."""

    now: float
    ticks: int
    version: int
    keys: tuple[str, str]


def not_found(key: IdentityKey) -> HubError:
    """404001 or 404010, with the id as the message, as Azure has it."""
    return HubError(DEVICE_NOT_FOUND if key.module_id is None else MODULE_NOT_FOUND, str(key))


def create(draft: Draft, fresh: Fresh) -> Change:
    """Make an identity that must not be there: 409001 or 409301 when it is, 413003 for one module too many."""

    def change(standing: Standing) -> Identity:
        if standing.identity is not None:
            raise _exists(draft.key)
        return _write(draft, standing, fresh)

    return change


def update(draft: Draft, match: Match, fresh: Fresh) -> Change:
    """Write over an identity that must be there (404001, 404010) and match (412001)."""

    def change(standing: Standing) -> Identity:
        _require(draft.key, standing.identity, match)
        return _write(draft, standing, fresh)

    return change


def create_or_update(draft: Draft, match: Match, fresh: Fresh) -> Change:
    """Make the identity, or write over it if it matches (412001)."""

    def change(standing: Standing) -> Identity:
        if standing.identity is not None:
            _require(draft.key, standing.identity, match)
        return _write(draft, standing, fresh)

    return change


def delete(key: IdentityKey, match: Match) -> Change:
    """Remove an identity that must be there (404001, 404010) and match (412001)."""

    def change(standing: Standing) -> None:
        _require(key, standing.identity, match)

    return change


def rotate(key: IdentityKey, choice: KeyChoice, fresh: Fresh) -> Change:
    """Put new symmetric keys in; 400036 when the identity takes none."""

    def change(standing: Standing) -> Identity:
        identity = _require(key, standing.identity, ANY)
        present = identity.authentication
        if present.type is not AuthenticationType.SAS:
            raise HubError(
                KEYS_NOT_REGENERATED,
                f"{key} has authentication of type {present.type}, only type sas has keys to regenerate.",
            )
        primary, secondary = fresh.keys
        renewed = replace(
            present,
            primary_key=present.primary_key if choice is KeyChoice.SECONDARY else primary,
            secondary_key=present.secondary_key if choice is KeyChoice.PRIMARY else secondary,
        )
        return replace(identity, authentication=renewed, version=identity.version + 1)

    return change


def keep_system_module(key: IdentityKey, fresh: Fresh) -> Change:
    """Let the module be there exactly while its device is an edge device."""
    draft = Draft(key=key, managed_by="IotEdge")

    def change(standing: Standing) -> Identity | None:
        if standing.device is None or not standing.device.iot_edge:
            return None
        return standing.identity or _new_module(draft, fresh)

    return change


def keep(key: IdentityKey, match: Match) -> Change:
    """Leave an identity as it is, which must be there (404001, 404010) and match (412001)."""
    return lambda standing: _require(key, standing.identity, match)


def restore_system_module(draft: Draft, fresh: Fresh) -> Change:
    """Write over a system module, which is there exactly where its device is an edge device: else 401100."""

    def change(standing: Standing) -> Identity:
        if standing.identity is None:
            raise belongs_to_runtime(draft.key)
        return _write(draft, standing, fresh)

    return change


def unless_same(change: Change) -> Change:
    """``change``, but an identity that it would only give another version stays the object it is."""

    def settled(standing: Standing) -> Identity | None:
        before, after = standing.identity, change(standing)
        if before is None or after is None or replace(after, version=before.version) != before:
            return after
        return before

    return settled


def belongs_to_runtime(key: IdentityKey) -> HubError:
    """401100: a system module is not written by services."""
    return HubError(SYSTEM_MODULE, f"{key.module_id} belongs to the edge runtime and follows its device.")


def _exists(key: IdentityKey) -> HubError:
    if key.module_id is None:
        return HubError(DEVICE_EXISTS, f"A device with ID '{key.device_id}' is already registered.")
    return HubError(
        MODULE_EXISTS, f"A module with ID '{key.module_id}' is already registered on device '{key.device_id}'."
    )


def _require(key: IdentityKey, identity: Identity | None, match: Match) -> Identity:
    if identity is None:
        raise not_found(key)
    if match.version is not None and match.version != identity.version:
        raise HubError(PRECONDITION_FAILED)
    return identity


def _write(draft: Draft, standing: Standing, fresh: Fresh) -> Identity:
    present = standing.identity
    if draft.key.module_id is None:
        return _new_device(draft, fresh) if present is None else _changed_device(draft, present, fresh)
    if present is not None:
        settled = keys.settle(draft.credentials, present.authentication, fresh.keys)
        return replace(present, authentication=settled, managed_by=draft.managed_by, version=present.version + 1)
    limit = MODULES_PER_DEVICE.open
    if standing.modules >= limit:
        raise HubError(
            TOO_MANY_MODULES, f"Device '{draft.key.device_id}' has {standing.modules} modules, {limit} are allowed."
        )
    return _new_module(draft, fresh)


def _new_module(draft: Draft, fresh: Fresh) -> Identity:
    return Identity(
        key=draft.key,
        generation_id=str(fresh.ticks),
        version=fresh.version,
        authentication=keys.settle(draft.credentials, None, fresh.keys),
        managed_by=draft.managed_by,
    )


def _new_device(draft: Draft, fresh: Fresh) -> Identity:
    return Identity(
        key=draft.key,
        generation_id=str(fresh.ticks),
        version=fresh.version,
        authentication=keys.settle(draft.credentials, None, fresh.keys),
        status=draft.status,
        **_fields(draft, None, fresh),
    )


def _changed_device(draft: Draft, present: Identity, fresh: Fresh) -> Identity:
    return replace(
        present,
        version=present.version + 1,
        authentication=keys.settle(draft.credentials, present.authentication, fresh.keys),
        status=draft.status,
        status_updated=present.status_updated if present.status is draft.status else fresh.now,
        **_fields(draft, present, fresh),
    )


def _fields(draft: Draft, present: Identity | None, fresh: Fresh) -> dict[str, Any]:
    limit = STATUS_REASON_CHARACTERS.open
    if draft.status_reason is not None and len(draft.status_reason) > limit:
        raise HubError(
            ARGUMENT_INVALID, f"statusReason has {len(draft.status_reason)} characters, {limit} are allowed."
        )
    device_scope, parent_scopes = scopes.settle(
        draft.key.device_id,
        fresh.ticks,
        present,
        iot_edge=draft.iot_edge,
        device_scope=draft.device_scope,
        parent=scopes.wanted_parent(draft.iot_edge, draft.device_scope, draft.parent_scopes),
        keeps_scope=draft.keeps_scope,
    )
    return {
        "status_reason": draft.status_reason,
        "iot_edge": draft.iot_edge,
        "device_scope": device_scope,
        "parent_scopes": parent_scopes,
    }


class ImportMode(StrEnum):
    """What an item of a bulk call asks for (cs Registry/Models/ImportMode.cs)."""

    CREATE = "create"
    CREATE_OR_UPDATE = "createOrUpdate"
    CREATE_OR_UPDATE_IF_MATCH = "createOrUpdateIfMatchETag"
    UPDATE = "update"
    UPDATE_IF_MATCH = "updateIfMatchETag"
    DELETE = "delete"
    DELETE_IF_MATCH = "deleteIfMatchETag"
    UPDATE_TWIN = "updateTwin"
    UPDATE_TWIN_IF_MATCH = "updateTwinIfMatchETag"

    @property
    def conditional(self) -> bool:
        """Whether the item's ETag must match."""
        return self.value.endswith("IfMatchETag")

    @property
    def deletes(self) -> bool:
        """Whether the item removes its identity."""
        return self in {ImportMode.DELETE, ImportMode.DELETE_IF_MATCH}


BY_MODE: dict[ImportMode, Callable[[Draft, Match, Fresh], Change]] = {
    ImportMode.CREATE: lambda draft, _, fresh: create(draft, fresh),
    ImportMode.CREATE_OR_UPDATE: create_or_update,
    ImportMode.CREATE_OR_UPDATE_IF_MATCH: create_or_update,
    ImportMode.UPDATE: update,
    ImportMode.UPDATE_IF_MATCH: update,
    ImportMode.DELETE: lambda draft, match, _: delete(draft.key, match),
    ImportMode.DELETE_IF_MATCH: lambda draft, match, _: delete(draft.key, match),
}
"""The change that an item of a bulk call makes; the modes that write twins are not among them."""
