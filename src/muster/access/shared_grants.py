"""Roles and grants that several nodes have in common: who changes them through this store tells the others."""

from __future__ import annotations

from collections.abc import Callable

from muster.access.custom_roles import CustomRole
from muster.access.grants import Grant, GrantStore, KeptRoles
from muster.core.audit import Draft

GRANTS = "/grants"
"""What is announced among the settings; no setting has this name."""


class SharedGrants:
    """A ``GrantStore`` on another one; ``announce`` is called after each change."""

    def __init__(self, store: GrantStore, announce: Callable[[], None]) -> None:
        self._store = store
        self._announce = announce

    async def load(self) -> KeptRoles:
        """See ``GrantStore``."""
        return await self._store.load()

    async def put_role(self, role: CustomRole, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._store.put_role(role, draft)
        self._announce()

    async def remove_role(self, name: str, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._store.remove_role(name, draft)
        self._announce()

    async def put_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._store.put_grant(grant, draft)
        self._announce()

    async def remove_grant(self, grant: Grant, draft: Draft | None = None) -> None:
        """See ``GrantStore``."""
        await self._store.remove_grant(grant, draft)
        self._announce()
