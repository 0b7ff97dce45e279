"""The shared access policies of a provisioning service: its owner, and those added with some of its rights."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, NOT_FOUND, HubError
from muster.core.provisioning_errors import TOO_MANY_POLICIES
from muster.core.provisioning_limits import SERVICE_POLICIES
from muster.core.settings_store import HubSettingsStore
from muster.identity.keys import check_symmetric_key, generate_key
from muster.identity.mistakes import shown
from muster.identity.policies import PROVISIONING_RIGHTS, SharedAccessPolicy, rights_from, rights_text
from muster.identity.verdict import Right

_SETTING = "provisioning-policies-added"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class PolicyDraft(NamedTuple):
    """What a policy shall be; a key that is ``None`` stays, or is made when there is none yet."""

    rights: Right
    primary_key: str | None = None
    secondary_key: str | None = None


class ServicePolicies(Mapping[str, SharedAccessPolicy]):
    """By name, the owner first. ``changed`` is called after each change, so that no token counts by what it was."""

    def __init__(self, owner: SharedAccessPolicy, store: HubSettingsStore, ambient: Ambient) -> None:
        self._owner, self._store, self._ambient = owner, store, ambient
        self._policies = {owner.name: owner}
        self._changing = asyncio.Lock()
        self.changed: Callable[[], None] = lambda: None

    async def load(self) -> None:
        """Take those that were kept. Raises ``HubError`` 500001."""
        text = await self._store.get_setting(_SETTING)
        for name, (rights, primary, secondary) in json.loads(text or b"{}").items():
            self._policies[name] = SharedAccessPolicy(name, rights_from(rights), primary, secondary)

    async def put(self, name: str, draft: PolicyDraft) -> SharedAccessPolicy:
        """Add a policy or write over it; it counts, and is on disk, when this returns.

        Raises ``HubError``: 400003 for the owner, which stays as it is; 400004 for a name, key or right that cannot be,
        403203 for one too many.
        """
        self._check(name)
        if not draft.rights or draft.rights & ~PROVISIONING_RIGHTS:
            raise HubError(ARGUMENT_INVALID, f"rights must be some of {rights_text(PROVISIONING_RIGHTS)}.")
        for what, key in (("primary key", draft.primary_key), ("secondary key", draft.secondary_key)):
            if key is not None:
                check_symmetric_key(what, key)
        async with self._changing:
            present = self._policies.get(name)
            if present is None and len(self._policies) > SERVICE_POLICIES.open:
                raise HubError(TOO_MANY_POLICIES)
            keys = (None, None) if present is None else (present.primary_key, present.secondary_key)
            given = (draft.primary_key, draft.secondary_key)
            primary, secondary = (
                new or old or generate_key(self._ambient) for new, old in zip(given, keys, strict=True)
            )
            made = SharedAccessPolicy(name, draft.rights, primary, secondary)
            await self._keep({**self._policies, name: made})
            return made

    async def remove(self, name: str) -> None:
        """Remove a policy: its tokens count no more. Raises ``HubError`` 400003 for the owner, 404000."""
        self._check(name)
        async with self._changing:
            if name not in self._policies:
                raise HubError(NOT_FOUND, f"There is no policy {name}.")
            await self._keep({one: policy for one, policy in self._policies.items() if one != name})

    async def _keep(self, policies: dict[str, SharedAccessPolicy]) -> None:
        added = {
            name: [rights_text(one.rights), one.primary_key, one.secondary_key]
            for name, one in policies.items()
            if name != self._owner.name
        }
        await self._store.put_settings({_SETTING: json.dumps(added).encode()})
        self._policies = policies
        self.changed()

    def _check(self, name: str) -> None:
        if name == self._owner.name:
            raise HubError(INVALID_OPERATION, f"{name} is the service's owner, it can neither be changed nor removed.")
        if not _NAME.fullmatch(name):
            raise HubError(
                ARGUMENT_INVALID, f"{shown(name)} cannot be a policy, use up to 64 letters, digits, '.', '_' and '-'."
            )

    def __getitem__(self, name: str) -> SharedAccessPolicy:
        return self._policies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)
