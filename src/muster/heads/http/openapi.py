"""``/$muster/openapi``: all that a hub answers over REST, described. Open to everybody: it tells of no device."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial

import muster
from muster.dialect.json_body import compact
from muster.dialect.openapi import Described, describe
from muster.heads.http.answers import JSON_TYPE
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation

_PATH = "/$muster/openapi"


class OpenApiOperations:
    """The description of ``operations``, itself included."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = (*operations, *self.table())
        self._text: bytes | None = None

    def table(self) -> list[Operation]:
        """The row for the operation table."""
        return [Operation("GET", _PATH, None, self.get)]

    async def get(self, _: Call) -> Response:
        """This description: OpenAPI 3.1."""
        if self._text is None:
            described = [
                Described(one.method, one.path, _about(one), one.right is None and not one.judges)
                for one in self._operations
            ]
            self._text = compact(describe(described, muster.__version__))
        return Response(self._text, headers={"Content-Type": JSON_TYPE})


def _about(operation: Operation) -> str:
    handler = inspect.unwrap(operation.handler)
    return inspect.getdoc(handler.func if isinstance(handler, partial) else handler) or ""
