"""How a request finds its operation."""

from __future__ import annotations

import pytest

from muster.core import errors
from muster.core.errors import HubError
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, MethodNotAllowed, Operation, OperationTable, decode_path
from muster.identity.verdict import Right


async def nothing(_: Call) -> Response:
    return Response()


def table(*rows: str) -> OperationTable:
    """``GET /a/{b}`` and so on."""
    return OperationTable(Operation(*row.split(" "), Right.NONE, nothing) for row in rows)  # type: ignore[arg-type]


ROWS = ("GET /devices", "GET /devices/{device}", "POST /devices/query", "GET /devices/{device}/modules/{module}")


@pytest.mark.parametrize(
    ("method", "path", "template", "parameters"),
    [
        ("GET", "/devices", "/devices", {}),
        ("GET", "/devices/", "/devices", {}),
        ("GET", "/DEVICES/x", "/devices/{device}", {"device": "x"}),
        ("POST", "/devices/query", "/devices/query", {}),
        ("GET", "/devices/query", "/devices/{device}", {"device": "query"}),
        ("GET", "/devices/query/modules/devices", "/devices/{device}/modules/{module}",
         {"device": "query", "module": "devices"}),
        ("GET", "/devices/a%2Fb/modules/%2525", "/devices/{device}/modules/{module}",
         {"device": "a/b", "module": "%25"}),
    ],
)  # fmt: skip
def test_fixed_parts_go_before_parameters_unless_only_a_parameter_has_the_method(
    method: str, path: str, template: str, parameters: dict[str, str]
) -> None:
    operation, found, _, _ = table(*ROWS).find(method, path)
    assert (operation.path, found) == (template, parameters)


def test_an_unknown_path_is_404_and_an_unknown_method_405_with_all_that_fit() -> None:
    for path in ("/", "", "/device", "/devices//", "/devices/a/b", "/devices/a/modules"):
        with pytest.raises(HubError) as caught:
            table(*ROWS).find("GET", path)
        assert caught.value.row is errors.NOT_FOUND
    with pytest.raises(MethodNotAllowed) as refused:
        table(*ROWS).find("PATCH", "/devices/query")
    assert refused.value.allow == "GET, POST"


def test_a_table_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        table("GET /a", "GET /A/")
    with pytest.raises(ValueError, match="same place"):
        table("GET /a/{b}", "PUT /a/{c}")
    with pytest.raises(ValueError, match="names none"):
        OperationTable([Operation("GET", "/a/{device}", Right.DEVICE_CONNECT, nothing)])


@pytest.mark.parametrize(
    ("path", "rest"),
    [("/box/a", "a"), ("/box/a/b%2Fc/d", "a/b/c/d"), ("/BOX/A//b/", "A//b"), ("/box/..%2F..", "../..")],
)
def test_a_last_part_with_dots_takes_the_rest(path: str, rest: str) -> None:
    operation, found, _, _ = table("GET /box/{name...}", "GET /box/fixed/x").find("GET", path)
    assert (operation.path, found) == ("/box/{name...}", {"name": rest})


def test_the_rest_is_one_part_at_least_and_goes_last() -> None:
    rows = table("GET /box/{name...}", "GET /box/fixed/x", "GET /box/{part}/y")
    assert rows.find("GET", "/box/fixed/x")[0].path == "/box/fixed/x"
    assert rows.find("GET", "/box/a/y")[0].path == "/box/{part}/y"
    assert rows.find("GET", "/box/fixed/z")[0].path == "/box/{name...}"
    with pytest.raises(HubError) as caught:
        rows.find("GET", "/box")
    assert caught.value.row is errors.NOT_FOUND
    with pytest.raises(MethodNotAllowed):
        rows.find("PUT", "/box/a/b")
    with pytest.raises(ValueError, match="same place"):
        table("GET /box/{name...}", "PUT /box/{other...}")


def test_paths_are_decoded_once_and_must_be_utf_8() -> None:
    assert decode_path("/devices/%E2%82%AC+%41%zz%2541") == ["devices", "€+A%zz%41"]
    for path in ("/devices/%ff", "/devices/\udcff"):
        with pytest.raises(HubError) as caught:
            decode_path(path)
        assert caught.value.row is errors.ARGUMENT_INVALID
