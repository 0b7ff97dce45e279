"""Which names and values the application properties of a message may have, and how many messages a batch
(device.md section 8)."""

from __future__ import annotations

import re

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.limits import BATCH_MESSAGES, Profile
from muster.core.queue_limits import MESSAGE_ID_CHARACTERS

_ALLOWED = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]*")


def check_property(name: str, value: str, profile: Profile) -> None:
    """Refuse (400004) a property without a name; under ``azure`` also what the cloud refuses in messages to devices and
    in those that come over HTTPS: all but ASCII letters, digits and some punctuation."""
    if not name:
        raise HubError(ARGUMENT_INVALID, "An application property has no name, give it one.")
    if profile is Profile.OPEN:
        return
    shown = name[: MESSAGE_ID_CHARACTERS.open]
    for what, text in ((f"The name of the application property {shown!a}", name), (f"The property {shown!a}", value)):
        good = _ALLOWED.match(text)
        if good is not None and good.end() < len(text):
            raise bad_character(what, text, good.end(), "!#$%&'*+-.^_`|~")


def check_batch(count: int, profile: Profile) -> None:
    """Refuse (400004) a batch of ``count`` messages when that are too many."""
    most = BATCH_MESSAGES.under(profile)
    if count > most:
        raise HubError(ARGUMENT_INVALID, f"The batch holds {count} messages, send {most} at most in one.")


def bad_character(what: str, text: str, position: int, others: str) -> HubError:
    """400004: the character of ``text`` at ``position`` is neither an ASCII letter or digit nor one of ``others``."""
    allowed = f"allowed are ASCII letters, digits and the characters {others}"
    return HubError(ARGUMENT_INVALID, f"{what} holds {text[position]!a} at position {position}, {allowed}")
