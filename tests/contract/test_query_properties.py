"""Random queries over random twins: the store answers what the definition of the language says."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from random import Random
from typing import Any

import naive_queries
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from query_hub import SCOPE, X509, QueryHub
from query_places import DATABASES, place_of

from muster.identity.model import IdentityKey, Status
from muster.twins.document import EMPTY, Twin, patch_twin, report
from muster.twins.query.functions import FUNCTIONS
from muster.twins.query.parser import parse_query
from muster.twins.query.syntax import UNDEFINED

DEVICES = ("p", "q", "r", "s", "t")
SHARES = {"sqlite": 1, "postgres": 4}
"""Of how many examples one is tried: PostgreSQL plans each query anew, which takes it far longer than to answer."""
INDEXED = ("tags.a", "properties.reported.b")

TEXTS = ("", "a", "b", "ab", "A", "1", " 2e1", "é", "😀", "x\0y", "'", '"', "\\", "enabled", "p", "lost", "Connected")
NUMBERS = (0, 1, 2, -1, 3, 10, 0.5, -1.5, 2.0, 2**52 - 1)
NAMES = ("a", "a", "b", "b", "c-d", "é", 'x"y', "q'", "back\\slash", "in")


def content(chance: Random, levels: int = 3) -> dict[str, Any]:
    return {chance.choice(NAMES): value(chance, levels) for _ in range(chance.randrange(6))}


def value(chance: Random, levels: int) -> Any:
    shape = chance.randrange(8) if levels else 7
    if shape == 0:
        return [value(chance, levels - 1) for _ in range(chance.randrange(4))]
    if shape == 1:
        return content(chance, levels - 1)
    return chance.choice((*TEXTS, *NUMBERS, True, False))


def twins_of(chance: Random) -> list[Twin]:
    """Random twins. Hypothesis itself would need far longer for them than for the queries."""
    return [report(patch_twin(EMPTY, content(chance), content(chance), 1.0), content(chance), 2.0) for _ in DEVICES]


SEEDS = st.integers(0, 2**32)

PATHS = st.sampled_from((
    "tags.a", "tags.a", "tags.b", "tags.[[c-d]]", "tags.a.b", "tags.b.a", "tags.b[0]", "tags.a[1].b", "tags.é",
    'tags.[[x"y]]', "tags.[[q']]", "tags.[[back\\slash]]", "tags.in", "tags.nothing", "tags", "properties",
    "properties.reported.a", "properties.reported.b", "properties.desired.b", "properties.desired",
    "properties.desired.$version", "properties.reported.$metadata.a.$lastUpdated", "deviceId", "moduleId", "status",
    "statusReason", "version", "etag", "connectionState", "lastActivityTime", "x509Thumbprint", "deviceScope",
    "x509Thumbprint.primaryThumbprint", "x509Thumbprint.secondaryThumbprint", "capabilities", "capabilities.iotEdge",
    "parentScopes", "parentScopes[0]", "authenticationType", "configurations.[[x]].status", "devices.tags.a",
))  # fmt: skip


CONSTANTS = st.sampled_from(
    [
        *map(json.dumps, (*TEXTS, *NUMBERS)),
        "true",
        "FALSE",
        "null",
        "undefined",
        "0x1F",
        "1e308",
        "-1.5",
        json.dumps(SCOPE),
    ]
)
ARRAYS = st.lists(CONSTANTS, min_size=1, max_size=4).map(lambda items: f"[{', '.join(items)}]")
OPERATORS = st.sampled_from(("+", "-", "*", "/", "%", "=", "!=", "<>", "<", "<=", ">", ">=", "AND", "OR", "and", "Or"))


def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    calls = [
        st.tuples(*(inner for _ in range(count))).map(
            lambda arguments, name=function.name: f"{name}({', '.join(arguments)})"  # type: ignore[misc]
        )
        for function in FUNCTIONS.values()
        for count in range(function.least, (function.most or 3) + 1)
    ]
    return st.one_of(
        st.builds("({} {} {})".format, inner, OPERATORS, inner),
        st.builds("({} {} {})".format, inner, OPERATORS, inner),
        st.builds("(NOT {})".format, inner),
        st.builds("(- {})".format, inner),
        st.builds("({} {} {})".format, inner, st.sampled_from(("IN", "NIN")), ARRAYS),
        st.builds("ARRAY_CONTAINS({}, {})".format, ARRAYS, inner),
        st.one_of(calls),
    )


CONDITIONS = st.recursive(PATHS | PATHS | CONSTANTS, larger, max_leaves=12)
AGGREGATES = st.builds("{}({})".format, st.sampled_from(("AVG", "SUM", "MIN", "MAX")), PATHS) | st.just("COUNT()")


class World:
    """A hub on a loop that lasts as long as the module's tests."""

    def __init__(self, runner: asyncio.Runner, hub: QueryHub, share: int) -> None:
        self.runner, self.hub, self.share = runner, hub, share

    def check(self, seed: int, *texts: str) -> None:
        if seed % self.share:
            return
        self.runner.run(self._check(twins_of(Random(seed)), texts))

    async def _check(self, twins: list[Twin], texts: tuple[str, ...]) -> None:
        edits = [
            self.hub.twins.edit(self.hub.name, IdentityKey(name), lambda _, twin=twin: twin, lambda _: None)  # type: ignore[misc]
            for name, twin in zip(DEVICES, twins, strict=True)
        ]
        await asyncio.gather(*edits)
        bodies = await self.hub.bodies()
        for text in texts:
            query = parse_query(text)
            expected = naive_queries.answer(query, bodies)
            found = await self.hub.rows(text, 3)
            if query.aggregates:
                assert sorted(map(ordered, found)) == sorted(map(ordered, expected)), text
            else:
                assert found == expected, text


def ordered(row: dict[str, Any]) -> str:
    """A row as text, in which 1 is 1.0 as it is in the language, and members have no order."""
    return json.dumps({name: float(v) if type(v) is int else v for name, v in row.items()}, sort_keys=True)


@pytest.fixture(scope="module", params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = place_of(request.param, tmp_path_factory.mktemp("query"), __name__)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        hub = runner.run(stack.enter_async_context(place.open(INDEXED)))
        runner.run(_register(hub))
        yield World(runner, hub, SHARES[request.param])
        runner.run(stack.aclose())


async def _register(hub: QueryHub) -> None:
    await hub.add("p")
    await hub.add("q", status=Status.DISABLED, status_reason="lost")
    await hub.add("r", iot_edge=True, device_scope=SCOPE, version=2)
    await hub.add("s", authentication=X509, device_scope=SCOPE, parent_scopes=(SCOPE,))
    both = replace(X509, secondary_thumbprint=X509.primary_thumbprint)
    await hub.add("t", authentication=both, status_reason="")
    hub.presence.keys.add(IdentityKey("p"))


@settings(max_examples=250, deadline=None)
@given(seed=SEEDS, conditions=st.lists(CONDITIONS, min_size=2, max_size=4))
def test_conditions_mean_what_the_definition_says(world: World, seed: int, conditions: list[str]) -> None:
    select = "SELECT deviceId FROM devices WHERE "
    world.check(seed, *(f"{select}{negation}{one}" for one in conditions for negation in ("", "NOT ")))
    world.check(seed, f"SELECT * FROM devices WHERE {' AND '.join(conditions)}")


@settings(max_examples=150, deadline=None)
@given(
    seed=SEEDS,
    path=PATHS.filter(lambda path: not path.startswith("devices.")),
    values=st.lists(CONSTANTS, min_size=3, max_size=3),
    rest=CONDITIONS,
)
def test_equalities_with_indexed_and_other_paths(
    world: World, seed: int, path: str, values: list[str], rest: str
) -> None:
    select = f"SELECT deviceId FROM devices WHERE {path}"
    equalities = [f"{select} = {value}" for value in values]
    world.check(seed, *equalities, f"{select} IN [{', '.join(values)}] AND ({rest} OR true)", f"{select} AND {rest}")


@settings(max_examples=200, deadline=None)
@given(
    seed=SEEDS,
    paths=st.lists(PATHS, max_size=3, unique=True),
    aggregates=st.lists(AGGREGATES, max_size=3),
    top=st.sampled_from(("", "", "TOP 2 ")),
)
def test_projections_groups_and_aggregates(
    world: World, seed: int, paths: list[str], aggregates: list[str], top: str
) -> None:
    columns = [f"{column} AS c{number}" for number, column in enumerate([*paths, *aggregates])]
    if not columns:
        return
    grouped = f" GROUP BY {', '.join(paths)}" if aggregates and paths else ""
    top = "" if grouped else top  # which groups come first is not said
    world.check(seed, f"SELECT {top}{', '.join(columns)} FROM devices{grouped}")


ARGUMENTS = {
    "text": st.sampled_from(
        ("", "a", "b", "ab", "abab", "ba", "A", "é😀é", "😀", "x\0y", "12", " -1.5e1 ", "1e", "ß", "İ")
    ),
    "number": st.sampled_from((0, 1, 2, 3, -1, 2.5, -2.5, 0.1, 1e308, 700, 2**52)),
    "array": st.lists(st.sampled_from(("a", "ab", 1, 0, 2.5, True, False, None)), min_size=1, max_size=3),
    "any": st.sampled_from(("a", "ab", 1, 0, 2.5, True, False, None)),
}
NUMERIC = {"ABS", "CEILING", "EXP", "FLOOR", "POWER", "SIGN", "SQRT", "SQUARE"}


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """A function and arguments that it is for."""
    function = draw(st.sampled_from(sorted(FUNCTIONS)))
    _, least, most = FUNCTIONS[function]
    kinds = ["number" if function in NUMERIC else "text"] * draw(st.integers(least, most or 4))
    if function == "SUBSTRING":
        kinds[1:] = ["number"] * (len(kinds) - 1)
    elif function == "ARRAY_CONTAINS":
        kinds = ["array", "any"]
    elif function.startswith(("IS_", "AS_")):
        kinds = [draw(st.sampled_from(sorted(ARGUMENTS)))]
    return function, [draw(ARGUMENTS[kind]) for kind in kinds]


@settings(max_examples=400, deadline=None)
@given(calls(), st.booleans())
def test_every_function_yields_what_its_definition_says(
    world: World, call: tuple[str, list[Any]], stored: bool
) -> None:
    """With constants, and with the same values read from a twin."""
    function, arguments = call
    value = naive_queries.call(function, arguments)
    places = [f"tags.p{number}" for number in range(len(arguments))]
    written = [place if stored and argument is not None and not isinstance(argument, list) else json.dumps(argument)
               for place, argument in zip(places, arguments, strict=True)]  # fmt: skip
    text = f"{function}({', '.join(written)})"
    tags = {f"p{number}": argument for number, argument in enumerate(arguments) if argument is not None}
    world.runner.run(world.hub.change(IdentityKey("p"), tags=tags))
    found = world.runner.run(world.hub.ids(f"deviceId = 'p' AND ({_yields(text, value)})"))
    assert found == "p", (text, value)


def _yields(text: str, value: Any) -> str:
    if value is UNDEFINED:
        return f"NOT IS_DEFINED({text})"
    return f"{text} > 1e308" if value == math.inf else f"{text} = {json.dumps(value)}"
