"""JSON bodies read with care: what is wrong is named by its place in the text or by its member."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NoReturn, TypeVar

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, FORMAT_ERROR, HubError
from muster.core.json_text import decode, encode_any

Choice = TypeVar("Choice", bound=StrEnum)

_KINDS = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "an array", dict: "an object"}

_BOM = b"\xef\xbb\xbf"


def parse_json(data: bytes) -> Any:
    """The value that ``data`` (UTF-8, with or without a byte order mark) holds.

    Raises ``HubError`` 400006 with line and column where it is not JSON, 400005 when there is nothing.
    """
    try:
        return decode(data.removeprefix(_BOM).decode())
    except json.JSONDecodeError as error:
        if not data.strip():
            raise HubError(ARGUMENT_NULL, "The body is empty, send JSON.") from None
        raise HubError(
            FORMAT_ERROR, f"The body is not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except UnicodeDecodeError as error:
        raise HubError(FORMAT_ERROR, f"The body is not valid UTF-8 at byte {error.start}.") from None
    except RecursionError:
        raise HubError(FORMAT_ERROR, "The body is nested too deeply.") from None
    except ValueError as error:  # NaN and its kin, or an integer of thousands of digits
        raise HubError(FORMAT_ERROR, f"The body is not valid JSON: {error}.") from None


def compact(value: Any) -> bytes:
    """``value`` as the service writes JSON: no blanks, UTF-8."""
    return encode_any(value).encode()


class Members:
    """An object's members, read by name and kind. ``null`` counts as absent; unknown members are passed over.

    Every reader raises ``HubError`` 400004 that names the member and what it must be.
    """

    def __init__(self, members: Mapping[str, Any], path: str) -> None:
        self._members = members
        self._path = path

    @classmethod
    def of(cls, value: Any, name: str, path: str = "") -> Members:
        """``value``, which must be an object; ``name`` names it in errors, ``path`` goes before its members'."""
        if not isinstance(value, dict):
            raise HubError(ARGUMENT_INVALID, f"{name} must be an object, it is {kind_of(value)}.")
        return cls(value, path)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self._members.get(name)
        return None if value is None else check_text(value, self._path + name)

    def needed_text(self, name: str) -> str:
        """A string that must be there: else 400005."""
        value = self.text(name)
        if value is None:
            raise HubError(ARGUMENT_NULL, f"{self._path}{name} is missing.")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """An array of strings; absent means empty."""
        return tuple(
            check_text(item, f"{self._path}{name}[{position}]") for position, item in enumerate(self.items(name))
        )

    def items(self, name: str) -> list[Any]:
        """An array; absent means empty."""
        value = self._members.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self._wrong(name, "an array", value)
        return value

    def raw(self, name: str) -> Any:
        """The value as it is, ``None`` when it is absent."""
        return self._members.get(name)

    def flag(self, name: str) -> bool:
        """A boolean; absent means false."""
        value = self._members.get(name)
        if value is None:
            return False
        if not isinstance(value, bool):
            self._wrong(name, "true or false", value)
        return value

    def whole_number(self, name: str) -> int | None:
        """A number without a fraction."""
        value = self._members.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
            self._wrong(name, "a whole number", value)
        return int(value)

    def over(self, present: Mapping[str, Any]) -> Members:
        """The same with the members of ``present`` where it has none."""
        given = {name: value for name, value in self._members.items() if value is not None}
        return Members({**present, **given}, self._path)

    @property
    def whole(self) -> Mapping[str, Any]:
        """The object as it is."""
        return self._members

    def any(self, name: str) -> Any:
        """Whatever it is; ``None`` too when it is not there."""
        return self._members.get(name)

    def choice(self, name: str, choices: type[Choice]) -> Choice | None:
        """One of the values of an enumeration, in any case, as the service takes it."""
        value = self.text(name)
        if value is None:
            return None
        wanted = value.lower()
        for choice in choices:
            if choice.value.lower() == wanted:
                return choice
        raise HubError(ARGUMENT_INVALID, f"{self._path}{name} must be one of {', '.join(choices)}.")

    def object(self, name: str) -> Mapping[str, Any]:
        """An object as it is; absent means one without members."""
        value = self._members.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._wrong(name, "an object", value)
        return value

    def members(self, name: str) -> Members:
        """An object; absent means one without members."""
        value = self._members.get(name)
        place = self._path + name
        return Members({}, f"{place}.") if value is None else Members.of(value, place, f"{place}.")

    def __bool__(self) -> bool:
        return bool(self._members)

    def _wrong(self, name: str, wanted: str, value: Any) -> NoReturn:
        raise HubError(ARGUMENT_INVALID, f"{self._path}{name} must be {wanted}, it is {kind_of(value)}.")


def check_text(value: Any, place: str) -> str:
    """``value``, which must be a string of whole characters; ``place`` names it."""
    if not isinstance(value, str):
        raise HubError(ARGUMENT_INVALID, f"{place} must be a string, it is {kind_of(value)}.")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise HubError(ARGUMENT_INVALID, f"{place} holds half of a surrogate pair.")
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    return _KINDS.get(type(value), "null")
