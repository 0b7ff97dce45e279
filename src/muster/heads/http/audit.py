"""``/$muster/audit``: the audit log, for the owner of a hub. That of the first hub sees the whole deployment."""

from __future__ import annotations

import asyncio

from muster.access.roles import ManagementAction
from muster.audit.contract import AuditLog
from muster.audit.filter import Filter, moment_from
from muster.core.audit_limits import AUDIT_PAGE
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.policies import BUILT_IN, OWNER

_LINES, _SLICES = 200, 50
_LAST = "x-muster-audit-last"


class AuditOperations:
    """Reading the log; nothing changes it but what it tells of."""

    def __init__(self, log: AuditLog, scope: str | None) -> None:
        """``scope``: only records of this hub are shown, ``None`` for all."""
        self._log = log
        self._scope = scope

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right, read = BUILT_IN[OWNER], (ManagementAction.READ,)
        at = "" if self._scope is None else None
        rows = [Operation("GET", "/$muster/audit", right, self.read, actions=read, scope=at)]
        if self._scope is None:  # what one hub has of it is no chain
            rows.append(Operation("GET", "/$muster/audit/head", right, self.head, actions=read, scope=at))
        return rows

    async def read(self, call: Call) -> Response:
        """Records as they are kept, a JSON object a line, the oldest first.

        Query: ``after`` for those behind that number, ``count`` for at most so many (1 to 1,000, default 100),
        ``subject`` for one with all below it, ``since`` and ``until`` (ISO 8601; the latter not included), ``hub`` for
        one hub's. The header ``x-muster-audit-last`` names the last record that was looked at: go on behind it, until
        it is the one that was asked for. Raises ``HubError`` 400004 for a wrong value.
        """
        most = AUDIT_PAGE.open
        after, count = call.number("after", 0, 10**9 - 1, default=0), call.number("count", 1, most, default=100)
        wanted = Filter(
            self._scope if self._scope is not None else call.query("hub"),
            call.query("subject") or "",
            _moment(call, "since"),
            _moment(call, "until"),
        )
        found: list[bytes] = []
        for _ in range(_SLICES):
            lines = await self._log.lines(after, min(_LINES, count - len(found)))
            if not lines:
                break
            after = lines[-1].place
            found += [line for _, line in lines if wanted.wants(line)]
            if len(found) == count:
                break
            await asyncio.sleep(0)
        body = b"".join(line + b"\n" for line in found)
        return Response(body, headers={"Content-Type": "application/x-ndjson", _LAST: str(after)})

    async def head(self, _: Call) -> Response:
        """``{"number", "hash", "written"}``: the last record, and how many were ever written."""
        head = await self._log.head()
        return json_answer({**head.mark._asdict(), "written": head.written})


def _moment(call: Call, name: str) -> str:
    text = call.query(name)
    try:
        return "" if text is None else moment_from(text)
    except ValueError as error:
        raise HubError(ARGUMENT_INVALID, f"{name}: {error}.") from None
