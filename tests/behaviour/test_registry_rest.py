"""The registry's REST data plane, operation by operation, over a real socket."""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hub_rest import Answer, RestHub, create, rest_hub

ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z")
NEVER = "0001-01-01T00:00:00Z"
SHA1 = "AB" * 20


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RestHub]:
    async with rest_hub(tmp_path) as hub:
        yield hub


# --- one device


async def test_1_a_put_without_if_match_creates_and_shows_the_whole_device(hub: RestHub) -> None:
    sas = {"type": "sas", "symmetricKey": {"primaryKey": "", "secondaryKey": None}, "x509Thumbprint": None}
    answer = await hub.call("PUT", "/devices/d1", {"deviceId": "d1", "authentication": sas, "unknown": [1]})
    assert answer.status == 200
    body = answer.json
    keys = body["authentication"]["symmetricKey"]
    assert len(base64.b64decode(keys["primaryKey"])) == len(base64.b64decode(keys["secondaryKey"])) == 32
    assert re.fullmatch(r"6\d{17}", body["generationId"])
    assert base64.b64decode(body["etag"]).isdigit()
    assert body == {
        "deviceId": "d1",
        "generationId": body["generationId"],
        "etag": body["etag"],
        "connectionState": "Disconnected",
        "status": "enabled",
        "statusReason": None,
        "connectionStateUpdatedTime": NEVER,
        "statusUpdatedTime": NEVER,
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": keys,
            "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
            "type": "sas",
        },
        "capabilities": {"iotEdge": False},
        "parentScopes": [],
    }
    assert answer.headers["ETag"] == f'"{body["etag"]}"'
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers["Server"] == "Microsoft-HTTPAPI/2.0"
    shown = await hub.call("GET", "/devices/d1")
    assert (shown.status, shown.json, shown.headers["ETag"]) == (200, body, answer.headers["ETag"])


async def test_2_thumbprints_and_authorities_are_shown_with_nulls_for_the_rest(hub: RestHub) -> None:
    signed = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": SHA1.lower(), "secondaryThumbprint": None}}
    made = await create(hub, "signed", authentication=signed)
    assert made["authentication"] == {
        "symmetricKey": {"primaryKey": None, "secondaryKey": None},
        "x509Thumbprint": {"primaryThumbprint": SHA1, "secondaryThumbprint": None},
        "type": "selfSigned",
    }
    made = await create(hub, "authority", authentication={"type": "certificateAuthority"})
    assert made["authentication"]["type"] == "certificateAuthority"
    assert made["authentication"]["symmetricKey"] == {"primaryKey": None, "secondaryKey": None}


async def test_3_creating_what_exists_is_409(hub: RestHub) -> None:
    await create(hub)
    answer = await hub.call("PUT", "/devices/d", {"deviceId": "d"})
    assert (answer.status, answer.error) == (409, "DeviceAlreadyExists")
    assert answer.message == "A device with ID 'd' is already registered."


@pytest.mark.parametrize("spelling", ['"{}"', "{}", 'W/"{}"', "*", '"*"'])
async def test_4_every_spelling_of_if_match_updates_and_deletes(hub: RestHub, spelling: str) -> None:
    made = await create(hub)
    match = spelling.format(made["etag"])
    update = await hub.call("PUT", "/devices/d", {**made, "status": "disabled", "statusReason": "lost"}, If_Match=match)
    assert update.status == 200
    body = update.json
    assert (body["status"], body["statusReason"]) == ("disabled", "lost")
    assert ISO.fullmatch(body["statusUpdatedTime"])
    assert body["etag"] != made["etag"]
    assert body["generationId"] == made["generationId"]
    assert body["authentication"] == made["authentication"]
    if "*" not in spelling:
        for method, content in (("PUT", body), ("DELETE", None)):
            stale = await hub.call(method, "/devices/d", content, If_Match=match)
            assert (stale.status, stale.error) == (412, "PreconditionFailed")
            assert stale.message.startswith("The etag in the request does not match the etag of the existing resource")
    deleted = await hub.call("DELETE", "/devices/d", If_Match=spelling.format(body["etag"]))
    assert (deleted.status, deleted.body) == (204, b"")
    gone = await hub.call("GET", "/devices/d")
    assert (gone.status, gone.error, gone.message) == (404, "DeviceNotFound", "d")


@pytest.mark.parametrize("match", ['"x"', '"MTIz"', "bm90IGEgbnVtYmVy", '"' + "OTk5" * 400 + '"', "w/", '"'])
async def test_5_an_etag_of_our_own_making_or_not_never_matches_by_chance(hub: RestHub, match: str) -> None:
    made = await create(hub)
    answer = await hub.call("PUT", "/devices/d", made, If_Match=match)
    assert (answer.status, answer.error) == (412, "PreconditionFailed")


async def test_6_updating_what_is_not_there_is_404(hub: RestHub) -> None:
    for match in ("*", '"*"', '"MQ=="'):
        answer = await hub.call("PUT", "/devices/ghost", {"deviceId": "ghost"}, If_Match=match)
        assert (answer.status, answer.error, answer.message) == (404, "DeviceNotFound", "ghost")
        answer = await hub.call("DELETE", "/devices/ghost", If_Match=match)
        assert (answer.status, answer.error) == (404, "DeviceNotFound")


async def test_7_an_empty_quoted_if_match_creates_as_the_newer_csharp_client_means_it(hub: RestHub) -> None:
    answer = await hub.call("PUT", "/devices/d", {"deviceId": "d"}, If_Match='""')
    assert answer.status == 200
    assert (await hub.call("PUT", "/devices/d", {"deviceId": "d"}, If_Match='""')).status == 409


async def test_8_a_delete_without_if_match_deletes(hub: RestHub) -> None:
    await create(hub)
    assert (await hub.call("DELETE", "/devices/d")).status == 204


LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
PUNCTUATION = "-:.+%_#*?!(),=@;$'"


@pytest.mark.parametrize(
    "device_id", [LETTERS + PUNCTUATION, "x" * 128, "a%41", "%2F", "a+b", "keys", "a.b", *PUNCTUATION[:2]]
)
async def test_9_every_legal_id_comes_through_percent_encoded_and_as_clients_write_it(
    hub: RestHub, device_id: str
) -> None:
    made = await create(hub, device_id)
    assert made["deviceId"] == device_id
    encoded = quote(device_id, safe="")
    spellings = {encoded, quote(device_id, safe="-:._~!$'()*,;=@+"), "".join(f"%{ord(char):02x}" for char in device_id)}
    for spelling in spellings:
        answer = await hub.call("GET", f"/devices/{spelling}")
        assert (answer.status, answer.json["deviceId"]) == (200, device_id)
    module = await hub.call(
        "PUT", f"/devices/{encoded}/modules/{encoded}", {"deviceId": device_id, "moduleId": device_id}
    )
    assert (module.status, module.json["moduleId"]) == (201, device_id)
    assert (await hub.call("GET", f"/devices/{encoded}/modules/{encoded}")).json == module.json
    assert (await hub.call("DELETE", f"/devices/{encoded}")).status == 204


@pytest.mark.parametrize("raw", ["a%b", "100%", "%zz"])
async def test_10_a_percent_sign_that_encodes_nothing_stands_for_itself_as_java_sends_it(
    hub: RestHub, raw: str
) -> None:
    answer = await hub.call("PUT", f"/devices/{raw}", {"deviceId": raw})
    assert (answer.status, answer.json["deviceId"]) == (200, raw)


@pytest.mark.parametrize(
    ("path", "body_id", "error", "words"),
    [
        ("a%20b", "a b", "ArgumentInvalid", "device id holds ' ' at position 1"),
        ("a%2Fb", "a/b", "ArgumentInvalid", "'/'"),
        ("%00", "\0", "ArgumentInvalid", "'\\x00'"),
        ("%C3%A9", "é", "ArgumentInvalid", "'\\xe9'"),
        ("x" * 129, "x" * 129, "ArgumentInvalid", "129 characters"),
        ("%ff", "x", "ArgumentInvalid", "UTF-8"),
        ("d", "D", "ArgumentInvalid", "deviceId"),
        ("d", None, "ArgumentNull", "deviceId"),
    ],
)
async def test_11_a_wrong_id_is_400_and_named(
    hub: RestHub, path: str, body_id: str | None, error: str, words: str
) -> None:
    answer = await hub.call("PUT", f"/devices/{path}", {"deviceId": body_id})
    assert (answer.status, answer.error) == (400, error)
    assert words in answer.message


WRONG_MEMBERS = [
    ({"status": "on"}, "ArgumentInvalid", "status must be one of enabled, disabled"),
    ({"status": 1}, "ArgumentInvalid", "status must be a string, it is a number"),
    ({"statusReason": ["x"]}, "ArgumentInvalid", "statusReason must be a string, it is an array"),
    ({"statusReason": "x" * 129}, "ArgumentInvalid", "statusReason has 129 characters"),
    ({"statusReason": "\ud800"}, "ArgumentInvalid", "statusReason holds half of a surrogate pair"),
    ({"authentication": []}, "ArgumentInvalid", "authentication must be an object, it is an array"),
    ({"authentication": {"type": "kerberos"}}, "ArgumentInvalid", "authentication.type must be one of sas"),
    ({"authentication": {"symmetricKey": "x"}}, "ArgumentInvalid", "authentication.symmetricKey must be an object"),
    ({"authentication": {"symmetricKey": {"primaryKey": 5}}}, "ArgumentInvalid", "symmetricKey.primaryKey must be"),
    ({"authentication": {"symmetricKey": {"primaryKey": "*"}}}, "ArgumentInvalid", "primary key is not base64"),
    ({"authentication": {"symmetricKey": {"secondaryKey": "QUJD"}}}, "ArgumentInvalid", "secondary key decodes to 3"),
    ({"authentication": {"x509Thumbprint": {"primaryThumbprint": "12"}}}, "ArgumentInvalid", "primary thumbprint"),
    ({"authentication": {"type": "selfSigned"}}, "ArgumentNull", "primary thumbprint is missing"),
    ({"capabilities": {"iotEdge": "yes"}}, "ArgumentInvalid", "capabilities.iotEdge must be true or false"),
    ({"parentScopes": "x"}, "ArgumentInvalid", "parentScopes must be an array, it is a string"),
    ({"parentScopes": [None]}, "ArgumentInvalid", "parentScopes[0] must be a string, it is null"),
    ({"deviceScope": "x"}, "InvalidDeviceScope", "deviceScope"),
]


@pytest.mark.parametrize(("members", "error", "words"), WRONG_MEMBERS)
async def test_12_a_wrong_member_is_400_and_named(
    hub: RestHub, members: dict[str, Any], error: str, words: str
) -> None:
    answer = await hub.call("PUT", "/devices/d", {"deviceId": "d", **members})
    assert (answer.status, answer.error) == (400, error)
    assert words in answer.message
    assert (await hub.call("GET", "/devices/d")).status == 404


WRONG_BODIES = [
    (b"", "ArgumentNull", "empty"),
    (b" \n", "ArgumentNull", "empty"),
    (b'{"deviceId": "d",\n "status": }', "IotHubFormatError", "line 2, column 12"),
    (b'{"deviceId": "d"} trailing', "IotHubFormatError", "line 1, column 19"),
    (b'{"deviceId": "\xff"}', "IotHubFormatError", "UTF-8 at byte 14"),
    (b'{"deviceId": NaN}', "IotHubFormatError", "NaN"),
    (b"[" * 100_000, "IotHubFormatError", "nested too deeply"),
    (b'{"a": ' + b"9" * 5000 + b"}", "IotHubFormatError", "valid JSON"),
    (b'["d"]', "ArgumentInvalid", "must be an object, it is an array"),
    (b"null", "ArgumentInvalid", "must be an object, it is null"),
]


@pytest.mark.parametrize(("data", "error", "words"), WRONG_BODIES)
async def test_13_a_body_that_is_no_object_is_400_with_its_place(
    hub: RestHub, data: bytes, error: str, words: str
) -> None:
    answer = await hub.call("PUT", "/devices/d", data=data)
    assert (answer.status, answer.error) == (400, error)
    assert words in answer.message


async def test_14_a_byte_order_mark_and_another_json_type_are_taken(hub: RestHub) -> None:
    data = b'\xef\xbb\xbf{"deviceId": "d"}'
    answer = await hub.call("PUT", "/devices/d", data=data, Content_Type="text/json")
    assert answer.status == 200
    answer = await hub.call("PUT", "/devices/e", data=b'{"deviceId": "e"}', Content_Type="")
    assert answer.status == 200


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16"]
)
async def test_15_a_body_that_is_not_said_to_be_json_is_415(hub: RestHub, kind: str) -> None:
    answer = await hub.call("PUT", "/devices/d", data=b'{"deviceId": "d"}', Content_Type=kind)
    assert (answer.status, answer.error) == (415, "GenericUnsupportedMediaType")
    assert "application/json" in answer.message


async def test_16_a_body_over_the_limit_is_413(hub: RestHub) -> None:
    answer = await hub.call("PUT", "/devices/d", data=b" " * (8_388_608 + 1))
    assert (answer.status, answer.error) == (413, "GenericRequestEntityTooLarge")


async def test_17_a_compressed_body_is_415_whatever_it_holds(hub: RestHub) -> None:
    for body in (gzip.compress(b'{"deviceId": "d"}'), gzip.compress(b" " * 50_000_000), b"not gzip"):
        answer = await hub.call("PUT", "/devices/d", data=body, Content_Encoding="gzip")
        assert (answer.status, answer.error) == (415, "GenericUnsupportedMediaType")
        assert "Content-Encoding" in answer.message


# --- lists


async def test_18_devices_are_listed_with_and_without_a_trailing_slash(hub: RestHub) -> None:
    made = [await create(hub, name) for name in ("c", "a", "b")]
    for path in ("/devices", "/devices/"):
        answer = await hub.call("GET", path)
        assert answer.status == 200
        assert answer.json == sorted(made, key=lambda device: device["deviceId"])
    for top, count in (
        ("2", 2),
        ("1", 1),
        ("0", 3),
        ("1000", 3),
        ("1001", 3),
        ("-1", 3),
        ("x", 3),
        ("", 3),
        ("9" * 9, 3),
    ):
        answer = await hub.call("GET", "/devices", query=f"top={top}&api-version=2021-04-12")
        assert len(answer.json) == count


async def test_19_trailing_slashes_do_not_count_anywhere(hub: RestHub) -> None:
    await create(hub)
    assert (await hub.call("GET", "/devices/d/")).status == 200
    assert (await hub.call("GET", "/devices/d/modules/")).status == 200
    assert (await hub.call("GET", "/statistics/devices/")).status == 200
    assert (await hub.call("GET", "/devices/d//")).status == 404
    assert (await hub.call("GET", "//devices")).status == 404


async def test_20_fixed_parts_of_a_path_are_found_in_any_case_and_ids_only_in_theirs(hub: RestHub) -> None:
    await create(hub)
    assert (await hub.call("GET", "/Devices/d")).status == 200
    assert (await hub.call("GET", "/devices/D")).status == 404


# --- modules


async def test_21_modules_are_created_201_updated_200_listed_and_deleted(hub: RestHub) -> None:
    await create(hub)
    given = {"deviceId": "d", "moduleId": "m", "managedBy": "me"}
    made = await hub.call("PUT", "/devices/d/modules/m", given)
    assert made.status == 201
    body = made.json
    keys = body["authentication"]["symmetricKey"]
    assert body == {
        "moduleId": "m",
        "managedBy": "me",
        "deviceId": "d",
        "generationId": body["generationId"],
        "etag": body["etag"],
        "connectionState": "Disconnected",
        "connectionStateUpdatedTime": NEVER,
        "lastActivityTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authentication": {
            "symmetricKey": keys,
            "x509Thumbprint": {"primaryThumbprint": None, "secondaryThumbprint": None},
            "type": "sas",
        },
    }
    assert made.headers["ETag"] == f'"{body["etag"]}"'
    again = await hub.call("PUT", "/devices/d/modules/m", given)
    assert (again.status, again.error) == (409, "ModuleAlreadyExistsOnDevice")
    update = await hub.call("PUT", "/devices/d/modules/m", {**body, "managedBy": None}, If_Match=f'"{body["etag"]}"')
    assert (update.status, update.json["managedBy"]) == (200, None)
    stale = await hub.call("DELETE", "/devices/d/modules/m", If_Match=body["etag"])
    assert (stale.status, stale.error) == (412, "PreconditionFailed")
    assert (await hub.call("GET", "/devices/d/modules")).json == [update.json]
    assert (await hub.call("GET", "/devices/d/modules/m")).json == update.json
    assert (await hub.call("DELETE", "/devices/d/modules/m", If_Match="*")).status == 204
    assert (await hub.call("GET", "/devices/d/modules")).json == []


async def test_22_what_is_missing_of_a_module_is_named(hub: RestHub) -> None:
    for method, path, content in (
        ("GET", "/devices/d/modules", None),
        ("GET", "/devices/d/modules/m", None),
        ("PUT", "/devices/d/modules/m", {"deviceId": "d", "moduleId": "m"}),
    ):
        answer = await hub.call(method, path, content)
        assert (answer.status, answer.error, answer.message) == (404, "DeviceNotFound", "d")
    await create(hub)
    answer = await hub.call("GET", "/devices/d/modules/m")
    assert (answer.status, answer.error) == (404, "ModuleNotFound")
    answer = await hub.call("PUT", "/devices/d/modules/m", {"deviceId": "d", "moduleId": "m"}, If_Match="*")
    assert (answer.status, answer.error) == (404, "ModuleNotFound")
    answer = await hub.call("PUT", "/devices/d/modules/m", {"deviceId": "d", "moduleId": "n"})
    assert (answer.status, answer.error) == (400, "ArgumentInvalid")
    assert "moduleId" in answer.message


async def test_23_a_fifty_first_module_and_a_module_under_a_module_are_refused(hub: RestHub) -> None:
    await create(hub)
    for number in range(50):
        body = {"deviceId": "d", "moduleId": f"m{number}"}
        assert (await hub.call("PUT", f"/devices/d/modules/m{number}", body)).status == 201
    answer = await hub.call("PUT", "/devices/d/modules/m50", {"deviceId": "d", "moduleId": "m50"})
    assert (answer.status, answer.error) == (413, "TooManyModulesOnDevice")
    answer = await hub.call("PUT", "/devices/d/modules/m0/modules/x", {"deviceId": "d", "moduleId": "x"})
    assert (answer.status, answer.error) == (400, "CannotRegisterModuleToModule")


async def test_24_an_edge_device_shows_its_scope_and_guards_its_system_modules(hub: RestHub) -> None:
    made = await create(hub, "e", capabilities={"iotEdge": True})
    assert made["deviceScope"] == f"ms-azure-iot-edge://e-{made['generationId']}"
    modules = (await hub.call("GET", "/devices/e/modules")).json
    assert [(module["moduleId"], module["managedBy"]) for module in modules] == [
        ("$edgeAgent", "IotEdge"),
        ("$edgeHub", "IotEdge"),
    ]
    answer = await hub.call("DELETE", "/devices/e/modules/$edgeAgent", If_Match="*")
    assert (answer.status, answer.error) == (401, "SystemModuleModifyUnauthorizedAccess")
    leaf = await create(hub, "leaf", deviceScope=made["deviceScope"])
    assert leaf["parentScopes"] == [made["deviceScope"]]


# --- statistics


async def test_25_statistics_count_devices(hub: RestHub) -> None:
    await create(hub, "a")
    await create(hub, "b", status="disabled")
    answer = await hub.call("GET", "/statistics/devices")
    assert answer.body == b'{"totalDeviceCount":2,"enabledDeviceCount":1,"disabledDeviceCount":1}'
    assert (await hub.call("GET", "/statistics/service")).body == b'{"connectedDeviceCount":0}'


async def test_26_writers_of_the_same_device_do_not_overwrite_each_other(hub: RestHub) -> None:
    made = await create(hub)
    answers: list[Answer] = await asyncio.gather(
        *(
            hub.call("PUT", "/devices/d", {**made, "statusReason": str(number)}, If_Match=made["etag"])
            for number in range(8)
        )
    )
    assert sorted(answer.status for answer in answers) == [200] + [412] * 7
