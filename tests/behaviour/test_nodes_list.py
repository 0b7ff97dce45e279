"""``/$muster/nodes`` and ``muster nodes``: who serves the hubs, and how many devices are connected where."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from two_hubs import EAST, WEST, TwoHubs, two_hubs

import muster
from muster.cli.main import main
from muster.core.errors import UNAVAILABLE, HubError
from muster.identity.sas import make
from muster.node.nodes import Nodes
from muster.sessions.contract import Leased


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[TwoHubs]:
    async with two_hubs(tmp_path) as hubs:
        yield hubs


class Leases:
    """The lease of this node, ``a``, beside those of ``others``."""

    def __init__(self, *others: Leased) -> None:
        self.name = "a/1"
        self.listed: Sequence[Leased] = [Leased("a/1", {"host": "h"}, 0.0, 4.0, {"hub": 1}), *others]
        self.down = self.hangs = False

    async def nodes(self) -> Sequence[Leased]:
        if self.down:
            raise HubError(UNAVAILABLE)
        if self.hangs:
            await asyncio.Event().wait()
        return self.listed


def nodes_of(leases: Any) -> Nodes:
    return Nodes({"host": "h", "version": "9"}, 0.0, leases)


@pytest.mark.embedded("several nodes have names and leases")
async def test_a_hub_on_sqlite_is_one_node(hubs: TwoHubs) -> None:
    client, _ = await hubs.connect(WEST, "d", await hubs.add_device(WEST, "d"))
    (node,) = (await hubs.call(EAST, "GET", "/$muster/nodes")).json["nodes"]
    assert (node["name"], node["host"], node["version"]) == (socket.gethostname(),) * 2 + (muster.__version__,)
    assert (node["this"], node["alive"], node["lease"], node["renewedSecondsAgo"]) == (True, True, None, None)
    assert node["connectedDevices"] == {hubs.hub(EAST).name: 0, WEST: 1}
    assert node["ports"] == hubs.node.facts["ports"]
    assert node["addresses"] == list(hubs.addresses.values())
    for hub, count in ((EAST, 0), (WEST, 1)):
        told = (await hubs.call(hub, "GET", "/metrics")).text
        assert f'muster_connected_devices{{node="{node["name"]}"}} {count}\n' in told
    await client.close()


async def test_the_owner_of_the_first_hub_alone_may_ask(hubs: TwoHubs) -> None:
    assert (await hubs.call(WEST, "GET", "/$muster/nodes")).status == 404
    service = next(one for one in hubs.hub(EAST).facts.policies.values() if one.name == "service")
    token = make(hubs.addresses[EAST], 2_000_000_000, service.primary_key.encode(), "service")
    assert (await hubs.call(EAST, "GET", "/$muster/nodes", token=token)).status == 401


async def test_the_command_prints_a_table(hubs: TwoHubs) -> None:
    client, _ = await hubs.connect(WEST, "d", await hubs.add_device(WEST, "d"))
    (node,) = (await hubs.call(EAST, "GET", "/$muster/nodes")).json["nodes"]
    data = str(hubs.node.settings.data)
    result = await asyncio.to_thread(CliRunner().invoke, main, ["nodes", "--data", data])
    titles, row = result.output.splitlines()
    assert titles.split() == ["NODE", "STATE", "VERSION", "SINCE", "RENEWED", "DEVICES", "LISTENS"]
    assert row.split()[:3] == [f"{node['name']}*", "alive", muster.__version__]
    assert f"1 ({hubs.hub(EAST).name} 0, {WEST} 1)" in row
    assert f"mqtt {hubs.node.facts['ports']['mqtt']}" in row
    result = await asyncio.to_thread(CliRunner().invoke, main, ["nodes", "--json", "--data", data])
    assert json.loads(result.output)["connectedDevices"] == {hubs.hub(EAST).name: 0, WEST: 1}
    await client.close()


async def test_every_node_is_told_of_with_its_lease() -> None:
    """This node's devices are those of now; one whose lease is over is listed as not alive; a node of before, which
    says nothing of itself, is listed too."""
    old = Leased("b/2", {}, 60.0, -1.0, {"hub": 5})
    this, other = await nodes_of(Leases(old)).reports(lambda: {"hub": 3})
    assert (this["name"], this["this"], this["alive"], this["connectedDevices"]) == ("a", True, True, {"hub": 3})
    assert this["renewedSecondsAgo"] == 1.0
    assert (other["name"], other["this"], other["alive"], other["connectedDevices"]) == ("b", False, False, {"hub": 5})
    assert (other["since"][:19], other["renewedSecondsAgo"]) == ("1970-01-01T00:01:00", 6.0)


async def test_a_node_that_lost_its_lease_says_so() -> None:
    leases = Leases(Leased("b/2", {}, 0.0, 4.0, {}))
    leases.listed = leases.listed[1:]
    other, this = await nodes_of(leases).reports(lambda: {"hub": 0})
    assert (other["name"], this["name"]) == ("b", "a")
    assert (this["this"], this["alive"], this["lease"], this["version"]) == (True, False, None, "9")


async def test_metrics_count_who_lives_and_this_node_alone_when_the_database_is_away() -> None:
    leases = Leases(Leased("b/2", {}, 0.0, 2.0, {"hub": 5}), Leased("c/3", {}, 0.0, -1.0, {"hub": 7}))
    nodes = nodes_of(leases)
    assert await nodes.connected("hub", 3) == {"b": 5, "a": 3}
    assert await nodes.connected("other", 0) == {"b": 0, "a": 0}
    leases.down = True
    assert await nodes.connected("hub", 3) == {"a": 3}
    leases.down, leases.hangs = False, True
    assert await nodes.connected("hub", 3) == {"a": 3}
