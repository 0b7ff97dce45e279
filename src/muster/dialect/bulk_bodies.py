"""Bulk calls on the registry as the REST data plane spells them (service.md 2.6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, INVALID_OPERATION, INVALID_POLICY_KEY, HubError
from muster.dialect.etag import match_of
from muster.dialect.identity_bodies import device_fields, read_credentials
from muster.dialect.json_body import Members, kind_of
from muster.identity.changes import Draft, ImportMode, KeyChoice
from muster.identity.model import IdentityKey
from muster.identity.registry import BulkItem, check_bulk, check_bulk_size


class Problem(NamedTuple):
    """Why an item of a bulk call was not done. ``operation`` is its importMode where that could be read."""

    key: IdentityKey
    operation: str | None
    error: HubError


def read_bulk(body: Any) -> list[BulkItem | Problem]:
    """The items of a bulk call; one that cannot be read, though its id can, is a ``Problem`` of its own.

    Raises ``HubError`` for the whole call: 400004 when the body is no array of objects, 400005 when it is
    empty or an item has no id, 413002 and 400011 as ``Registry.bulk``.
    """
    if not isinstance(body, list):
        raise HubError(ARGUMENT_INVALID, f"The body must be an array of devices, it is {kind_of(body)}.")
    if not body:
        raise HubError(ARGUMENT_NULL, "The body is an empty array, send 1 to 100 devices.")
    check_bulk_size(len(body))
    items = [Members.of(item, f"[{position}]", f"[{position}].") for position, item in enumerate(body)]
    keys = [read_key(item) for item in items]
    check_bulk(keys)
    return [_read_item(item, key) for item, key in zip(items, keys, strict=True)]


def read_key(item: Members) -> IdentityKey:
    """Which identity an item is about. Raises ``HubError`` 400005 without an id."""
    return IdentityKey(item.needed_text("id"), item.text("moduleId") or None)


def _read_item(item: Members, key: IdentityKey) -> BulkItem | Problem:
    mode = None
    try:
        mode = item.choice("importMode", ImportMode) or ImportMode.CREATE_OR_UPDATE
        found = read_device(item, key, mode)
        _refuse_twin(item)
    except HubError as error:
        return Problem(key, mode, error)
    return found


def read_device(item: Members, key: IdentityKey, mode: ImportMode, *, keeps_scope: bool = False) -> BulkItem:
    """What an ``ExportImportDevice`` says of the identity itself; ``keeps_scope`` as in ``Draft``."""
    etag = item.text("eTag")
    if mode.deletes:
        draft = Draft(key=key)
    elif key.module_id is None:
        draft = Draft(key=key, **device_fields(item), keeps_scope=keeps_scope)
    else:
        credentials = read_credentials(item.members("authentication"))
        draft = Draft(key=key, credentials=credentials, managed_by=item.text("managedBy"))
    return BulkItem(mode, draft, match_of(etag) if etag else None)


def _refuse_twin(item: Members) -> None:
    """Bulk calls do not write twins: their contents must not be taken and lost; empty ones are no loss."""
    properties = item.members("properties")
    if item.members("tags") or properties.members("desired") or properties.members("reported"):
        raise HubError(
            INVALID_OPERATION, "Bulk calls do not write tags and properties, leave them out and PATCH /twins."
        )


def bulk_result(problems: Sequence[Problem]) -> dict[str, Any]:
    """A ``BulkRegistryOperationResult``."""
    return {"isSuccessful": not problems, "errors": [_problem_body(problem) for problem in problems], "warnings": []}


def _problem_body(problem: Problem) -> dict[str, Any]:
    return {
        "deviceId": problem.key.device_id,
        "errorCode": problem.error.row.name,
        "errorStatus": problem.error.message,
        "moduleId": problem.key.module_id,
        "operation": problem.operation,
    }


class Rotated(NamedTuple):
    """An identity whose keys were made anew, and both keys as they are now."""

    key: IdentityKey
    primary_key: str | None
    secondary_key: str | None


def read_regenerate(body: Members) -> tuple[KeyChoice, list[IdentityKey]]:
    """Which keys of which identities to make anew. Raises as ``read_bulk``, and 400035 for a wrong policyKey."""
    choice = next((choice for choice in KeyChoice if choice == body.text("policyKey")), None)
    if choice is None:
        raise HubError(INVALID_POLICY_KEY, f"policyKey must be one of {', '.join(KeyChoice)}.")
    devices = body.items("devices")
    if not devices:
        raise HubError(ARGUMENT_NULL, "devices is missing or empty, name 1 to 100 identities.")
    check_bulk_size(len(devices))
    named = [Members.of(item, f"devices[{place}]", f"devices[{place}].") for place, item in enumerate(devices)]
    keys = [read_key(item) for item in named]
    check_bulk(keys)
    return choice, keys


def regenerate_result(choice: KeyChoice, rotated: Sequence[Rotated], problems: Sequence[Problem]) -> dict[str, Any]:
    """The answer to ``POST /devices/keys/regenerate``."""
    return {
        "policyKey": choice,
        "rotatedKeys": [
            {
                "id": item.key.device_id,
                "moduleId": item.key.module_id,
                "primaryKey": item.primary_key,
                "secondaryKey": item.secondary_key,
            }
            for item in rotated
        ],
        "errors": [
            {
                "id": problem.key.device_id,
                "moduleId": problem.key.module_id,
                "errorCode": problem.error.row.name,
                "errorStatus": problem.error.message,
            }
            for problem in problems
        ],
    }
