"""Audit records that have no place in the chain yet, as they are kept until they get one."""

from __future__ import annotations

from muster.core.audit import Act, Draft
from muster.core.json_text import decode, encode


def text_of(draft: Draft) -> str:
    """``draft`` as JSON."""
    return encode([*draft[:1], list(draft.act), *draft[2:]])


def draft_of(text: str) -> Draft:
    """What ``text_of`` was given."""
    scope, act, *rest = decode(text)
    return Draft(scope, Act(*act), *rest)
