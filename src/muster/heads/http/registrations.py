"""``/registrations``: what became of the devices that registered, for services (provisioning.md 7.2); and under
``/$muster`` what Azure shows elsewhere: the timeline and the counts."""

from __future__ import annotations

from typing import Any

from muster.access.roles import ProvisioningAction
from muster.dialect.etag import etag_of
from muster.dialect.registration_bodies import state_body
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.heads.http.provisioning_answers import ProvisioningAnswers
from muster.identity.changes import ANY
from muster.identity.verdict import Right
from muster.provisioning.ids import check_id
from muster.provisioning.registrar import Registrar
from muster.provisioning.timeline import Timeline

_MOST_ENTRIES = 1000


class RegistrationOperations:
    """Registrations as services see them."""

    def __init__(self, registrar: Registrar, timeline: Timeline, answers: ProvisioningAnswers) -> None:
        self._registrar = registrar
        self._timeline = timeline
        self._answers = answers

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        read, write, operation = Right.REGISTRATION_READ, Right.REGISTRATION_WRITE, self._answers.operation
        reading, deleting = ProvisioningAction.REGISTRATIONS_READ, ProvisioningAction.REGISTRATIONS_DELETE
        return [
            operation("GET", "/registrations/{registration_id}", read, self.get, reading),
            operation(
                "DELETE",
                "/registrations/{registration_id}",
                write,
                self.delete,
                deleting,
                changes="registration.delete",
            ),
            operation("POST", "/registrations/{registration_id}/query", read, self.query, reading),
            operation("GET", "/$muster/provisioning/log", read, self.log, reading),
            operation("GET", "/$muster/provisioning/counts", read, self.counts, reading),
        ]

    async def get(self, call: Call) -> Response:
        """One."""
        found = await self._registrar.get(_id(call))
        return json_answer(state_body(found), etag=etag_of(found.version))

    async def delete(self, call: Call) -> Response:
        """Forget one; the device stays at its hub."""
        await self._registrar.delete(_id(call), call.if_match() or ANY, call.act)
        return Response(status=204)

    async def query(self, call: Call) -> Response:
        """Those of a group, which the path names, by id, page by page. What the body asks does not count."""
        await call.request.body.read()
        group_id = check_id("enrollmentGroupId", call.parameters["registration_id"])

        async def rows(after: str, limit: int) -> list[tuple[str, dict[str, Any]]]:
            found = await self._registrar.page(group_id, after, limit)
            return [(one.registration_id, state_body(one)) for one in found]

        return await self._answers.page(call, "deviceRegistration", rows)

    # --- what Azure does not have

    async def log(self, call: Call) -> Response:
        """``{"entries": [...]}``: the timeline, newest first. Query: ``registration`` for one device's, ``count``."""
        count = call.number("count", 1, _MOST_ENTRIES, default=20)
        entries = await self._timeline.newest(call.query("registration"), count)
        return json_answer({"entries": [one.report for one in entries]})

    async def counts(self, _: Call) -> Response:
        """Attempts and assignments since the start, by what became of them."""
        return json_answer(self._timeline.counts())


def _id(call: Call) -> str:
    return check_id("registrationId", call.parameters["registration_id"])
