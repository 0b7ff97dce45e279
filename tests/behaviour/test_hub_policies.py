"""The shared access policies of a hub over REST: listed, written, rotated and deleted while the hub runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from time import time
from typing import Any

import pytest
from two_hubs import EAST, WEST, TwoHubs, settings_of, two_hubs

from muster.identity.sas import decode_key, make
from muster.node.node import Node
from muster.node.settings import HubSettings

POLICIES = "/$muster/policies"


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[TwoHubs]:
    async with two_hubs(tmp_path) as hubs:
        yield hubs


async def policy(hubs: TwoHubs, method: str, path: str, body: Any = None, *, at: str = EAST) -> Any:
    answer = await hubs.call(at, method, f"{POLICIES}{path}", body)
    assert answer.status in (200, 204), answer.text
    return answer.json if answer.text else None


def signed(hubs: TwoHubs, shown: Any, key: str = "primaryKey", *, at: str = EAST) -> str:
    """A token of a policy, with one of the keys that an answer showed."""
    return make(hubs.addresses[at], int(time()) + 600, decode_key(shown[key]) or b"", shown["keyName"])


async def status(hubs: TwoHubs, token: str, path: str = "/devices/none", *, at: str = EAST) -> int:
    return (await hubs.call(at, "GET", path, token=token)).status


async def test_01_the_policies_that_a_hub_begins_with_are_listed_without_their_keys(hubs: TwoHubs) -> None:
    assert (await policy(hubs, "GET", ""))["policies"] == [
        {"keyName": "iothubowner", "rights": "RegistryRead, RegistryWrite, ServiceConnect, DeviceConnect"},
        {"keyName": "service", "rights": "ServiceConnect"},
        {"keyName": "device", "rights": "DeviceConnect"},
        {"keyName": "registryRead", "rights": "RegistryRead"},
        {"keyName": "registryReadWrite", "rights": "RegistryRead, RegistryWrite"},
    ]
    shown = await policy(hubs, "GET", "/registryRead")
    assert await status(hubs, signed(hubs, shown)) == 404
    assert await status(hubs, signed(hubs, shown, "secondaryKey")) == 404


async def test_02_a_token_counts_by_the_keys_and_rights_of_now(hubs: TwoHubs) -> None:
    made = await policy(hubs, "PUT", "/reader", {"rights": "RegistryRead"})
    primary, secondary = signed(hubs, made), signed(hubs, made, "secondaryKey")
    assert [await status(hubs, token) for token in (primary, primary, secondary)] == [404, 404, 404]
    assert await status(hubs, primary, "/twins/none") == 401
    turned = await policy(hubs, "POST", "/reader/rotate", {"key": "swap"})
    assert (turned["primaryKey"], turned["secondaryKey"]) == (made["secondaryKey"], made["primaryKey"])
    assert [await status(hubs, token) for token in (primary, secondary)] == [404, 404]
    new = await policy(hubs, "POST", "/reader/rotate", {"key": "secondary"})
    assert [await status(hubs, token) for token in (primary, secondary)] == [401, 404]
    assert (await hubs.causes(EAST))[0] == "wrong-key"
    assert await status(hubs, signed(hubs, new, "secondaryKey")) == 404
    await policy(hubs, "PUT", "/reader", {"rights": "ServiceConnect"})
    assert [await status(hubs, secondary, path) for path in ("/devices/none", "/twins/none")] == [401, 404]
    assert (await hubs.causes(EAST))[0] == "policy-lacks-right"
    await policy(hubs, "DELETE", "/reader")
    assert await status(hubs, secondary, "/twins/none") == 401
    assert (await hubs.causes(EAST))[0] == "policy-unknown"


async def test_03_each_hub_has_its_own(hubs: TwoHubs) -> None:
    east = await policy(hubs, "PUT", "/own", {"rights": "RegistryRead"})
    assert await status(hubs, signed(hubs, east, at=WEST), at=WEST) == 401
    west = await policy(hubs, "PUT", "/own", {"rights": "RegistryRead"}, at=WEST)
    await policy(hubs, "DELETE", "/own")
    assert await status(hubs, signed(hubs, west, at=WEST), at=WEST) == 404


async def test_04_what_is_changed_stays_over_a_restart_and_commands_find_the_new_keys(hubs: TwoHubs) -> None:
    own = await policy(hubs, "PUT", "/own", {"rights": "RegistryRead"}, at=WEST)
    await policy(hubs, "DELETE", "/device", at=WEST)
    await policy(hubs, "DELETE", "/service", at=WEST)
    old = hubs.token(WEST)
    owner = await policy(hubs, "POST", "/iothubowner/rotate", {"key": "primary"}, at=WEST)
    assert await status(hubs, old, at=WEST) == 401
    assert hubs.owner(WEST).key == owner["primaryKey"], "what muster env prints is what counts"
    assert "SharedAccessKeyName=iothubowner" in hubs.facts(WEST)["SERVICE_CONNECTION_STRING"], "none other may connect"
    before = await policy(hubs, "GET", "", at=WEST)
    directory = hubs.node.settings.data
    assert directory is not None
    await hubs.node.stop()
    west = HubSettings(name=WEST, hostnames=(hubs.addresses[WEST], "west.example"), partitions=3)
    hubs.node = Node(settings_of(directory, hubs.addresses, west))
    await hubs.node.start()
    assert await policy(hubs, "GET", "", at=WEST) == before
    assert await status(hubs, signed(hubs, own, at=WEST), at=WEST) == 404
    assert await status(hubs, old, at=WEST) == 401
    assert await policy(hubs, "GET", "/iothubowner", at=WEST) == owner


async def test_05_only_who_has_every_right_may_see_or_change_them(hubs: TwoHubs) -> None:
    shown = await policy(hubs, "PUT", "/most", {"rights": "RegistryWrite, ServiceConnect"})
    for method, path in (
        ("GET", ""), ("GET", "/service"), ("PUT", "/x"), ("POST", "/service/rotate"), ("DELETE", "/service"),
    ):  # fmt: skip
        answer = await hubs.call(EAST, method, f"{POLICIES}{path}", {}, token=signed(hubs, shown))
        assert answer.status == 401, (method, path)
    assert "iothubowner" in [one["keyName"] for one in (await policy(hubs, "GET", ""))["policies"]]


async def test_06_what_cannot_be_is_refused_by_name(hubs: TwoHubs) -> None:
    for method, path, body, status, word in (
        ("PUT", "/iothubowner", {"rights": "RegistryRead"}, 400, "owner"),
        ("DELETE", "/iothubowner", None, 400, "owner"),
        ("PUT", "/muster-local", {"rights": "RegistryRead"}, 400, "muster-local"),
        ("PUT", "/p", {"rights": "EnrollmentRead"}, 400, "RegistryRead"),
        ("PUT", "/p", {"rights": "Everything"}, 400, "Everything"),
        ("PUT", "/p", {}, 400, "rights"),
        ("POST", "/service/rotate", {"key": "third"}, 400, "primary, secondary, swap"),
        ("POST", "/service/rotate", {}, 400, "key"),
        ("POST", "/none/rotate", {"key": "swap"}, 404, "none"),
        ("GET", "/none", None, 404, "none"),
        ("GET", "/muster-local", None, 404, "muster-local"),
        ("DELETE", "/none", None, 404, "none"),
    ):
        answer = await hubs.call(EAST, method, f"{POLICIES}{path}", body)
        assert (answer.status, word in answer.text) == (status, True), (method, path, answer)


async def test_07_changes_at_the_same_time_are_all_kept(hubs: TwoHubs) -> None:
    names = [f"p{number}" for number in range(8)]
    made = await asyncio.gather(*(policy(hubs, "PUT", f"/{name}", {"rights": "RegistryRead"}) for name in names))
    assert [one["keyName"] for one in made] == names
    assert {one["keyName"] for one in (await policy(hubs, "GET", ""))["policies"]} >= set(names)
