"""Provisioning over several hubs of one deployment: all are linked, also those that are added while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from muster.provisioning.attestation.symmetric_key import derive
from muster.testing.hub import HubProcess, HubUser
from muster.testing.mqtt import MqttClient
from tests.addresses import loopback
from tests.engines import hub_process
from tests.provisioning_client import Provisioning

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
DEVICES = 24


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    """Two hubs, the second one `west`."""
    west = loopback()
    hub = hub_process(tmp_path, loopback(), "--bind", west, "--hub", f"west={west}", *ANY_PORTS).start()
    yield hub
    hub.kill()


async def connects(hub: HubUser, device_id: str, key: str) -> bool:
    client = await MqttClient.open(hub.address, hub.port("mqtt"), hub.trust())
    token = hub.token(f"devices/{device_id}", key)
    _, code = await client.connect(device_id, f"{hub.address}/{device_id}/?api-version=2021-04-12", token)
    await client.close()
    return code == 0


async def test_1_devices_are_spread_over_the_hubs_and_are_at_theirs_only(hub: HubProcess) -> None:
    dps, west = Provisioning(hub), hub.other("west")
    group = dps.group("spread")
    assigned = {}
    for number in range(DEVICES):
        name = f"d{number}"
        assigned[name] = dps.provision(name, dps.derived_token(name, group))["assignedHub"]
    assert set(assigned.values()) == {hub.address, west.address}
    for name, host in assigned.items():
        own, other = (hub, west) if host == hub.address else (west, hub)
        assert own.request("GET", f"/devices/{name}")[0] == 200
        assert other.request("GET", f"/devices/{name}")[0] == 404
    name, host = next(iter(assigned.items()))
    key = derive(group["attestation"]["symmetricKey"]["primaryKey"], name)
    own, other = (hub, west) if host == hub.address else (west, hub)
    assert await connects(own, name, key)
    assert not await connects(other, name, key)


async def test_2_a_device_registers_at_the_address_of_any_hub(hub: HubProcess) -> None:
    dps, west = Provisioning(hub), hub.other("west")
    group = dps.group("named", iotHubs=[hub.address], allocationPolicy="static")
    state = Provisioning(west).provision("d", dps.derived_token("d", group))
    assert state["assignedHub"] == hub.address


async def test_3_hubs_are_linked_and_gone_as_they_are_added_and_removed(hub: HubProcess) -> None:
    dps = Provisioning(hub)
    with pytest.raises(AssertionError, match=r"third\.example"):
        dps.group("late", iotHubs=["third.example"], allocationPolicy="static")
    assert hub.request("PUT", "/$muster/hubs/third", {"hostNames": ["third.example"]})[0] == 201
    group = dps.group("late", iotHubs=["third.example", hub.address], allocationPolicy="static")
    token = dps.derived_token("d", group)
    assert dps.provision("d", token)["assignedHub"] == "third.example"
    assert hub.request("GET", "/devices/d")[0] == 404
    assert hub.request("DELETE", "/$muster/hubs/third")[0] == 204
    assert dps.provision("d", token)["assignedHub"] == hub.address, "its hub is no more, it gets another"
    assert hub.request("GET", "/devices/d")[0] == 200


async def test_4_weights_and_the_default_policy_are_changed_while_it_runs_and_kept(hub: HubProcess) -> None:
    dps, west, path = Provisioning(hub), hub.other("west"), "/$muster/provisioning/allocation"
    group = dps.group("weighted")
    only_west = {"iotHubs": [{"name": hub.address, "allocationWeight": 0}]}
    told = dps.call("PATCH", path, only_west)
    assert told.body == {
        "allocationPolicy": "hashed",
        "iotHubs": [
            {"name": hub.address, "allocationWeight": 0, "applyAllocationPolicy": False},
            {"name": west.address, "allocationWeight": 1, "applyAllocationPolicy": True},
        ],
    }
    names = [f"d{number}" for number in range(8)]
    assert {dps.provision(name, dps.derived_token(name, group))["assignedHub"] for name in names} == {west.address}
    body = {"allocationPolicy": "static", "iotHubs": [{"name": hub.address, "allocationWeight": 1}]}
    assert dps.call("PATCH", path, body).status == 200
    hub.kill()
    hub.start()
    dps = Provisioning(hub)
    assert dps.call("GET", path).body["allocationPolicy"] == "static"
    assert {dps.provision(name, dps.derived_token(name, group))["assignedHub"] for name in names} == {hub.address}
    wrong = dps.call("PATCH", path, {"iotHubs": [{"name": "elsewhere.example", "allocationWeight": 1}]})
    assert (wrong.status, "linked are" in wrong.body["message"]) == (400, True)
