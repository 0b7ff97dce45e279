"""The device tokens put on one AMQP connection: each is good for an identity, or with a policy's key for many."""

from __future__ import annotations

from collections.abc import Callable

from muster.core.ambient import Ambient
from muster.dialect.device_amqp import identity_path
from muster.heads.grants import Grants, Scope, scope_of
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict


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

        Raises ``HubError`` 403005 when there are too many.
        """
        self._grants.add(scope, verdict)
        self._tokens[scope] = token

    def find(self, key: IdentityKey) -> tuple[Scope, str] | None:
        """The token that says most precisely that it is for ``key``, and its scope."""
        path = scope_of(identity_path(key))
        for length in range(len(path), -1, -1):
            token = self._tokens.get(path[:length])
            if token is not None:
                return path[:length], token
        return None

    def only_for(self, key: IdentityKey) -> bool:
        """Whether no token is good for anybody but ``key``."""
        return not self._tokens.keys() - {scope_of(identity_path(key))}

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
