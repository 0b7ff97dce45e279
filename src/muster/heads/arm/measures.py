"""What a hub is asked about in numbers: devices, quotas, the tiers it may have, the health of its endpoint."""

from __future__ import annotations

from typing import Any

from muster.core.hub_limits import HUBS as MOST_HUBS
from muster.core.throttles import TELEMETRY, Tier
from muster.dialect.arm import list_body
from muster.dialect.arm_hubs import MOST_UNITS, NO_LIMIT
from muster.heads.arm.access import Access
from muster.heads.arm.answers import SUBSCRIPTION, ArmRows
from muster.heads.arm.managed import ManagedHub, ManagedNode
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation


class Measures:
    """Numbers of the hubs of ``node``."""

    def __init__(self, node: ManagedNode, access: Access) -> None:
        self._node = node
        self._access = access

    def table(self, rows: ArmRows) -> list[Operation]:
        """The rows for the operation table."""
        return [
            rows.of_hub("GET", "/IotHubStats", self.statistics),
            rows.of_hub("GET", "/quotaMetrics", self.quotas),
            rows.of_hub("GET", "/skus", self.skus),
            rows.of_hub("GET", "/routingEndpointsHealth", self.health),
            rows.judged("GET", f"{SUBSCRIPTION}/usages", self.usages),
        ]

    async def statistics(self, _: Call, hub: ManagedHub) -> Response:
        """Devices by status."""
        counts = await hub.registry.counts()
        return json_answer(
            {
                "totalDeviceCount": counts.enabled + counts.disabled,
                "enabledDeviceCount": counts.enabled,
                "disabledDeviceCount": counts.disabled,
            }
        )

    async def quotas(self, _: Call, hub: ManagedHub) -> Response:
        """Messages of the day (without a quota: stored since the start) and devices, with what may be of them."""
        quota, counts = hub.meters.quota(), await hub.registry.counts()
        stored = next(one.accepted for one in hub.meters.look() if one.throttle is TELEMETRY)
        used, most = (stored, NO_LIMIT) if quota is None else (quota.used, quota.messages)
        rows = [("TotalMessages", used, most), ("TotalDeviceCount", counts.enabled + counts.disabled, NO_LIMIT)]
        return json_answer(
            list_body([{"name": name, "currentValue": now, "maxValue": limit} for name, now, limit in rows])
        )

    async def skus(self, _: Call, hub: ManagedHub) -> Response:
        """The tiers, each with how many units there may be."""
        del hub
        return json_answer(list_body([_sku_body(tier) for tier in Tier]))

    async def health(self, _: Call, hub: ManagedHub) -> Response:
        """Of the built-in endpoint: unhealthy while the disk does not take messages."""
        failing = hub.telemetry.failing
        told = {"endpointId": "events", "healthStatus": "unhealthy" if failing else "healthy"}
        if failing:
            told["lastKnownError"] = "The hub's disk does not take messages, see its log."
        return json_answer(list_body([told]))

    async def usages(self, call: Call) -> Response:
        """Hubs of the deployment that the caller manages, paid and free ones."""
        reach = await self._access.judge(call)
        tiers = [one.describe().tier for one in self._node.managed() if reach.covers(one.name)]
        free = tiers.count(Tier.F1)
        kinds = [("paidHubCount", len(tiers) - free), ("freeHubCount", free)]
        subscription = call.parameters["subscription"]
        return json_answer(
            list_body(
                [
                    {
                        "id": f"/subscriptions/{subscription}/providers/Microsoft.Devices/usages/{name}",
                        "type": "Microsoft.Devices/usages", "unit": "Count", "currentValue": count,
                        "limit": MOST_HUBS.open, "name": {"value": name, "localizedValue": name},
                    }
                    for name, count in kinds
                ]
            )
        )  # fmt: skip


def _sku_body(tier: Tier) -> dict[str, Any]:
    free = tier is Tier.F1
    return {
        "resourceType": "Microsoft.Devices/IotHubs",
        "sku": {"name": tier.value, "tier": "Free" if free else "Standard"},
        "capacity": {
            "minimum": 1, "maximum": 1 if free else MOST_UNITS, "default": 1, "scaleType": "None" if free else "Manual",
        },
    }  # fmt: skip
