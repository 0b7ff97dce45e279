"""Azure Storage's spelling: connection strings, signatures, ranges; and the notice of a file that has arrived."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.core.limits import Profile
from muster.core.storage_errors import AUTHENTICATION_FAILED, NO_AUTHENTICATION, PERMISSION_MISMATCH
from muster.dialect import blob_sas
from muster.dialect.blob_headers import asked_range
from muster.dialect.blob_sas import Account
from muster.dialect.storage_account import parse_storage_account
from muster.dialect.upload_bodies import notification_body
from muster.messages.upload_contract import FileNotification, Grant, StoredFile
from muster.node.settings import Settings

ACCOUNT = Account("account", b"k" * 64)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
KEY = "AAECAwQFBgcICQoLDA0ODw=="


@pytest.mark.parametrize(
    ("text", "scheme", "place"),
    [
        (f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={KEY};EndpointSuffix=core.windows.net", "https",
         "a.blob.core.windows.net"),
        (f"AccountName=a;AccountKey={KEY}", "https", "a.blob.core.windows.net"),
        (f"accountname=a; AccountKey={KEY};BlobEndpoint=http://127.0.0.1:10000/a/;", "http", "127.0.0.1:10000/a"),
        (f"AccountName=a;AccountKey={KEY};BlobEndpoint=https://[::1]:1/a;QueueEndpoint=x", "https", "[::1]:1/a"),
        ("UseDevelopmentStorage=true;", "http", "127.0.0.1:10000/devstoreaccount1"),
    ],
)  # fmt: skip
def test_connection_strings_of_storage_accounts(text: str, scheme: str, place: str) -> None:
    parsed = parse_storage_account(text)
    assert (parsed.scheme, parsed.place) == (scheme, place)
    if KEY in text:
        assert parsed.account == Account("a", bytes(range(16)))
    assert KEY not in repr(parsed)
    assert "\\x01" not in repr(parsed)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nonsense", "Name=value"), (f"AccountKey={KEY}", "AccountName"), ("AccountName=a", "AccountKey"),
        ("AccountName=a;AccountKey=%", "AccountKey"), ("AccountName=a;SharedAccessSignature=sv=1", "AccountKey"),
        (f"AccountName=a;AccountKey={KEY};BlobEndpoint=a.example", "BlobEndpoint"),
        (f"AccountName=a;AccountKey={KEY};BlobEndpoint=ftp://a.example", "BlobEndpoint"),
        (f"AccountName=a;AccountKey={KEY};BlobEndpoint=https://[a/", "BlobEndpoint"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_refused_naming_the_part(text: str, named: str) -> None:
    with pytest.raises(HubError, match=named) as caught:
        parse_storage_account(text)
    assert KEY not in str(caught.value)


@given(name=NAMES, other=NAMES, permissions=st.sampled_from(["r", "w", "rw", "rwd"]), end=st.integers(1, 4_000_000_000))
def test_a_signature_is_good_for_its_name_its_time_and_its_permissions(
    name: str, other: str, permissions: str, end: int
) -> None:
    sas = blob_sas.read(blob_sas.make(ACCOUNT, "box", name, permissions, end))
    assert sas.expires_at == end
    for letter in "rwd":
        if letter in permissions:
            blob_sas.check(sas, ACCOUNT, "box", name, letter, now=end - 1)
        else:
            with pytest.raises(HubError) as refused:
                blob_sas.check(sas, ACCOUNT, "box", name, letter, now=end - 1)
            assert refused.value.row is PERMISSION_MISMATCH
    for account, box, whose, now in (
        (ACCOUNT, "box", name, end), (ACCOUNT, "bo", f"x/{name}", 0), (Account("account", b"K" * 64), "box", name, 0),
        (Account("other", ACCOUNT.key), "box", name, 0), *([(ACCOUNT, "box", other, 0)] if other != name else []),
    ):  # fmt: skip
        with pytest.raises(HubError) as caught:
            blob_sas.check(sas, account, box, whose, permissions[0], now=now)
        assert caught.value.row is AUTHENTICATION_FAILED


@given(st.text())
def test_no_query_breaks_the_reader(query: str) -> None:
    for text in (query, f"sig={query}&sv=2020-12-06&sr=b&sp=r&se={query}", f"sig=AAAA&{query}"):
        with pytest.raises(HubError) as caught:
            blob_sas.check(blob_sas.read(text), ACCOUNT, "box", "name", "r", now=0)
        assert caught.value.row in {AUTHENTICATION_FAILED, NO_AUTHENTICATION}


@given(size=st.integers(0, 100), start=st.integers(0, 120), stop=st.one_of(st.none(), st.integers(0, 120)))
def test_a_range_is_what_python_would_slice(size: int, start: int, stop: int | None) -> None:
    header = f"bytes={start}-{'' if stop is None else stop}"
    data = bytes(range(size))
    wanted = data[start : None if stop is None else stop + 1]
    try:
        asked = asked_range({"Range": header}, size)
    except HubError:
        assert wanted == b""
        return
    if stop is not None and stop < start:
        assert asked is None
    else:
        assert asked is not None
        assert data[asked[0] : asked[1]] == wanted != b""


def test_the_notice_of_a_file() -> None:
    file = StoredFile("https://h/box/d/a%20b", 5, 1_800_000_000.0)
    assert json.loads(notification_body(FileNotification("d", "d/a b", file, 1_800_000_001.5))) == {
        "deviceId": "d",
        "blobUri": "https://h/box/d/a%20b",
        "blobName": "d/a b",
        "lastUpdatedTime": "2027-01-15T08:00:00.0000000Z",
        "blobSizeInBytes": 5,
        "enqueuedTimeUtc": "2027-01-15T08:00:01.5000000Z",
    }


def test_a_grant_does_not_show_its_secret() -> None:
    assert "sig" not in repr(Grant("h", "box", "?sig=secret"))


def test_the_cloud_tells_of_files_only_when_asked_to() -> None:
    for profile, wish, told in (
        (Profile.OPEN, None, True), (Profile.AZURE, None, False), (Profile.AZURE, True, True),
        (Profile.OPEN, False, False),
    ):  # fmt: skip
        settings = Settings(data=None, profile=profile, file_notifications=wish, storage_connection_string="secret")
        assert settings.notify_of_files is told
        assert "secret" not in repr(settings)
