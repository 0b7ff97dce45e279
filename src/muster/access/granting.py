"""The roles and grants of a deployment in force: those made by command, and those of the operator's file."""

from __future__ import annotations

import asyncio
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from muster.access.custom_roles import CustomRole, make_role
from muster.access.decision import Caller, Decision, by_claim
from muster.access.grants import CheckCondition, Grant, GrantStore, KeptRoles, PrincipalKind, check_grant
from muster.access.roles import ALLOWED, Action, roles_for
from muster.core.audit import Draft, Note
from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, NOT_FOUND, HubError
from muster.core.grant_limits import CUSTOM_ROLES, GRANTS

_CONDITIONS_AT_ONCE = 32
_MOST_TOLD = 3
_SHOWN = 80


class Matches(Protocol):
    """Asks the devices of the hubs."""

    async def __call__(self, hub: str, device_id: str, conditions: Sequence[str]) -> bool:
        """Whether the device ``device_id`` of ``hub`` is there and one of ``conditions`` is true of it now.

        Raises ``HubError``: 429001 when too many queries are in progress, 500001 when the disk fails.
        """
        ...


class Told(NamedTuple):
    """A grant as it is listed: whether it is from the file, and whether its role is there."""

    grant: Grant
    in_file: bool
    counts: bool


class Granting:
    """Roles and grants, and the decision by them: implements ``access.decision.Decide``.

    Everything is in memory. Of a role that stands in both places the file's counts. ``changed`` is called after each
    change, so that nothing that was decided before is remembered.
    """

    def __init__(self, store: GrantStore, check_condition: CheckCondition, matches: Matches) -> None:
        self._store, self._check_condition, self._matches = store, check_condition, matches
        self._kept_roles: dict[str, CustomRole] = {}
        self._filed_roles: dict[str, CustomRole] = {}
        self._kept: dict[str, Grant] = {}
        self._filed: dict[str, Grant] = {}
        self._by_principal: dict[tuple[PrincipalKind, str], list[Grant]] = {}
        self._changing = asyncio.Lock()
        self.changed: Callable[[], None] = lambda: None

    async def load(self) -> None:
        """Take those that were kept. Raises ``HubError`` 500001."""
        kept = await self._store.load()
        self._kept_roles = {role.name: role for role in kept.roles}
        self._kept = {grant.id: grant for grant in kept.grants}
        self._settle()

    # --- what there is

    @property
    def custom_roles(self) -> Mapping[str, CustomRole]:
        """The operator's roles, by name."""
        return ChainMap(self._filed_roles, self._kept_roles)

    def is_filed(self, role: str) -> bool:
        """Whether the role is one of the file."""
        return role in self._filed_roles

    def actions_of(self, role: str) -> frozenset[Action] | None:
        """What ``role`` allows, ``None`` when there is no such role."""
        if role in ALLOWED:
            return ALLOWED[role]
        found = self.custom_roles.get(role)
        return None if found is None else found.actions

    def grants(self) -> Iterator[Told]:
        """All grants, those of the file first."""
        for grant in self._all():
            yield Told(grant, grant.id in self._filed, self.actions_of(grant.role) is not None)

    def _all(self) -> Iterable[Grant]:
        return (self._filed | self._kept).values()

    # --- changes

    async def define(self, name: str, patterns: Sequence[str], note: Note | None = None) -> CustomRole:
        """Make a role, or another one of it; it counts, and is on disk, when this returns.

        Raises ``HubError``: as ``make_role``, 400003 for one of the file, 400004 for one too many.
        """
        role = make_role(name, patterns)
        async with self._changing:
            self._check_not_filed(name)
            if name not in self._kept_roles and len(self._kept_roles) >= CUSTOM_ROLES.open:
                raise HubError(ARGUMENT_INVALID, f"There are {CUSTOM_ROLES.open} roles already, remove one first.")
            before = self._kept_roles.get(name)
            await self._store.put_role(role, _record(note, _role_told(before), _role_told(role)))
            self._kept_roles[name] = role
            self._settle()
        return role

    async def remove_role(self, name: str, note: Note | None = None) -> None:
        """Remove a role. Raises ``HubError``: 400003 for a built-in one, one of the file, or one that is granted;
        404000 for none."""
        if name in ALLOWED:
            raise HubError(INVALID_OPERATION, f"{name} is a built-in role, it stays; revoke its grants instead.")
        async with self._changing:
            self._check_not_filed(name)
            if name not in self._kept_roles:
                raise HubError(NOT_FOUND, f"There is no role {name[:_SHOWN]!r}, see: muster role list")
            granted = sum(told.grant.role == name for told in self.grants())
            if granted:
                raise HubError(INVALID_OPERATION, f"{name} is granted ({granted} grants), revoke those first.")
            await self._store.remove_role(name, _record(note, _role_told(self._kept_roles[name]), None))
            del self._kept_roles[name]
            self._settle()

    async def grant(self, grant: Grant, note: Note | None = None) -> None:
        """Grant a role; it counts, and is on disk, when this returns. A grant that is there already stays.

        Raises ``HubError``: as ``check_grant``, 400003 for one that stands in the file, 400004 for an unknown role or
        one grant too many.
        """
        check_grant(grant, self._check_condition)
        async with self._changing:
            self._check_role(grant, self.custom_roles)
            if grant.id in self._filed:
                raise HubError(INVALID_OPERATION, f"The grant {grant.id} stands in the file of roles already.")
            if grant.id in self._kept:
                return
            if len(self._kept) >= GRANTS.open:
                raise HubError(
                    ARGUMENT_INVALID, f"There are {GRANTS.open} grants already, grant roles to groups, not to each one."
                )
            await self._store.put_grant(grant, _record(note, None, asdict(grant)))
            self._kept[grant.id] = grant
            self._settle()

    async def revoke(self, grant_id: str, note: Note | None = None) -> None:
        """Take a grant back. Raises ``HubError``: 400003 for one of the file, 404000 for none."""
        async with self._changing:
            if grant_id in self._filed:
                message = f"The grant {grant_id} stands in the file of roles, take it out there."
                raise HubError(INVALID_OPERATION, message)
            if grant_id not in self._kept:
                raise HubError(NOT_FOUND, f"There is no grant {grant_id[:_SHOWN]!r}, see: muster role list")
            grant = self._kept[grant_id]
            await self._store.remove_grant(grant, _record(note, asdict(grant), None))
            del self._kept[grant_id]
            self._settle()

    def take_file(self, filed: KeptRoles) -> None:
        """The file holds ``filed`` now, in place of what it held; all of it counts, or when it raises none.

        Raises ``HubError`` as ``check_file``.
        """
        self.check_file(filed)
        self._filed_roles = {role.name: role for role in filed.roles}
        self._filed = {grant.id: grant for grant in filed.grants}
        self._settle()

    def check_file(self, filed: KeptRoles) -> None:
        """Whether the file may hold ``filed``. Raises ``HubError``: as ``check_grant``, 400004 for an unknown role, one
        defined twice or too many."""
        roles = {role.name: role for role in filed.roles}
        if len(roles) < len(filed.roles) or len(roles) > CUSTOM_ROLES.open:
            raise HubError(ARGUMENT_INVALID, f"roles are up to {CUSTOM_ROLES.open}, each with a name of its own.")
        if len(filed.grants) > GRANTS.open:
            raise HubError(ARGUMENT_INVALID, f"grants are {len(filed.grants)}, give up to {GRANTS.open}.")
        known = ChainMap(roles, self._kept_roles)
        for number, grant in enumerate(filed.grants, 1):
            try:
                check_grant(grant, self._check_condition)
                self._check_role(grant, known)
            except HubError as error:
                raise HubError(error.row, f"grant {number}: {error.message}") from None

    def hub_closed(self, name: str) -> None:
        """The hub ``name`` is being removed: what was granted there by command is gone, no later hub inherits it."""
        self._kept = {key: grant for key, grant in self._kept.items() if grant.hub.lower() != name.lower()}
        self._settle()

    def _check_not_filed(self, role: str) -> None:
        if role in self._filed_roles:
            raise HubError(INVALID_OPERATION, f"{role} stands in the file of roles, change it there.")

    @staticmethod
    def _check_role(grant: Grant, custom: Mapping[str, CustomRole]) -> None:
        if grant.role not in ALLOWED and grant.role not in custom:
            raise HubError(
                ARGUMENT_INVALID,
                f"role {grant.role[:_SHOWN]!r} is unknown, take one of: muster role list, or define it.",
            )

    def _settle(self) -> None:
        found: dict[tuple[PrincipalKind, str], list[Grant]] = {}
        for grant in self._all():
            found.setdefault((grant.kind, grant.principal), []).append(grant)
        self._by_principal = found
        self.changed()

    # --- the decision

    async def decide(self, caller: Caller, action: Action, hub: str, device_id: str | None) -> Decision:
        """See ``Decide``: the roles of the token's claim, custom ones too, then those that were granted."""
        decision = await by_claim(caller, action, hub, device_id)
        if decision.allowed:
            return decision
        custom = [name for name, role in self.custom_roles.items() if action in role.actions]
        for name in custom:
            if name in caller.roles:
                return Decision(allowed=True, ground=f"role {name} of the token")
        held = [grant for grant in self._of(caller) if action in (self.actions_of(grant.role) or ())]
        here = [grant for grant in held if grant.is_at(hub)]
        for grant in here:
            if not grant.devices:
                return Decision(allowed=True, ground=f"role {grant.role} granted to {grant.kind} {grant.principal}")
        if device_id is not None:
            ground = await self._by_device(here, hub, device_id)
            if ground:
                return Decision(allowed=True, everywhere=False, ground=ground)
        return Decision(allowed=False, roles=(*roles_for(action), *custom), elsewhere=_elsewhere(held, here, device_id))

    def _of(self, caller: Caller) -> Iterator[Grant]:
        kinds = (
            (PrincipalKind.SUBJECT, caller.subjects),
            (PrincipalKind.GROUP, caller.groups),
            (PrincipalKind.APPLICATION, caller.applications),
        )
        for kind, names in kinds:
            for name in names:
                for grant in self._by_principal.get((kind, name), ()):
                    if grant.is_by(caller.issuer):
                        yield grant

    async def _by_device(self, here: Sequence[Grant], hub: str, device_id: str) -> str:
        """By which grants the device may be worked on, empty for none. Asked at each call: twins change."""
        for at in range(0, len(here), _CONDITIONS_AT_ONCE):
            some = here[at : at + _CONDITIONS_AT_ONCE]
            if await self._matches(hub, device_id, tuple(dict.fromkeys(grant.devices for grant in some))):
                return " or ".join(dict.fromkeys(f"role {one.role} granted for some devices" for one in some))
        return ""


def _role_told(role: CustomRole | None) -> Any:
    return None if role is None else {"name": role.name, "actions": list(role.patterns)}


def _record(note: Note | None, before: Any, after: Any) -> Draft | None:
    return None if note is None else note(before, after)


def _elsewhere(held: Sequence[Grant], here: Sequence[Grant], device_id: str | None) -> str:
    """What the caller has that would do elsewhere, in words; empty for nothing."""
    told = here or held
    if not told:
        return ""
    some = ", ".join(dict.fromkeys(str(grant) for grant in told[:_MOST_TOLD]))
    if not here:
        return some
    why = "this operation is not about one device" if device_id is None else "this device is none of them"
    return f"{why}: {some}"
