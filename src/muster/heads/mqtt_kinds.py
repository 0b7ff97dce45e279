"""Which kind of MQTT connection a hub makes: one that knows of rates and faults only where there are such."""

from __future__ import annotations

import asyncio
from functools import partial

from muster.heads.device_services import DeviceServices
from muster.heads.hubs import HubDirectory
from muster.heads.mqtt import MqttConnection
from muster.heads.mqtt_faults import FaultyMqttConnection
from muster.heads.mqtt_provisioning import Provisioning
from muster.heads.mqtt_throttled import ThrottledMqttConnection


class _FaultyThrottledMqttConnection(FaultyMqttConnection, ThrottledMqttConnection):
    """Both: a fault that holds messages back is looked at first."""


_KINDS: dict[tuple[bool, bool], type[MqttConnection]] = {
    (False, False): MqttConnection,
    (False, True): FaultyMqttConnection,
    (True, False): ThrottledMqttConnection,
    (True, True): _FaultyThrottledMqttConnection,
}
"""By whether there are rates and whether there are faults."""


def connection_maker(
    hubs: HubDirectory[DeviceServices], loop: asyncio.AbstractEventLoop, provisioning: Provisioning = None
) -> partial[MqttConnection]:
    """What makes connections, as the first of the hubs needs them, and so all."""
    first = hubs.first
    return partial(_KINDS[first.meters.plan is not None, first.faults is not None], hubs, loop, provisioning)
