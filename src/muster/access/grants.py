"""Roles granted to callers by the operator: what a grant is, and the contract of who keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from muster.access.custom_roles import CustomRole, check_role_name
from muster.core.audit import Draft
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.grant_limits import CONDITION_CHARACTERS, PRINCIPAL_CHARACTERS

_ID_CHARACTERS = 16
_SHOWN = 80


class PrincipalKind(StrEnum):
    """By which claims of a token a principal is known."""

    SUBJECT = "subject"
    """``sub`` or ``oid``."""
    GROUP = "group"
    """One of ``groups``."""
    APPLICATION = "application"
    """``azp``, ``appid`` or ``client_id``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Callers that are ``principal`` have ``role``.

    ``issuer`` is whose tokens count, any trusted issuer's where it is empty. The scope: ``hub`` is a hub's name or the
    id scope of a provisioning service, empty for all there are; ``devices`` is a condition of the query language
    (``tags.site = 'berlin'``), and then the role counts only for operations about one device that it is true of;
    empty for the hub with everything in it.
    """

    role: str
    kind: PrincipalKind
    principal: str
    issuer: str = ""
    hub: str = ""
    devices: str = ""

    @property
    def id(self) -> str:
        """Names the grant. Made of all that it says: the same grant twice is one."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_CHARACTERS]

    def is_at(self, hub: str) -> bool:
        """Whether it counts at ``hub``, for some of its devices at least."""
        return not self.hub or self.hub.lower() == hub.lower()

    def is_by(self, issuer: str) -> bool:
        """Whether it counts for tokens of ``issuer``; a slash at the end makes no other issuer."""
        return not self.issuer or self.issuer.rstrip("/") == issuer.rstrip("/")

    def __str__(self) -> str:
        """In words, as verdicts have it."""
        where = f"at {self.hub}" if self.hub else "at all hubs"
        return f"{self.role} {where}" + (f" for devices where {self.devices}" if self.devices else "")


CheckCondition = Callable[[str], None]
"""Raises ``HubError`` 400004 for a text that is no condition of the query language."""


def check_grant(grant: Grant, check_condition: CheckCondition) -> None:
    """Raise ``HubError`` 400004 or 400005 that names the field of ``grant`` that cannot be and what to do."""
    check_role_name(grant.role)
    if not grant.principal:
        raise HubError(ARGUMENT_NULL, f"{grant.kind} is empty, name whom to grant the role.")
    most = PRINCIPAL_CHARACTERS.open
    for field, text in ((str(grant.kind), grant.principal), ("issuer", grant.issuer), ("hub", grant.hub)):
        if len(text) > most or not text.isprintable() or text != text.strip():
            raise HubError(
                ARGUMENT_INVALID, f"{field} is {text[:_SHOWN]!r}, give up to {most} characters as they stand in tokens."
            )
    if len(grant.devices) > CONDITION_CHARACTERS.open:
        raise HubError(
            ARGUMENT_INVALID,
            f"devices has {len(grant.devices)} characters, {CONDITION_CHARACTERS.open} are allowed. Give the devices a "
            "tag and ask for that.",
        )
    if grant.devices:
        try:
            check_condition(grant.devices)
        except HubError as error:
            raise HubError(
                error.row, f"devices is no condition (such as tags.site = 'berlin'): {error.message}"
            ) from None


class KeptRoles(NamedTuple):
    """All that is kept."""

    roles: Sequence[CustomRole]
    grants: Sequence[Grant]


class GrantStore(Protocol):
    """Keeps roles and grants that were made by command, for all hubs of a deployment.

    Promises: what a call has written is durable when it returns, with the record that ``draft`` asks for. Does not
    promise any order, nor that a grant's role is among the roles. Raises ``HubError`` 500001 when the disk fails.
    """

    async def load(self) -> KeptRoles:
        """All of them."""
        ...

    async def put_role(self, role: CustomRole, draft: Draft | None = None) -> None:
        """Keep ``role``, in place of one of its name."""
        ...

    async def remove_role(self, name: str, draft: Draft | None = None) -> None:
        """Keep the role no longer, if there is one."""
        ...

    async def put_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        """Keep ``grant``; nothing changes if it is kept already."""
        ...

    async def remove_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        """Keep ``grant`` no longer, if it is kept."""
        ...
