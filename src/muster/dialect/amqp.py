"""How Azure spells hub ideas in AMQP, whatever the endpoint: addresses, errors, put-token (service.md 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import unquote

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.wire.amqp.message import Message, Properties
from muster.wire.amqp.performatives import Error
from muster.wire.amqp.values import Int, Symbol

CBS = "$cbs"
MANAGEMENT = "$management"

_SHOWN = 80


def address_host(address: object) -> str:
    """The host in a link address that is a full URI, perhaps with its port; else empty."""
    if not isinstance(address, str):
        return ""
    _, scheme, rest = address.partition("://")
    return rest.partition("/")[0] if scheme else ""


def address_path(address: object) -> tuple[str, ...]:
    """The segments of a link address, percent-decoded: of a path or of a full URI, whose authority does not count.

    Case is kept: fixed words are to be compared without it, ids are not. Empty for no address.
    """
    if not isinstance(address, str):
        return ()
    _, scheme, rest = address.partition("://")
    path = rest.partition("/")[2] if scheme else address
    return tuple(unquote(segment) for segment in path.split("/") if segment)


def same_words(path: tuple[str, ...], *words: str) -> bool:
    """Whether ``path`` consists of ``words``, in any case."""
    return tuple(segment.lower() for segment in path) == words


def to_error(problem: HubError) -> Error:
    """``problem`` as the wire carries it; the info map has what C# and the others look for (service.md 3.6)."""
    info: dict[Any, Any] = {Symbol("com.microsoft:error-code"): Int(problem.row.code)}
    description = problem.message
    if problem.tracking_id:
        info[Symbol("com.microsoft:tracking-id")] = problem.tracking_id
        description = f"{description} TrackingId:{problem.tracking_id}"
    return Error(problem.row.condition, description, info)


class PutToken(NamedTuple):
    """A put-token request. ``audience`` is the path below ``host`` that the token is meant for, empty for all; the
    host is empty where the name holds none."""

    token: str
    audience: tuple[str, ...]
    host: str = ""

    def __repr__(self) -> str:
        return f"PutToken(host={self.host!r}, audience={self.audience!r})"


def parse_put_token(request: Message, is_host: Callable[[str], bool]) -> PutToken:
    """Read a request to ``$cbs`` (service.md 3.2). ``is_host`` knows the names of hubs.

    ``type`` decides nothing, and the host in ``name`` nothing that the token's own does: clients put all sorts of
    things there. Raises ``HubError`` 400004 when it is no put-token or holds no token.
    """
    properties = request.application_properties or {}
    operation = properties.get("operation")
    if operation != "put-token":
        raise HubError(ARGUMENT_INVALID, f"The operation {_shown(operation)} is unknown on $cbs; send put-token.")
    if not isinstance(request.value, str):
        raise HubError(ARGUMENT_INVALID, "The request holds no token; send it as the text of an amqp-value body.")
    name = properties.get("name")
    path, host = _audience(name, is_host) if isinstance(name, str) else ((), "")
    return PutToken(request.value, path, host)


def _audience(name: str, is_host: Callable[[str], bool]) -> tuple[tuple[str, ...], str]:
    name = unquote(name)
    path = address_path(name)
    if "://" not in name and path and is_host(path[0]):
        return path[1:], path[0]
    return path, address_host(name)


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN]


def status_reply(request: Message, status: int, description: str, **fields: Any) -> Message:
    """The answer of a request node: ``status-code`` (an AMQP int, or Java ignores it) and ``status-description``.

    The correlation-id repeats the message-id with its very type. ``fields`` are further parts of the message.
    """
    request_properties = request.properties
    message_id = None if request_properties is None else request_properties.message_id
    application = {"status-code": Int(status), "status-description": description}
    application.update(fields.pop("application_properties", {}))
    return Message(properties=Properties(correlation_id=message_id), application_properties=application, **fields)
