"""The device tokens put on one AMQP connection: each is good for an identity, or with a policy's key for many."""

from __future__ import annotations

from collections.abc import Callable

from muster.core.ambient import Ambient
from muster.dialect.device_amqp import identity_path
from muster.heads.grants import Grants, Scope, scope_of
from muster.identity.hub import Hub
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right, Verdict

_NAMED = 3
"""How many tokens a refusal names: a gateway has a thousand."""


class DeviceGrants:
    """Tokens by scope. ``when_lost`` is called with the scope of one that does not count any more, and was not renewed
    meanwhile; why (a name in ``identity.causes``), what is expected, and what is seen."""

    __slots__ = ("_grants", "_tokens", "when_lost")

    def __init__(self, ambient: Ambient) -> None:
        self._grants = Grants(ambient, self._ran_out)
        self._tokens: dict[Scope, str] = {}
        self.when_lost: Callable[[Scope, str, str, str], None] | None = None

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

    def withdraw(self, hub: Hub) -> None:
        """Forget the tokens that do not let devices into ``hub`` any more."""
        lost = self._grants.withdraw(hub, Right.DEVICE_CONNECT)
        for scope in lost:
            del self._tokens[scope]
        for scope, (cause, seen) in lost.items():
            self._tell(scope, cause, "a token that still counts", seen)

    def clear(self) -> None:
        """The connection is gone."""
        self._grants.clear()
        self._tokens.clear()

    def _ran_out(self) -> None:
        gone = [scope for scope in self._tokens if not self._grants.holds(scope)]
        for scope in gone:
            del self._tokens[scope]
        for scope in gone:
            self._tell(scope, "token-expiry", "a token renewed in time", "the token has expired")

    def _tell(self, scope: Scope, cause: str, expected: str, seen: str) -> None:
        if self.when_lost is not None:
            self.when_lost(scope, cause, expected, seen)
