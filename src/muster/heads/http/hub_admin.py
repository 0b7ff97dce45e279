"""``/$muster/hubs``: the hubs of a deployment, for the owner of its first hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from muster.access.roles import ManagementAction
from muster.core.audit import Note
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

    async def add(self, name: str, members: Mapping[str, Any], note: Note | None = None) -> None:
        """Open a hub, now and at every start, on record as ``note`` says. Raises ``HubError``."""
        ...

    async def switch(self, name: str, wanted: Mapping[str, bool], note: Note | None = None) -> None:
        """Say which kinds of SAS token a hub takes no more. Raises ``HubError``."""
        ...

    async def remove(self, name: str, note: Note | None = None) -> None:
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
            Operation("GET", "/$muster/hubs", right, self.list, actions=read, scope=""),
            *(
                Operation(method, "/$muster/hubs/{hub}", right, handler, actions=write, changes=changes, scope="")
                for method, handler, changes in (
                    ("PUT", self.add, "hub.put"),
                    ("PATCH", self.change, "hub.patch"),
                    ("DELETE", self.remove, "hub.delete"),
                )
            ),
        ]

    async def list(self, _: Call) -> Response:
        """``{"hubs": [...]}``; how to reach them stands in the data directory, keys do not leave it this way."""
        return json_answer({"hubs": list(await self._admin.reports())})

    async def add(self, call: Call) -> Response:
        """Add a hub, see ``dialect.hub_bodies.read_hub``; 201. It serves when this is answered."""
        name = call.parameters["hub"]
        await self._admin.add(name, read_hub(await call.json_object()), call.note(f"hubs/{name}"))
        return Response(status=201)

    async def change(self, call: Call) -> Response:
        """Change a hub, see ``dialect.hub_bodies.read_switches``; 204. It counts when this is answered."""
        name = call.parameters["hub"]
        await self._admin.switch(name, read_switches(await call.json_object()), call.note(f"hubs/{name}"))
        return Response(status=204)

    async def remove(self, call: Call) -> Response:
        """Remove a hub with all that it has; 204."""
        name = call.parameters["hub"]
        await self._admin.remove(name, call.note(f"hubs/{name}"))
        return Response(status=204)
