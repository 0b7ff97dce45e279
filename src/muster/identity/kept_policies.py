"""The shared access policies of one hub, or of the provisioning service: listed, written, rotated, removed, and kept
in its settings (service.md 1.1, 6.6; provisioning.md 7.1)."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from muster.core.ambient import Ambient
from muster.core.audit import Note
from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, NOT_FOUND, HubError
from muster.core.hub_limits import POLICIES
from muster.core.listeners import Listener, Listeners
from muster.core.provisioning_errors import TOO_MANY_POLICIES
from muster.core.settings_store import HubSettingsStore
from muster.identity.account import policies_told
from muster.identity.keys import check_symmetric_key, generate_key
from muster.identity.mistakes import shown
from muster.identity.policies import (
    BUILT_IN,
    LOCAL,
    OWNER,
    PROVISIONING_OWNER,
    PROVISIONING_RIGHTS,
    SharedAccessPolicy,
    rights_from,
    rights_text,
)
from muster.identity.verdict import Right

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_EARLIER = "-added"
"""Where earlier versions kept what was added to the provisioning service's owner."""


class PolicyKind(NamedTuple):
    """Whose policies they are: the ``setting`` that keeps them, the ``owner``, which has every right there is and is
    there for good, and what each of ``built_in`` grants at first."""

    setting: str
    owner: str
    built_in: Mapping[str, Right]

    @property
    def rights(self) -> Right:
        """The rights that there are."""
        return self.built_in[self.owner]


HUB = PolicyKind("policies", OWNER, BUILT_IN)
PROVISIONING = PolicyKind("provisioning-policies", PROVISIONING_OWNER, {PROVISIONING_OWNER: PROVISIONING_RIGHTS})


class PolicyDraft(NamedTuple):
    """What a policy shall be; a key that is ``None`` stays, or is made when there is none yet."""

    rights: Right
    primary_key: str | None = None
    secondary_key: str | None = None


class Rotation(StrEnum):
    """What may be done with a policy's keys: one made anew, or each put in the other's place."""

    PRIMARY = "primary"
    SECONDARY = "secondary"
    SWAP = "swap"


class KeptPolicies(Mapping[str, SharedAccessPolicy]):
    """Policies by name. A change counts, is on disk, and those who wait for changes have heard of it, when it returns.
    It is put on record as its ``note`` says.

    All that changes raises ``HubError`` 500001 when it cannot be kept; nothing has changed then.
    """

    def __init__(
        self, kind: PolicyKind, policies: Iterable[SharedAccessPolicy], store: HubSettingsStore, ambient: Ambient
    ) -> None:
        self.kind = kind
        self._store = store
        self._ambient = ambient
        self._policies = {one.name: one for one in policies}
        self._changing = asyncio.Lock()
        self._listeners = Listeners()

    @property
    def owner(self) -> SharedAccessPolicy:
        """The policy that has every right."""
        return self._policies[self.kind.owner]

    def find(self, name: str) -> SharedAccessPolicy:
        """The policy ``name``. Raises ``HubError`` 404000 for none."""
        if name not in self._policies:
            raise HubError(NOT_FOUND, f"There is no policy {shown(name)}.")
        return self._policies[name]

    def when_changed(self, listener: Listener) -> None:
        """From now on call ``listener`` after each change, so that nothing counts by what the policies were."""
        self._listeners.add(listener)

    async def put(self, name: str, draft: PolicyDraft, note: Note | None = None) -> SharedAccessPolicy:
        """Add a policy or write over it.

        ``RegistryWrite`` grants ``RegistryRead`` too (cs Common/Data/AccessRights.cs). Raises ``HubError``: 400003
        for other rights of the owner, 400004 for a name, key or right that cannot be, 403203 for one too many.
        """
        async with self._changing:
            made = self._made(name, draft)
            await self._keep({**self._policies, name: made}, note)
            return made

    async def replace(self, drafts: Mapping[str, PolicyDraft], note: Note | None = None) -> None:
        """Have these policies and no others, or none of it. Raises as ``put``, and 400003 when the owner is missing."""
        async with self._changing:
            if self.kind.owner not in drafts:
                raise HubError(INVALID_OPERATION, f"{self.kind.owner} cannot be removed, leave it among the policies.")
            if len(drafts) > POLICIES.open:
                raise HubError(TOO_MANY_POLICIES)
            await self._keep({name: self._made(name, draft, counted=False) for name, draft in drafts.items()}, note)

    async def rotate(self, name: str, what: Rotation, note: Note | None = None) -> SharedAccessPolicy:
        """Make one of a policy's keys anew, or swap them. What the old key has signed counts no more.

        Raises ``HubError`` 404000 for no policy.
        """
        async with self._changing:
            present = self.find(name)
            primary, secondary = present.primary_key, present.secondary_key
            if what is Rotation.SWAP:
                primary, secondary = secondary, primary
            elif what is Rotation.PRIMARY:
                primary = generate_key(self._ambient)
            else:
                secondary = generate_key(self._ambient)
            made = SharedAccessPolicy(name, present.rights, primary, secondary)
            await self._keep({**self._policies, name: made}, note)
            return made

    async def remove(self, name: str, note: Note | None = None) -> None:
        """Remove a policy: its tokens count no more. Raises ``HubError`` 400003 for the owner, 404000 for none."""
        async with self._changing:
            self.find(name)
            if name == self.kind.owner:
                raise HubError(INVALID_OPERATION, f"{name} is the owner, it cannot be removed; rotate its keys.")
            await self._keep({one: policy for one, policy in self._policies.items() if one != name}, note)

    async def reload(self) -> None:
        """Take those that are kept now: another node has changed them. Raises ``HubError`` 500001."""
        async with self._changing:
            self._policies = {
                one.name: one for one in _read(self.kind, await self._store.get_setting(self.kind.setting))
            }
            await self._listeners.tell()

    def _made(self, name: str, draft: PolicyDraft, *, counted: bool = True) -> SharedAccessPolicy:
        kind, rights = self.kind, draft.rights
        if not _NAME.fullmatch(name) or name == LOCAL:
            raise HubError(
                ARGUMENT_INVALID,
                f"{shown(name)} cannot be a policy, use up to 64 letters, digits, '.', '_' and '-', and not {LOCAL}.",
            )
        if not rights or rights & ~kind.rights:
            raise HubError(ARGUMENT_INVALID, f"rights must be some of {rights_text(kind.rights)}.")
        if Right.REGISTRY_WRITE in rights:
            rights |= Right.REGISTRY_READ
        if name == kind.owner and rights != kind.rights:
            raise HubError(INVALID_OPERATION, f"{name} is the owner, its rights cannot be changed.")
        present = self._policies.get(name)
        if present is None and counted and len(self._policies) >= POLICIES.open:
            raise HubError(TOO_MANY_POLICIES)
        old = (None, None) if present is None else (present.primary_key, present.secondary_key)
        keys = []
        for what, given, kept in zip(("primary key", "secondary key"), draft[1:], old, strict=True):
            if given is not None:
                check_symmetric_key(what, given)
            keys.append(given or kept or generate_key(self._ambient))
        return SharedAccessPolicy(name, rights, *keys)

    async def _keep(self, policies: dict[str, SharedAccessPolicy], note: Note | None) -> None:
        record = None if note is None else note(*policies_told(self._policies, policies))
        await self._store.put_settings({self.kind.setting: _text(policies.values())}, record)
        self._policies = policies
        await self._listeners.tell()

    def __getitem__(self, name: str) -> SharedAccessPolicy:
        return self._policies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._policies)

    def __len__(self) -> int:
        return len(self._policies)


async def open_policies(
    kind: PolicyKind,
    store: HubSettingsStore,
    ambient: Ambient,
    make: Callable[[], Iterable[SharedAccessPolicy]],
) -> KeptPolicies:
    """The policies that ``store`` holds; the first time these are what ``make`` makes. Raises ``HubError`` 500001."""
    earlier = kind.setting + _EARLIER
    policies = [*_read(kind, await store.get_setting(kind.setting))]
    added = [*_read(kind, await store.get_setting(earlier))]
    if not policies or added:
        policies = [*(policies or make()), *added]
        await store.put_settings({kind.setting: _text(policies), **({earlier: b"{}"} if added else {})})
    kept = KeptPolicies(kind, policies, store, ambient)
    store.follow(kind.setting, kept.reload)
    return kept


def _text(policies: Iterable[SharedAccessPolicy]) -> bytes:
    kept = {one.name: [rights_text(one.rights), one.primary_key, one.secondary_key] for one in policies}
    return json.dumps(kept).encode()


def _read(kind: PolicyKind, text: bytes | None) -> Iterator[SharedAccessPolicy]:
    """Of an earlier version two keys alone are kept: what the policy grants was known by its name."""
    for name, (*rights, primary, secondary) in json.loads(text or b"{}").items():
        granted = rights_from(rights[0]) if rights else kind.built_in.get(name, Right.NONE)
        yield SharedAccessPolicy(name, granted, primary, secondary)
