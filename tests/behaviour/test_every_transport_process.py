"""Devices on all transports and a hub in a process of its own: what they hear when it stops, and that all is kept."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable

import aiohttp
from every_hub import TRANSPORTS
from transports import Ability, DeviceClient, Login, Place, RefusedError

from muster.dialect.record import describe
from muster.testing.hub import HubProcess
from tests.engines import open_engines

PARTITIONS = 4
"""Of a hub that is not told otherwise."""


async def test_a_hub_that_drains_sends_every_device_away_in_its_transports_words_and_keeps_what_it_acknowledged(
    make_hub: Callable[..., HubProcess],
) -> None:
    hub = make_hub("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
    await asyncio.to_thread(hub.start)
    ports = hub.port("mqtt"), hub.port("amqp"), hub.port("https")
    devices: dict[str, DeviceClient] = {}
    for transport in TRANSPORTS:
        key = await asyncio.to_thread(hub.add_device, transport.name)
        token = hub.token(f"devices/{transport.name}", key)
        login = Login(transport.name, token, hub.trust(), hub.address)
        devices[transport.name] = await transport.connect(Place(hub.address, *ports), login)
        await devices[transport.name].send(transport.name.encode())
    connected = [transport for transport in TRANSPORTS if transport.can(Ability.SESSION)]
    hub.signal(signal.SIGTERM)
    for transport in connected:
        told = await devices[transport.name].ended()
        assert told == "", f"{transport.name}: in good order, as Node's client gives up after any error"
    acknowledged = [transport.name for transport in TRANSPORTS]
    ended = ""
    while not ended:
        try:
            await devices["https"].send(b"late")
            acknowledged.append("late")
        except (RefusedError, aiohttp.ClientError) as error:
            ended = str(error) if isinstance(error, RefusedError) else "no answer"
    assert ended == "no answer" or ended.startswith("503")
    for device in devices.values():
        await device.cut()
    assert await asyncio.to_thread(hub.stop) == 0
    stored, promised = Counter(await bodies_in(hub)), Counter(acknowledged)
    assert promised <= stored
    assert (stored - promised).keys() <= {"late"}, "the last answer may not have come through"


async def bodies_in(hub: HubProcess) -> list[str]:
    """The bodies of all messages that an ended hub has kept."""
    async with open_engines(hub.directory) as engines:
        name, path = next(iter(hub.facts["hubs"])), hub.directory / "data" / "telemetry.db"
        log = await engines.open_log(name, path, PARTITIONS, 0)
        try:
            slices = [one for number in range(PARTITIONS) for one in await log.read(number, 0, 1 << 30)]
        finally:
            await log.close()
    return [describe(record, base, at)["body"] for base, at, records in slices for record in records]
