"""Twins over REST, operation by operation, on a real socket (service.md 2.9)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hub_rest import RestHub, create, rest_hub, token

ISO = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")
NEVER = "0001-01-01T00:00:00Z"
FIRST_ETAG, SECOND_ETAG = "AAAAAAAAAAE=", "AAAAAAAAAAI="


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RestHub]:
    async with rest_hub(tmp_path) as hub:
        await create(hub)
        yield hub


def desired(**members: Any) -> dict[str, Any]:
    return {"properties": {"desired": members}}


async def test_1_a_new_device_has_a_twin_with_all_its_members(hub: RestHub) -> None:
    device = (await hub.call("GET", "/devices/d")).json
    answer = await hub.call("GET", "/twins/d")
    assert answer.status == 200
    assert answer.headers["ETag"] == f'"{FIRST_ETAG}"'
    empty = {"$metadata": {"$lastUpdated": NEVER}, "$version": 1}
    assert answer.json == {
        "deviceId": "d",
        "etag": FIRST_ETAG,
        "deviceEtag": device["etag"],
        "status": "enabled",
        "statusReason": None,
        "statusUpdateTime": NEVER,
        "connectionState": "Disconnected",
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": "sas",
        "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
        "modelId": "",
        "version": 2,
        "properties": {"desired": empty, "reported": empty},
        "capabilities": {"iotEdge": False},
        "parentScopes": [],
    }


async def test_2_the_twin_shows_the_state_of_the_identity(hub: RestHub) -> None:
    x509 = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "AB" * 20}}
    await create(hub, "e", status="disabled", statusReason="off", capabilities={"iotEdge": True}, authentication=x509)
    twin = (await hub.call("GET", "/twins/e")).json
    assert (twin["status"], twin["statusReason"], twin["authenticationType"]) == ("disabled", "off", "selfSigned")
    assert twin["x509Thumbprint"] == {"primaryThumbprint": "AB" * 20, "secondaryThumbprint": None}
    assert twin["capabilities"] == {"iotEdge": True}
    assert twin["deviceScope"].startswith("ms-azure-iot-edge://e-")
    system = (await hub.call("GET", "/twins/e/modules/$edgeAgent")).json
    assert (system["moduleId"], system["version"]) == ("$edgeAgent", 2)


async def test_3_a_patch_merges_and_answers_the_whole_twin(hub: RestHub) -> None:
    first = await hub.call("PATCH", "/twins/d", {"tags": {"a": {"x": 1}}, **desired(p={"q": 1, "r": 2}, s=[1])})
    assert first.status == 200
    body = first.json
    assert (body["etag"], body["version"], body["tags"]) == (SECOND_ETAG, 3, {"a": {"x": 1}})
    assert first.headers["ETag"] == f'"{SECOND_ETAG}"'
    metadata = body["properties"]["desired"].pop("$metadata")
    assert body["properties"]["desired"] == {"p": {"q": 1, "r": 2}, "s": [1], "$version": 2}
    assert ISO.fullmatch(metadata["$lastUpdated"])
    assert metadata["p"]["q"] == metadata["s"] == {"$lastUpdated": metadata["$lastUpdated"], "$lastUpdatedVersion": 2}

    second = (await hub.call("PATCH", "/twins/d", {"tags": {"a": {"x": None}, "b": 2}, **desired(p={"q": None})})).json
    assert (second["version"], second["tags"]) == (4, {"a": {}, "b": 2})
    after = second["properties"]["desired"]
    assert (after["p"], after["$version"]) == ({"r": 2}, 3)
    assert set(after["$metadata"]["p"]) == {"$lastUpdated", "$lastUpdatedVersion", "r"}
    assert after["$metadata"]["s"]["$lastUpdatedVersion"] == 2
    assert (await hub.call("GET", "/twins/d")).json == second


async def test_4_java_patches_by_post(hub: RestHub) -> None:
    answer = await hub.call("POST", "/twins/d", {"tags": {"a": 1}}, X_HTTP_Method_Override="PATCH")
    assert (answer.status, answer.json["tags"]) == (200, {"a": 1})


async def test_5_a_put_replaces_tags_and_desired_properties(hub: RestHub) -> None:
    await hub.call("PATCH", "/twins/d", {"tags": {"a": 1}, **desired(p=1)})
    body = (await hub.call("PUT", "/twins/d", desired(q={"r": None}))).json
    assert "tags" not in body
    assert (body["version"], body["properties"]["desired"]["q"]) == (4, {})
    assert "p" not in body["properties"]["desired"]
    assert body["properties"]["desired"]["$version"] == 3


async def test_6_a_twin_that_was_read_can_be_sent_back(hub: RestHub) -> None:
    await hub.call("PATCH", "/twins/d", {"tags": {"a": 1}, **desired(p=1)})
    twin = (await hub.call("GET", "/twins/d")).json
    twin["properties"]["reported"]["x"] = 1
    for method in ("PATCH", "PUT"):
        answer = await hub.call(method, "/twins/d", twin, If_Match=f'"{twin["etag"]}"')
        assert answer.status == 200
        after = answer.json
        assert (after["tags"], after["properties"]["desired"]["p"]) == ({"a": 1}, 1)
        assert "x" not in after["properties"]["reported"]
        twin = after


@pytest.mark.parametrize("form", ['"{}"', "{}", 'W/"{}"'])
async def test_7_if_match_must_match(hub: RestHub, form: str) -> None:
    for etag, status in ((FIRST_ETAG, 200), (FIRST_ETAG, 412), ("MQ==", 412), ("?", 412), ("*", 200)):
        answer = await hub.call("PATCH", "/twins/d", {"tags": {"a": status}}, If_Match=form.format(etag))
        assert answer.status == status
        if status == 412:
            assert answer.error == "PreconditionFailed"
    twin = (await hub.call("GET", "/twins/d")).json
    assert (twin["tags"], twin["version"]) == ({"a": 200}, 4)


async def test_8_a_patch_of_nothing_changes_nothing(hub: RestHub) -> None:
    before = (await hub.call("GET", "/twins/d")).json
    for body in ({}, {"tags": None}, {"tags": {}, "properties": {}}, {"properties": {"desired": {"$version": 9}}}):
        assert (await hub.call("PATCH", "/twins/d", body)).json == before


async def test_9_modules_have_twins_of_their_own(hub: RestHub) -> None:
    await hub.call("PUT", "/devices/d/modules/m", {"deviceId": "d", "moduleId": "m"})
    patched = (await hub.call("PATCH", "/twins/d/modules/m", {"tags": {"a": 1}})).json
    assert (patched["deviceId"], patched["moduleId"], patched["tags"]) == ("d", "m", {"a": 1})
    assert "tags" not in (await hub.call("GET", "/twins/d")).json
    replaced = (await hub.call("PUT", "/twins/d/modules/m", desired(p=1))).json
    assert (replaced["version"], replaced["properties"]["desired"]["$version"]) == (4, 2)
    await hub.call("DELETE", "/devices/d/modules/m")
    assert (await hub.call("GET", "/twins/d/modules/m")).error == "ModuleNotFound"


async def test_10_a_device_made_anew_has_a_new_twin(hub: RestHub) -> None:
    await hub.call("PATCH", "/twins/d", {"tags": {"a": 1}})
    await hub.call("DELETE", "/devices/d")
    assert (await hub.call("GET", "/twins/d")).error == "DeviceNotFound"
    await create(hub)
    assert (await hub.call("GET", "/twins/d")).json["version"] == 2


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT"])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/twins/x", "DeviceNotFound"),
        ("/twins/x/modules/m", "DeviceNotFound"),
        ("/twins/d/modules/x", "ModuleNotFound"),
    ],
)
async def test_11_without_an_identity_there_is_no_twin(hub: RestHub, method: str, path: str, error: str) -> None:
    answer = await hub.call(method, path, None if method == "GET" else {"tags": {"a": 1}})
    assert (answer.status, answer.error) == (404, error)


@pytest.mark.parametrize("method", ["GET", "PATCH", "PUT"])
async def test_12_the_right_to_connect_as_a_service_is_needed(hub: RestHub, method: str) -> None:
    for policy, status in (("registryReadWrite", 401), ("device", 401), ("service", 200)):
        hub.authorization = token(policy)
        assert (await hub.call(method, "/twins/d", None if method == "GET" else {})).status == status


DEEP: Any = 1
for _ in range(12):
    DEEP = {"l": DEEP}

REFUSED = [
    ([], 400, "ArgumentInvalid", "The body must be an object"),
    ({"tags": []}, 400, "ArgumentInvalid", "tags must be an object"),
    ({"properties": 1}, 400, "ArgumentInvalid", "properties must be an object"),
    ({"properties": {"desired": "x"}}, 400, "ArgumentInvalid", "properties.desired must be an object"),
    ({"tags": {"a": {"b c": 1}}}, 400, "ArgumentInvalid", "tags.a.b c "),
    ({"tags": {"$version": 1}}, 400, "ArgumentInvalid", "tags.$version "),
    (desired(a={"$version": 1}), 400, "ArgumentInvalid", "properties.desired.a.$version "),
    (desired(a=[1, None]), 400, "ArgumentInvalid", "properties.desired.a[1] "),
    (desired(a=2**52), 400, "ArgumentInvalid", "properties.desired.a "),
    (desired(a="v" * 4097), 400, "ArgumentInvalid", "properties.desired.a "),
    (desired(a=DEEP), 400, "ArgumentInvalid", "nested deeper than 10"),
    ({"tags": {f"k{n}": "v" * 2000 for n in range(5)}}, 413, "MessageTooLarge", "tags would have a size"),
    (desired(**{f"k{n}": "v" * 4000 for n in range(9)}), 413, "MessageTooLarge", "desired would have a size"),
]  # fmt: skip


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row[3])
async def test_13_what_may_not_stand_in_a_twin_is_refused_with_its_place(
    hub: RestHub, method: str, row: tuple[Any, int, str, str]
) -> None:
    body, status, error, words = row
    answer = await hub.call(method, "/twins/d", body)
    assert (answer.status, answer.error) == (status, error)
    assert words in answer.message
    assert (await hub.call("GET", "/twins/d")).json["version"] == 2
