"""The decision whether a caller may act, once its bearer token is proven: the contract, and the ``roles`` claim.

Whoever adds ways to have a role (grants to subjects, groups, applications) implements ``Decide``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from muster.access.roles import Action, roles_for

_MOST_NAMES = 256
_MOST_CHARACTERS = 256


class Caller(NamedTuple):
    """Who a proven token speaks for.

    ``issuer`` is the exact text of ``iss``: nothing of the others means the same at another issuer. ``subjects`` are
    ``sub`` and ``oid``, ``groups`` the claim ``groups``, ``applications`` are ``azp``, ``appid`` and ``client_id``,
    ``roles`` the names in the claim ``roles``. Texts of more than 256 characters, and whatever is no text, are left
    out; of each list the first 256 count. ``expires`` is in seconds since 1970, skew not included.
    """

    issuer: str
    subjects: frozenset[str]
    groups: frozenset[str]
    applications: frozenset[str]
    roles: frozenset[str]
    expires: float
    name: str
    """The subject, or else the application."""

    @property
    def principal(self) -> str:
        """How verdicts call it: the name means nothing without the issuer, and is never taken for a device's id."""
        return f"{self.name} ({self.issuer})"


class Decision(NamedTuple):
    """Whether the caller may.

    ``everywhere``: it holds for every device of the hub and for the hub as a whole, until roles change, so it may be
    remembered. ``ground`` says in few words by what it is allowed (``role IoT Hub Data Reader of the token``), empty
    when refused. ``roles`` would do, when refused; a role's name each. ``elsewhere`` says where else the caller has
    such a role, when refused: at which hub, for which devices; empty for nowhere.
    """

    allowed: bool
    everywhere: bool = True
    ground: str = ""
    roles: tuple[str, ...] = ()
    elsewhere: str = ""


class Decide(Protocol):
    """The one place where it is decided what a proven caller may do."""

    async def __call__(self, caller: Caller, action: Action, hub: str, device_id: str | None) -> Decision:
        """May ``caller`` do ``action`` at ``hub``, to the device ``device_id`` or one of its modules?

        ``hub`` is a hub's name, the id scope of a provisioning service, or empty for a management call that is about
        none. ``device_id`` is ``None`` where the operation is about no single device (a list, a query): only who may
        do it to all of them may then. Raises ``HubError`` 500001 when a store fails.
        """
        ...


async def by_claim(caller: Caller, action: Action, hub: str, device_id: str | None) -> Decision:  # noqa: ARG001
    """See ``Decide``: the roles that the issuer put into the token, at every hub."""
    for role in roles_for(action):
        if role in caller.roles:
            return Decision(allowed=True, ground=f"role {role} of the token")
    return Decision(allowed=False, roles=roles_for(action))


def read_caller(issuer: str, claims: Mapping[str, Any], expires: float) -> Caller:
    """Who the claims of a proven token speak for. Never raises: what cannot be read counts for nothing."""
    subjects, applications = (
        [name for claim in named if (name := _text(claims.get(claim)))]
        for named in (("sub", "oid"), ("azp", "appid", "client_id"))
    )
    return Caller(
        issuer=issuer,
        subjects=frozenset(subjects),
        groups=_texts(claims.get("groups")),
        applications=frozenset(applications),
        roles=_texts(claims.get("roles")),
        expires=expires,
        name=next(iter([*subjects, *applications]), "a caller without a name"),
    )


def _texts(said: object) -> frozenset[str]:
    some: Iterable[object] = said[:_MOST_NAMES] if isinstance(said, list) else ()
    return frozenset(filter(None, map(_text, some)))


def _text(said: object) -> str:
    return said if isinstance(said, str) and len(said) <= _MOST_CHARACTERS else ""
