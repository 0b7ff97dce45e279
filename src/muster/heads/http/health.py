"""``/health``: whether the process lives and whether it serves. Open to everybody, without an api-version."""

from __future__ import annotations

from collections.abc import Callable

from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation


class HealthOperations:
    """Health of one node. ``ready`` says whether every listener serves."""

    def __init__(self, ready: Callable[[], bool]) -> None:
        self._ready = ready

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        return [
            Operation("GET", "/health/live", None, self.live, anywhere=True),
            Operation("GET", "/health/ready", None, self.ready, anywhere=True),
        ]

    async def live(self, _: Call) -> Response:
        """200 for as long as the loop turns."""
        return json_answer({"status": "live"})

    async def ready(self, _: Call) -> Response:
        """200 when the node is ready, else 503."""
        return json_answer({"status": "ready"}) if self._ready() else json_answer({"status": "not ready"}, 503)
