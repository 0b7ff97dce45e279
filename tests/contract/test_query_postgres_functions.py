"""What queries call in PostgreSQL is as in IEEE 754 and in Python, at the ends of the numbers and on odd texts too."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from itertools import product
from random import Random
from typing import Any

import asyncpg
import pytest
from naive_queries import LIBM, NUMERIC

from muster.dialect.identity_bodies import time_text
from muster.stores.postgres.texts import meant, spelled
from tests.postgres import shared_server

CHANCE = Random(8)
NUMBERS = (
    0.0, -0.0, 1.0, -1.0, 2.0, 3.0, -3.0, 0.5, -2.5, 0.1, 0.3, 1e308, -1e308, math.nextafter(math.inf, 0), 5e-324,
    -5e-324, 2.2250738585072014e-308, 1e150, 1e-150, 1e-160, 1e160, 1e-200, 1e200, math.inf, -math.inf, 700.0, 710.0,
    -745.0, -746.0, -800.0, 2.0**52, 2.0**53, 1e17, 2.0**1023,
    *(math.ldexp(CHANCE.random(), CHANCE.randint(-1070, 1020)) for _ in range(20)),
)  # fmt: skip
TEXTS = ["".join(text) for size in range(4) for text in product("\0\1\2a", repeat=size)]


@pytest.fixture(scope="module")
def url() -> str:
    return shared_server().url("muster_template")


@pytest.fixture
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(url)
    try:
        yield opened
    finally:
        await opened.close()


async def called(connection: asyncpg.Connection, call: str, kind: str, pairs: list[tuple[Any, Any]]) -> list[Any]:
    """What ``call`` of ``a`` and ``b`` yields for each pair."""
    rows = await connection.fetch(
        f"SELECT {call} FROM unnest($1::{kind}[], $2::{kind}[]) WITH ORDINALITY AS given (a, b, at) ORDER BY at",
        [one for one, _ in pairs],
        [other for _, other in pairs],
    )
    return [row[0] for row in rows]


def defined(work: Callable[..., float], *values: float) -> float | None:
    try:
        result = work(*values)
    except (ValueError, ZeroDivisionError):
        return None
    return None if math.isnan(result) else result


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("add", lambda a, b: a + b),
        ("subtract", lambda a, b: a - b),
        ("multiply", lambda a, b: a * b),
        ("divide", lambda a, b: a / b),
        ("modulo", math.fmod),
        ("power", LIBM.pow),
    ],
)
async def test_arithmetic(connection: asyncpg.Connection, name: str, work: Callable[..., float]) -> None:
    pairs = list(product(NUMBERS, NUMBERS))
    found = await called(connection, f"query_{name}(a, b)", "float8", pairs)
    wanted = [defined(work, *pair) for pair in pairs]
    assert [at for at in zip(pairs, found, wanted, strict=True) if at[1] != at[2]] == []


async def test_roots_and_exponentials(connection: asyncpg.Connection) -> None:
    pairs = [(number, 0.0) for number in NUMBERS]
    for name, work in (("sqrt", math.sqrt), ("exp", LIBM.exp)):
        assert await called(connection, f"query_{name}(a)", "float8", pairs) == [defined(work, a) for a, _ in pairs]


async def test_texts_that_are_numbers(connection: asyncpg.Connection) -> None:
    texts = [
        "1e400", "-1e400", "1e-400", "0.000e999999", "1e99999999999999999999", "-1e-99999999999999", "  5 ", "1.", ".",
        " +.5e1\n", "abc", "", "1e", "0" * 400 + "1e308", "1" + "0" * 310, "0." + "0" * 400 + "1",
        "0." + "0" * 100 + "1e500", "\u0661", "1_0", "NaN", "inf",
    ]  # fmt: skip
    wanted = [float(text) if NUMERIC.fullmatch(text.strip(" \t\r\n")) else None for text in texts]
    assert await called(connection, "query_number(a)", "text", [(text, "") for text in texts]) == wanted


async def test_odd_texts_are_counted_and_looked_into_as_they_were_written(connection: asyncpg.Connection) -> None:
    pairs = list(product(TEXTS, TEXTS[:21]))
    kept = [(spelled(one), spelled(other)) for one, other in pairs]
    assert await called(connection, "query_length(a)", "text", kept) == [len(one) for one, _ in pairs]
    assert await called(connection, "query_index_of(a, b)", "text", kept) == [one.find(other) for one, other in pairs]
    assert await called(connection, "query_ends_with(a, b)", "text", kept) == [a.endswith(b) for a, b in pairs]
    assert await called(connection, "starts_with(a, b)", "text", kept) == [a.startswith(b) for a, b in pairs]
    for start, count in product(range(4), range(3)):
        found = await called(connection, f"query_substring(a, {start}, {count})", "text", kept)
        assert list(map(meant, found)) == [one[start : start + count] for one, _ in pairs]


async def test_letters_have_the_cases_that_they_have_in_python(connection: asyncpg.Connection) -> None:
    cased = [chr(code) for code in range(1, 0x11000) if not 0xD800 <= code <= 0xDFFF]
    texts = [
        "\u0391\u03a3 \u0391\u03a3\u0391 \u03a3",
        "\u0391.\u03a3",
        "\u0130STANBUL",
        *(text for text in cased if text.lower() != text or text.upper() != text),
    ]
    pairs = [(text, "") for text in texts]
    for name, work in (("lower", str.lower), ("upper", str.upper)):
        found = await called(connection, f'{name}(a COLLATE "und-x-icu")', "text", pairs)
        assert found == [work(text) for text in texts]


async def test_times_are_shown_as_twins_show_them(connection: asyncpg.Connection) -> None:
    moments = [0.0, 1.0, 1_700_000_000.0, 1_700_000_000.123457, 1e9 + 0.9999996, 253_402_300_799.0]
    found = await called(connection, "query_time(a)", "float8", [(moment, 0.0) for moment in moments])
    assert found == list(map(time_text, moments))
