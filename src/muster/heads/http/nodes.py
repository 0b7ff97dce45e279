"""``/$muster/nodes``: the nodes of a deployment, for the owner of its first hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from muster.access.roles import ManagementAction
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.policies import BUILT_IN, OWNER


class NodeOperations:
    """Who serves the hubs. Among the operations of the first hub alone."""

    def __init__(self, reports: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]) -> None:
        """``reports`` tells of each node, see ``node.nodes.Nodes``."""
        self._reports = reports

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        right, read = BUILT_IN[OWNER], (ManagementAction.READ,)
        return [Operation("GET", "/$muster/nodes", right, self.list, actions=read, scope="")]

    async def list(self, _: Call) -> Response:
        """The nodes with their leases, and how many devices are connected to each.

        ``{"nodes": [...]}``: ``name``, ``this`` (it is the one that answers), ``alive`` (its lease is not over),
        ``lease`` (``null`` where there can be one node only, or this one has lost its own), ``since`` (when it got it,
        by the database's clock), ``renewedSecondsAgo``, ``host``, ``pid``, ``version``, ``addresses``, ``ports`` and
        ``connectedDevices`` by hub, as each said last.
        """
        return json_answer({"nodes": list(await self._reports())})
