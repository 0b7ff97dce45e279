"""The chain of the audit log: what was changed, removed, moved or cut off is found, the first wrong record named."""

from __future__ import annotations

import hashlib
import json
import random

import pytest

from muster.audit.chain import BEGIN, BrokenChainError, Mark, line_of, mark_from, mark_of, verify
from muster.audit.filter import Filter
from muster.audit.refused import RefusedChanges, shown
from muster.core.audit import Act, Draft, draft, fingerprint, hidden
from muster.core.audit_limits import AUDIT_REFUSALS_BURST
from muster.core.errors import DEVICE_NOT_FOUND, UNAUTHORIZED
from muster.core.json_text import encode
from muster.testing.clock import VirtualAmbient

ACT = Act("device.put", "iothubowner (policy)", "127.0.0.1:4711", "https", "0" * 32)


def chain(count: int) -> list[bytes]:
    previous, lines = BEGIN.hash, []
    for number in range(1, count + 1):
        after = {"deviceId": f"é{number}", "primaryKey": fingerprint(f"key {number}")}
        record = draft("hub", ACT, f"devices/d{number}", 1_700_000_000.25, after=after)
        line, previous = line_of(record, number, previous)
        lines.append(line.encode())
    return lines


def broken(lines: list[bytes], **known: object) -> BrokenChainError:
    with pytest.raises(BrokenChainError) as raised:
        verify(lines, **known)  # type: ignore[arg-type]
    return raised.value


def test_a_line_is_an_object_that_anybody_can_check_with_a_hash_and_a_text_search() -> None:
    first, second = chain(2)
    assert json.loads(first) == {
        "v": 1,
        "number": 1,
        "at": "2023-11-14T22:13:20.2500000Z",
        "scope": "hub",
        "caller": "iothubowner (policy)",
        "from": "127.0.0.1:4711",
        "transport": "https",
        "operation": "device.put",
        "subject": "devices/d1",
        "verdict": "allowed",
        "trackingId": "0" * 32,
        "before": None,
        "after": {"deviceId": "é1", "primaryKey": "sha256:" + hashlib.sha256(b"key 1").hexdigest()[:16]},
        "previous": "0" * 64,
        "hash": hashlib.sha256(first[:-75] + b"}").hexdigest(),
    }
    assert json.loads(second)["previous"] == json.loads(first)["hash"]


def test_a_whole_chain_holds_and_its_mark_is_that_of_its_last_line() -> None:
    lines = chain(5)
    mark = verify(lines)
    assert mark == mark_of(lines[-1]) == mark_from(str(mark)) == Mark(5, json.loads(lines[-1])["hash"])
    assert verify([]) == BEGIN
    assert verify(lines[2:], after=mark_of(lines[1]), marks=[mark, mark_of(lines[0])], head=5) == mark


def test_every_flipped_byte_is_found_in_its_record() -> None:
    lines, chance = chain(3), random.Random(7)
    for place in range(len(lines[1])):
        changed = bytearray(lines[1])
        changed[place] ^= 1 << chance.randrange(8)
        error = broken([lines[0], bytes(changed), lines[2]])
        assert error.number == 2, (place, error)


def test_a_flipped_byte_of_the_last_record_is_found_without_a_mark() -> None:
    lines = chain(3)
    error = broken([*lines[:2], lines[2].replace(b"d3", b"d4")])
    assert str(error) == "record 3: it was changed: its hash is not that of what it says"


@pytest.mark.parametrize("gone", [1, 2, 3, 4])
def test_a_removed_line_is_named(gone: int) -> None:
    lines = chain(5)
    error = broken(lines[: gone - 1] + lines[gone:])
    assert error.number == gone
    assert f"it is missing, record {gone + 1} follows record {gone - 1}" in str(error)


def test_several_removed_lines_are_named() -> None:
    lines = chain(6)
    assert "record 3: it and all up to 5 are missing" in str(broken(lines[:2] + lines[5:]))


def test_lines_out_of_order_and_lines_told_twice_are_named() -> None:
    first, second, third, fourth = chain(4)
    error = broken([first, third, second, fourth])
    assert (error.number, "out of order" in str(error)) == (2, True)
    error = broken([first, second, second, third, fourth])
    assert (error.number, "there twice" in str(error)) == (2, True)


def test_a_record_that_was_replaced_with_its_hash_does_not_fit_the_next() -> None:
    lines = chain(3)
    forged, _ = line_of(draft("hub", ACT, "devices/other", 1.0), 2, mark_of(lines[0]).hash)
    error = broken([lines[0], forged.encode(), lines[2]])
    assert (error.number, "one of the two was replaced" in str(error)) == (3, True)


def test_an_end_that_was_cut_off_is_found_by_what_is_known_of_it() -> None:
    lines = chain(5)
    assert verify(lines[:3]) == mark_of(lines[2]), "nothing in the lines themselves tells"
    assert "record 4: it is missing, and all up to 5" in str(broken(lines[:3], head=5))
    assert "record 4: it is missing, and all up to 5" in str(broken(lines[:3], marks=[mark_of(lines[4])]))


def test_a_log_that_was_written_anew_is_found_by_a_mark_of_the_old_one() -> None:
    old, previous, lines = chain(3), BEGIN.hash, []
    for number in range(1, 4):
        line, previous = line_of(draft("hub", ACT, f"devices/other{number}", 1.0), number, previous)
        lines.append(line.encode())
    assert verify(lines) == Mark(3, previous), "by itself it is a chain"
    assert broken(lines, marks=[mark_of(old[1])]).number == 2


@pytest.mark.parametrize("line", [b"", b"{}", b"\xff\xfe", b'{"v":1}', b"null", b"[" * 10_000])
def test_what_is_no_record_is_said_so(line: bytes) -> None:
    assert str(broken([chain(1)[0], line])) == "record 2: it is no record of the audit log"


def test_a_format_of_a_later_version_is_said_so() -> None:
    assert "its format is 2" in str(broken([chain(1)[0].replace(b'{"v":1,', b'{"v":2,')]))


@pytest.mark.parametrize("text", ["", "7", "x:" + "0" * 64, "7:00", "7:" + "g" * 64])
def test_a_mark_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no mark"):
        mark_from(text)


def test_a_filter_takes_a_subject_with_all_below_it_and_the_time_up_to_its_end() -> None:
    previous, lines = BEGIN.hash, []
    for number, subject in enumerate(("devices/d", "devices/d/modules/m", "devices/d2"), 1):
        line, previous = line_of(draft("hub", ACT, subject, float(number)), number, previous)
        lines.append(line.encode())

    def found(**wanted: str) -> list[int]:
        return [mark_of(line).number for line in lines if Filter(**wanted).wants(line)]

    assert found() == [1, 2, 3]
    assert found(subject="devices/d") == [1, 2]
    assert found(since="1970-01-01T00:00:02", until="1970-01-01T00:00:03") == [2]
    assert found(scope="other") == []
    assert Filter(subject="devices/x").wants(b"broken"), "nobody hides a record by breaking it"


def test_secrets_that_people_put_into_twins_and_paths_are_hidden() -> None:
    key = "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0IHNlY3I="
    value = {"a": [f"HostName=h;SharedAccessKey={key}"], 'quo"te': {"b": f'sig={key}"', "plain": "a=b", "n": 1}}
    text = hidden(encode(value))
    assert key not in text
    assert json.loads(text)['quo"te']["plain"] == "a=b"
    assert hidden('{"a":1}') == '{"a":1}'
    assert key not in shown(f"devices/{key}")
    assert len(shown("x" * 100_000)) < 300
    assert shown("devices/\udcff") == "devices/\\udcff"


def test_a_refused_record_says_with_what_and_how_many_were_left_out() -> None:
    line, _ = line_of(Draft("hub", ACT, "devices/d", 1.0, error=401003, omitted=7), 1, BEGIN.hash)
    record = json.loads(line)
    assert (record["verdict"], record["error"], record["omitted"]) == ("refused", 401003, 7)
    assert verify([line.encode()]).number == 1


class Noted(list[Draft]):
    """An ``AuditLog`` that refusals are noted in."""

    note = list.append


def test_strangers_fill_neither_the_disk_nor_the_room_of_those_who_are_let_in() -> None:
    log, ambient = Noted(), VirtualAmbient(1_700_000_000.0)
    refused = RefusedChanges(log, ambient)  # type: ignore[arg-type]
    stranger = ACT._replace(caller="")
    for _ in range(1000):
        refused.add("hub", stranger, "devices/d", UNAUTHORIZED)
    assert len(log) == AUDIT_REFUSALS_BURST.open
    refused.add("hub", ACT, "devices/d", DEVICE_NOT_FOUND)
    assert (log[-1].error, log[-1].omitted) == (404001, 0)
    ambient.advance(3600)
    for _ in range(1000):
        refused.add("hub", stranger, "devices/d", UNAUTHORIZED)
    assert log[AUDIT_REFUSALS_BURST.open + 1].omitted == 900
    assert sum(one.error == 401002 for one in log) == 2 * AUDIT_REFUSALS_BURST.open
