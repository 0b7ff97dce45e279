"""The device tokens put on one AMQP connection: each is good for an identity, or with a policy's key for many."""

from __future__ import annotations

from collections.abc import Callable

from muster.core.ambient import Ambient
from muster.dialect.device_amqp import identity_path
from muster.heads.grants import Grants, Scope, scope_of
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict

_NAMED = 3
"""How many tokens a refusal names: a gateway has a thousand."""


class DeviceGrants:
    """Tokens by scope. ``when_expired`` is called with the scope of one that ran out and was not renewed meanwhile."""

    __slots__ = ("_grants", "_tokens", "when_expired")

    def __init__(self, ambient: Ambient) -> None:
        self._grants = Grants(ambient, self._ran_out)
        self._tokens: dict[Scope, str] = {}
        self.when_expired: Callable[[Scope], None] | None = None

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def add(self, scope: Scope, token: str, verdict: Verdict) -> None:
        """Keep a token that an allowed ``verdict`` was made of, in place of an earlier one for the same scope.

        The scope of an identity's own token has its ids as they are: others of the same letters are other identities,
        whose tokens must not prolong its session.
        Raises ``HubError`` 403005 when there are too many.
        """
        self._grants.add(scope, verdict)
        self._tokens[scope] = token

    def find(self, key: IdentityKey) -> tuple[Scope, str] | None:
        """The token that says most precisely that it is for ``key``, and its scope."""
        own = identity_path(key)
        lowered = scope_of(own)
        for length in range(len(own), -1, -1):
            for scope in (own[:length], lowered[:length]):
                token = self._tokens.get(scope)
                if token is not None:
                    return scope, token
        return None

    def mistaken(self) -> tuple[Scope, str] | None:
        """The token of a connection that has just one, and that an identity's own: who attaches another identity's
        link takes it for that one's."""
        if len(self._tokens) != 1:
            return None
        [(scope, token)] = self._tokens.items()
        return (scope, token) if self._grants.of_identity(scope) else None

    def described(self) -> str:
        """What there is, for a verdict."""
        names = sorted("/".join(scope) or "the hub" for scope in self._tokens)
        more = len(names) - _NAMED
        return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")

    def only_for(self, key: IdentityKey) -> bool:
        """Whether no token is good for anybody but ``key``."""
        own = identity_path(key)
        return not self._tokens.keys() - {own, scope_of(own)}

    def clear(self) -> None:
        """The connection is gone."""
        self._grants.clear()
        self._tokens.clear()

    def _ran_out(self) -> None:
        gone = [scope for scope in self._tokens if not self._grants.holds(scope)]
        for scope in gone:
            del self._tokens[scope]
        for scope in gone:
            if self.when_expired is not None:
                self.when_expired(scope)
