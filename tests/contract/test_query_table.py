"""The device query language, query by query: what is written beside each is what it means (docs/query.md)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from query_hub import SCOPE, QueryHub, populate, query_hub

ALL = "a b c d e f g"

CONDITIONS: list[tuple[str, str]] = [
    # --- equality: by type, undefined where types differ or something is missing
    ("tags.building = '43'", "a b"),
    ("'43' = tags.building", "a b"),
    ('tags.building = "43"', "a b"),
    ("tags.building = 43", ""),
    ("tags.building != '43'", "c e g"),
    ("tags.building <> '43'", "c e g"),
    ("NOT tags.building = '43'", "c e g"),
    ("NOT (tags.building != '43')", "a b"),
    ("tags.nothing != 'x'", ""),
    ("NOT tags.nothing = 'x'", ""),
    ("tags.floor = 1", "a"),
    ("tags.floor = 1.0", "a"),
    ("tags.floor = 0x1", "a"),
    ("tags.floor = 10e-1", "a"),
    ("tags.floor = 2", "b"),
    ("tags.floor = '2'", "c"),
    ("tags.floor != 2", "a f g"),
    ("tags.floor = -1.5", "g"),
    ("tags.floor = - 1.5", "g"),
    ("tags.active = true", "a"),
    ("tags.active = false", "b"),
    ("tags.active = TRUE", "a"),
    ("tags.active != true", "b"),
    ("tags.active = 1", ""),
    ("tags.active = 'true'", ""),
    ("tags.mixed = 1", "a"),
    ("tags.mixed = '1'", "b"),
    ("tags.mixed = true", "c"),
    ("tags.big = 4503599627370495", "f"),
    ("tags.empty = ''", "f"),
    ("properties.desired.interval = 10", "a d"),
    ("properties.desired.mode = properties.reported.mode", "a"),
    ("properties.desired.mode != properties.reported.mode", "b"),
    ("tags.building = tags.floor", ""),
    ("properties.desired.$version = properties.reported.lastDesiredVersion", "b"),
    ("1 = 1", ALL),
    ("1 = 2", ""),
    ("'a' = 'a'", ALL),
    ("1 = '1'", ""),
    ("NOT 1 = '1'", ""),
    ("undefined = undefined", ""),
    ("tags.floor = undefined", ""),
    # --- null
    ("tags.building = null", ""),
    ("tags.building != null", "a b c e g"),
    ("tags.nothing != null", ""),
    ("statusReason = null", "a b c e f g"),
    ("statusReason != null", "d"),
    ("statusReason = 'lost'", "d"),
    ("statusReason != 'found'", ALL),
    ("null = null", ALL),
    ("x509Thumbprint.primaryThumbprint != null", "f"),
    ("x509Thumbprint.primaryThumbprint = x509Thumbprint.secondaryThumbprint", "a b c d e g"),
    ("tags.building != statusReason", "a b c e g"),
    # --- order
    ("tags.floor > 1", "b"),
    ("tags.floor >= 1", "a b"),
    ("tags.floor < 1", "f g"),
    ("tags.floor <= 0", "f g"),
    ("tags.floor > '1'", "c"),
    ("1 < tags.floor", "b"),
    ("tags.building > '43'", "c e g"),
    ("tags.building < '44'", "a b g"),
    ("tags.building >= 'Ö'", "e"),
    ("properties.reported.firmware.version < '1.2.0'", "b"),
    ("tags.active > false", "a"),
    ("tags.active < 1", ""),
    ("null <= null", ""),
    ("tags.floor > undefined", ""),
    # --- logic of three values
    ("tags.building = '43' AND tags.floor = 2", "b"),
    ("tags.building = '43' OR tags.floor = '2'", "a b c"),
    ("tags.nothing = 1 OR tags.floor = 1", "a"),
    ("NOT (tags.nothing = 1 AND tags.floor = 1)", "b f g"),
    ("tags.floor = 1 OR tags.building = '43' AND tags.floor = 2", "a b"),
    ("(tags.floor = 1 OR tags.building = '43') AND tags.floor = 2", "b"),
    ("NOT NOT tags.floor = 1", "a"),
    ("NOT tags.active", "b"),
    ("tags.active", "a"),
    ("tags.floor", ""),
    ("NOT tags.floor", ""),
    ("tags.active AND true", "a"),
    ("tags.floor AND true", ""),
    ("tags.floor OR true", ALL),
    ("true", ALL),
    ("false", ""),
    ("null", ""),
    ("undefined", ""),
    ("NOT undefined", ""),
    ("undefined OR true", ALL),
    ("NOT (undefined AND false)", ALL),
    ("(tags.floor = 1) = true", "a"),
    ("(tags.floor = 1) = false", "b f g"),
    ("(tags.floor = 1) = (tags.building = '43')", "a g"),
    # --- arithmetic
    ("tags.floor + 1 = 2", "a"),
    ("tags.floor - 1 = 1", "b"),
    ("tags.floor * 2 = 4", "b"),
    ("tags.floor / 2 = 0.5", "a"),
    ("tags.floor % 2 = 1", "a"),
    ("tags.floor % 1 = -0.5", "g"),
    ("1 / tags.floor > 0", "a b"),
    ("tags.floor / 0 = 0", ""),
    ("NOT tags.floor / 0 = 0", ""),
    ("-tags.floor = 1.5", "g"),
    ("1 + 2 * 3 = 7", ALL),
    ("(1 + 2) * 3 = 9", ALL),
    ("10 - 2 - 3 = 5", ALL),
    ("7 / 2 = 3.5", ALL),
    ("-7 % 4 = -3", ALL),
    ("5 % 0 = 5", ""),
    ("tags.building + 1 = 44", ""),
    ("tags.building + 'x' = '43x'", ""),
    ("tags.active + 1 = 2", ""),
    ("9007199254740993 = 9007199254740992", ALL),
    ("1e308 * 10 > 1e308", ALL),
    # --- IN and NIN
    ("deviceId IN ['a', 'c', 'z']", "a c"),
    ("deviceId in ['b']", "b"),
    ("deviceId NIN ['a', 'c']", "b d e f g"),
    ("NOT deviceId IN ['a', 'c']", "b d e f g"),
    ("tags.floor IN [1, 0]", "a f"),
    ("tags.floor IN [1, '2']", "a c"),
    ("tags.floor NIN [1]", "b f g"),
    ("tags.floor NIN [1, '2']", ""),
    ("tags.active IN [true, false]", "a b"),
    ("tags.mixed IN [1, '1', true]", "a b c"),
    ("tags.nothing IN ['x']", ""),
    ("tags.nothing NIN ['x']", ""),
    ("statusReason IN ['lost', null]", ALL),
    ("statusReason IN ['x', 'lost']", "d"),
    ("tags.floor IN [undefined, 1]", "a"),
    ("tags.floor IN [-1.5, 0x2]", "b g"),
    ("tags.floor + 1 IN [2]", "a"),
    ("true = (tags.floor IN [1])", "a"),
    ("tags.floor = 1 IN [true]", "a"),
    # --- names, escapes, positions, case
    ("tags.owner.name = 'ann'", "a"),
    ("tags.owner.[[first-name]] = 'Ann'", "a"),
    ("tags.[[group]].name = 'g'", "c"),
    ("tags.group.name = 'g'", "c"),
    ("tags.[[odd'key]] = 5", "e"),
    ('tags.[[odd"key]] = 6', "e"),
    ("tags.Building = '43'", ""),
    ("TAGS.building = '43'", "a b"),
    ("Properties.Desired.mode = 'fast'", "a"),
    ("DEVICEID = 'a'", "a"),
    ("properties.reported.list[0] = 1", "a"),
    ("properties.reported.list[1] = 'two'", "a"),
    ("properties.reported.list[3].x = 'y'", "a"),
    ("properties.reported.list[9] = 1", ""),
    ("properties.reported.list[4294967296] = 1", ""),
    ("properties.reported.list.x = 1", ""),
    ("tags.owner = 'ann'", ""),
    (r"""tags.quoted = 'it\'s "x\\y"'""", "e"),
    (r"""tags.quoted = "it's \"x\\y\"" """, "e"),
    ("tags.building = '\\u00d6st'", "e"),
    ("tags.emoji = 'a\\ud83d\\ude00b'", "e"),
    ("tags.nul = 'x\\u0000y'", "e"),
    ("tags.nul = 'x'", ""),
    ("devices.deviceId = 'a'", "a"),
    ("devices.tags.floor = 1 /* the first */ AND /**/ true", "a"),
    ("tags.building = '43\\'; DROP TABLE twins; --'", "g"),
    # --- fields of the identity and the session
    ("status = 'disabled'", "d"),
    ("status = 'enabled'", "a b c e f g"),
    ("status IN ['disabled', 'enabled']", ALL),
    ("connectionState = 'Connected'", "a"),
    ("connectionState != 'Connected' AND status = 'enabled'", "b c e f g"),
    ("lastActivityTime >= '2020-01-01T00:00:00Z'", "a"),
    ("lastActivityTime < '2020-01-01T00:00:00Z'", "b c d e f g"),
    ("statusUpdateTime > '2000-01-01'", "d"),
    ("capabilities.iotEdge = true", "e"),
    ("capabilities.iotEdge", "e"),
    ("capabilities.iotEdge = false", "a b c d f g"),
    ("capabilities.iotedge != true", "a b c d f g"),
    ("authenticationType = 'selfSigned'", "f"),
    (f"deviceScope = '{SCOPE}'", "e f"),
    ("IS_DEFINED(deviceScope)", "e f"),
    (f"ARRAY_CONTAINS(parentScopes, '{SCOPE}')", "f"),
    (f"parentScopes[0] = '{SCOPE}'", "f"),
    ("etag = 'AAAAAAAAAAI='", ALL),
    ("deviceEtag = 'Nw=='", "e"),
    ("version = 4", "a b c"),
    ("version > 3", "a b c"),
    ("cloudToDeviceMessageCount = 0", ALL),
    ("IS_DEFINED(modelId)", ""),
    ("IS_DEFINED(moduleId)", ""),
    ("configurations.[[my-config]].status = 'Applied'", ""),
    ("properties.reported.$version = 2", "a b c"),
    ("properties.desired.$metadata.interval.$lastUpdatedVersion = 2", "a b d"),
    ("properties.reported.$metadata.battery.$lastUpdated > '2023'", "a b c"),
    ("properties.reported.$metadata.$lastUpdated < '2023'", "d e f g"),
    ("deviceId = 'a' AND deviceId = 'b'", ""),
    # --- functions of types
    ("IS_DEFINED(tags.building)", "a b c e g"),
    ("NOT IS_DEFINED(tags.building)", "d f"),
    ("is_defined(tags.owner)", "a"),
    ("IS_DEFINED(tags)", "a b c e f g"),
    ("IS_DEFINED(properties.desired)", ALL),
    ("IS_DEFINED(properties)", ALL),
    ("IS_BOOL(tags.mixed)", "c"),
    ("IS_NUMBER(tags.floor)", "a b f g"),
    ("IS_STRING(tags.floor)", "c"),
    ("NOT IS_STRING(tags.floor)", "a b d e f g"),
    ("IS_OBJECT(tags.owner)", "a"),
    ("IS_ARRAY(properties.reported.list)", "a c"),
    ("IS_NULL(tags.floor)", ""),
    ("IS_NULL(statusReason)", "a b c e f g"),
    ("IS_PRIMITIVE(tags.mixed)", "a b c"),
    ("IS_PRIMITIVE(tags.owner)", ""),
    ("IS_PRIMITIVE(statusReason)", ALL),
    ("IS_OBJECT(x509Thumbprint) AND IS_OBJECT(capabilities) AND IS_ARRAY(parentScopes)", ALL),
    ("IS_NUMBER(1 / 0)", ""),
    ("IS_DEFINED(undefined)", ""),
    # --- functions of numbers
    ("ABS(tags.floor) = 1.5", "g"),
    ("CEILING(tags.floor) = -1", "g"),
    ("FLOOR(tags.floor) = -2", "g"),
    ("SIGN(tags.floor) = -1", "g"),
    ("SIGN(tags.floor) = 0", "f"),
    ("SQUARE(tags.floor) = 2.25", "g"),
    ("SQRT(properties.desired.interval + 6) = 4", "a d"),
    ("SQRT(tags.floor) >= 0", "a b f"),
    ("POWER(tags.floor, 3) = 8", "b"),
    ("EXP(tags.floor) = 1", "f"),
    ("ABS(tags.building) > 0", ""),
    ("AS_NUMBER(tags.floor) = 2", "b c"),
    ("AS_NUMBER(tags.building) = 43", "a b"),
    ("AS_NUMBER(tags.numeric) = 100", "f"),
    ("IS_DEFINED(AS_NUMBER(tags.word))", ""),
    ("AS_NUMBER(tags.active) = 1", ""),
    # --- functions of strings
    ("STARTSWITH(tags.building, '4')", "a b c g"),
    ("STARTS_WITH(tags.building, '43')", "a b g"),
    ("STARTS_WITH(tags.building, '3')", ""),
    ("ENDS_WITH(tags.building, '4')", "c"),
    ("ENDSWITH(tags.building, 't')", "e"),
    ("ENDS_WITH(tags.building, '')", "a b c e g"),
    ("CONTAINS(tags.building, 'TABLE')", "g"),
    ("CONTAINS(tags.floor, '2')", "c"),
    ("CONTAINS(tags.floor, 2)", ""),
    ("NOT CONTAINS(tags.floor, '3')", "c"),
    ("LENGTH(tags.building) = 2", "a b c"),
    ("LENGTH(tags.emoji) = 3", "e"),
    ("LENGTH(tags.nul) = 3", "e"),
    ("LENGTH(tags.empty) = 0", "f"),
    ("LOWER(tags.building) = 'öst'", "e"),
    ("UPPER(properties.desired.mode) = 'FAST'", "a"),
    ("CONCAT(tags.building, '-', properties.desired.mode) = '43-slow'", "b"),
    ("CONCAT(tags.building, tags.floor) = '442'", "c"),
    ("SUBSTRING(tags.building, 1) = '3'", "a b"),
    ("SUBSTRING(tags.building, 0, 1) = '4'", "a b c g"),
    ("SUBSTRING(tags.building, 9) = ''", "a b c e"),
    ("SUBSTRING(tags.building, -1) = ''", ""),
    ("INDEX_OF(tags.building, '3') = 1", "a b g"),
    ("INDEX_OF(tags.building, 'x') = -1", "a b c e g"),
    ("INDEX_OF(tags.emoji, 'b') = 2", "e"),
    # --- functions of arrays
    ("ARRAY_CONTAINS(properties.reported.list, 'two')", "a"),
    ("ARRAY_CONTAINS(properties.reported.list, 1)", "a"),
    ("ARRAY_CONTAINS(properties.reported.list, true)", "a"),
    ("ARRAY_CONTAINS(properties.reported.list, '1')", ""),
    ("NOT ARRAY_CONTAINS(properties.reported.list, '1')", "a c"),
    ("ARRAY_CONTAINS(tags.building, '4')", ""),
    ("NOT ARRAY_CONTAINS(tags.building, '4')", ""),
    ("array_contains(['a', 'b'], deviceId)", "a b"),
    ("NOT ARRAY_CONTAINS(['a', 1], deviceId)", "b c d e f g"),
    ("ARRAY_CONTAINS(properties.reported.list, tags.floor)", "a"),
    ("ARRAY_CONTAINS(['lost', null], statusReason)", ALL),
    ("NOT ARRAY_CONTAINS(['x', null], statusReason)", "d"),
    ("ARRAY_CONTAINS([1, [2]], [2])", ""),
    ("ARRAY_CONTAINS([null], null)", ALL),
    ("IS_ARRAY([1]) AND IS_DEFINED([1])", ALL),
    ("[1]", ""),
    ("NOT [true]", ""),
    ("[true] OR true", ALL),
    ("LENGTH(['a']) = 1", ""),
    ("-[1] = 1", ""),
]

FIRST_ETAG = "AAAAAAAAAAE="

QUERIES: list[tuple[str, list[dict[str, Any]]]] = [
    (
        "SELECT deviceId, tags.floor FROM devices WHERE tags.floor > 0",
        [{"deviceId": "a", "floor": 1}, {"deviceId": "b", "floor": 2}],
    ),
    (
        "select DeviceId, LastActivityTime from devices where DeviceId = 'd'",
        [{"deviceId": "d", "lastActivityTime": "0001-01-01T00:00:00Z"}],
    ),
    (
        "SELECT tags.floor AS level, deviceId AS id FROM devices WHERE deviceId IN ['c','d']",
        [{"level": "2", "id": "c"}, {"id": "d"}],
    ),
    ("SELECT tags.nothing FROM devices WHERE deviceId = 'a'", [{}]),
    (
        "SELECT tags.owner.[[first-name]] AS [[first name]] FROM devices WHERE IS_DEFINED(tags.owner)",
        [{"first name": "Ann"}],
    ),
    ("SELECT properties.desired.limits FROM devices WHERE deviceId = 'a'", [{"limits": {"low": -5, "high": 99.5}}]),
    ("SELECT properties.reported.list FROM devices WHERE deviceId = 'a'", [{"list": [1, "two", True, {"x": "y"}]}]),
    (
        "SELECT properties.reported.list[1], properties.reported.list[3] AS o FROM devices WHERE deviceId = 'a'",
        [{"$1": "two", "o": {"x": "y"}}],
    ),
    (
        "SELECT tags FROM devices WHERE deviceId IN ['d', 'g']",
        [{}, {"tags": {"floor": -1.5, "building": "43'; DROP TABLE twins; --"}}],
    ),
    (
        "SELECT properties.desired.$version, properties.reported.$version AS r FROM devices WHERE deviceId = 'b'",
        [{"$version": 2, "r": 2}],
    ),
    (
        "SELECT capabilities, x509Thumbprint FROM devices WHERE deviceId = 'f'",
        [
            {
                "capabilities": {"iotEdge": False},
                "x509Thumbprint": {"primaryThumbprint": "AB" * 20, "secondaryThumbprint": None},
            }
        ],
    ),
    (
        "SELECT capabilities.iotEdge, statusReason, parentScopes, deviceScope, modelId FROM "
        "devices WHERE deviceId IN ['d', 'f']",
        [
            {"iotEdge": False, "statusReason": "lost", "parentScopes": []},
            {"iotEdge": False, "statusReason": None, "parentScopes": [SCOPE], "deviceScope": SCOPE},
        ],
    ),
    (
        "SELECT etag, deviceEtag, version, status, authenticationType, connectionState FROM "
        "devices WHERE deviceId = 'g'",
        [
            {
                "etag": "AAAAAAAAAAI=",
                "deviceEtag": "MQ==",
                "version": 3,
                "status": "enabled",
                "authenticationType": "sas",
                "connectionState": "Disconnected",
            }
        ],
    ),
    ("SELECT d.deviceId FROM devices d WHERE d.tags.floor = 1", [{"deviceId": "a"}]),
    ("SELECT x.deviceId FROM devices AS x WHERE x.tags.floor = 1", [{"deviceId": "a"}]),
    ("SELECT TOP 2 deviceId FROM devices", [{"deviceId": "a"}, {"deviceId": "b"}]),
    ("SELECT TOP 0 deviceId FROM devices", []),
    ("SELECT TOP 1 deviceId FROM devices WHERE tags.floor = 2", [{"deviceId": "b"}]),
    # --- modules
    (
        "SELECT deviceId, moduleId FROM devices.modules",
        [
            {"deviceId": "a", "moduleId": "m1"},
            {"deviceId": "e", "moduleId": "$edgeAgent"},
            {"deviceId": "e", "moduleId": "$edgeHub"},
        ],
    ),
    (
        "SELECT deviceId FROM devices.modules WHERE moduleId = '$edgeAgent' AND "
        "properties.reported.lastDesiredStatus.code = 200",
        [{"deviceId": "e"}],
    ),
    (
        "SELECT moduleId FROM devices.modules WHERE devices.modules.properties.reported.state = 'on'",
        [{"moduleId": "m1"}],
    ),
    (
        "SELECT moduleId FROM devices.modules WHERE deviceId = 'e' AND connectionState = 'Connected'",
        [{"moduleId": "$edgeAgent"}],
    ),
    (
        "SELECT moduleId FROM devices.modules WHERE properties.desired.$version = "
        "properties.reported.lastDesiredVersion",
        [{"moduleId": "$edgeAgent"}],
    ),
    ("SELECT moduleId, capabilities FROM devices.modules WHERE tags.building = '43'", [{"moduleId": "m1"}]),
    ("SELECT COUNT() AS n FROM devices.modules", [{"n": 3}]),
    (
        "SELECT COUNT() AS n, properties.reported.state FROM devices.modules GROUP BY properties.reported.state",
        [{"n": 1}, {"n": 1, "state": "off"}, {"n": 1, "state": "on"}],
    ),
    # --- aggregates and groups
    ("SELECT COUNT() AS n FROM devices", [{"n": 7}]),
    ("SELECT COUNT() FROM devices WHERE tags.building = '43'", [{"$1": 2}]),
    ("SELECT COUNT(), MAX(tags.floor) FROM devices", [{"$1": 7, "$2": 2}]),
    ("SELECT COUNT() AS n, SUM(tags.floor) AS s FROM devices WHERE false", [{"n": 0}]),
    (
        "SELECT SUM(tags.floor) AS s, AVG(tags.floor) AS a, MIN(tags.floor) AS lo, MAX(tags.floor) AS hi FROM devices",
        [{"s": 1.5, "a": 0.375, "lo": -1.5, "hi": 2}],
    ),
    ("SELECT MIN(tags.building) AS lo, MAX(tags.building) AS hi FROM devices", [{"lo": "43", "hi": "Öst"}]),
    ("SELECT MAX(lastActivityTime) AS t FROM devices", [{"t": "2023-11-14T22:13:20.0000000Z"}]),
    ("SELECT AVG(properties.desired.interval) AS a FROM devices", [{"a": 40 / 3}]),
    ("SELECT SUM(tags.active) AS s FROM devices", [{}]),
    (
        "SELECT status, COUNT() AS n FROM devices GROUP BY status",
        [{"status": "disabled", "n": 1}, {"status": "enabled", "n": 6}],
    ),
    (
        "SELECT tags.building, COUNT() AS n FROM devices WHERE NOT deviceId = 'g' GROUP BY tags.building",
        [{"n": 2}, {"building": "43", "n": 2}, {"building": "44", "n": 1}, {"building": "Öst", "n": 1}],
    ),
    (
        "SELECT tags.mixed AS m, COUNT() AS n FROM devices GROUP BY tags.mixed",
        [{"n": 4}, {"m": 1, "n": 1}, {"m": "1", "n": 1}, {"m": True, "n": 1}],
    ),
    ("SELECT COUNT() AS n FROM devices GROUP BY properties.desired.interval", [{"n": 4}, {"n": 1}, {"n": 2}]),
    (
        "SELECT tags.building, capabilities.iotEdge, COUNT() AS n FROM devices WHERE tags.floor > "
        "0 OR capabilities.iotEdge GROUP BY tags.building, capabilities.iotEdge",
        [{"building": "43", "iotEdge": False, "n": 2}, {"building": "Öst", "iotEdge": True, "n": 1}],
    ),
    ("SELECT statusReason FROM devices GROUP BY statusReason", [{"statusReason": None}, {"statusReason": "lost"}]),
    (
        "SELECT properties.desired.limits, COUNT() AS n FROM devices GROUP BY properties.desired.limits",
        [{"n": 6}, {"limits": {"low": -5, "high": 99.5}, "n": 1}],
    ),
    ("SELECT TOP 1 COUNT() AS n FROM devices WHERE status = 'enabled' GROUP BY status", [{"n": 6}]),
    # --- what tools send
    (
        "SELECT deviceId, deviceScope FROM devices WHERE capabilities.iotEdge = true",
        [{"deviceId": "e", "deviceScope": SCOPE}],
    ),
    ("select deviceId from devices where configurations.[[id-1]].status = 'Applied'", []),
    (
        "select deviceId from devices.modules where moduleId = '$edgeAgent' and configurations.[[x]].status = 'Applied'"
        " and properties.desired.$version = properties.reported.lastDesiredVersion and "
        "properties.reported.lastDesiredStatus.code = 200",
        [],
    ),
    ("SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'j' AND devices.jobs.status = 'completed'", []),
]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[QueryHub]:
    async with query_hub(tmp_path) as hub:
        await populate(hub)
        yield hub


async def test_conditions(hub: QueryHub) -> None:
    wrong = {}
    for condition, expected in CONDITIONS:
        found = await hub.ids(condition)
        if found != expected:
            wrong[condition] = (found, expected)
    assert not wrong


def in_any_order(rows: list[Any]) -> list[str]:
    return sorted(repr(sorted(row.items(), key=repr)) for row in rows)


@pytest.mark.parametrize("size", [None, 1])
async def test_queries(hub: QueryHub, size: int | None) -> None:
    wrong = {}
    for query, expected in QUERIES:
        found = await hub.rows(query, size)
        if in_any_order(found) != in_any_order(expected):
            wrong[query] = (found, expected)
    assert not wrong


def test_the_table_is_large_and_says_nothing_twice() -> None:
    queries = [condition for condition, _ in CONDITIONS] + [query for query, _ in QUERIES]
    assert len(set(queries)) == len(queries) >= 120


@pytest.mark.parametrize("modules", [False, True])
async def test_a_star_answers_twins_as_they_are_read_one_by_one(hub: QueryHub, modules: bool) -> None:
    source = "devices.modules" if modules else "devices"
    assert await hub.rows(f"SELECT * FROM {source}", 2) == await hub.bodies(modules)


async def test_every_field_is_projected_as_the_twin_shows_it(hub: QueryHub) -> None:
    names = {name for body in await hub.bodies() for name in body} - {"modelId"}
    rows = await hub.rows(
        f"SELECT {', '.join(sorted(names))}, properties.desired AS d, properties.reported AS r FROM devices"
    )
    for row, body in zip(rows, await hub.bodies(), strict=True):
        assert (row.pop("d"), row.pop("r")) == (body["properties"]["desired"], body["properties"]["reported"])
        del body["modelId"]
        assert row == body


async def test_every_field_can_be_grouped_and_compared(hub: QueryHub) -> None:
    names = [name for body in await hub.bodies() for name in body]
    fields = sorted(
        {*names, "moduleId", "configurations", "generationId", "properties.desired", "capabilities.iotEdge"}
    )
    for name in fields:
        rows = await hub.rows(f"SELECT COUNT() AS n, MAX({name}) AS m FROM devices GROUP BY {name}")
        assert sum(row["n"] for row in rows) == 7, name
        for condition in (f"{name} = {name}", f"{name} IN ['x', 1, true, null]", f"{name}", f"IS_DEFINED({name})"):
            await hub.ids(condition)
    together = await hub.rows(f"SELECT COUNT() AS n FROM devices GROUP BY {', '.join(fields)}")
    assert together == [{"n": 1}] * 7
