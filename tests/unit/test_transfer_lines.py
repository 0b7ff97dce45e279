"""Lines of imports and exports: whatever comes is read or refused, what is written is read again."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core import errors
from muster.core.bulk_limits import IMPORT_CHUNK_LINES, IMPORT_LINE_BYTES
from muster.core.errors import ErrorRow, HubError
from muster.core.json_text import JsonObject
from muster.dialect.transfer_lines import BadLine, line_of, lines_of, read_line, read_lines
from muster.identity.changes import ImportMode, Match
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.jobs.transfer import Item
from muster.twins.document import Properties, Twin
from muster.twins.restoring import GivenProperties

MODE = ImportMode.CREATE_OR_UPDATE
KEY = base64.b64encode(b"k" * 32).decode()
AZURE = (  # as docs iot-hub-bulk-identity-mgmt has it
    b'{"id":"export-0","eTag":"MQ==","importMode":null,"status":"enabled","statusReason":"firstUpdate",'
    b'"authentication":null,"twinETag":"AAAAAAAAAAI=","tags":{"Location":"LivingRoom"},"properties":{"desired":'
    b'{"Thermostat":{"Temperature":75.1,"Unit":"F"},"$metadata":{"$lastUpdated":"2017-03-09T18:30:52.3167248Z",'
    b'"$lastUpdatedVersion":2,"Thermostat":{"$lastUpdated":"2017-03-09T18:30:52.3167248Z","$lastUpdatedVersion":2,'
    b'"Temperature":{"$lastUpdated":"2017-03-09T18:30:52.3167248Z","$lastUpdatedVersion":2},"Unit":{"$lastUpdated":'
    b'"2017-03-09T18:30:52.3167248Z","$lastUpdatedVersion":2}}},"$version":2},"reported":{"$metadata":'
    b'{"$lastUpdated":"2017-03-09T18:30:51.1309437Z"},"$version":1}}}'
)

ids = st.from_regex(r"[A-Za-z0-9\-:.+%_#*?!(),=@$']{1,40}", fullmatch=True)
names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
numbers = st.integers(-(2**52), 2**52 - 1) | st.floats(-1e9, 1e9)
leaves = st.booleans() | numbers | st.text(st.characters(codec="utf-8"), max_size=20)
contents = st.dictionaries(
    names, st.recursive(leaves, lambda inner: st.dictionaries(names, inner, max_size=3)), max_size=3
)
texts = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)


def read(line: bytes) -> Item:
    found = read_line(line, MODE)
    assert isinstance(found, Item), found
    return found


def refused(line: bytes, mode: ImportMode = MODE) -> BadLine:
    found = read_line(line, mode)
    assert isinstance(found, BadLine)
    return found


def test_a_line_of_azures_export_is_read() -> None:
    bulk, twin = read(AZURE)
    assert (bulk.mode, bulk.draft.key, bulk.match) == (MODE, IdentityKey("export-0"), Match(1))
    assert (bulk.draft.status, bulk.draft.status_reason) == (Status.ENABLED, "firstUpdate")
    assert twin is not None
    assert (twin.tags, twin.revision) == ({"Location": "LivingRoom"}, 2)
    assert twin.desired is not None
    assert twin.desired.values == {"Thermostat": {"Temperature": 75.1, "Unit": "F"}}
    assert twin.desired.version == 2
    assert twin.reported == GivenProperties({}, {"$lastUpdated": "2017-03-09T18:30:51.1309437Z"}, 1)


def test_a_line_without_a_twin_says_nothing_of_it() -> None:
    assert read(b'{"id":"d","tags":null,"properties":null,"twinETag":null}').twin is None
    module = read(b'{"id":"d","moduleId":"m","managedBy":"me","importMode":"CREATE"}').bulk
    assert (module.mode, module.draft.key, module.draft.managed_by) == (ImportMode.CREATE, IdentityKey("d", "m"), "me")
    assert read(b'\xef\xbb\xbf {"id":"d"} \r'.removeprefix(b"\xef\xbb\xbf")).bulk.draft.key == IdentityKey("d")


@pytest.mark.parametrize(
    ("line", "row", "words"),
    [
        (b"{", errors.FORMAT_ERROR, "not valid JSON at column"),
        (b'{"id":"d",}', errors.FORMAT_ERROR, "not valid JSON at column 10"),
        (b'{"id":"\xff"}', errors.FORMAT_ERROR, "not valid JSON"),
        (b"[" * 100_000, errors.FORMAT_ERROR, "not valid JSON"),
        (b'{"id":"d","tags":{"a":NaN}}', errors.FORMAT_ERROR, "not valid JSON"),
        (b"[1]", errors.ARGUMENT_INVALID, "must be an object, it is an array"),
        (b"{}", errors.ARGUMENT_NULL, "id is missing"),
        (b'{"id":7}', errors.ARGUMENT_INVALID, "id must be a string"),
        (b'{"id":"\\ud800"}', errors.ARGUMENT_INVALID, "surrogate"),
        (b'{"id":"d","importMode":"replace"}', errors.ARGUMENT_INVALID, "importMode must be one of"),
        (b'{"id":"d","status":"gone"}', errors.ARGUMENT_INVALID, "status must be one of"),
        (b'{"id":"d","tags":[]}', errors.ARGUMENT_INVALID, "tags must be an object"),
        (b'{"id":"d","properties":3}', errors.ARGUMENT_INVALID, "properties must be an object"),
        (b'{"id":"d","properties":{"desired":"x"}}', errors.ARGUMENT_INVALID, "properties.desired must be an object"),
        (b" " * (IMPORT_LINE_BYTES.open + 1), errors.BODY_TOO_LARGE, f"{IMPORT_LINE_BYTES.open} are allowed"),
    ],
)  # fmt: skip
def test_what_is_no_line_is_refused_with_its_place(line: bytes, row: ErrorRow, words: str) -> None:
    found = refused(line)
    assert found.row is row
    assert words in found.message


@pytest.mark.parametrize("number", [2**63 - 1, 2**64 - 1, 2**64, -(2**63) - 1, 10**30, 1e30, 0.1234567890123456789])
def test_a_number_is_what_it_is_over_rest(number: float) -> None:
    twin = read(json.dumps({"id": "d", "tags": {"n": number}}).encode()).twin
    assert twin is not None
    assert twin.tags is not None
    assert (twin.tags["n"], type(twin.tags["n"])) == (number, type(number))


def test_a_refused_line_has_the_key_and_the_mode_that_could_be_read() -> None:
    found = refused(b'{"id":"d","moduleId":"m","importMode":"update","authentication":{"symmetricKey":7}}')
    assert (found.key, found.operation) == (IdentityKey("d", "m"), "update")
    assert refused(b'{"id":"d","status":1}', ImportMode.CREATE).operation == "create"


@pytest.mark.parametrize(
    ("chunk", "count"), [(b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n", 1), (b"\xef\xbb\xbfa\n\nb\n", 3)]
)
def test_a_chunk_is_its_lines(chunk: bytes, count: int) -> None:
    lines = lines_of(chunk)
    assert len(lines) == count
    assert lines[0] in {b"a", b""}


def test_a_chunk_has_some_lines_and_not_too_many() -> None:
    most = IMPORT_CHUNK_LINES.open
    assert len(lines_of(b"{}\n" * most)) == most
    for chunk, row in ((b"", errors.ARGUMENT_NULL), (b"{}\n" * most + b"{}", errors.TOO_MANY_DEVICES)):
        with pytest.raises(HubError) as caught:
            lines_of(chunk)
        assert caught.value.row is row


@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([AZURE, AZURE[:80], AZURE.replace(b'"', b"'"), b"null", b"  "]))
)
def test_whatever_comes_every_line_is_read_refused_or_blank(lines: list[bytes]) -> None:
    cut = [line.replace(b"\n", b"") for line in lines]
    found = dict(read_lines(cut, MODE))
    assert set(found) == {position for position, line in enumerate(cut) if line and not line.isspace()}


@given(
    st.recursive(
        st.none() | leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)
    )
)
def test_members_of_any_kind_are_read_or_refused(value: Any) -> None:
    for name in ("id", "moduleId", "eTag", "importMode", "status", "statusReason", "authentication", "capabilities",
                 "deviceScope", "parentScopes", "tags", "properties", "twinETag", "managedBy"):  # fmt: skip
        for inner in ({name: value}, {"properties": {name: value, "desired": value}}):
            read_line(json.dumps({"id": "d", **inner}).encode(), MODE)


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    key = IdentityKey(draw(ids), draw(st.none() | ids))
    kind = draw(st.sampled_from(AuthenticationType))
    authentication = Authentication(kind)
    if kind is AuthenticationType.SAS:
        authentication = Authentication(kind, KEY, KEY)
    elif kind is AuthenticationType.SELF_SIGNED:
        authentication = Authentication(kind, primary_thumbprint="AB" * 20)
    fields: dict[str, Any] = {"version": draw(st.integers(1, 2**60)), "managed_by": draw(texts)}
    if key.module_id is None:
        scope = f"ms-azure-iot-edge://{key.device_id}-1"
        edge = draw(st.booleans())
        del fields["managed_by"]
        fields |= {
            "status": draw(st.sampled_from(Status)), "status_reason": draw(texts), "iot_edge": edge,
            "device_scope": scope if edge else None, "parent_scopes": (scope,) if edge else (),
        }  # fmt: skip
    return Identity(key=key, generation_id="1", authentication=authentication, **fields)


@given(identities(), contents, contents, contents, st.integers(1, 2**52 - 1))
def test_what_is_exported_is_read_as_it_was(
    one: Identity, tags: Any, desired: Any, reported: Any, version: int
) -> None:
    parts = [JsonObject(members=part) for part in (tags, desired, reported)]
    metadata = {"$lastUpdated": "2026-11-29T09:00:00.0000000Z"}
    twin = Twin(parts[0], Properties(parts[1], metadata, version), Properties(parts[2], metadata, version))
    line = line_of(one, twin, keys=True)
    assert (line.count(b"\n"), line[-1:]) == (1, b"\n"), "one line whatever stands in it"
    bulk, given_twin = read(line[:-1])
    draft, held = bulk.draft, one.authentication
    assert (draft.key, draft.credentials.type, bulk.match) == (one.key, held.type, Match(one.version))
    assert (draft.credentials.primary_key, draft.credentials.primary_thumbprint) == (
        held.primary_key,
        held.primary_thumbprint,
    )
    if one.module_id is None:
        assert (draft.status, draft.status_reason, draft.iot_edge) == (one.status, one.status_reason, one.iot_edge)
        assert (draft.device_scope, draft.parent_scopes) == (one.device_scope, one.parent_scopes)
    else:
        assert draft.managed_by == one.managed_by
    assert given_twin is not None
    assert given_twin.tags == tags
    assert given_twin.desired == GivenProperties(desired, metadata, version)
    assert given_twin.reported == GivenProperties(reported, metadata, version)
    assert KEY.encode() not in line_of(one, twin, keys=False)
