"""The grammar of device and module ids."""

from __future__ import annotations

import re

from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.limits import DEVICE_ID_CHARACTERS
from muster.identity.model import IdentityKey

PUNCTUATION = "-:.+%_#*?!(),=@$';"
"""What an id may hold besides ASCII letters and digits."""

SYSTEM_MODULES = ("$edgeAgent", "$edgeHub")
"""Modules that every edge device has; the edge runtime owns them and services do not write them (service.md 2.4)."""

_FOREIGN = re.compile(rf"[^A-Za-z0-9{re.escape(PUNCTUATION)}]")


def check_id(what: str, value: str) -> None:
    """Refuse a ``value`` that is no id; ``what`` names the field in the message.

    1 to 128 ASCII letters, digits and ``- : . + % _ # * ? ! ( ) , = @ $ '`` and the semicolon; case counts
    (service.md 2.1). Raises ``HubError`` 400005 when it is empty, 400004 otherwise.
    """
    if not value:
        raise HubError(ARGUMENT_NULL, f"{what} is empty, give 1 to {DEVICE_ID_CHARACTERS.open} characters.")
    if len(value) > DEVICE_ID_CHARACTERS.open:
        raise HubError(
            ARGUMENT_INVALID, f"{what} has {len(value)} characters, {DEVICE_ID_CHARACTERS.open} are allowed."
        )
    foreign = _FOREIGN.search(value)
    if foreign:
        raise HubError(
            ARGUMENT_INVALID,
            f"{what} holds {foreign.group()!a} at position {foreign.start()}, "
            f"allowed are ASCII letters, digits and the characters {PUNCTUATION}",
        )


def check_key(key: IdentityKey) -> None:
    """``check_id`` for both parts of a key."""
    check_id("The device id", key.device_id)
    if key.module_id is not None:
        check_id("The module id", key.module_id)
