"""Bodies and headers of the registry, with anything at all in them: read right, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core import errors
from muster.core.errors import HubError
from muster.dialect.api_version import check_api_version
from muster.dialect.bulk_bodies import read_bulk, read_regenerate
from muster.dialect.etag import etag_of, match_of, read_if_match
from muster.dialect.identity_bodies import device_draft, module_draft
from muster.dialect.json_body import Members, parse_json
from muster.identity.changes import ANY, Match
from muster.identity.model import IdentityKey

NAMES = st.sampled_from(
    ["deviceId", "moduleId", "id", "importMode", "eTag", "status", "statusReason", "authentication", "symmetricKey",
     "primaryKey", "x509Thumbprint", "primaryThumbprint", "type", "capabilities", "iotEdge", "deviceScope",
     "parentScopes", "tags", "properties", "desired", "policyKey", "devices", "managedBy"]
)  # fmt: skip
TEXTS = st.text(max_size=20) | st.sampled_from(["d", "create", "sas", "selfSigned", "enabled", "both", "\ud800"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | TEXTS, inner, max_size=6),
    max_leaves=20,
)


def refusal(read: Callable[[], object]) -> HubError | None:
    """Why ``read`` refused, the only way in which it may fail."""
    try:
        read()
    except HubError as error:
        return error
    return None


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_any_json_is_read_or_refused(value: Any) -> None:
    for read in (
        lambda: device_draft(Members.of(value, "The body"), "d"),
        lambda: module_draft(Members.of(value, "The body"), IdentityKey("d", "m")),
        lambda: read_bulk(value),
        lambda: read_regenerate(Members.of(value, "The body")),
    ):
        error = refusal(read)
        assert error is None or (error.row.status in {400, 413} and error.message.strip())


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_refused(data: bytes) -> None:
    error = refusal(lambda: parse_json(data))
    if error is None:
        assert parse_json(data) == json.loads(data)
    else:
        assert error.row in {errors.FORMAT_ERROR, errors.ARGUMENT_NULL}


@given(st.integers(min_value=0, max_value=2**62))
def test_an_etag_finds_its_version_again_however_it_is_written(version: int) -> None:
    etag = etag_of(version)
    for header in (etag, f'"{etag}"', f'W/"{etag}"', f" {etag} ", f"W/{etag}"):
        assert read_if_match(header) == Match(version)
    assert match_of(etag) == Match(version)


def test_the_etag_of_1_is_the_one_the_documents_show() -> None:
    assert etag_of(1) == "MQ=="


@pytest.mark.parametrize(
    ("header", "match"),
    [(None, None), ("", None), ('""', None), ("*", ANY), ('"*"', ANY), ('W/"*"', ANY), ('"', Match(-1)),
     ('"é"', Match(-1)), ("LTE=", Match(-1)), ("wrI=", Match(-1)), ("MQ", Match(-1))],
)  # fmt: skip
def test_what_is_no_etag_of_ours_is_any_none_or_never_true(header: str | None, match: Match | None) -> None:
    assert read_if_match(header) == match


@given(st.text(max_size=12) | st.dates().map(str) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(-preview)?"))
def test_any_api_version_is_taken_or_refused(version: str) -> None:
    error = refusal(lambda: check_api_version(version))
    if error is None:
        assert "2016-11-14" <= version[:10] <= "9999-12-31"
    else:
        assert error.row is errors.INVALID_PROTOCOL_VERSION
