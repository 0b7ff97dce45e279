"""Operations that are answered before they are done: clients ask again until they are (``Azure-AsyncOperation``)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from muster.core.ambient import Ambient, iso
from muster.core.error import HubError
from muster.core.errors import SERVER_ERROR
from muster.core.management_errors import RESOURCE_NOT_FOUND
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call

log = logging.getLogger("muster.http")

RETRY_SECONDS = 1
_REMEMBERED = 1000
_PATIENCE_SECONDS = 2.0
PATH = "operationResults"


@dataclass(slots=True)
class _Work:
    """``subject`` is what is worked on: nothing else is begun on it meanwhile."""

    id: str
    subject: str
    started: float
    task: asyncio.Task[None]
    ended: float | None = None
    error: HubError | None = None

    def body(self, path: str) -> dict[str, Any]:
        status = "InProgress" if self.ended is None else "Succeeded" if self.error is None else "Failed"
        told: dict[str, Any] = {"id": path, "name": self.id, "status": status, "startTime": iso(self.started)}
        if self.ended is not None:
            told |= {"endTime": iso(self.ended), "percentComplete": 100}
        if self.error is not None:
            told["error"] = {"code": self.error.row.name, "message": self.error.message}
        return told


class LongOperations:
    """Those of a node, kept as long as it runs, the last thousand of them."""

    def __init__(self, ambient: Ambient) -> None:
        self._ambient = ambient
        self._all: dict[str, _Work] = {}

    def begin(self, subject: str, work: Callable[[], Coroutine[Any, Any, None]]) -> str:
        """Begin ``work`` on ``subject``, or find the one that is under way; its id."""
        for one in self._all.values():
            if one.subject == subject and one.ended is None:
                return one.id
        found = self._ambient.fresh_id()
        task = asyncio.get_running_loop().create_task(self._run(found, work()))
        self._all[found] = _Work(found, subject, self._ambient.now(), task)
        for old in [one.id for one in self._all.values() if one.ended is not None][: len(self._all) - _REMEMBERED]:
            del self._all[old]
        return found

    async def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        error = None
        try:
            await work
        except HubError as refusal:
            error = refusal
        except Exception:
            log.exception("the operation %s failed", name)
            error = HubError(SERVER_ERROR, f"The hub failed, see its log under the operation {name}.")
        one = self._all[name]
        one.error, one.ended = error, self._ambient.now()

    async def answer(self, call: Call) -> Response:
        """How the operation of the path stands. Raises ``HubError`` 404310."""
        found = self._all.get(call.parameters["operation"])
        if found is None:
            raise HubError(
                RESOURCE_NOT_FOUND,
                "There is no such operation, the hub remembers those since its start: get the resource itself.",
            )
        answer = json_answer(found.body(f"/{call.path}"))
        if found.ended is None:
            answer.headers["Retry-After"] = str(RETRY_SECONDS)
        return answer

    async def close(self) -> None:
        """Wait for what is under way, for two seconds; a removal that is broken off goes on at the next start."""
        tasks = [one.task for one in self._all.values() if one.ended is None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_PATIENCE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def mark(answer: Response, call: Call, operation: str) -> Response:
    """Tell in ``answer`` where to ask for ``operation``: below the resource that the path names."""
    host, version = call.request.headers.get("Host", ""), call.query("api-version") or ""
    path = quote(call.path, safe="/$")
    place = f"https://{host}/{path}/{PATH}/{operation}?api-version={version}"
    answer.headers |= {"Azure-AsyncOperation": place, "Retry-After": str(RETRY_SECONDS)}
    return answer
