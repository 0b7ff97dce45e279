"""Texts that some store cannot hold, over REST and in an import: the same on each, and never a 500."""

from __future__ import annotations

import copy
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hub_rest import Answer, RestHub, create, rest_hub

KEYS = {"primaryKey": "a2V5LW9mLWEtZGV2aWNl", "secondaryKey": "a2V5LW9mLWEtZGV2aWNl"}
THUMBPRINTS = {"primaryThumbprint": "A" * 40, "secondaryThumbprint": "B" * 40}
AUTHENTICATION = {"type": "sas", "symmetricKey": KEYS, "x509Thumbprint": THUMBPRINTS}
TWIN = {"tags": {"a": {"b": "c"}}, "properties": {"desired": {"a": ["b", {"c": "d"}]}}}
DEVICE = {
    "status": "enabled", "statusReason": "r", "authentication": AUTHENTICATION, "deviceScope": "", "parentScopes": [""],
}  # fmt: skip
MODULE = {"managedBy": "m", "authentication": AUTHENTICATION}
REPORTED = {"properties": {"reported": {"a": ["b", {"c": "d"}]}}}
HALF, ODD = "\ud800", "\0\1\1\2\0"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RestHub]:
    async with rest_hub(tmp_path) as hub:
        await create(hub, "d")
        yield hub


def texts(value: Any, *path: str | int) -> list[tuple[str | int, ...]]:
    """The places of the texts in ``value``."""
    if isinstance(value, str):
        return [path]
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    return [place for step, member in pairs for place in texts(member, *path, step)]


def written(value: Any, path: tuple[str | int, ...], text: str) -> Any:
    """``value`` with ``text`` at ``path``."""
    whole = at = copy.deepcopy(value)
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = text
    return whole


def named(path: tuple[str | int, ...]) -> str:
    """``path`` as errors name it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


async def load(hub: RestHub, **members: Any) -> Any:
    answer = await hub.call("POST", "/$muster/identities", {"id": "i", **members})
    assert answer.status == 200, answer.body
    return answer.json


def refused(answer: Answer, path: tuple[str | int, ...]) -> None:
    assert (answer.status, answer.error) == (400, "ArgumentInvalid")
    assert answer.message == f"{named(path)} holds half of a surrogate pair."


async def test_1_half_of_a_surrogate_pair_is_refused_by_its_place(hub: RestHub) -> None:
    for path in texts(DEVICE):
        body = written(DEVICE, path, HALF)
        refused(await hub.call("PUT", "/devices/other", {"deviceId": "other", **body}), path)
    for path in texts(MODULE):
        body = {"deviceId": "d", "moduleId": "m", **written(MODULE, path, HALF)}
        refused(await hub.call("PUT", "/devices/d/modules/m", body), path)
    for path in texts(TWIN):
        for method in ("PATCH", "PUT"):
            refused(await hub.call(method, "/twins/d", written(TWIN, path, HALF)), path)
    assert (await hub.call("PATCH", "/twins/d", {"tags": {HALF: 1}})).status == 400


async def test_2_so_it_is_in_a_line_of_an_import(hub: RestHub) -> None:
    line = {**DEVICE, **TWIN, **REPORTED}
    for whole in (DEVICE, TWIN, REPORTED):
        for path in texts(whole):
            told = await load(hub, **{**line, **written(whole, path, HALF)})
            assert [error["errorStatus"] for error in told["errors"]] == [
                f"{named(path)} holds half of a surrogate pair."
            ]
    assert (await load(hub, id=HALF))["errors"][0]["errorStatus"] == "id holds half of a surrogate pair."
    told = await load(hub, tags={HALF: 1})
    assert told["errors"][0]["errorStatus"] == "tags.\\ud800 holds half of a surrogate pair in its name."


async def test_3_other_characters_are_kept_as_they_are(hub: RestHub) -> None:
    parts = {"tags": {"a": [ODD]}, "properties": {"desired": {"b": ODD}}}
    assert (await hub.call("PATCH", "/twins/d", parts)).status == 200
    assert (await create(hub, "e", statusReason=ODD))["statusReason"] == ODD
    given = {"tags": {"a": ODD}, "properties": {"reported": {"c": [ODD]}}, "statusReason": ODD}
    assert (await load(hub, **given))["created"] == 1
    twin = (await hub.call("GET", "/twins/d")).json
    assert (twin["tags"], twin["properties"]["desired"]["b"]) == ({"a": [ODD]}, ODD)
    lines = (await hub.call("GET", "/$muster/identities")).body.decode().splitlines()
    told = {line["id"]: line for line in map(json.loads, lines)}
    assert (told["d"]["tags"], told["e"]["statusReason"]) == ({"a": [ODD]}, ODD)
    assert (told["i"]["tags"], told["i"]["statusReason"]) == ({"a": ODD}, ODD)
    assert told["i"]["properties"]["reported"]["c"] == [ODD]
    assert (await hub.call("PATCH", "/twins/d", {"tags": {"\0": 1}})).status == 400
