"""``/statistics``: how many devices there are and how many are connected (service.md 2.8)."""

from __future__ import annotations

from muster.access.roles import DataAction
from muster.dialect.identity_bodies import device_statistics, service_statistics
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.registry import Registry
from muster.identity.verdict import Right


class StatisticsOperations:
    """Statistics of one hub."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        actions = (DataAction.STATISTICS_READ,)
        return [
            Operation("GET", "/statistics/devices", Right.REGISTRY_READ, self.devices, actions=actions),
            Operation("GET", "/statistics/service", Right.SERVICE_CONNECT, self.service, actions=actions),
        ]

    async def devices(self, _: Call) -> Response:
        """Devices by status."""
        return json_answer(device_statistics(await self._registry.counts()))

    async def service(self, _: Call) -> Response:
        """Devices that are connected."""
        return json_answer(service_statistics(await self._registry.connected_count()))
