"""Lines of an import or export as Azure writes them: an ``ExportImportDevice`` a line (service.md 2.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from muster.core.bulk_limits import IMPORT_CHUNK_LINES, IMPORT_LINE_BYTES
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, BODY_TOO_LARGE, FORMAT_ERROR, TOO_MANY_DEVICES, HubError
from muster.core.json_text import encode, quote, text_of
from muster.dialect.bulk_bodies import read_device, read_key
from muster.dialect.etag import etag_of, read_twin_if_match, twin_etag_of
from muster.dialect.identity_bodies import authentication_body
from muster.dialect.json_body import Members, kind_of, parse_json
from muster.dialect.twin_bodies import properties_text
from muster.identity.changes import ImportMode
from muster.identity.model import Identity, IdentityKey
from muster.jobs.transfer import Item, Tally
from muster.twins.document import Twin
from muster.twins.restoring import GivenProperties, GivenTwin

_BOM = b"\xef\xbb\xbf"
_TO_ZEROS, _LONG = bytes.maketrans(b"123456789", b"000000000"), b"0" * 19
"""Finds so many digits in a row, in half a microsecond."""
_META = {"$metadata", "$version"}


class BadLine(HubError):
    """Why a line was not read; ``key`` where that could be, and its importMode."""

    def __init__(self, error: HubError, key: IdentityKey | None = None, operation: str | None = None) -> None:
        super().__init__(error.row, error.message)
        self.key = key
        self.operation = operation


def lines_of(chunk: bytes) -> list[bytes]:
    """The lines of a chunk, without their ends. Raises ``HubError`` 413002 for too many of them, 400005 for none."""
    lines = chunk.removeprefix(_BOM).split(b"\n", IMPORT_CHUNK_LINES.open + 1)
    if not lines[-1]:
        del lines[-1]
    if not lines:
        raise HubError(ARGUMENT_NULL, "The body is empty, send a JSON object a line.")
    if len(lines) > IMPORT_CHUNK_LINES.open:
        raise HubError(
            TOO_MANY_DEVICES, f"The body has more than {IMPORT_CHUNK_LINES.open} lines, send the rest in another call."
        )
    return lines


def read_lines(lines: list[bytes], default: ImportMode) -> Iterator[tuple[int, Item | BadLine]]:
    """What stands in ``lines``, by their positions; blank ones are passed over. ``default`` is the mode of a line that
    names none. What cannot be read comes as a ``BadLine``: nothing is raised."""
    for position, line in enumerate(lines):
        if line and not line.isspace():
            yield position, read_line(line, default)


def read_line(line: bytes, default: ImportMode) -> Item | BadLine:
    """What one line asks for, in bounded time; see ``read_lines``."""
    key = mode = None
    try:
        members = Members.of(_parsed(line), "The line")
        key = read_key(members)
        mode = members.choice("importMode", ImportMode) or default
        return Item(read_device(members, key, mode, keeps_scope=True), _twin(members))
    except HubError as error:
        return BadLine(error, key, mode)


def _parsed(line: bytes) -> Any:
    if len(line) > IMPORT_LINE_BYTES.open:
        raise HubError(BODY_TOO_LARGE, f"The line has {len(line)} bytes, {IMPORT_LINE_BYTES.open} are allowed.")
    try:
        parsed = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            return parse_json(line)  # what orjson does not take and JSON is: half of a surrogate pair, long integers
        except HubError:
            raise HubError(FORMAT_ERROR, f"The line is not valid JSON at column {error.colno}: {error.msg}.") from None
    # orjson makes a float of an integer beyond 64 bits: it would be taken where the REST API refuses it
    return parse_json(line) if _LONG in line.translate(_TO_ZEROS) else parsed


def _twin(members: Members) -> GivenTwin | None:
    tags, properties, etag = members.raw("tags"), members.raw("properties"), members.text("twinETag")
    if tags is None and properties is None and etag is None:
        return None
    held = members.members("properties")
    desired, reported = _properties(held, "desired"), _properties(held, "reported")
    return GivenTwin(None if tags is None else _object("tags", tags), desired, reported, read_twin_if_match(etag))


def _properties(properties: Members, name: str) -> GivenProperties | None:
    given = properties.raw(name)
    if given is None:
        return None
    whole = _object(f"properties.{name}", given)
    if _META.isdisjoint(whole):
        return GivenProperties(whole)
    values = {name: value for name, value in whole.items() if name not in _META}
    return GivenProperties(values, whole.get("$metadata"), whole.get("$version"))


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HubError(ARGUMENT_INVALID, f"{name} must be an object, it is {kind_of(value)}.")
    return value


def line_of(identity: Identity, twin: Twin, *, keys: bool) -> bytes:
    """The line of an export, with its end; without ``keys`` there is null in their place.

    What the twin holds as text goes through as it is.
    """
    module_id, held = identity.module_id, authentication_body(identity.authentication)
    if not keys:
        held["symmetricKey"] = {"primaryKey": None, "secondaryKey": None}
    reason = identity.status_reason
    if module_id is None:
        own = f'"capabilities":{{"iotEdge":{"true" if identity.iot_edge else "false"}}},'
    else:
        own = f'"moduleId":{quote(module_id)},"managedBy":{encode(identity.managed_by)},'
    if identity.device_scope is not None:
        own += f'"deviceScope":{quote(identity.device_scope)},"parentScopes":{encode(identity.parent_scopes)},'
    return (
        f'{{"id":{quote(identity.device_id)},{own}"eTag":"{etag_of(identity.version)}",'
        f'"status":"{identity.status}","statusReason":{"null" if reason is None else quote(reason)},'
        f'"authentication":{encode(held)},"twinETag":"{twin_etag_of(twin.revision)}","tags":{text_of(twin.tags)},'
        f'"properties":{{"desired":{properties_text(twin.desired)},"reported":{properties_text(twin.reported)}}}}}\n'
    ).encode()


def tally_body(tally: Tally, places: list[tuple[int, IdentityKey | None, str | None]]) -> dict[str, Any]:
    """What became of a chunk; ``places`` has of each item its line, from 1 on, its key and its importMode."""
    return {
        "created": tally.created,
        "updated": tally.updated,
        "unchanged": tally.unchanged,
        "deleted": tally.deleted,
        "errors": [_failure(error, *places[position]) for position, error in tally.failures],
    }


def _failure(error: HubError, line: int, key: IdentityKey | None, operation: str | None) -> dict[str, Any]:
    return {
        "line": line,
        "deviceId": None if key is None else key.device_id,
        "moduleId": None if key is None else key.module_id,
        "operation": operation,
        "code": error.row.code,
        "errorCode": error.row.name,
        "errorStatus": error.message,
    }
