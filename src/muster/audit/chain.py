"""The chain: each record is a line that holds the hash of the line before it.

A line is a JSON object whose members stand in a fixed order, without blanks (``core.json_text.encode``), in UTF-8. Its
last member, ``hash``, is the SHA-256, in hex, of the line's bytes as they are without that member; the one before it,
``previous``, is the hash of the line before, zeros in the first. So a line can be checked by itself, and with the next
its place too, in any language: nothing has to be encoded again. ``docs/audit.md`` says it with an example.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from muster.core.ambient import iso
from muster.core.audit import Draft
from muster.core.json_text import quote

VERSION = 1
"""Of the format; ``v`` in each line."""

_HASH = re.compile(rb',"hash":"([0-9a-f]{64})"\}$')
_NUMBER = re.compile(rb'\{"v":(\d{1,9}),"number":(\d{1,18}),')
_PREVIOUS = re.compile(rb',"previous":"([0-9a-f]{64})"$')


class Mark(NamedTuple):
    """A place in the chain: up to record ``number``, whose hash is ``hash``. Who keeps one elsewhere can tell later
    whether the log still says the same up to there."""

    number: int
    hash: str

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"


BEGIN = Mark(0, "0" * 64)
"""Before the first record."""


def mark_from(text: str) -> Mark:
    """A mark as it is printed. Raises ``ValueError`` saying what it must be."""
    number, colon, digest = text.strip().partition(":")
    if not colon or not (number.isascii() and number.isdigit()) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"{text[:80]!r} is no mark, which is NUMBER:HASH, as muster audit head prints it")
    return Mark(int(number[:18]), digest)


class BrokenChainError(Exception):
    """The chain does not hold. ``number`` is the first record that is wrong, and the text says what is."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"record {number}: {what}")
        self.number = number


def line_of(draft: Draft, number: int, previous: str) -> tuple[str, str]:
    """The line of ``draft`` as record ``number`` behind the one with the hash ``previous``, and its own hash."""
    scope, act, subject, at, before, after, error, omitted = draft
    operation, caller, peer, transport, tracking_id = act
    verdict = f'"refused","error":{error},"omitted":{omitted}' if error else '"allowed"'
    body = (
        f'{{"v":{VERSION},"number":{number},"at":"{iso(at)}",{_who(scope, caller, peer, transport)}'
        f'"operation":"{operation}","subject":{quote(subject)},"verdict":{verdict},"trackingId":"{tracking_id}",'
        f'"before":{before},"after":{after},"previous":"{previous}"'
    )
    digest = sha256(f"{body}}}".encode()).hexdigest()
    return f'{body},"hash":"{digest}"}}', digest


@lru_cache(256)
def _who(scope: str, caller: str, peer: str, transport: str) -> str:
    """Members that are the same in all that a service changes on one connection."""
    return f'"scope":{quote(scope)},"caller":{quote(caller)},"from":{quote(peer)},"transport":{quote(transport)},'


def mark_of(line: bytes) -> Mark:
    """The mark that ``line`` makes by what it says of itself. Raises ``ValueError`` where it is no record."""
    number, digest = _NUMBER.match(line), _HASH.search(line)
    if number is None or digest is None:
        raise ValueError("it is no record")
    return Mark(int(number[2]), digest[1].decode())


class _Link(NamedTuple):
    """What counts of a line."""

    mark: Mark
    previous: str


def verify(lines: Iterable[bytes], *, after: Mark = BEGIN, marks: Iterable[Mark] = (), head: int | None = None) -> Mark:
    """Go through ``lines``, which follow ``after``, and return the mark of the last.

    ``marks`` were kept elsewhere; those that lie before ``after`` do not count. ``head`` is the number of the last
    record that was ever written, where that is known. Raises ``BrokenChainError`` for the first record that is wrong.
    """
    wanted = {mark.number: mark.hash for mark in marks if mark.number > after.number}
    last, rest = after, iter(lines)
    for line in rest:
        link = _read(line.rstrip(b"\r\n"), last.number + 1)
        if link.mark.number != last.number + 1:
            raise _misplaced(last, link.mark.number, rest)
        if link.previous != last.hash:
            raise BrokenChainError(
                link.mark.number, "it does not hold the hash of the record before it, one of the two was replaced"
            )
        last = link.mark
        if wanted.pop(last.number, last.hash) != last.hash:
            raise BrokenChainError(last.number, "it is not the one that the mark names, the log was written anew")
    end = max([*wanted, head or 0])
    if end > last.number:
        raise BrokenChainError(last.number + 1, f"it is missing, and all up to {end}: the end was cut off")
    return last


def _read(line: bytes, expected: int) -> _Link:
    found, digest = _NUMBER.match(line), _HASH.search(line)
    if found is None or digest is None:
        raise BrokenChainError(expected, "it is no record of the audit log")
    if int(found[1]) != VERSION:
        raise BrokenChainError(expected, f"its format is {int(found[1])}, which this version of muster does not know")
    body = line[: digest.start()]
    previous = _PREVIOUS.search(body)
    if previous is None or sha256(body + b"}").hexdigest().encode() != digest[1]:
        raise BrokenChainError(expected, "it was changed: its hash is not that of what it says")
    return _Link(Mark(int(found[2]), digest[1].decode()), previous[1].decode())


def _misplaced(last: Mark, number: int, rest: Iterator[bytes]) -> BrokenChainError:
    """Why ``number`` does not follow: what should have is missing, or comes later."""
    expected = last.number + 1
    if number < expected:
        return BrokenChainError(number, f"it stands behind record {last.number}, it is there twice or out of order")
    start = f'{{"v":{VERSION},"number":{expected},'.encode()
    if any(line.startswith(start) for line in rest):
        return BrokenChainError(expected, f"it stands behind record {number}, they are out of order")
    missing = "it is" if number == expected + 1 else f"it and all up to {number - 1} are"
    return BrokenChainError(expected, f"{missing} missing, record {number} follows record {last.number}")
