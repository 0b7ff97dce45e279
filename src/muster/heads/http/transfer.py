"""``/$muster/identities``: import and export, a chunk or a page a call."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from muster.access.roles import DataAction
from muster.core.bulk_limits import EXPORT_PAGE, EXPORT_PAGE_BYTES, IMPORT_CHUNK_BYTES
from muster.core.errors import ARGUMENT_INVALID, UNSUPPORTED_MEDIA, HubError
from muster.core.throttles import REGISTRY
from muster.dialect.json_body import Members
from muster.dialect.transfer_lines import BadLine, line_of, lines_of, read_lines, tally_body
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.changes import ImportMode
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right
from muster.jobs.transfer import Item, Transfer

_PATH = "/$muster/identities"
_ROWS_AT_ONCE = 50  # then others get their turn


class TransferOperations:
    """Many identities of one hub, with their twins."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        reading = (DataAction.DEVICES_READ, DataAction.TWINS_READ)
        writing = (DataAction.DEVICES_WRITE, DataAction.DEVICES_DELETE, DataAction.TWINS_WRITE)
        read, write = Right.REGISTRY_READ, Right.REGISTRY_WRITE
        return [
            Operation("GET", _PATH, read, self.page, throttle=REGISTRY, actions=reading),
            Operation("POST", _PATH, write, self.load, throttle=REGISTRY, actions=writing, changes="identities.import"),
        ]

    async def load(self, call: Call) -> Response:
        """Create, update and delete up to 1,000 identities with their twins, each by itself.

        The body is Azure's export format, a JSON object a line; ``mode`` in the query counts where a line has no
        importMode (default createOrUpdate). Answers ``{"created", "updated", "unchanged", "deleted", "errors"}``, an
        error with the ``line`` of the body, from 1 on, that it is about. Raises ``HubError`` 413000 or 413002 for too
        much of it, 400004 and 400005 for what is no such body.
        """
        mode = Members({"mode": call.query("mode")}, "").choice("mode", ImportMode) or ImportMode.CREATE_OR_UPDATE
        reason = call.request.said.json
        if reason:
            raise HubError(UNSUPPORTED_MEDIA, reason)
        lines = lines_of(await call.request.body.read(IMPORT_CHUNK_BYTES.open))
        places: list[tuple[int, IdentityKey | None, str | None]] = []

        def items() -> Iterator[Item | HubError]:
            for position, item in read_lines(lines, mode):
                if isinstance(item, BadLine):
                    places.append((position + 1, item.key, item.operation))
                else:
                    places.append((position + 1, item.bulk.draft.key, item.bulk.mode))
                yield item

        return json_answer(tally_body(await self._transfer.load(items(), call.act), places))

    async def page(self, call: Call) -> Response:
        """Identities with their twins in Azure's export format, a JSON object a line, by device and module.

        Query: ``afterDevice`` and ``afterModule`` for those behind that identity, ``count`` for at most so many (1 to
        1,000, the default), ``excludeKeys=true`` for null in the place of symmetric keys. Go on behind the ``id`` and
        the ``moduleId`` of the last line, until an answer is empty. Raises ``HubError`` 400004 for a wrong value.
        """
        most = EXPORT_PAGE.open
        count = call.number("count", 1, most, default=most)
        keys = (call.query("excludeKeys") or "false").lower() != "true"
        device_id, last = call.query("afterDevice"), None
        if device_id is not None:
            last = IdentityKey(device_id, call.query("afterModule") or None)
        elif call.query("afterModule") is not None:
            raise HubError(ARGUMENT_INVALID, "afterModule stands without afterDevice, give both.")
        found, size = list[bytes](), 0
        while len(found) < count and size <= EXPORT_PAGE_BYTES.open:
            rows = await self._transfer.page(last, min(_ROWS_AT_ONCE, count - len(found)))
            if not rows:
                break
            found += [line_of(identity, twin, keys=keys) for identity, twin in rows]
            size += sum(map(len, found[-len(rows) :]))
            last = rows[-1][0].key
            await asyncio.sleep(0)
        return Response(b"".join(found), headers={"Content-Type": "application/x-ndjson"})
