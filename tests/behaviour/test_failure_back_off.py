"""Who fails to authenticate again and again hears of it ever later; who is who he says is let in meanwhile, also from
the same address and under the same name."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest
from amqp_client import AmqpClient
from command_hub import aside
from every_hub import TRANSPORTS
from transports import Login, Place, RefusedError, Transport, over

from muster.testing.hub import HubProcess
from muster.wire.amqp.sasl import SaslInit
from tests.addresses import loopback
from tests.coming_from import coming_from
from tests.engines import hub_process
from tests.provisioning_client import Provisioning
from tests.provisioning_wire import MqttRegistrant

THERE = "127.9.9.9"
ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")


pytestmark = pytest.mark.waits


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    with hub_process(tmp_path_factory.mktemp("held"), loopback(), *ANY_PORTS) as hub:
        yield hub


async def _asks(transport: Transport, place: Place, login: Login) -> None:
    device = await transport.connect(place, login)
    try:
        await device.send(b"x")  # over HTTPS that is the first that is asked
    finally:
        await device.close()


async def _fails(transport: Transport, place: Place, login: Login) -> None:
    with pytest.raises(RefusedError):
        await _asks(transport, place, login)


@over([one for one in TRANSPORTS if one.name == one.family])
async def test_1_the_owner_gets_in_while_the_answer_to_a_guess_is_held(hub: HubProcess, transport: Transport) -> None:
    name, place = f"guessed-{transport.name}", Place(hub.address, hub.port("mqtt"), hub.port("amqp"), hub.port("https"))
    token = hub.token(f"devices/{name}", hub.add_device(name))
    owner = Login(name, token, hub.trust(), host=hub.address)
    wrong = Login(name, re.sub("sig=..", "sig=AA", token), hub.trust(), host=hub.address)
    with coming_from(THERE):
        await asyncio.gather(*(_fails(transport, place, wrong) for _ in range(11)))
        guess = asyncio.create_task(_fails(transport, place, wrong))
        await asyncio.sleep(0)
        await _asks(transport, place, owner)
        assert not guess.done(), "five seconds it takes, and the owner's connect none of that"
        await guess
    await _fails(transport, place, wrong)


async def test_2_services_and_devices_that_register_likewise(hub: HubProcess) -> None:
    name = hub.facts["HUB_CONNECTION_STRING"].partition("=")[2].partition(";")[0]
    good = hub.owner_token()
    context, port = hub.trust(), hub.port("amqp")

    def log_in(token: str) -> int | None:
        plain = SaslInit("PLAIN", f"\0iothubowner@sas.root.{name}\0{token}".encode())
        return AmqpClient(port, host=hub.address, hostname=hub.address, context=context, sasl=plain).outcome

    bad = re.sub("sig=..", "sig=AA", good)
    dps = Provisioning(hub)
    token = dps.token("late", dps.enroll("late")["attestation"]["symmetricKey"]["primaryKey"])
    with coming_from(THERE):
        assert await asyncio.gather(*(aside(log_in, bad) for _ in range(14))) == [1] * 14
        guess = asyncio.create_task(aside(log_in, bad))
        assert await aside(log_in, good) == 0
        assert not guess.done()
        assert await guess == 1
        stranger = await MqttRegistrant.open(dps, "late", re.sub("sig=..", "sig=AA", token))
        for _ in range(11):
            assert (await stranger.register()).status == 401
        guessing = asyncio.create_task(stranger.register())
        device = await MqttRegistrant.open(dps, "late", token)
        assert (await device.register()).status == 202
        assert not guessing.done()
        assert (await guessing).status == 401
        await device.close()
        await stranger.close()


async def test_3_a_client_that_does_not_wait_leaves_nothing_behind(hub: HubProcess) -> None:
    transport = next(one for one in TRANSPORTS if one.name == "https")
    place = Place(hub.address, hub.port("mqtt"), hub.port("amqp"), hub.port("https"))
    token = re.sub("sig=..", "sig=AA", hub.token("devices/gone", hub.add_device("gone")))
    wrong = Login("gone", token, hub.trust(), host=hub.address)
    with coming_from(THERE):
        for _ in range(3):
            attempts = [asyncio.create_task(_asks(transport, place, wrong)) for _ in range(20)]
            await asyncio.sleep(0.2)
            for attempt in attempts:
                attempt.cancel()
                with suppress(asyncio.CancelledError, RefusedError):
                    await attempt
    assert hub.request("GET", "/devices/gone")[0] == 200
    assert "Traceback" not in hub.log_file.read_text()
