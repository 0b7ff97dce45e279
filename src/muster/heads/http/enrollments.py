"""``/enrollments`` and ``/enrollmentGroups``: who may register with the provisioning service (provisioning.md 7.2)."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from muster.access.roles import ProvisioningAction
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.provisioning_errors import REGISTRATION_NOT_FOUND
from muster.dialect.enrollment_bodies import (
    ID_NAMES,
    LIST_NAMES,
    attestation_body,
    bulk_body,
    enrollment_body,
    read_bulk,
    read_enrollment,
)
from muster.dialect.etag import etag_of
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.heads.http.provisioning_answers import ProvisioningAnswers
from muster.identity.changes import ANY
from muster.identity.verdict import Right
from muster.provisioning.enrollments import BulkItem, Enrollments
from muster.provisioning.ids import check_id
from muster.provisioning.model import Enrollment, EnrollmentKey, EnrollmentKind, Registration
from muster.provisioning.registrar import Registrar

_QUERY = re.compile(r"\s*select\s+\*\s+from\s+([a-z]+)\s*;?\s*", re.IGNORECASE)
_ITEM_TYPES = {EnrollmentKind.INDIVIDUAL: "enrollment", EnrollmentKind.GROUP: "enrollmentGroup"}

_ACTIONS = {
    EnrollmentKind.INDIVIDUAL: (
        ProvisioningAction.ENROLLMENTS_READ,
        ProvisioningAction.ENROLLMENTS_WRITE,
        ProvisioningAction.ENROLLMENTS_DELETE,
    ),
    EnrollmentKind.GROUP: (
        ProvisioningAction.GROUPS_READ,
        ProvisioningAction.GROUPS_WRITE,
        ProvisioningAction.GROUPS_DELETE,
    ),
}
"""What the caller of a bearer token must be allowed: to read, to write, to delete."""


class EnrollmentOperations:
    """Enrollments of both kinds; they differ in what they are called."""

    def __init__(self, enrollments: Enrollments, registrar: Registrar, answers: ProvisioningAnswers) -> None:
        self._enrollments = enrollments
        self._registrar = registrar
        self._answers = answers

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        read, write, operation = Right.ENROLLMENT_READ, Right.ENROLLMENT_WRITE, self._answers.operation
        rows: list[Operation] = []
        for kind in EnrollmentKind:
            every = f"/{LIST_NAMES[kind]}"
            one = f"{every}/{{enrollment_id}}"
            reading, writing, deleting = _ACTIONS[kind]
            keys = ProvisioningAction.ATTESTATION_DETAILS
            rows += [
                operation(
                    "POST", every, write, partial(self.bulk, kind), writing, deleting, changes="enrollments.bulk"
                ),
                operation("POST", f"{every}/query", read, partial(self.query, kind), reading),
                operation("GET", one, read, partial(self.get, kind), reading),
                operation("PUT", one, write, partial(self.put, kind), writing, changes="enrollment.put"),
                operation("DELETE", one, write, partial(self.delete, kind), deleting, changes="enrollment.delete"),
                operation("POST", f"{one}/attestationmechanism", write, partial(self.attestation, kind), keys),
            ]
        return rows

    async def get(self, kind: EnrollmentKind, call: Call) -> Response:
        """One, an individual enrollment with its registration."""
        one = await self._enrollments.get(_key(kind, call))
        return json_answer(enrollment_body(one, await self._registration(one)), etag=etag_of(one.version))

    async def put(self, kind: EnrollmentKind, call: Call) -> Response:
        """Create or write over; with ``If-Match`` only over what matches. The answer shows the keys that were made."""
        key = _key(kind, call)
        draft = read_enrollment(await call.json_object(), key)
        one = await self._enrollments.put(draft, call.if_match(), call.act)
        body = enrollment_body(one, await self._registration(one), with_keys=True)
        return json_answer(body, etag=etag_of(one.version))

    async def delete(self, kind: EnrollmentKind, call: Call) -> Response:
        """Delete; devices stay at their hubs."""
        await self._enrollments.delete(_key(kind, call), call.if_match() or ANY, call.act)
        return Response(status=204)

    async def attestation(self, kind: EnrollmentKind, call: Call) -> Response:
        """The attestation with its keys."""
        one = await self._enrollments.get(_key(kind, call))
        return json_answer(attestation_body(one.attestation, with_keys=True))

    async def bulk(self, kind: EnrollmentKind, call: Call) -> Response:
        """Create, update or delete several, each by itself: 200, with what was not done."""
        mode, entries = read_bulk(await call.json_object(), kind)
        readable = [entry for entry in entries if isinstance(entry, BulkItem)]
        outcomes = iter(await self._enrollments.bulk(mode, readable, call.act))
        told: list[tuple[EnrollmentKey, HubError | None]] = [
            (entry.key, next(outcomes)) if isinstance(entry, BulkItem) else entry for entry in entries
        ]
        return json_answer(bulk_body(told))

    async def query(self, kind: EnrollmentKind, call: Call) -> Response:
        """All, by id, page by page: ``SELECT * FROM enrollments`` or ``enrollmentGroups`` is what can be asked."""
        text = (await call.json_object()).needed_text("query")
        asked = _QUERY.fullmatch(text)
        if asked is None or asked[1].lower() != LIST_NAMES[kind].lower():
            asking = f"SELECT * FROM {LIST_NAMES[kind]}"  # noqa: S608 - told, not run
            raise HubError(ARGUMENT_INVALID, f"The query is not taken, ask {asking}.")

        async def rows(after: str, limit: int) -> list[tuple[str, dict[str, Any]]]:
            found = await self._enrollments.page(kind, after, limit)
            return [(one.key.id, enrollment_body(one, await self._registration(one))) for one in found]

        return await self._answers.page(call, _ITEM_TYPES[kind], rows)

    async def _registration(self, one: Enrollment) -> Registration | None:
        if one.key.kind is EnrollmentKind.GROUP:
            return None
        try:
            found = await self._registrar.get(one.key.id)
        except HubError as error:
            if error.row is not REGISTRATION_NOT_FOUND:
                raise
            return None
        return found if found.key == one.key else None


def _key(kind: EnrollmentKind, call: Call) -> EnrollmentKey:
    return EnrollmentKey(kind, check_id(ID_NAMES[kind], call.parameters["enrollment_id"]))
