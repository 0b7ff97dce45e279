"""Tokens of services that were found good for the whole hub, so that the next call with the same one costs little.

What is remembered is what a full examination would find again: token, keys and rights do not change while it is kept;
its expiry is looked at each time.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from muster.core.memory_limits import PROVEN_TOKENS
from muster.identity.verdict import Right, Verdict


class _Proven(NamedTuple):
    principal: str
    rights: int
    expires_at: float


class ProvenTokens:
    """Bounded; the ones that were not used for longest go first. To be cleared when a policy changes."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Proven] = OrderedDict()
        """By the token's text. Looking it up tells nothing by its time: texts are compared only where their hashes are
        equal, and those begin with a seed that nobody knows."""

    def keep(self, token: str, verdict: Verdict) -> None:
        """``verdict`` allowed ``token`` everything on the hub that its policy's rights allow."""
        if verdict.expires_at is None:
            return
        self._known[token] = _Proven(verdict.principal, verdict.rights.value, verdict.expires_at)
        if len(self._known) > PROVEN_TOKENS.open:
            self._known.popitem(last=False)

    def principal(self, token: str, required: Right, now: float) -> str | None:
        """Whose token it is, when it still allows ``required``; ``None``: examine it."""
        found = self._known.get(token)
        if found is None or required._value_ & ~found.rights:
            return None
        if now >= found.expires_at:
            del self._known[token]
            return None
        self._known.move_to_end(token)
        return found.principal

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
