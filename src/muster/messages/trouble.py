"""Whether telemetry can be stored: trouble is told once, and while it lasts the log is probed for its end."""

from __future__ import annotations

import asyncio
import logging

from muster.core.ambient import Ambient, Timer
from muster.core.errors import HubError
from muster.messages.contract import TelemetryLog

PROBE_SECONDS = 1.0

_LOG = logging.getLogger(__name__)


class Trouble:
    """The run of failed commits, if there is one.

    ``present`` holds from a failed commit to the next write that succeeds, be it a commit or a probe: who is told that
    the hub is not ready sends it nothing, so it has to find out by itself. The run ends with a commit.
    """

    def __init__(self, log: TelemetryLog, ambient: Ambient) -> None:
        self.present = False
        self.failures = 0
        self._log = log
        self._ambient = ambient
        self._timer: Timer | None = None
        self._task: asyncio.Task[None] | None = None

    def failed(self, error: BaseException) -> None:
        """A commit has failed."""
        self.failures += 1
        self.present = True
        if self.failures == 1:
            _LOG.error("telemetry cannot be stored, who sends any is disconnected until it can: %s", error)
        self._later()

    def over(self) -> None:
        """A commit has succeeded."""
        _LOG.warning("telemetry is stored again, after %d failed commits", self.failures)
        self.failures = 0
        self.present = False

    async def close(self) -> None:
        """Probe no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _later(self) -> None:
        if self._timer is None and self._task is None:
            self._timer = self._ambient.at(self._ambient.now() + PROBE_SECONDS, self._begin)

    def _begin(self) -> None:
        self._timer = None
        if self.present:
            self._task = asyncio.get_running_loop().create_task(self._probe())

    async def _probe(self) -> None:
        try:
            await self._log.probe()
            self.present = False
            self._task = None
        except HubError:
            self._task = None
            self._later()
