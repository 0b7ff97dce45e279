"""Enrollments made, read, changed and deleted, one by one and in bulk.

Knows no protocol: drafts in, enrollments out, refusals as ``HubError`` that name the field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.audit import BY_THE_HUB, Act
from muster.core.errors import ARGUMENT_INVALID, PRECONDITION_FAILED, HubError
from muster.core.limits import Profile
from muster.core.provisioning_errors import ENROLLMENT_EXISTS, ENROLLMENT_NOT_FOUND, TOO_MANY_ENROLLMENTS
from muster.core.provisioning_limits import BULK_ENROLLMENTS, ENROLLMENT_GROUPS
from muster.identity.changes import ANY, Match
from muster.provisioning import rules
from muster.provisioning.account import enrollment_noted
from muster.provisioning.contract import EnrollmentChange, EnrollmentStanding, LinkedHub, ProvisioningStore
from muster.provisioning.groups import Groups
from muster.provisioning.model import Enrollment, EnrollmentKey, EnrollmentKind
from muster.provisioning.rules import Draft


class BulkMode(StrEnum):
    """What a bulk call asks for (provisioning.md 7.2)."""

    CREATE = "create"
    UPDATE = "update"
    UPDATE_IF_MATCH = "updateIfMatchETag"
    DELETE = "delete"


class BulkItem(NamedTuple):
    """One item of a bulk call; ``draft`` is ``None`` where it is only to be deleted."""

    key: EnrollmentKey
    draft: Draft | None
    match: Match | None = None


class Enrollments:
    """The enrollments of the provisioning service ``scope``. Changes are put on record as what ``by`` does."""

    def __init__(
        self,
        scope: str,
        store: ProvisioningStore,
        groups: Groups,
        *,
        hubs: Mapping[str, LinkedHub],
        ambient: Ambient,
        profile: Profile,
    ) -> None:
        """``hubs`` are the linked ones by host name, at every moment."""
        self._scope = scope
        self._store = store
        self._groups = groups
        self._hubs = hubs
        self._ambient = ambient
        self._most_groups = ENROLLMENT_GROUPS.under(profile)
        self._most_bulk = BULK_ENROLLMENTS.under(profile)

    async def get(self, key: EnrollmentKey) -> Enrollment:
        """The enrollment. Raises ``HubError`` 404201."""
        found = await self._store.enrollment(self._scope, key)
        if found is None:
            raise _not_found(key)
        return found

    async def page(self, kind: EnrollmentKind, after: str, limit: int) -> Sequence[Enrollment]:
        """Up to ``limit`` enrollments whose ids come after ``after``, by id."""
        return await self._store.enrollments(self._scope, kind, after, limit)

    async def put(self, draft: Draft, match: Match | None = None, by: Act = BY_THE_HUB) -> Enrollment:
        """Make an enrollment or write over it; with ``match`` it must be there and match.

        Keys and certificates that the draft leaves out stay as they are, as callers read enrollments without them.
        Raises ``HubError``: 400004 or 400005 for a wrong value, 404201, 412001, 403202.
        """
        return await self._write(draft, match, by)

    async def delete(self, key: EnrollmentKey, match: Match = ANY, by: Act = BY_THE_HUB) -> None:
        """Remove an enrollment; devices stay where they are assigned. Raises ``HubError`` 404201, 412001."""

        def change(standing: EnrollmentStanding) -> None:
            _require(key, standing.enrollment, match)

        await self._edit(key, change, by)

    async def bulk(self, mode: BulkMode, items: Sequence[BulkItem], by: Act = BY_THE_HUB) -> list[HubError | None]:
        """Do each item by itself; returns, item by item, why it was refused, or ``None``.

        Raises ``HubError`` 400004 for the whole call, doing nothing: for too many items, or an id twice.
        """
        if len(items) > self._most_bulk:
            raise HubError(ARGUMENT_INVALID, f"The call has {len(items)} enrollments, {self._most_bulk} are allowed.")
        keys = [item.key for item in items]
        if len(set(keys)) < len(keys):
            raise HubError(ARGUMENT_INVALID, "An enrollment stands more than once in the call, name each once.")
        outcomes: list[HubError | None] = []
        for item in items:
            try:
                await self._bulk_item(mode, item, by)
            except HubError as error:
                outcomes.append(error)
            else:
                outcomes.append(None)
        return outcomes

    async def _bulk_item(self, mode: BulkMode, item: BulkItem, by: Act) -> None:
        if mode is BulkMode.DELETE or item.draft is None:
            await self.delete(item.key, item.match or ANY, by)
        elif mode is BulkMode.CREATE:
            await self._write(item.draft, None, by, new=True)
        elif mode is BulkMode.UPDATE:
            await self._write(item.draft, ANY, by)
        else:
            if item.match is None:
                raise HubError(PRECONDITION_FAILED, "etag is missing, mode updateIfMatchETag needs it.")
            await self._write(item.draft, item.match, by)

    async def _write(self, draft: Draft, match: Match | None, by: Act, *, new: bool = False) -> Enrollment:
        rules.check(draft, self._hubs)
        now, key = self._ambient.now(), draft.key
        fresh = 1 + (int.from_bytes(self._ambient.random_bytes(4)) >> 2)
        keys = rules.fresh_keys(self._ambient)

        def change(standing: EnrollmentStanding) -> Enrollment:
            present = standing.enrollment
            if present is not None and new:
                raise HubError(ENROLLMENT_EXISTS, f"{_what(key)} is already there.")
            if match is not None:
                _require(key, present, match)
            made = replace(
                rules.settle(draft, present, keys),
                version=fresh if present is None else present.version + 1,
                created=now if present is None else present.created,
                updated=now,
            )
            kind = made.attestation.kind
            same = sum(1 for one in standing.groups if one.attestation.kind is kind)
            if key.kind is EnrollmentKind.GROUP and same >= self._most_groups:
                raise HubError(TOO_MANY_ENROLLMENTS, f"There are {same} groups of {kind} already, delete one.")
            return made

        made = await self._edit(key, change, by)
        assert made is not None, "a change that deletes does not come here"
        return made

    async def _edit(self, key: EnrollmentKey, change: EnrollmentChange, by: Act) -> Enrollment | None:
        note = enrollment_noted(self._scope, by, key, self._ambient.now())
        made = await self._store.edit_enrollment(self._scope, key, change, note)
        if key.kind is EnrollmentKind.GROUP:
            self._groups.announce()
            await self._groups.load()
        return made


def _what(key: EnrollmentKey) -> str:
    kind = "The enrollment group" if key.kind is EnrollmentKind.GROUP else "The enrollment"
    return f"{kind} {key.id}"


def _not_found(key: EnrollmentKey) -> HubError:
    return HubError(ENROLLMENT_NOT_FOUND, f"{_what(key)} is not there.")


def _require(key: EnrollmentKey, present: Enrollment | None, match: Match) -> None:
    if present is None:
        raise _not_found(key)
    if match.version is not None and match.version != present.version:
        raise HubError(PRECONDITION_FAILED)
