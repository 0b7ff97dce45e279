"""The operations of the REST data plane: a table of method and path, and how a request finds its row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import unquote

from muster.access.roles import Action
from muster.core.ambient import Ambient, tracking_id
from muster.core.audit import Act, Note, noting
from muster.core.errors import ARGUMENT_INVALID, METHOD_NOT_ALLOWED, NOT_FOUND, UNSUPPORTED_MEDIA, HubError
from muster.core.memory_limits import PATHS_REMEMBERED
from muster.core.throttles import Throttle
from muster.dialect.etag import read_if_match
from muster.dialect.json_body import Members, parse_json
from muster.heads.http.messages import Request, Response, StreamResponse
from muster.identity.account import subject_of
from muster.identity.changes import Match
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right, Verdict

TRANSPORT = "https"


class Call:
    """One request that is being answered.

    ``parameters`` are the path's and ``path`` is the whole of it, decoded once, both empty until the operation is
    found; ``identity`` is the device or module that the path names by ``device_id`` and ``module_id``. ``caller`` is
    who calls, once he is let in, and ``verdict`` on what ground, or why he is not. ``hub`` is the name of the hub that
    is called.
    """

    __slots__ = (
        "_ambient",
        "_tracking_id",
        "caller",
        "hub",
        "identity",
        "operation",
        "parameters",
        "path",
        "request",
        "request_id",
        "verdict",
    )

    def __init__(self, request: Request, ambient: Ambient, hub: str = "") -> None:
        self.request = request
        self.hub = hub
        self.request_id = ambient.fresh_id()
        self.operation: Operation | None = None
        self.parameters: Mapping[str, str] = {}
        self.identity = _NOBODY
        self.path = self.caller = ""
        self.verdict: Verdict | None = None
        self._ambient = ambient
        self._tracking_id = ""

    @property
    def tracking_id(self) -> str:
        """``request_id`` and the time, in Azure's form."""
        if not self._tracking_id:
            self._tracking_id = tracking_id(self._ambient, self.request_id)
        return self._tracking_id

    def find(self, operations: OperationTable, method: str) -> Operation:
        """Find the operation. Raises ``HubError`` as ``OperationTable.find``."""
        self.operation, self.parameters, self.path, self.identity = operations.find(method, self.request.raw_path)
        return self.operation

    @property
    def peer(self) -> str:
        """Where the request comes from."""
        return self.request.exchange.peer

    @property
    def act(self) -> Act:
        """What the caller does, for the audit log; once he is judged and where the operation ``changes`` something."""
        assert self.operation is not None, "it was found"
        return Act(self.operation.changes, self.caller, self.request.exchange.peer, TRANSPORT, self.request_id)

    @property
    def scope(self) -> str:
        """Whose records it makes: the hub's, unless the operation says another."""
        own = None if self.operation is None else self.operation.scope
        return self.hub if own is None else own

    def note(self, subject: str) -> Note:
        """What puts ``act`` on record with a change of ``subject``, see ``core.audit.Draft``."""
        return noting(self.scope, self.act, subject, self._ambient.now())

    @property
    def subject(self) -> str:
        """What the operation is about, as the audit log names it: an identity, or whatever the path says."""
        return subject_of(self.identity) if "device_id" in self.parameters else self.path

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
        return read_if_match(self.request.said.if_match)

    async def json(self) -> Any:
        """The body. Raises ``HubError`` 415000 when it is not said to be plain JSON in UTF-8, and as ``parse_json``."""
        return parse_json(self._at_hand() or await self.request.body.read())

    async def json_object(self) -> Members:
        """The body, which must be an object. Raises as ``json``, and 400004."""
        return Members.of(parse_json(self._at_hand() or await self.request.body.read()), "The body")

    def _at_hand(self) -> bytes | None:
        """The body, if all of it came with its head, as a rule. Raises ``HubError`` 415000."""
        request = self.request
        if request.said.json:
            raise HubError(UNSUPPORTED_MEDIA, request.said.json)
        return request.body.at_hand()


Handler = Callable[[Call], Awaitable[Response | StreamResponse]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One row. ``path`` is a template (``/devices/{device_id}``); the case of its fixed parts does not count. A last
    part like ``{blob...}`` takes the rest of the path, slashes included, one part at least.

    ``right`` is what the caller must have; ``DEVICE_CONNECT`` asks for the device or module that the path names, and
    ``None`` opens the operation to everybody, without an api-version. ``actions`` are what the caller of a bearer token
    must be allowed instead, all of them; without any such tokens do not count.
    ``waits`` is set where the operation only waits for somebody: it is cancelled when the caller goes, others are
    done whole. ``direct``: it awaits futures of the loop and nothing that needs a task, as ``asyncio.timeout`` does, so
    it gets none, which saves two rounds of the loop. ``refuse`` makes its refusals where they have not the usual shape.
    ``throttle`` is the rate that it is counted by, where nobody further inside does that. ``by_modules`` lets modules
    call it too, who name themselves in a header; what the path names is the target. ``anywhere``: the hub's network
    rules are not about it. ``changes`` names in the audit log what an operation does that changes something: its
    refusals are on record, and its handler puts ``Call.act`` on record with the change. ``scope`` is whose records
    these are, and where roles must allow the operation, if not at the hub: empty for the deployment, all hubs that is.
    ``judges``: its handler judges the caller and looks at the api-version, for it is not the hub's policies that count.
    """

    method: str
    path: str
    right: Right | None
    handler: Handler
    waits: bool = False
    refuse: Callable[[HubError, str], Response] | None = None
    direct: bool = False
    throttle: Throttle | None = None
    by_modules: bool = False
    actions: tuple[Action, ...] = ()
    anywhere: bool = False
    changes: str = ""
    scope: str | None = None
    judges: bool = False


@dataclass(slots=True)
class _Node:
    fixed: dict[str, _Node] = field(default_factory=dict)
    parameter: tuple[str, _Node] | None = None
    rest: tuple[str, _Node] | None = None
    operations: dict[str, Operation] = field(default_factory=dict)


class _Wanted(NamedTuple):
    """A search: what for, the parameters of the path, and the methods of paths that fit but do not take ``method``."""

    method: str
    parts: list[str]
    parameters: dict[str, str]
    allowed: set[str]


Found = tuple[Operation, Mapping[str, str], str, IdentityKey]
"""An operation, the parameters of its path, the decoded path without its leading slash, and whom it names."""
_NOBODY = IdentityKey("")
_LONGEST_REMEMBERED = 256


class OperationTable:
    """Finds operations by method and path; where a fixed part and a parameter both fit, the fixed part goes first.

    ``rows`` are all of them."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._root = _Node()
        self.rows = tuple(operations)
        for operation in self.rows:
            node = self._root
            for part in operation.path.strip("/").split("/"):
                node = _descend(node, part)
            if operation.method in node.operations:
                raise ValueError(f"{operation.method} {operation.path} stands twice in the table")
            if operation.right is Right.DEVICE_CONNECT and "{device_id}" not in operation.path:
                raise ValueError(f"{operation.method} {operation.path} asks for a device and names none")
            node.operations[operation.method] = operation
        self._found: dict[tuple[str, str], Found] = {}
        """What was asked for before, by method and path."""

    def find(self, method: str, raw_path: str) -> Found:
        """The operation of a path.

        ``raw_path`` is percent-encoded; a trailing slash does not count. Raises ``HubError`` 404000 for an
        unknown path, 405000 (``MethodNotAllowed``) for an unknown method, 400004 for a path that is no UTF-8.
        """
        found = self._found.get((method, raw_path))
        if found is None:
            found = self._search(method, raw_path)
            if len(self._found) >= PATHS_REMEMBERED.open:
                self._found.clear()
            if len(raw_path) <= _LONGEST_REMEMBERED:
                self._found[method, raw_path] = found
        return found

    def _search(self, method: str, raw_path: str) -> Found:
        parts = decode_path(raw_path)
        node = self._root
        parameters: dict[str, str] = {}
        for part in parts:  # the way that the search below goes first, which is nearly always the right one
            below = node.fixed.get(part.lower())
            if below is None:
                if node.parameter is None or not part:
                    break
                name, below = node.parameter
                parameters[name] = part
            node = below
        else:
            operation = node.operations.get(method)
            if operation is not None:
                return _found(operation, parameters, parts)
        wanted = _Wanted(method, parts, {}, set())
        operation = _find(self._root, wanted, 0)
        if operation is not None:
            return _found(operation, wanted.parameters, parts)
        if wanted.allowed:
            raise MethodNotAllowed(method, wanted.allowed)
        raise HubError(NOT_FOUND, "There is no such resource, check the path.")


def _found(operation: Operation, parameters: Mapping[str, str], parts: list[str]) -> Found:
    device_id = parameters.get("device_id")
    named = _NOBODY if device_id is None else IdentityKey(device_id, parameters.get("module_id"))
    return operation, parameters, "/".join(parts), named


class MethodNotAllowed(HubError):
    """405000, with the methods that the resource does take."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(allowed))
        super().__init__(METHOD_NOT_ALLOWED, f"The resource does not take {method[:16]}, it takes {self.allow}.")


def decode_path(raw_path: str) -> list[str]:
    """The parts of a path, each percent-decoded once; a percent sign that encodes nothing stands for itself."""
    raw_parts = raw_path.removeprefix("/").removesuffix("/").split("/")
    if "%" not in raw_path and raw_path.isascii():
        return raw_parts
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


def _find(node: _Node, wanted: _Wanted, at: int) -> Operation | None:
    """The operation below ``node`` for the parts from ``at`` on; notes what it finds on the way in ``wanted``."""
    parts = wanted.parts
    if at == len(parts):
        wanted.allowed.update(node.operations)
        return node.operations.get(wanted.method)
    part = parts[at]
    below = node.fixed.get(part.lower())
    if below is not None:
        found = _find(below, wanted, at + 1)
        if found is not None:
            return found
    if node.parameter is not None and part:
        name, below = node.parameter
        found = _find(below, wanted, at + 1)
        if found is not None:
            wanted.parameters[name] = part
            return found
    if node.rest is None:
        return None
    name, below = node.rest
    found = _find(below, wanted, len(parts))
    if found is not None:
        wanted.parameters[name] = "/".join(parts[at:])
    return found
