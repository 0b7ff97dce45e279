"""The query language's parser: what binds how, and where it says a mistake is."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.query_limits import QUERY_CHARACTERS, QUERY_DEPTH
from muster.twins.query.functions import FUNCTIONS, OTHER_SPELLINGS
from muster.twins.query.parser import parse_query
from muster.twins.query.syntax import Array, Binary, Call, In, ItemType, Literal, Logical, Negative, Not, Path, Source


def where(condition: str) -> Any:
    return parse_query(f"SELECT * FROM devices WHERE {condition}").condition


def shape(node: Any) -> str:
    """A tree as text with every pair of parentheses."""
    match node:
        case Path():
            return ".".join(map(str, (node.field, *node.steps)))
        case Literal():
            return repr(node.value)
        case Array():
            return f"[{' '.join(map(shape, node.items))}]"
        case Not():
            return f"(NOT {shape(node.operand)})"
        case Negative():
            return f"(-{shape(node.operand)})"
        case In():
            return f"({shape(node.operand)} {'NIN' if node.negated else 'IN'} {shape(node.array)})"
        case Call():
            return f"{node.function}({' '.join(map(shape, node.arguments))})"
        case Logical():
            return f"({f' {node.operator} '.join(map(shape, node.operands))})"
        case Binary():
            return f"({shape(node.left)} {node.operator} {shape(node.right)})"
    raise AssertionError(node)


OPERAND = "a path, a constant, a function, NOT, '-' or '('"


def refusal(text: str) -> str:
    with pytest.raises(HubError) as caught:
        parse_query(text)
    assert caught.value.row is ARGUMENT_INVALID
    return caught.value.message


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("1 + 2 * 3", "(1 + (2 * 3))"),
        ("1 - 2 - 3", "((1 - 2) - 3)"),
        ("-1 + 2", "((-1) + 2)"),
        ("- -1", "(-(-1))"),
        ("tags.a = 1 AND tags.b = 2 OR tags.c = 3", "(((tags.a = 1) AND (tags.b = 2)) OR (tags.c = 3))"),
        ("tags.a OR tags.b AND tags.c", "(tags.a OR (tags.b AND tags.c))"),
        ("tags.a and tags.b And tags.c", "(tags.a AND tags.b AND tags.c)"),
        ("NOT tags.a = 1 AND tags.b", "((NOT (tags.a = 1)) AND tags.b)"),
        ("tags.a + 1 < tags.b * 2", "((tags.a + 1) < (tags.b * 2))"),
        ("tags.a <> 1 = true", "((tags.a != 1) = True)"),
        ("tags.a NIN [1, -2, 'x', null]", "(tags.a NIN [1 -2 'x' None])"),
        ("startswith(tags.a, 'x')", "STARTS_WITH(tags.a 'x')"),
        ("tags.[[a.b]].[[c d]][0].1x = 0xfF", "(tags.a.b.c d.0.1x = 255)"),
        ("tags.[[select]].from.AS.[[x]]]", "tags.select.from.AS.x]"),
        ("tags.select = 1", "(tags.select = 1)"),
        (r"""tags.a = "\"\\\u00e9\n" """, r"""(tags.a = '"\\é\n')"""),
        ("tags.a=/* one /* comment */1/**/", "(tags.a = 1)"),
        ("9007199254740993 = 1.5e1", "(9007199254740992 = 15.0)"),
    ],
)
def test_how_operators_bind_and_words_are_read(condition: str, expected: str) -> None:
    assert shape(where(condition)) == expected


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("SELECT * FROM", "14", "expected devices, devices.modules or devices.jobs, found the end of the query"),
        ("SELECT * FROM WHERE", "15", "expected devices, devices.modules or devices.jobs, found 'WHERE'"),
        ("SELECT * FROM devices WHERE", "28", f"expected {OPERAND}, found the end of the query"),
        ("SELECT * FROM devices WHERE WHERE", "29", f"expected {OPERAND}, found 'WHERE'"),
        ("SELECT * FROM device", "15", "expected devices, devices.modules or devices.jobs, found 'device'"),
        ("SELEC * FROM devices", "1", "expected SELECT, found 'SELEC'"),
        ("SELECT FROM devices", "8", "expected '*', a path or an aggregate, found 'FROM'"),
        ("SELECT deviceId status FROM devices", "17", "expected ',' or FROM, found 'status'"),
        ("SELECT deviceId, FROM devices", "18", "expected '*', a path or an aggregate, found 'FROM'"),
        ("SELECT deviceId AS 'x' FROM devices", "20", "expected a name for the column, found 'x'"),
        ("SELECT COUNT(deviceId) FROM devices", "14", "expected ')', as COUNT takes no argument, found 'deviceId'"),
        ("SELECT TOP x * FROM devices", "8", "expected '*', a path or an aggregate, found 'TOP'"),
        ("SELECT TOP 1.5 * FROM devices", "12", "expected a whole number, found '1.5'"),
        ("SELECT * FROM devices WHERE tags.a =", "37", f"expected {OPERAND}, found the end of the query"),
        (
            "SELECT * FROM devices WHERE tags.a == 1",
            "37",
            f"expected {OPERAND}, found '='; values are compared with a single =",
        ),
        (
            "SELECT * FROM devices WHERE tags.a = 1 tags.b = 2",
            "40",
            "expected an operator, GROUP BY or the end of the query, found 'tags'",
        ),
        ("SELECT * FROM devices WHERE (tags.a = 1", "40", "expected an operator or ')', found the end of the query"),
        ("SELECT * FROM devices WHERE tags.a IN 'x'", "39", "expected an array: '[' and constants, found 'x'"),
        ("SELECT * FROM devices WHERE tags.a IN []", "40", "expected a constant, found ']'"),
        ("SELECT * FROM devices WHERE tags.a IN [tags.b]", "40", "expected a constant, found 'tags'"),
        ("SELECT * FROM devices WHERE tags.a IN [1 2]", "42", "expected ',' or ']', found '2'"),
        (
            "SELECT * FROM devices WHERE deviceId NOT IN ['a']",
            "38",
            "expected an operator, GROUP BY or the end of the query, found 'NOT'; write NIN for NOT IN",
        ),
        (
            "SELECT * FROM devices WHERE tags.a LIKE 'x%'",
            "36",
            "expected an operator, GROUP BY or the end of the query, found 'LIKE'; this language has no LIKE",
        ),
        (
            "SELECT * FROM devices ORDER BY deviceId",
            "23",
            "expected WHERE, GROUP BY or the end of the query, found 'ORDER'; this language has no ORDER",
        ),
        (
            "SELECT * FROM devices JOIN x",
            "23",
            "expected WHERE, GROUP BY or the end of the query, found 'JOIN'; this language has no JOIN",
        ),
        ("SELECT status FROM devices GROUP status", "34", "expected BY, found 'status'"),
        (
            "SELECT status FROM devices GROUP BY status version",
            "44",
            "expected ',' or the end of the query, found 'version'",
        ),
        ("SELECT * FROM devices WHERE tags.a = 'x", "38", "a string begins here and does not end, close it with '"),
        (
            r"SELECT * FROM devices WHERE tags.a = 'C:\dir'",
            "41",
            r"'\d' is no escape; a backslash is written twice, a character by its code as \u00e4",
        ),
        (r"SELECT * FROM devices WHERE tags.a = '\ud800'", "38", "the string holds half of a surrogate pair"),
        ("SELECT * FROM devices WHERE tags.[[a = 1", "34", "a name begins here and does not end, write ]]"),
        ("SELECT * FROM devices /* WHERE", "23", "a comment begins here and does not end, write */"),
        ("SELECT * FROM devices WHERE tags.a = 12ab", "40", "the number 12 runs into a word, put a blank between them"),
        (
            "SELECT * FROM devices WHERE tags.a = 1e999",
            "38",
            "the number is too large for a 64-bit floating-point number",
        ),
        ("SELECT * FROM devices;", "22", "the character ';' means nothing here"),
        ("SELECT * FROM devices WHERE tags.a[-1] = 1", "36", "expected a position, which is a whole number, found '-'"),
        (
            "SELECT *\nFROM devices\nWHERE tags.a =\n",
            "38 (line 4, column 1)",
            f"expected {OPERAND}, found the end of the query",
        ),
    ],
)
def test_a_syntax_error_is_told_with_its_place(text: str, place: str, why: str) -> None:
    assert refusal(text) == f"Query has a syntax error at character {place}: {why}."


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        ("SELECT * FROM devices WHERE tags.a = [1]", "38", "an array cannot be compared, use IN or ARRAY_CONTAINS"),
        ("SELECT * FROM devices WHERE reported.a = 1", "29", "there is no field 'reported', write properties.reported"),
        ("SELECT * FROM devices WHERE properties.a = 1", "29", "properties holds desired and reported, not 'a'"),
        (
            "SELECT * FROM devices WHERE COUNT() = 1",
            "29",
            "COUNT is an aggregate, it stands only between SELECT and FROM",
        ),
        (
            "SELECT LOWER(deviceId) FROM devices",
            "8",
            "LOWER is no aggregate, a column is a path or one of COUNT, AVG, SUM, MIN, MAX",
        ),
        ("SELECT * FROM devices WHERE ABS() = 1", "29", "ABS takes 1 argument, not 0"),
        ("SELECT * FROM devices WHERE SUBSTRING(deviceId) = 'a'", "29", "SUBSTRING takes 2 to 3 arguments, not 1"),
        ("SELECT * FROM devices WHERE CONCAT('a') = 'a'", "29", "CONCAT takes 2 or more arguments, not 1"),
        (
            "SELECT deviceId, COUNT() FROM devices",
            "8",
            "the column 'deviceId' is neither an aggregate nor named in GROUP BY",
        ),
        ("SELECT * FROM devices GROUP BY status", "8", "with GROUP BY name the columns, '*' cannot be grouped"),
        (
            "SELECT tags.a.x, tags.b.x FROM devices",
            "18",
            "two columns are called 'x', give one of them another name with AS",
        ),
        ("SELECT COUNT() FROM devices.jobs", "8", "devices.jobs takes SELECT * only"),
    ],
)
def test_what_makes_no_sense_is_told_with_its_place(text: str, place: str, why: str) -> None:
    assert refusal(text) == f"Query is wrong at character {place}: {why}."


@pytest.mark.parametrize("name", ["foo", "tag", "device", "jobs", "select1", "d"])
def test_unknown_fields_and_functions_are_told_with_what_there_is(name: str) -> None:
    with pytest.raises(HubError, match=rf"character 29: there is no field '{name}'; write tags.{name}.*deviceId"):
        where(f"{name} = 1")
    with pytest.raises(HubError, match=rf"character 29: there is no function {name}; there are ABS"):
        where(f"{name}(1)")
    with pytest.raises(HubError, match=r"a job has no field 'tags'; it has .*jobId"):
        parse_query("SELECT * FROM devices.jobs WHERE tags.a = 1")


def test_every_function_is_known_in_any_case() -> None:
    for name, (_, least, _) in FUNCTIONS.items():
        arguments = ", ".join(["tags.a"] * least)
        assert where(f"{name.lower()}({arguments})").function == name
    for other, name in OTHER_SPELLINGS.items():
        assert where(f"{other}(tags.a, 'x')").function == name


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_an_empty_query_is_no_query(text: str) -> None:
    with pytest.raises(HubError) as caught:
        parse_query(text)
    assert caught.value.row is ARGUMENT_NULL


def test_a_query_has_a_length() -> None:
    text = "SELECT * FROM devices"
    most = QUERY_CHARACTERS.open
    assert parse_query(text.ljust(most)).items == ()
    with pytest.raises(HubError, match=f"query has {most + 1} characters, {most} are allowed"):
        parse_query(text.ljust(most + 1))


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("(", ")"), ("NOT ", ""), ("- ", ""), ("1 + (", ")"), ("ABS(", ")"), ("tags.a = 1 AND (", ")"), ("1+", "")],
)
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(420 + 120)
    try:
        for levels in (QUERY_DEPTH.open + 1, 7000 // len(opening + closing)):
            with pytest.raises(HubError, match="nested deeper than 64 levels"):
                where(opening * levels + "1" + closing * levels)
    finally:
        sys.setrecursionlimit(limit)


def test_arrays_are_bounded_too() -> None:
    with pytest.raises(HubError, match="nested deeper than 64 levels"):
        where(f"tags.a IN {'[' * 2000}1{']' * 2000}")


def test_chains_are_not_nesting() -> None:
    condition = where(" AND ".join(["tags.a = 1"] * 500))
    assert (len(condition.operands), condition.depth) == (500, 3)


def test_what_rows_are() -> None:
    assert parse_query("SELECT * FROM devices").item_type is ItemType.TWIN
    assert parse_query("SELECT * FROM Devices.Modules").source is Source.MODULES
    assert parse_query("SELECT deviceId FROM devices").item_type is ItemType.RAW
    assert parse_query("SELECT * FROM devices.jobs").item_type is ItemType.DEVICE_JOB


WORDS = st.sampled_from((
    "SELECT", "*", "FROM", "devices", "devices.modules", ".", "modules", "WHERE", "GROUP", "BY", "AS", "TOP", "AND",
    "OR", "NOT", "IN", "NIN", "COUNT", "(", ")", "[", "]", "[[", "]]", ",", "=", "!=", "<>", "<=", "+", "-", "/", "%",
    "/*", "*/", "tags", "tags.a", "properties", "desired", "deviceId", "'x'", '"', "'", "\\", "0x", "0x1F", "1", "1.5",
    "1e5", "null", "undefined", "true", "IS_DEFINED", "LOWER", "\n", "$version", "é", "\x00", "\ud800", "😀",
))  # fmt: skip
PLACE = re.compile(r"Query (?:has a syntax error|is wrong) at character (\d+)(?: \(line \d+, column \d+\))?: .+\.$")


@settings(max_examples=600, deadline=None)
@given(st.lists(WORDS | st.text(max_size=3), max_size=25), st.booleans(), st.booleans())
def test_whatever_is_sent_is_a_query_or_refused_with_a_place(words: list[str], begun: bool, blanks: bool) -> None:
    text = ("SELECT * FROM devices WHERE " if begun else "") + (" " if blanks else "").join(words)
    try:
        parse_query(text)
    except HubError as error:
        refused = error
    else:
        return
    if refused.row is ARGUMENT_NULL:
        assert not text.strip()
        return
    place = PLACE.match(refused.message)
    assert place is not None, refused.message
    assert 1 <= int(place[1]) <= len(text) + 1
    assert len(refused.message) < 1500
    refused.message.encode()


@pytest.mark.parametrize(
    "unit", ["(", "[", "[[", "'", '"', "/*", "\\", ".", "a.", "tags.[[", "0x", "9", "1e", " ", "$", "AND ", "'\\", "]]"]
)
def test_work_is_bounded_by_the_length(unit: str) -> None:
    """Counted, not timed: each token is taken once, so ten times the text is at most some ten times the steps."""

    def steps(size: int) -> int:
        count = 0

        def trace(frame: Any, event: str, argument: Any) -> Any:
            nonlocal count
            count += 1
            return trace

        text = "SELECT * FROM devices WHERE tags.a = " + unit * (size // len(unit))
        sys.settrace(trace)
        try:
            parse_query(text)
        except HubError:
            pass
        finally:
            sys.settrace(None)
        return count

    assert steps(8000) <= 15 * steps(800) + 20_000
