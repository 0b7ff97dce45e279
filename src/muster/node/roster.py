"""Which hubs a node has besides the first: those of its settings, and those that were added while it ran."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from muster.core.audit import Draft, Note
from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, NOT_FOUND, HubError
from muster.core.hub_limits import HUB_NAME_CHARACTERS, HUBS
from muster.core.settings_store import HubSettingsStore, Reload
from muster.core.throttles import Tier
from muster.events.model import Source
from muster.identity.hub import ALWAYS, Switches
from muster.identity.sas import host_name
from muster.node.settings import HubSettings, Settings

_ADDED, _LEAVING = "hubs", "hubs-leaving"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_RESERVED = frozenset({"devices", "messages", "registrations"})
"""First segments of addresses that mean something else than an Event Hub."""


class Roster:
    """The hubs besides the first; those that were added are kept. Where both name one, the settings count.

    ``leaving`` are hubs that were removed and may have left something: no later hub of the same name must find it.
    """

    def __init__(
        self, settings: Settings, kept: HubSettingsStore, added: Iterable[HubSettings], leaving: set[str]
    ) -> None:
        self._settings = settings
        self._kept = kept
        self._added = {one.name: one for one in added}
        self.leaving = leaving

    def __iter__(self) -> Iterator[HubSettings]:
        return iter([*self._settings.hubs, *(one for one in self._added.values() if not self.declares(one.name))])

    @property
    def hostnames(self) -> tuple[str, ...]:
        """Every name and address of every hub, the first hub's own first, each once."""
        names = (*self._settings.all_hostnames, *(name for hub in self for name in hub.hostnames))
        return tuple(dict.fromkeys(names))

    @property
    def given_hostnames(self) -> tuple[str, ...]:
        """Those that the operator gave, for which a certificate of his own must be."""
        return (*self._settings.given_hostnames, *(name for hub in self for name in hub.hostnames))

    def follow(self, changed: Reload) -> None:
        """From now on ``changed`` is awaited after another node has added or removed a hub, and the roster knows it."""

        async def reload() -> None:
            added, self.leaving = await _load(self._kept)
            self._added = {one.name: one for one in added}
            await changed()

        self._kept.follow(_ADDED, reload)

    def declares(self, name: str) -> bool:
        """Whether the hub ``name`` is in the settings."""
        return any(one.name == name for one in self._settings.hubs)

    async def add(self, hub: HubSettings, note: Note | None = None) -> None:
        """Keep ``hub`` for this run and those to come, and put on record what ``note`` makes of that."""
        await self._keep({**self._added, hub.name: hub}, self.leaving, self._record(note, hub.name, hub))

    async def withdraw(self, name: str, note: Note | None = None) -> None:
        """Keep a hub no longer that was added and has nothing yet."""
        added = {other: hub for other, hub in self._added.items() if other != name}
        await self._keep(added, self.leaving, self._record(note, name, None))

    def check_added(self, name: str) -> None:
        """Raise ``HubError`` 400003 for a hub of the settings, 404000 for none that was added."""
        if self.declares(name):
            raise HubError(INVALID_OPERATION, f"The hub {name} is in the settings of muster serve, take it out there.")
        if name not in self._added:
            raise HubError(NOT_FOUND, f"There is no hub {name[:80]} that was added, see: muster hub list")

    async def remove(self, name: str, note: Note | None = None) -> None:
        """Keep a hub no longer that was added; it is ``leaving`` until ``gone``. Raises as ``check_added``."""
        self.check_added(name)
        added = {other: hub for other, hub in self._added.items() if other != name}
        await self._keep(added, {*self.leaving, name}, self._record(note, name, None))

    async def gone(self, name: str) -> None:
        """Nothing of the hub is left."""
        await self._keep(self._added, self.leaving - {name})

    def _record(self, note: Note | None, name: str, wanted: HubSettings | None) -> Draft | None:
        if note is None:
            return None
        present = self._added.get(name)
        return note(None if present is None else _members(present), None if wanted is None else _members(wanted))

    async def _keep(self, added: dict[str, HubSettings], leaving: set[str], draft: Draft | None = None) -> None:
        values = {_ADDED: [_members(one) for one in added.values()], _LEAVING: sorted(leaving)}
        await self._kept.put_settings({name: json.dumps(value).encode() for name, value in values.items()}, draft)
        self._added, self.leaving = added, leaving


async def open_roster(settings: Settings, kept: HubSettingsStore) -> Roster:
    """The roster of a node with ``settings``, whose added hubs are in ``kept``."""
    return Roster(settings, kept, *await _load(kept))


async def _load(kept: HubSettingsStore) -> tuple[list[HubSettings], set[str]]:
    added, leaving = [json.loads(await kept.get_setting(name) or b"[]") for name in (_ADDED, _LEAVING)]
    return [*map(_hub, added)], set(leaving)


def check_hub(hub: HubSettings, others: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Whether ``hub`` may be beside ``others``, each a hub's name and hosts.

    Raises ``HubError`` 400004 that names what is wrong with its name or host names.
    """
    name, most = hub.name, HUB_NAME_CHARACTERS.open
    if not _NAME.fullmatch(name) or len(name) > most or name in _RESERVED:
        raise HubError(
            ARGUMENT_INVALID,
            f"The hub cannot be named {name[:80]!r}, use up to {most} lower-case letters, digits and '-' between them, "
            f"but not {', '.join(sorted(_RESERVED))}.",
        )
    if len(others) >= HUBS.open:
        raise HubError(ARGUMENT_INVALID, f"There are {len(others)} hubs already, no more are possible in a deployment.")
    if hub.tier is Tier.F1 and (hub.units or 1) > 1:
        raise HubError(ARGUMENT_INVALID, f"The tier of {name} is F1, the free one, which has a single unit.")
    if not hub.hostnames:
        raise HubError(ARGUMENT_INVALID, f"The hub {name} has no host name, give it at least one.")
    shared = [host for host in hub.hostnames if host_name(host) in ALWAYS]
    if shared:
        raise HubError(ARGUMENT_INVALID, f"{shared[0]} is a name of every hub, give {name} one of its own.")
    wanted = set(map(host_name, hub.hostnames))
    for other, hosts in others:
        if other.lower() == name:
            raise HubError(ARGUMENT_INVALID, f"There is a hub named {name} already, choose another name.")
        twice = wanted & set(map(host_name, hosts))
        if twice:
            message = f"{min(twice)} is a name of the hub {other} already, give {name} names of its own."
            raise HubError(ARGUMENT_INVALID, message)


def _members(hub: HubSettings) -> dict[str, Any]:
    members = {one.name: getattr(hub, one.name) for one in fields(hub)}
    if hub.events is not None:
        members["events"] = sorted(hub.events)
    return {name: value for name, value in members.items() if value is not None}


def _hub(members: dict[str, Any]) -> HubSettings:
    return HubSettings(**{name: _READ.get(name, _itself)(value) for name, value in members.items()})


def _sources(names: Sequence[str]) -> frozenset[Source]:
    return frozenset(map(Source, names))


def _switches(values: Sequence[bool]) -> Switches:
    return Switches(*values)


def _itself(value: Any) -> Any:
    return value


_READ: dict[str, Callable[[Any], Any]] = {
    "hostnames": tuple,
    "consumer_groups": tuple,
    "events": _sources,
    "switches": _switches,
    "tier": Tier,
}
