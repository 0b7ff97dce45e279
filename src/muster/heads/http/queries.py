"""``/devices/query``: queries over twins, page by page (service.md 2.12)."""

from __future__ import annotations

from muster.access.roles import DataAction
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.query_limits import QUERY_PAGE
from muster.core.throttles import QUERIES
from muster.heads.http.answers import JSON_TYPE
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.verdict import Right
from muster.twins.query.service import Queries

_SIZE, _CONTINUATION, _TYPE = "x-ms-max-item-count", "x-ms-continuation", "x-ms-item-type"


class QueryOperations:
    """Queries of one hub."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries

    def table(self) -> list[Operation]:
        """The rows for the operation table. A query whose caller goes is given up."""
        right, actions = Right.SERVICE_CONNECT, (DataAction.TWINS_READ,)
        return [Operation("POST", "/devices/query", right, self.query, waits=True, throttle=QUERIES, actions=actions)]

    async def query(self, call: Call) -> Response:
        """An array of rows; what asks for the next page stands in ``x-ms-continuation``, absent on the last one."""
        text = (await call.json_object()).needed_text("query")
        headers = call.request.headers
        answer = await self._queries.page(text, _size(headers.get(_SIZE)), headers.get(_CONTINUATION) or None)
        told = {"Content-Type": JSON_TYPE, _TYPE: answer.item_type.value}
        if answer.continuation is not None:
            told[_CONTINUATION] = answer.continuation
        return Response(body=b"[" + b",".join(answer.rows) + b"]", headers=told)


def _size(text: str | None) -> int | None:
    """How many rows a page shall have; more than there may be is no error."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not text.strip("0"):
        most = QUERY_PAGE.open
        raise HubError(ARGUMENT_INVALID, f"{_SIZE} is not a number of rows, give one from 1 to {most}, or none.")
    return int(text[:9])
