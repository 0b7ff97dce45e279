"""``/$muster/roles`` and ``/$muster/grants``: who may do what at the hubs of a deployment."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from muster.access.custom_roles import full_name
from muster.access.granting import Granting, Told
from muster.access.grants import Grant
from muster.access.roles import ALL_ROLES, ManagementAction
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.grant_bodies import grant_members, read_grant
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.policies import BUILT_IN, OWNER


class RolePlaces(NamedTuple):
    """``names`` gives what grants may name as their hub: the hubs there are, and the id scope of provisioning.
    ``trouble`` says why the file of roles does not count as it is, empty when it does or there is none."""

    names: Callable[[], Collection[str]]
    trouble: Callable[[], str]


class RoleOperations:
    """Operations of the command line on a running deployment. They are among those of the first hub alone."""

    def __init__(self, granting: Granting, places: RolePlaces) -> None:
        self._granting = granting
        self._places = places

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right = BUILT_IN[OWNER]
        read, write = (ManagementAction.ROLES_READ,), (ManagementAction.ROLES_WRITE,)
        return [
            Operation("GET", "/$muster/roles", right, self.list, actions=read, scope=""),
            *(
                Operation(method, path, right, handler, actions=write, changes=changes, scope="")
                for method, path, handler, changes in (
                    ("PUT", "/$muster/roles/{role}", self.define, "role.put"),
                    ("DELETE", "/$muster/roles/{role}", self.remove, "role.delete"),
                    ("POST", "/$muster/grants", self.grant, "role.grant"),
                    ("DELETE", "/$muster/grants/{grant}", self.revoke, "role.revoke"),
                )
            ),
        ]

    async def list(self, _: Call) -> Response:
        """``{"roles": [{"name", "kind", "actions", "allows"}], "grants": [{"id", ..., "source", "counts"}],
        "fileTrouble"}``; ``kind`` is ``builtIn``, ``file`` or ``command``, ``allows`` each action in full."""
        granting = self._granting
        built_in = [_role(role.name, "builtIn", role.patterns, granting) for role in ALL_ROLES]
        custom = [
            _role(name, "file" if granting.is_filed(name) else "command", role.patterns, granting)
            for name, role in granting.custom_roles.items()
        ]
        body = {"roles": [*built_in, *custom], "grants": list(map(_told, granting.grants()))}
        trouble = self._places.trouble()
        return json_answer({**body, **({"fileTrouble": trouble} if trouble else {})})

    async def define(self, call: Call) -> Response:
        """Define the role of the path by ``{"actions": [...]}``. Raises ``HubError`` as ``Granting.define``."""
        name, members = call.parameters["role"], await call.json_object()
        role = await self._granting.define(name, members.texts("actions"), call.note(f"roles/{name}"))
        return json_answer(_role(name, "command", role.patterns, self._granting))

    async def remove(self, call: Call) -> Response:
        """Remove a role; 204."""
        name = call.parameters["role"]
        await self._granting.remove_role(name, call.note(f"roles/{name}"))
        return Response(status=204)

    async def grant(self, call: Call) -> Response:
        """Grant a role, see ``dialect.grant_bodies.read_grant``; the answer is the grant with its id.

        Raises ``HubError`` 400004 for a hub that there is not, and as ``Granting.grant``.
        """
        grant = self._placed(read_grant(await call.json()))
        await self._granting.grant(grant, call.note(f"grants/{grant.id}"))
        return json_answer(_told(Told(grant, in_file=False, counts=True)))

    async def revoke(self, call: Call) -> Response:
        """Take a grant back; 204."""
        grant = call.parameters["grant"]
        await self._granting.revoke(grant, call.note(f"grants/{grant}"))
        return Response(status=204)

    def _placed(self, grant: Grant) -> Grant:
        names = self._places.names()
        if grant.hub and grant.hub not in names:
            raise HubError(ARGUMENT_INVALID, f"hub {grant.hub[:80]!r} is not there, name one of {', '.join(names)}.")
        return grant


def _role(name: str, kind: str, patterns: tuple[str, ...], granting: Granting) -> dict[str, Any]:
    allowed = granting.actions_of(name) or frozenset()
    return {"name": name, "kind": kind, "actions": list(patterns), "allows": sorted(map(full_name, allowed))}


def _told(told: Told) -> dict[str, Any]:
    source = "file" if told.in_file else "command"
    return {"id": told.grant.id, **grant_members(told.grant), "source": source, "counts": told.counts}
