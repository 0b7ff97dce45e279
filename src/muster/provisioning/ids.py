"""The grammar of registration ids and group ids (provisioning.md 7.3)."""

from __future__ import annotations

import re

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.provisioning_limits import REGISTRATION_ID_CHARACTERS

_ID = re.compile(r"[A-Za-z0-9._:-]*[A-Za-z0-9-]")
ALLOWED = "ASCII letters, digits, '-', '.', '_' and ':', with a letter, a digit or '-' at the end"


def normal(text: str) -> str:
    """The form in which ids are compared and kept: case does not count."""
    return text.lower()


def is_id(text: str) -> bool:
    """Whether ``text`` may be a registration id or a group's."""
    return len(text) <= REGISTRATION_ID_CHARACTERS.open and _ID.fullmatch(text) is not None


def check_id(what: str, text: str) -> str:
    """``text`` in its normal form. Raises ``HubError`` 400005 when it is empty, 400004 when it is no id; ``what`` names
    the field."""
    if not text:
        raise HubError(ARGUMENT_NULL, f"{what} is empty, give 1 to {REGISTRATION_ID_CHARACTERS.open} characters.")
    if not is_id(text):
        raise HubError(ARGUMENT_INVALID, f"{what} is not 1 to {REGISTRATION_ID_CHARACTERS.open} {ALLOWED}, change it.")
    return normal(text)
