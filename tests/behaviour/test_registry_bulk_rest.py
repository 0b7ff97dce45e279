"""The registry's bulk calls over REST, over a real socket."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hub_rest import RestHub, create, rest_hub

KEY = base64.b64encode(b"k" * 32).decode()
SHA1 = "AB" * 20


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RestHub]:
    async with rest_hub(tmp_path) as hub:
        yield hub


def bulk_items(count: int, mode: str = "create") -> list[dict[str, Any]]:
    return [{"id": f"d{number:03}", "importMode": mode, "status": "disabled"} for number in range(count)]


async def test_1_a_hundred_devices_are_created_updated_and_deleted_at_once(hub: RestHub) -> None:
    for mode in ("create", "createOrUpdate", "update"):
        answer = await hub.call("POST", "/devices", bulk_items(100, mode))
        assert answer.status == 200
        assert answer.body == b'{"isSuccessful":true,"errors":[],"warnings":[]}'
        assert "IotHubErrorCode" not in answer.headers
    assert (await hub.call("GET", "/statistics/devices")).json == {
        "totalDeviceCount": 100,
        "enabledDeviceCount": 0,
        "disabledDeviceCount": 100,
    }
    answer = await hub.call("POST", "/devices/", bulk_items(100, "delete"))
    assert (answer.status, answer.json["isSuccessful"]) == (200, True)
    assert (await hub.call("GET", "/devices")).json == []


async def test_2_a_hundred_and_one_and_a_device_named_twice_are_refused_whole(hub: RestHub) -> None:
    unread: list[Any] = [0] * 101
    for path, body in (
        ("/devices", bulk_items(101)),
        ("/devices", unread),
        ("/devices/keys/regenerate", {"policyKey": "both", "devices": unread}),
    ):
        answer = await hub.call("POST", path, body)
        assert (answer.status, answer.error) == (413, "TooManyDevices"), "counted before any item is read"
    answer = await hub.call("POST", "/devices", [*bulk_items(2), {"id": "d001", "importMode": "delete"}])
    assert (answer.status, answer.error) == (400, "DeviceDefinedMultipleTimes")
    assert "d001" in answer.message
    assert (await hub.call("GET", "/devices")).json == []


async def test_3_a_bulk_call_does_what_it_can_and_names_the_rest(hub: RestHub) -> None:
    old = await create(hub, "old")
    items = [
        {"id": "new", "authentication": {"type": "sas", "symmetricKey": {"primaryKey": KEY}}},
        {"id": "new", "moduleId": "m", "importMode": "Create", "managedBy": "me"},
        {"id": "old", "importMode": "create"},
        {"id": "old", "moduleId": "m", "importMode": "delete"},
        {"id": "ghost", "importMode": "update"},
        {"id": "bad id", "importMode": "create"},
        {"id": "badkey", "importMode": "create", "authentication": {"symmetricKey": {"primaryKey": "*"}}},
        {"id": "badmode", "importMode": "replace"},
        {"id": "twin", "importMode": "updateTwin"},
        {"id": "tags", "importMode": "create", "tags": {"a": 1}},
        {"id": "empty", "importMode": "create", "tags": {}, "properties": {"desired": {}, "reported": {}}},
        {"id": "wrongmatch", "importMode": "updateIfMatchETag"},
        {"id": "old", "moduleId": "n", "importMode": "deleteIfMatchETag", "eTag": "MQ=="},
    ]
    answer = await hub.call("POST", "/devices", items)
    assert answer.status == 400
    assert answer.headers["IotHubErrorCode"] == "BulkRegistryOperationFailure"
    assert answer.headers["iothub-errorcode"] == "BulkRegistryOperationFailure"
    result = answer.json
    assert (result["isSuccessful"], result["warnings"]) == (False, [])
    assert [
        (error["deviceId"], error["moduleId"], error["errorCode"], error["operation"]) for error in result["errors"]
    ] == [
        ("old", None, "DeviceAlreadyExists", "create"),
        ("old", "m", "ModuleNotFound", "delete"),
        ("ghost", None, "DeviceNotFound", "update"),
        ("bad id", None, "ArgumentInvalid", "create"),
        ("badkey", None, "ArgumentInvalid", "create"),
        ("badmode", None, "ArgumentInvalid", None),
        ("twin", None, "InvalidOperation", "updateTwin"),
        ("tags", None, "InvalidOperation", "create"),
        ("wrongmatch", None, "ArgumentNull", "updateIfMatchETag"),
        ("old", "n", "ModuleNotFound", "deleteIfMatchETag"),
    ]
    assert all(error["errorStatus"] for error in result["errors"])
    listed = (await hub.call("GET", "/devices")).json
    assert [device["deviceId"] for device in listed] == ["empty", "new", "old"]
    assert listed[1]["authentication"]["symmetricKey"]["primaryKey"] == KEY
    assert listed[2] == old
    assert (await hub.call("GET", "/devices/new/modules/m")).json["managedBy"] == "me"


async def test_4_bulk_etags_are_bare_and_are_checked_in_the_if_match_modes(hub: RestHub) -> None:
    made = await create(hub)
    item = {"id": "d", "importMode": "updateIfMatchETag", "eTag": made["etag"], "status": "disabled"}
    assert (await hub.call("POST", "/devices", [item])).status == 200
    answer = await hub.call("POST", "/devices", [item])
    assert answer.json["errors"][0]["errorCode"] == "PreconditionFailed"
    assert (await hub.call("POST", "/devices", [{**item, "eTag": "*"}])).status == 200


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        ({}, "ArgumentInvalid", "array of devices, it is an object"),
        ([], "ArgumentNull", "empty array"),
        ([1], "ArgumentInvalid", "[0] must be an object"),
        ([{"id": "a"}, {}], "ArgumentNull", "[1].id is missing"),
        ([{"id": 5}], "ArgumentInvalid", "[0].id must be a string"),
    ],
)
async def test_5_a_bulk_body_of_another_shape_is_refused_whole(hub: RestHub, body: Any, error: str, words: str) -> None:
    answer = await hub.call("POST", "/devices", body)
    assert (answer.status, answer.error) == (400, error)
    assert words in answer.message
    assert (await hub.call("GET", "/devices")).json == []


async def test_6_keys_are_regenerated_in_bulk(hub: RestHub) -> None:
    before = (await create(hub))["authentication"]["symmetricKey"]
    await create(hub, "x", authentication={"x509Thumbprint": {"primaryThumbprint": SHA1}})
    path = "/devices/keys/regenerate"
    answer = await hub.call("POST", path, {"policyKey": "primaryKey", "devices": [{"id": "d"}]})
    assert answer.status == 200
    (rotated,) = answer.json["rotatedKeys"]
    assert (answer.json["policyKey"], answer.json["errors"]) == ("primaryKey", [])
    assert (rotated["id"], rotated["moduleId"]) == ("d", None)
    assert rotated["primaryKey"] != before["primaryKey"]
    assert rotated["secondaryKey"] == before["secondaryKey"]
    assert (await hub.call("GET", "/devices/d")).json["authentication"]["symmetricKey"] == {
        "primaryKey": rotated["primaryKey"],
        "secondaryKey": rotated["secondaryKey"],
    }
    some = await hub.call(
        "POST", path, {"policyKey": "both", "devices": [{"id": "d"}, {"id": "ghost", "moduleId": "m"}]}
    )
    assert (some.status, len(some.json["rotatedKeys"])) == (207, 1)
    assert some.json["errors"][0]["errorCode"] == "DeviceNotFound"
    none = await hub.call("POST", path, {"policyKey": "secondaryKey", "devices": [{"id": "x"}]})
    assert (none.status, none.json["rotatedKeys"]) == (400, [])
    assert none.json["errors"][0]["errorCode"] == "BulkRegenerateDeviceKeyOperationFailure"
    for body, error in (
        ({"policyKey": "third", "devices": [{"id": "d"}]}, "InvalidPolicyKey"),
        ({"devices": [{"id": "d"}]}, "InvalidPolicyKey"),
        ({"policyKey": "both"}, "ArgumentNull"),
        ({"policyKey": "both", "devices": [{"id": "d"}, {"id": "d"}]}, "DeviceDefinedMultipleTimes"),
    ):
        answer = await hub.call("POST", path, body)
        assert (answer.status, answer.error) == (400, error)
