"""What an AMQP connection has been allowed so far: one grant for each audience that a token was put for."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from muster.access.roles import Action
from muster.core.ambient import Ambient, Timer
from muster.core.amqp_limits import AMQP_TOKENS
from muster.core.errors import TOO_MANY_TOKENS, HubError
from muster.identity.hub import Hub
from muster.identity.verdict import Right, Verdict

Scope = tuple[str, ...]
"""A path below the host, in lower case. A grant for it covers all that begins with it; the empty one covers all."""


def scope_of(path: tuple[str, ...]) -> Scope:
    """``path`` as a scope."""
    return tuple(segment.lower() for segment in path)


class Grants:
    """The grants of one connection. ``expired`` is called when one ran out that was not renewed meanwhile."""

    __slots__ = ("_ambient", "_due", "_expired", "_held", "_timer")

    def __init__(self, ambient: Ambient, expired: Callable[[], None]) -> None:
        self._ambient = ambient
        self._expired = expired
        self._held: dict[Scope, Verdict] = {}
        self._timer: Timer | None = None
        self._due = inf
        """When the timer strikes: not after the first of them runs out."""

    def __bool__(self) -> bool:
        return bool(self._held)

    def add(self, scope: Scope, verdict: Verdict) -> None:
        """Keep an allowed ``verdict``; it replaces an earlier one for the same scope. Raises ``HubError`` 403005."""
        if scope not in self._held and len(self._held) >= AMQP_TOKENS.open:
            raise HubError(TOO_MANY_TOKENS)
        self._held[scope] = verdict
        if verdict.expires_at is not None and verdict.expires_at < self._due:
            self._arm(verdict.expires_at)

    def covers(self, scope: Scope, action: Action | None = None) -> bool:
        """Whether something that is still good covers ``scope``, and its holder may do ``action``.

        A policy's token has been asked for its right already: it allows every action.
        """
        return any(
            action is None or verdict.admission is None or verdict.admission.admits(action)
            for verdict in self.of(scope)
        )

    def covers_all(self, scope: Scope, action: Action) -> bool:
        """Whether ``action`` is allowed on the whole hub, so that no device has to be asked about."""
        return any(verdict.admission is None or action in verdict.admission.allowed for verdict in self.of(scope))

    def admitted(self) -> list[tuple[Scope, Verdict]]:
        """The bearer tokens among them."""
        return [(scope, verdict) for scope, verdict in self._held.items() if verdict.admission is not None]

    def replace(self, scope: Scope, verdict: Verdict, other: Verdict) -> None:
        """Put ``other``, which lasts as long, where ``verdict`` stands, if it still does."""
        if self._held.get(scope) is verdict:
            self._held[scope] = other

    def of(self, scope: Scope | None) -> list[Verdict]:
        """What covers ``scope``; ``None``: all there is."""
        if scope is None:
            return list(self._held.values())
        above = (scope[:length] for length in range(len(scope) + 1))
        return [self._held[one] for one in above if one in self._held]

    def only_below(self, first: str) -> bool:
        """Whether there are grants, and all of them for paths that begin with ``first``."""
        return bool(self._held) and all(scope[:1] == (first.lower(),) for scope in self._held)

    def principal(self, scope: Scope) -> str:
        """Whose token it is that covers ``scope`` most closely, empty when there is none."""
        found = (self._held.get(scope[:length]) for length in range(len(scope), -1, -1))
        return next((verdict.principal for verdict in found if verdict is not None), "")

    def holds(self, scope: Scope) -> bool:
        """Whether there is a grant for just this scope."""
        return scope in self._held

    def of_identity(self, scope: Scope) -> bool:
        """Whether the grant for just this scope is that of an identity's own token, and not of a policy's."""
        return scope in self._held and self._held[scope].identity is not None

    def described(self) -> str:
        """What there is, for a verdict."""
        return ", ".join(sorted("/".join(scope) or "the hub" for scope in self._held)) or "no token"

    def withdraw(self, hub: Hub, right: Right) -> dict[Scope, tuple[str, str]]:
        """Forget what does not count any more for ``right`` at ``hub``: by its scope the cause, and what is seen."""
        lost = {
            scope: found
            for scope, verdict in self._held.items()
            if verdict.ground is not None and (found := verdict.ground.lost(hub, right))[0]
        }
        for scope in lost:
            del self._held[scope]
        return lost

    def clear(self) -> None:
        """The connection is gone."""
        self._held.clear()
        self._arm(inf)

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = None if due == inf else self._ambient.at(due, self._run_out)

    def _run_out(self) -> None:
        now, before = self._ambient.now(), len(self._held)
        self._held = {
            scope: verdict
            for scope, verdict in self._held.items()
            if verdict.expires_at is None or verdict.expires_at > now
        }
        ends = [verdict.expires_at for verdict in self._held.values() if verdict.expires_at is not None]
        self._arm(min(ends, default=inf))
        if len(self._held) < before:
            self._expired()
