"""The words of a query, each with its place."""

from __future__ import annotations

import re
from enum import Enum
from typing import NamedTuple, NoReturn

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.twins.query.syntax import Scalar

_SHOWN = 40
_EXACT = 2**53


def shown(text: str) -> str:
    """A part of a query as an error shows it: not too long, and on one line."""
    start = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in start)


class Kind(Enum):
    """What a token is."""

    NAME = "name"
    ESCAPED = "escaped name"
    NUMBER = "number"
    STRING = "string"
    MARK = "mark"
    END = "end"


class Token(NamedTuple):
    """One word: ``text`` as it stands in the query, ``value`` what it means (names, numbers and strings)."""

    kind: Kind
    text: str
    at: int
    value: Scalar = None

    @property
    def keyword(self) -> str:
        """The word in upper case when it may be a keyword, else nothing."""
        return self.text.upper() if self.kind is Kind.NAME else ""

    def __str__(self) -> str:
        if self.kind is Kind.END:
            return "the end of the query"
        text = shown(self.text)
        return text if text[0] in "'\"" else f"'{text}'"


_BLANK = re.compile(r"(?:\s|/\*.*?\*/)+", re.DOTALL)
_NAME = re.compile(r"(?:[^\W\d]|\$)[\w$]*")
_STEP = re.compile(r"[\w$]+")
_ESCAPED = re.compile(r"\[\[(.*?)\]\](?!\])", re.DOTALL)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
_STRING = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {"'": "'", '"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_MARK = re.compile(r"<>|<=|>=|!=|[-+*/%=<>()\[\],.]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def wrong(text: str, at: int, why: str, *, syntax: bool = True) -> HubError:
    """A refusal (400004) of the query ``text`` that names the place ``at`` (from 0), as characters from 1."""
    place = f"character {at + 1}"
    if "\n" in text:
        line = text.count("\n", 0, at) + 1
        place += f" (line {line}, column {at - text.rfind(chr(10), 0, at)})"
    said = "has a syntax error" if syntax else "is wrong"
    return HubError(ARGUMENT_INVALID, f"Query {said} at {place}: {why}.")


def tokens_of(text: str) -> list[Token]:
    """The tokens of ``text``, blanks and comments left out, ``END`` the last.

    Raises ``HubError`` 400004 with the place of what is no token. Takes time in proportion to the text.
    """
    lexer = _Lexer(text)
    found: list[Token] = []
    while True:
        token = lexer.next(found[-1] if found else None)
        found.append(token)
        if token.kind is Kind.END:
            return found


class _Lexer:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        lone = _SURROGATE.search(text)
        if lone is not None:
            raise wrong(text, lone.start(), "half of a surrogate pair")

    def next(self, before: Token | None) -> Token:
        text = self._text
        blank = _BLANK.match(text, self._at)
        if blank is not None:
            self._at = blank.end()
        if self._at == len(text):
            return Token(Kind.END, "", self._at)
        if text.startswith("/*", self._at):
            self._fail("a comment begins here and does not end, write */")
        named = before is not None and (before.text == "." or before.keyword == "AS")
        return self._step() if named else self._word()

    def _step(self) -> Token:
        """What follows the dot of a path or AS: keywords and digits are names there."""
        escaped = _ESCAPED.match(self._text, self._at)
        if escaped is not None:
            return self._take(Kind.ESCAPED, escaped, escaped[1])
        if self._text.startswith("[[", self._at):
            self._fail("a name begins here and does not end, write ]]")
        name = _STEP.match(self._text, self._at)
        return self._word() if name is None else self._take(Kind.NAME, name, name[0])

    def _word(self) -> Token:
        text, at = self._text, self._at
        if (found := _NAME.match(text, at)) is not None:
            return self._take(Kind.NAME, found, found[0])
        if (found := _NUMBER.match(text, at)) is not None:
            token = self._take(Kind.NUMBER, found, self._number(found[0]))
            if _STEP.match(text, self._at) is not None:
                self._fail(f"the number {found[0][:_SHOWN]} runs into a word, put a blank between them")
            return token
        if text[at] in "'\"":
            found = _STRING.match(text, at)
            if found is None:
                self._fail(f"a string begins here and does not end, close it with {text[at]}")
            return self._take(Kind.STRING, found, self._string(found[0]))
        found = _MARK.match(text, at)
        if found is None:
            self._fail(f"the character {text[at]!a} means nothing here")
        return self._take(Kind.MARK, found, None)

    def _take(self, kind: Kind, found: re.Match[str], value: Scalar) -> Token:
        token = Token(kind, found[0], self._at, value)
        self._at = found.end()
        return token

    def _number(self, text: str) -> int | float:
        """Whole numbers beyond 2^53 become floating point, as all arithmetic is."""
        if text[:2] in {"0x", "0X"}:
            whole = int(text, 16)
            if whole.bit_length() > 1023:
                self._fail("the number is too large for a 64-bit floating-point number")
            return whole if whole <= _EXACT else float(whole)
        number = float(text)
        if number == float("inf"):
            self._fail("the number is too large for a 64-bit floating-point number")
        return int(number) if text.isdigit() and number <= _EXACT else number

    def _string(self, quoted: str) -> str:
        start = self._at + 1

        def meaning(escape: re.Match[str]) -> str:
            code, letter = escape.groups()
            if code is not None:
                return chr(int(code, 16))
            if letter not in _ESCAPES:
                raise wrong(
                    self._text, start + escape.start(),
                    f"'{escape[0]}' is no escape; a backslash is written twice, a character by its code as \\u00e4",
                )  # fmt: skip
            return _ESCAPES[letter]

        if "\\" not in quoted:
            return quoted[1:-1]
        units = _ESCAPE.sub(meaning, quoted[1:-1]).encode("utf-16-le", "surrogatepass")
        try:
            return units.decode("utf-16-le")  # joins the halves of a character written as two escapes
        except UnicodeDecodeError:
            self._fail("the string holds half of a surrogate pair")

    def _fail(self, why: str) -> NoReturn:
        raise wrong(self._text, self._at, why)
