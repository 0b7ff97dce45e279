"""JSON text in and out: the standard library's C parts, without what its wrappers do anew with each call.

``encode`` and ``decode`` take half as long as ``json.dumps`` and ``json.loads``; several of them stand on the way of
each method call and of each change of a twin. ``encode_finite`` takes a fifth again, by orjson, which writes null for
floats that are no numbers and so is for values that were looked through.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from json.encoder import c_make_encoder, encode_basestring, encode_basestring_ascii  # type: ignore[attr-defined]
from typing import Any, Final, NoReturn

import orjson


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class JsonObject(Mapping[str, Any]):
    """A JSON object as text and as members, each made of the other when it is first asked for.

    What is read, passed on and written again is often not looked into. Nobody changes what ``plain`` returns.
    """

    __slots__ = ("_members", "_text")

    def __init__(self, text: str | None = None, members: dict[str, Any] | None = None) -> None:
        """By one of the two; ``text`` as ``encode`` made it, no float among ``members`` that is no number."""
        self._text = text
        self._members = members

    @property
    def text(self) -> str:
        """The object as ``encode`` makes it; raises as that does."""
        text = self._text
        if text is None:
            text = self._text = encode_finite(self._members)
        return text

    def plain(self) -> dict[str, Any]:
        """The members."""
        if self._members is None:
            self._members = decode(self._text or "{}")
        return self._members

    def __getitem__(self, name: str) -> Any:
        return self.plain()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain())

    def __len__(self) -> int:
        return len(self.plain())

    def __eq__(self, other: object) -> bool:
        return self.plain() == (other.plain() if isinstance(other, JsonObject) else other)

    def __repr__(self) -> str:
        return f"JsonObject({self.text})"

    __hash__ = None  # type: ignore[assignment]


quote: Final[Callable[[str], str]] = encode_basestring
"""A text as JSON."""


def plain(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """``content`` with nothing left to do."""
    return (content._members or content.plain()) if type(content) is JsonObject else content


def text_of(content: Mapping[str, Any]) -> str:
    """``content`` as ``encode`` makes it."""
    return (content._text or content.text) if type(content) is JsonObject else encode(content)


def _default(value: object) -> Any:
    if isinstance(value, JsonObject):
        return value.plain()
    raise TypeError(f"{type(value).__name__} is not JSON")


def _encoder(text: Callable[[str], str], *, allow_nan: bool) -> Callable[[Any, int], tuple[str, ...]]:
    """No blanks, nothing escaped that need not be; nothing checks for circles, which values of JSON cannot have."""
    made: Callable[[Any, int], tuple[str, ...]] = c_make_encoder(
        None, _default, text, None, ":", ",", False, False, allow_nan
    )
    return made


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)
_scan: Final[Callable[[str, int], tuple[Any, int]]] = _decoder.scan_once  # type: ignore[attr-defined]
_strict: Final = _encoder(encode_basestring, allow_nan=False)
_lenient: Final = _encoder(encode_basestring, allow_nan=True)
_ascii: Final = _encoder(encode_basestring_ascii, allow_nan=True)


def encode(value: Any) -> str:
    """``value`` as text without blanks. Raises ``ValueError`` for a float that is no number, ``RecursionError``."""
    return "".join(_strict(value, 0))


def encode_finite(value: Any) -> str:
    """As ``encode`` of a value without floats that are no numbers, which would be written as null."""
    try:
        return orjson.dumps(value, default=_default).decode()
    except TypeError:  # an integer of more than 64 bits, half of a surrogate pair, nested deeply
        return encode(value)


def encode_any(value: Any) -> str:
    """As ``encode``; floats that are no numbers are written as JavaScript has them."""
    return "".join(_lenient(value, 0))


def encode_ascii(value: Any) -> str:
    """As ``encode_any``, with escapes for all that is not ASCII."""
    return "".join(_ascii(value, 0))


def decode(text: str) -> Any:
    """The value that ``text`` holds.

    Raises ``json.JSONDecodeError`` where it is not JSON, ``ValueError`` for ``NaN`` and its kin and for an integer of
    thousands of digits, ``RecursionError``.
    """
    try:
        value, end = _scan(text, 0)
    except StopIteration:  # nothing, or blanks before it
        return _decoder.decode(text)
    return value if end == len(text) else _decoder.decode(text)
