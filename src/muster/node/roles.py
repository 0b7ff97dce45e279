"""The operator's roles and grants in a node: kept in its database, read from his file, asked of its hubs' devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from muster.access.granting import Granting, Matches
from muster.access.shared_grants import GRANTS, SharedGrants
from muster.core.ambient import Ambient
from muster.heads.http.operations import Operation
from muster.heads.http.role_admin import RoleOperations, RolePlaces
from muster.identity.bearer_gate import BearerGate
from muster.node.foundation import Undo
from muster.node.roles_file import RolesFile
from muster.stores.storage import Storage
from muster.twins.query.parser import parse_condition

if TYPE_CHECKING:
    from muster.node.hubs import Hubs


class Roles:
    """``granting`` decides from the start on. Until ``serve`` nobody remembers what it has decided."""

    def __init__(self, storage: Storage, hubs: Callable[[], Hubs]) -> None:
        self._kept = storage.settings
        store = SharedGrants(storage.grants, partial(storage.settings.announce, GRANTS))
        self.granting = Granting(store, _check_condition, _asking(hubs))
        self._file: RolesFile | None = None

    async def load(self, path: Path | None, ambient: Ambient, undo: Undo) -> None:
        """Take what was kept, and what is in the file if there is one. Raises ``HubError``."""
        await self.granting.load()
        self._kept.follow(GRANTS, self.granting.load)
        if path is not None:
            self._file = await RolesFile.open(path, self.granting, self._kept, ambient)
            undo.append(self._file.close)

    def reload(self) -> None:
        """Take the file now."""
        if self._file is not None:
            self._file.reload()

    def serve(self, hubs: Hubs, id_scope: str, provisioning: BearerGate | None) -> list[Operation]:
        """The operations on roles. From now on the gates of ``hubs`` and that of provisioning are told of changes."""

        def tell() -> None:
            for hub in hubs.all():
                hub.parts.bearer.roles_changed()
            if provisioning is not None:
                provisioning.roles_changed()

        self.granting.changed = tell
        hubs.when_closing(lambda hub: self.granting.hub_closed(hub.name))
        places = RolePlaces(lambda: [*(hub.name for hub in hubs.all()), id_scope], self._trouble)
        return RoleOperations(self.granting, places).table()

    def _trouble(self) -> str:
        return "" if self._file is None else self._file.trouble


def _check_condition(text: str) -> None:
    parse_condition(text)


def _asking(hubs: Callable[[], Hubs]) -> Matches:
    async def matches(hub: str, device_id: str, conditions: Sequence[str]) -> bool:
        found = hubs().get(hub)
        return found is not None and await found.parts.queries.matches(device_id, conditions)

    return matches
