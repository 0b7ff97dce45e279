"""What goes on record when something is changed: who did what to which thing, and what it was before and after.

A store that is given a ``Draft`` with a change writes both in one transaction: the change is there exactly when its
record is (``muster.audit`` says what a record looks like and how records hang together).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from muster.core.json_text import decode, encode
from muster.core.redaction import redacted


class Act(NamedTuple):
    """Who does what, and from where.

    ``operation`` names what is asked for (``device.put``), ``caller`` who asks, as verdicts name principals; ``peer``
    and ``transport`` are empty for the hub's own acts. ``tracking_id`` is the one that the caller is told.
    """

    operation: str
    caller: str
    peer: str = ""
    transport: str = ""
    tracking_id: str = ""


BY_THE_HUB = Act("hub.own", "muster")
"""What the hub does by itself, asked by nobody."""


class Draft(NamedTuple):
    """A record that has no place yet.

    ``scope`` is the name of the hub, the id scope of the provisioning service, or empty for the deployment;
    ``subject`` is what is changed (``devices/d/modules/m``). ``at`` is seconds since 1970. ``before`` and ``after`` are
    JSON text without secrets, ``null`` for what was not or is no more. ``error`` is the code that the act was refused
    with, 0 when it was allowed, and ``omitted`` how many refusals before this one left no record.
    """

    scope: str
    act: Act
    subject: str
    at: float
    before: str = "null"
    after: str = "null"
    error: int = 0
    omitted: int = 0


def draft(scope: str, act: Act, subject: str, at: float, *, before: Any = None, after: Any = None) -> Draft:
    """The record of a change from ``before`` to ``after``, JSON values in which secrets are ``fingerprint``s."""
    return Draft(scope, act, subject, at, hidden(encode(before)), hidden(encode(after)))


Note = Callable[[Any, Any], Draft]
"""The record of a change from the first to the second, which are as in ``draft``."""


def noting(scope: str, act: Act, subject: str, at: float) -> Note:
    """Makes the record of what ``act`` does with ``subject``, once it is known."""
    return lambda before, after: draft(scope, act, subject, at, before=before, after=after)


def fingerprint(secret: str | bytes | None) -> str | None:
    """What stands for a secret: two are the same when their fingerprints are. The first 64 bits of its SHA-256; what it
    is made of cannot be guessed from that, for the keys and codes of a hub are random."""
    if secret is None:
        return None
    content = secret.encode() if isinstance(secret, str) else secret
    return f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"


def fingerprints(secrets: Mapping[str, str | None]) -> dict[str, str | None]:
    """``secrets`` with a fingerprint in the place of each."""
    return {name: fingerprint(secret) for name, secret in secrets.items()}


def hidden(text: str) -> str:
    """``text``, which is JSON, without what may be a key or a signature: people put those into twins."""
    return encode(_hidden(decode(text))) if "=" in text else text


def _hidden(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {redacted(name): _hidden(member) for name, member in value.items()}
    return [_hidden(item) for item in value] if isinstance(value, list) else value
