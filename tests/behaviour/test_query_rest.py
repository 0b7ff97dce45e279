"""Queries over REST, on a real socket (service.md 2.12 and 5.1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hub_rest import Answer, RestHub, create, rest_hub, token

COUNT = 12
TYPE, CONTINUATION, SIZE = "x-ms-item-type", "x-ms-continuation", "x-ms-max-item-count"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RestHub]:
    async with rest_hub(tmp_path) as hub:
        for number in range(COUNT):
            await create(hub, f"d{number:02}")
            await hub.call("PATCH", f"/twins/d{number:02}", {"tags": {"n": number, "even": number % 2 == 0}})
        yield hub


async def ask(hub: RestHub, query: Any, **headers: str) -> Answer:
    return await hub.call("POST", "/devices/query", {"query": query}, **headers)


async def refused(hub: RestHub, query: Any, **headers: str) -> tuple[int, str, str]:
    answer = await ask(hub, query, **headers)
    return answer.status, answer.error, answer.message


async def test_1_a_star_answers_twins_as_they_are_read_one_by_one(hub: RestHub) -> None:
    answer = await ask(hub, "SELECT * FROM devices WHERE tags.n < 3")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert answer.headers[TYPE] == "Twin"
    assert CONTINUATION not in answer.headers
    assert answer.json == [(await hub.call("GET", f"/twins/d0{number}")).json for number in range(3)]


async def test_2_columns_answer_raw_rows(hub: RestHub) -> None:
    answer = await ask(hub, "SELECT deviceId AS id, tags.n, tags.x FROM devices WHERE tags.n = 7")
    assert (answer.headers[TYPE], answer.json) == ("Raw", [{"id": "d07", "n": 7}])
    answer = await ask(hub, "SELECT COUNT() AS n, tags.even FROM devices GROUP BY tags.even")
    groups = sorted(answer.json, key=lambda group: bool(group["even"]))
    assert (answer.headers[TYPE], groups) == ("Raw", [{"n": 6, "even": False}, {"n": 6, "even": True}])


async def test_3_nothing_found_is_an_empty_array_of_its_type(hub: RestHub) -> None:
    for query, kind in (
        ("SELECT * FROM devices WHERE tags.n = 99", "Twin"),
        ("SELECT deviceId FROM devices WHERE tags.n = 99", "Raw"),
        ("SELECT * FROM devices.modules", "Twin"),
        ("SELECT * FROM devices.jobs", "DeviceJob"),
    ):
        answer = await ask(hub, query)
        assert (answer.status, answer.json, answer.headers[TYPE]) == (200, [], kind)
        assert CONTINUATION not in answer.headers


async def test_4_pages_follow_each_other_by_the_continuation_and_the_last_has_none(hub: RestHub) -> None:
    query = "SELECT deviceId FROM devices"
    seen: list[list[str]] = []
    headers = {SIZE: "5"}
    while True:
        answer = await ask(hub, query, **headers)
        assert (answer.status, answer.headers[TYPE]) == (200, "Raw")
        seen.append([row["deviceId"] for row in answer.json])
        if CONTINUATION not in answer.headers:
            break
        headers[CONTINUATION] = answer.headers[CONTINUATION]
    assert [len(page) for page in seen] == [5, 5, 2]
    assert [name for page in seen for name in page] == [f"d{number:02}" for number in range(COUNT)]
    assert (await ask(hub, query, **{SIZE: "12"})).headers.get(CONTINUATION) is None, "a full page may be the last"


async def test_5_a_size_beyond_the_largest_is_no_error_and_an_empty_continuation_is_none(hub: RestHub) -> None:
    answer = await ask(hub, "SELECT deviceId FROM devices", **{SIZE: "100000"})
    assert (answer.status, len(answer.json)) == (200, COUNT)
    async with hub.session.post(
        f"http://127.0.0.1:{hub.port}/devices/query?api-version=2021-04-12",
        json={"query": "SELECT * FROM devices"},
        headers={"Authorization": token(), CONTINUATION: "", SIZE: ""},
    ) as response:
        assert response.status == 200
        assert len(await response.json()) == COUNT


async def test_6_a_size_that_is_none_is_refused(hub: RestHub) -> None:
    for size in ("0", "-1", "many", "1.5"):
        status, name, message = await refused(hub, "SELECT * FROM devices", **{SIZE: size})
        assert (status, name) == (400, "ArgumentInvalid")
        assert message == "x-ms-max-item-count is not a number of rows, give one from 1 to 1000, or none."


async def test_7_a_continuation_of_another_query_or_none_of_ours_is_refused(hub: RestHub) -> None:
    other = (await ask(hub, "SELECT * FROM devices", **{SIZE: "1"})).headers[CONTINUATION]
    for continuation in (other, "nonsense", "e30="):
        status, name, message = await refused(hub, "SELECT deviceId FROM devices", **{CONTINUATION: continuation})
        assert (status, name) == (400, "ArgumentInvalid")
        assert message.startswith("x-ms-continuation is not one that this query gave; send the query with the very")


async def test_8_a_wrong_query_is_told_its_place_and_what_was_expected(hub: RestHub) -> None:
    status, name, message = await refused(hub, "SELECT * FROM devices WHERE WHERE")
    assert (status, name) == (400, "ArgumentInvalid")
    assert message == (
        "Query has a syntax error at character 29: expected a path, a constant, a function, NOT, '-' or '(', "
        "found 'WHERE'."
    )
    status, name, message = await refused(hub, "SELECT * FROM devices WHERE tag.n = 1")
    assert (status, name) == (400, "ArgumentInvalid")
    assert message.startswith("Query is wrong at character 29: there is no field 'tag'; write tags.tag,")


async def test_9_an_empty_or_missing_query_is_400005_one_of_another_type_400004(hub: RestHub) -> None:
    assert await refused(hub, "") == (400, "ArgumentNull", "query is missing, send SELECT ... FROM devices.")
    assert (await refused(hub, None))[:2] == (400, "ArgumentNull")
    assert (await refused(hub, 5)) == (400, "ArgumentInvalid", "query must be a string, it is a number.")
    answer = await hub.call("POST", "/devices/query", data=b"{")
    assert (answer.status, answer.error) == (400, "IotHubFormatError")


async def test_10_a_query_of_8192_characters_runs_a_longer_one_is_refused(hub: RestHub) -> None:
    assert (await ask(hub, "SELECT * FROM devices WHERE tags.n = 1".ljust(8192))).status == 200
    status, name, message = await refused(hub, "SELECT * FROM devices".ljust(8193))
    assert (status, name) == (400, "ArgumentInvalid")
    assert message == "query has 8193 characters, 8192 are allowed. Ask in several queries."


async def test_11_deep_nesting_is_refused(hub: RestHub) -> None:
    status, name, message = await refused(hub, "SELECT * FROM devices WHERE " + "(" * 8000)
    assert (status, name) == (400, "ArgumentInvalid")
    assert message == (
        "Query is wrong at character 94: expressions are nested deeper than 64 levels, write it flatter."
    )


@pytest.mark.parametrize("policy", ["device", "registryRead", "registryReadWrite"])
async def test_12_only_who_may_connect_as_a_service_may_query(hub: RestHub, policy: str) -> None:
    hub.authorization = token(policy)
    assert (await ask(hub, "SELECT * FROM devices")).status == 401
    hub.authorization = token("service")
    assert (await ask(hub, "SELECT * FROM devices")).status == 200
    hub.authorization = ""
    assert (await ask(hub, "SELECT * FROM devices")).status == 401


async def test_13_a_query_after_an_answered_change_sees_it(hub: RestHub) -> None:
    for number in range(10):
        await hub.call("PATCH", "/twins/d03", {"tags": {"last": number}})
        answer = await ask(hub, f"SELECT deviceId FROM devices WHERE tags.last = {number}")
        assert answer.json == [{"deviceId": "d03"}]
    await hub.call("DELETE", "/devices/d03")
    assert (await ask(hub, "SELECT * FROM devices WHERE tags.last = 9")).json == []


async def test_14_queries_at_once_all_answer(hub: RestHub) -> None:
    answers = await asyncio.gather(*(ask(hub, f"SELECT * FROM devices WHERE tags.n = {n % COUNT}") for n in range(40)))
    assert [answer.json[0]["tags"]["n"] for answer in answers] == [number % COUNT for number in range(40)]


async def test_15_modules_are_twins_with_their_id(hub: RestHub) -> None:
    body = {"deviceId": "d01", "moduleId": "m"}
    assert (await hub.call("PUT", "/devices/d01/modules/m", body)).status == 201
    answer = await ask(hub, "SELECT * FROM devices.modules WHERE moduleId = 'm'")
    assert answer.json == [(await hub.call("GET", "/twins/d01/modules/m")).json]
    assert answer.headers[TYPE] == "Twin"


async def test_16_edge_devices_and_their_children_are_found_as_the_cli_asks(hub: RestHub) -> None:
    scope = (await create(hub, "edge", capabilities={"iotEdge": True}))["deviceScope"]
    await create(hub, "leaf", deviceScope=scope)
    answer = await ask(hub, "select * from devices where capabilities.iotEdge=true")
    assert [row["deviceId"] for row in answer.json] == ["edge"]
    children = f"select deviceId, deviceScope from devices where array_contains(parentScopes, '{scope}')"
    assert (await ask(hub, children)).json == [{"deviceId": "leaf", "deviceScope": scope}]
    answer = await ask(hub, "SELECT deviceId FROM devices.modules WHERE moduleId = '$edgeAgent'")
    assert answer.json == [{"deviceId": "edge"}]
