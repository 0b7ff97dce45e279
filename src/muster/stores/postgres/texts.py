"""Strings and JSON as PostgreSQL keeps them.

Its text and jsonb cannot hold U+0000. So U+0000 is written as U+0001 U+0001, and U+0001 as U+0001 U+0002: every
string has one spelling, and spelled strings compare, begin with each other and are joined as the strings themselves
(but have other lengths, and may end with U+0002 where the string does not). Nearly all strings hold neither, and are
their own spelling.

jsonb keeps numbers as decimals, so 1e300 would come back as an integer of 301 digits: floats that are written with an
exponent are written out, with a fraction. What jsonb does not keep is the order of an object's members, to which JSON
gives no meaning, and the sign of a zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from muster.core.json_text import JsonObject, decode, text_of

_SPELLED = {"\0": "\1\1", "\1": "\1\2"}
_MEANT = {spelling: character for character, spelling in _SPELLED.items()}
_ODD = re.compile("[\0\1]")
_ODD_SPELLING = re.compile("\1[\1\2]")
_ODD_JSON = re.compile(r"\\u000[01]|[0-9]e\+?[0-9]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9.]+e\+?[0-9]+')
_ESCAPE = re.compile(r"\\u000([01])|\\.")
_ESCAPED = {"0": r"\u0001\u0001", "1": r"\u0001\u0002"}
_ESCAPE_SPELLING = re.compile(r"\\u0001\\u000([12])|\\.")
_ESCAPE_MEANT = {"1": r"\u0000", "2": r"\u0001"}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


def spelled(text: str) -> str:
    """``text`` as it is kept."""
    return _ODD.sub(lambda found: _SPELLED[found[0]], text) if "\0" in text or "\1" in text else text


def meant(text: str) -> str:
    """The text that is kept as ``text``."""
    return _ODD_SPELLING.sub(lambda found: _MEANT[found[0]], text) if "\1" in text else text


def spelled_json(text: str) -> str:
    """JSON ``text``, as ``core.json_text.encode`` makes it, as it is kept in a column of jsonb."""
    return _TOKEN.sub(_spelled_token, text) if _ODD_JSON.search(text) else text


def meant_json(text: str) -> Any:
    """The value that is kept as ``text``, which is jsonb as PostgreSQL shows it."""
    return decode(_STRING.sub(_meant_string, text) if r"\u0001" in text else text)


def spelled_object(content: Mapping[str, Any]) -> str:
    """``content`` as ``spelled_json``."""
    return spelled_json(text_of(content))


def meant_object(text: str) -> JsonObject:
    """The object that is kept as ``text``; its own text is without the blanks that PostgreSQL shows."""
    return JsonObject(members=meant_json(text))


def _spelled_token(found: re.Match[str]) -> str:
    token = found[0]
    if token.startswith('"'):
        return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1] or "", escape[0]), token)
    number = f"{Decimal(token):f}"
    return number if "." in number else f"{number}.0"


def _meant_string(found: re.Match[str]) -> str:
    return _ESCAPE_SPELLING.sub(lambda escape: _ESCAPE_MEANT.get(escape[1] or "", escape[0]), found[0])
