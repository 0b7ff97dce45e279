"""Who may manage: the owner of the first hub all, of another hub that one alone, of the provisioning service that.

A shared access signature of a policy with every right may stand behind ``Bearer``, where Azure's SDKs put whatever
their credential returns. Who comes with a token of an issuer needs a role: Reader to read, else Contributor.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from muster.access.roles import ManagementAction
from muster.core.errors import UNAUTHORIZED, HubError
from muster.core.management_errors import AUTHORIZATION_FAILED, RESOURCE_NOT_FOUND
from muster.heads.arm.managed import ManagedHub, ManagedNode, ManagedService
from muster.heads.back_off import hold
from muster.heads.http.auth import authorize
from muster.heads.http.network import check_network
from muster.heads.http.operations import Call
from muster.identity.mistakes import shown
from muster.identity.network import Target
from muster.identity.policies import BUILT_IN, OWNER, PROVISIONING_RIGHTS
from muster.identity.refusals import Refusals
from muster.identity.sas import SasError, parse, resource_hosts

READ, WRITE = (ManagementAction.READ,), (ManagementAction.WRITE,)
_BEFORE_SIGNATURE = re.compile(r"bearer\s+(?=sharedaccesssignature\s)", re.IGNORECASE)


class Reach(NamedTuple):
    """What a caller may manage: ``hub`` alone, or with ``None`` all."""

    hub: str | None = None

    def covers(self, name: str) -> bool:
        """Whether that is one of his."""
        return self.hub in {None, name}

    def require(self, name: str | None) -> None:
        """Raise ``HubError`` 403310 unless that is one of his; ``None``: all."""
        if self.hub not in {None, name}:
            raise HubError(AUTHORIZATION_FAILED, f"The owner of {self.hub} may manage that hub and nothing else.")


class Access:
    """Judges callers by the policies of the hubs of ``node`` and of the ``provisioning`` service, and by roles: bearer
    tokens are the first hub's to judge, whatever they are about."""

    def __init__(self, node: ManagedNode, provisioning: ManagedService) -> None:
        self._node = node
        self._provisioning = provisioning
        self.first, self.scope = node.find().name, provisioning.scope
        """The names of the first hub and of the provisioning service, under which the audit log has their records."""

    async def judge(self, call: Call, about: str = "") -> Reach:
        """What the caller may manage; a role must be good for the hub ``about``, or with none for all.

        Raises ``HubError`` 401002, 403000 for a bearer without the role, 429001 above a caller's own rate.
        """
        token = signature_of(call)
        hub = self._node.find(*resource_hosts(token))
        assert call.operation is not None, "it was found"
        actions = READ if call.operation.method == "GET" else WRITE
        async with _held_back(call, hub.refusals):
            check_network(call, hub.network)
            pending = authorize(call, BUILT_IN[OWNER], hub.gate, actions, token=token, hub=about)
            if pending is not None:
                await pending
        hub.meters.take_principal(call.caller)
        return Reach(None if hub.first else hub.name)

    async def everything(self, call: Call) -> None:
        """Raise ``HubError``, 403310 too, unless the caller manages all."""
        (await self.judge(call)).require(None)

    async def hub(self, call: Call) -> ManagedHub:
        """The hub that the path names, for a caller who may manage it. Raises ``HubError`` as ``judge``, 403310,
        404310."""
        name = call.parameters["hub"]
        found = self.find(name)
        call.hub = "" if found is None else found.name  # whose records the call makes
        reach = await self.judge(call, name.lower() if found is None else found.name)
        reach.require("" if found is None else found.name)
        if found is None:
            raise HubError(
                RESOURCE_NOT_FOUND,
                f"There is no hub {shown(name[:64])} here, its name is the host up to the first dot.",
            )
        return found

    async def services(self, call: Call) -> None:
        """Raise ``HubError`` as ``everything`` unless the caller may manage the provisioning service: by one of its own
        policies with every right, by a role, or as who manages all."""
        if not await self._owns_service(call):
            (await self.judge(call, self._provisioning.scope)).require(None)

    async def anything(self, call: Call) -> None:
        """Raise ``HubError`` as ``judge`` unless the caller may manage anything at all."""
        if not await self._owns_service(call):
            await self.judge(call)

    async def _owns_service(self, call: Call) -> bool:
        """Whether a policy of the provisioning service calls. Raises ``HubError`` 401002 when it may not manage."""
        token = signature_of(call)
        try:
            policy = parse(token).policy
        except SasError:
            return False
        if policy not in self._provisioning.policies:
            return False
        async with _held_back(call, self._node.find().refusals):
            check_network(call, self._provisioning.network, Target.SERVICE)
            authorize(call, PROVISIONING_RIGHTS, self._provisioning.gate, token=token)
        self._node.find().meters.take_principal(call.caller)
        return True

    async def service(self, call: Call) -> ManagedService:
        """The provisioning service that the path names, for a caller who may manage it. Raises ``HubError`` as
        ``services``, 404310."""
        await self.services(call)
        if not self._provisioning.called(call.parameters["service"]):
            name, own = shown(call.parameters["service"][:64]), self._provisioning.names[0]
            raise HubError(RESOURCE_NOT_FOUND, f"There is no provisioning service {name} here, its name is {own}.")
        return self._provisioning

    def find(self, name: str) -> ManagedHub | None:
        """The hub that is called ``name``, in any case."""
        every, name = self._node.managed(), name.lower()
        own = (one for one in every if one.name.lower() == name)
        return next(own, None) or next((one for one in every if name in one.names), None)


def signature_of(call: Call) -> str:
    """The ``Authorization`` header, without the ``Bearer`` before a shared access signature."""
    return _BEFORE_SIGNATURE.sub("", call.request.said.authorization, count=1)


@asynccontextmanager
async def _held_back(call: Call, refusals: Refusals) -> AsyncIterator[None]:
    """Hold a refusal of the caller back, if he has failed often of late."""
    try:
        yield
    except HubError as error:
        if error.row.status == UNAUTHORIZED.status:
            call.request.cancel_when_lost = True
            await hold(refusals, call.peer, "" if call.verdict is None else call.verdict.principal)
        raise
