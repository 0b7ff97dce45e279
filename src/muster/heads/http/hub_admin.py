"""``/$muster/hubs``: the hubs of a deployment, for the owner of its first hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from muster.access.roles import ManagementAction
from muster.dialect.hub_bodies import read_hub, read_switches
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.policies import BUILT_IN, OWNER


class HubAdmin(Protocol):
    """The hubs of a running node; a ``node.deployment.Deployment``."""

    async def reports(self) -> Sequence[Mapping[str, Any]]:
        """What hubs there are, the first one first."""
        ...

    async def add(self, name: str, members: Mapping[str, Any]) -> None:
        """Open a hub, now and at every start. Raises ``HubError``."""
        ...

    async def switch(self, name: str, wanted: Mapping[str, bool]) -> None:
        """Say which kinds of SAS token a hub takes no more. Raises ``HubError``."""
        ...

    async def remove(self, name: str) -> None:
        """End a hub and all that it has. Raises ``HubError``."""
        ...


class HubOperations:
    """Operations of the command line on a running deployment. They are among those of the first hub alone."""

    def __init__(self, admin: HubAdmin) -> None:
        self._admin = admin

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right = BUILT_IN[OWNER]
        read, write = (ManagementAction.READ,), (ManagementAction.WRITE,)
        return [
            Operation("GET", "/$muster/hubs", right, self.list, actions=read),
            Operation("PUT", "/$muster/hubs/{hub}", right, self.add, actions=write),
            Operation("PATCH", "/$muster/hubs/{hub}", right, self.change, actions=write),
            Operation("DELETE", "/$muster/hubs/{hub}", right, self.remove, actions=write),
        ]

    async def list(self, _: Call) -> Response:
        """``{"hubs": [...]}``; how to reach them stands in the data directory, keys do not leave it this way."""
        return json_answer({"hubs": list(await self._admin.reports())})

    async def add(self, call: Call) -> Response:
        """Add a hub, see ``dialect.hub_bodies.read_hub``; 201. It serves when this is answered."""
        await self._admin.add(call.parameters["hub"], read_hub(await call.json_object()))
        return Response(status=201)

    async def change(self, call: Call) -> Response:
        """Change a hub, see ``dialect.hub_bodies.read_switches``; 204. It counts when this is answered."""
        await self._admin.switch(call.parameters["hub"], read_switches(await call.json_object()))
        return Response(status=204)

    async def remove(self, call: Call) -> Response:
        """Remove a hub with all that it has; 204."""
        await self._admin.remove(call.parameters["hub"])
        return Response(status=204)
