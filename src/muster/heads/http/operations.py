"""The operations of the REST data plane: a table of method and path, and how a request finds its row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from muster.core.errors import ARGUMENT_INVALID, METHOD_NOT_ALLOWED, NOT_FOUND, UNSUPPORTED_MEDIA, HubError
from muster.dialect.etag import read_if_match
from muster.dialect.json_body import Members, parse_json
from muster.identity.changes import Match
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right, Verdict


@dataclass(slots=True)
class Call:
    """One request that has found its operation. ``parameters`` are the path's, decoded once."""

    request: web.Request
    path: str
    parameters: Mapping[str, str]
    tracking_id: str
    verdict: Verdict | None = None
    """Who calls, once that is judged."""

    @property
    def caller(self) -> str:
        """The name of who calls, empty where the operation is open to everybody."""
        return "" if self.verdict is None else self.verdict.principal

    @property
    def identity(self) -> IdentityKey:
        """The device or module that the path names by ``device_id`` and ``module_id``."""
        return IdentityKey(self.parameters["device_id"], self.parameters.get("module_id"))

    def query(self, name: str) -> str | None:
        """A parameter of the query, ``None`` when it is not there."""
        return self.request.query.get(name)

    def number(self, name: str, least: int, most: int, *, default: int) -> int:
        """A parameter of the query that is a number. Raises ``HubError`` 400004 when it is none from that range."""
        text = self.query(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
            raise HubError(ARGUMENT_INVALID, f"{name} is not a number from {least} to {most}, give one.")
        return int(text[:9])

    def if_match(self) -> Match | None:
        """The precondition that the request carries."""
        return read_if_match(self.request.headers.get("If-Match"))

    async def json(self) -> Any:
        """The body. Raises ``HubError`` 415000 when it is not said to be plain JSON in UTF-8, and as ``parse_json``."""
        request = self.request
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise HubError(UNSUPPORTED_MEDIA, "The Content-Encoding is not taken, send the body uncompressed.")
        given = "Content-Type" in request.headers
        if given and not request.content_type.endswith("json"):
            raise HubError(UNSUPPORTED_MEDIA, "The Content-Type is not JSON, send application/json; charset=utf-8.")
        if (request.charset or "utf-8").lower() not in {"utf-8", "utf8", "us-ascii"}:
            raise HubError(UNSUPPORTED_MEDIA, "The charset is not UTF-8, send application/json; charset=utf-8.")
        return parse_json(await request.read())

    async def json_object(self) -> Members:
        """The body, which must be an object. Raises as ``json``, and 400004."""
        return Members.of(await self.json(), "The body")


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. ``path`` is a template (``/devices/{device_id}``); the case of its fixed parts does not count. A last
    part like ``{blob...}`` takes the rest of the path, slashes included, one part at least.

    ``right`` is what the caller must have; ``DEVICE_CONNECT`` asks for the device or module that the path names, and
    ``None`` opens the operation to everybody, without an api-version.
    ``waits`` is set where the operation only waits for somebody: it is cancelled when the caller goes, others are
    done whole. ``refuse`` makes its refusals where they have not the usual shape.
    """

    method: str
    path: str
    right: Right | None
    handler: Handler
    waits: bool = False
    refuse: Callable[[HubError, str], web.Response] | None = None


@dataclass(slots=True)
class _Node:
    fixed: dict[str, _Node] = field(default_factory=dict)
    parameter: tuple[str, _Node] | None = None
    rest: tuple[str, _Node] | None = None
    operations: dict[str, Operation] = field(default_factory=dict)


class OperationTable:
    """Finds operations by method and path; where a fixed part and a parameter both fit, the fixed part goes first."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._root = _Node()
        for operation in operations:
            node = self._root
            for part in operation.path.strip("/").split("/"):
                node = _descend(node, part)
            if operation.method in node.operations:
                raise ValueError(f"{operation.method} {operation.path} stands twice in the table")
            node.operations[operation.method] = operation

    def find(self, method: str, raw_path: str) -> tuple[Operation, dict[str, str], str]:
        """The operation, its path parameters, and the decoded path without its leading slash.

        ``raw_path`` is percent-encoded; a trailing slash does not count. Raises ``HubError`` 404000 for an
        unknown path, 405000 (``MethodNotAllowed``) for an unknown method, 400004 for a path that is no UTF-8.
        """
        parts = decode_path(raw_path)
        allowed: set[str] = set()
        for node, parameters in _matches(self._root, parts, {}):
            operation = node.operations.get(method)
            if operation is not None:
                return operation, parameters, "/".join(parts)
            allowed.update(node.operations)
        if allowed:
            raise MethodNotAllowed(method, allowed)
        raise HubError(NOT_FOUND, "There is no such resource, check the path.")


class MethodNotAllowed(HubError):
    """405000, with the methods that the resource does take."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(METHOD_NOT_ALLOWED, f"The resource does not take {method[:16]}, it takes {self.allow}.")


def decode_path(raw_path: str) -> list[str]:
    """The parts of a path, each percent-decoded once; a percent sign that encodes nothing stands for itself."""
    raw_parts = raw_path.removeprefix("/").removesuffix("/").split("/")
    try:
        parts = [unquote(part, errors="strict") for part in raw_parts]
        raw_path.encode()  # bytes that are no UTF-8 come as lone surrogates
    except UnicodeError:
        raise HubError(ARGUMENT_INVALID, "The path is not UTF-8, percent-encode it.") from None
    return parts


def _descend(node: _Node, part: str) -> _Node:
    if not part.startswith("{"):
        return node.fixed.setdefault(part.lower(), _Node())
    name = part.strip("{}.")
    if part.endswith("...}"):
        there = node.rest = node.rest or (name, _Node())
    else:
        there = node.parameter = node.parameter or (name, _Node())
    if there[0] != name:
        raise ValueError(f"{part} and {{{there[0]}}} stand at the same place in the table")
    return there[1]


def _matches(node: _Node, parts: list[str], parameters: dict[str, str]) -> Iterator[tuple[_Node, dict[str, str]]]:
    if not parts:
        if node.operations:
            yield node, parameters
        return
    part, rest = parts[0], parts[1:]
    below = node.fixed.get(part.lower())
    if below is not None:
        yield from _matches(below, rest, parameters)
    if node.parameter is not None and part:
        name, below = node.parameter
        yield from _matches(below, rest, parameters | {name: part})
    if node.rest is not None:
        name, below = node.rest
        yield below, parameters | {name: "/".join(parts)}
