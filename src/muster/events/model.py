"""Events as values: what happened to which identity, and when (service.md 6.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from muster.identity.model import IdentityKey
from muster.twins.contract import TwinUpdate
from muster.twins.document import Twin


class Source(StrEnum):
    """What events can be about; each kind is switched on by itself."""

    TWIN = "twin"
    LIFECYCLE = "lifecycle"
    CONNECTION = "connection"
    DIGITAL_TWIN = "digital-twin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events have: whom it is about, when it was (seconds since 1970), and an id of its own (hex digits),
    which is the same when it is told twice."""

    key: IdentityKey
    at: float
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinUpdated(Event):
    """A service or the device itself has merged ``update`` into the twin, which is ``twin`` now."""

    twin: Twin
    update: TwinUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinReplaced(Event):
    """A service has replaced the twin, which is ``twin`` now."""

    twin: Twin


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleChanged(Event):
    """The identity was created or deleted, with its ``twin``."""

    created: bool
    twin: Twin


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionChanged(Event):
    """The identity has connected or disconnected. ``sequence``, below 2^256, rises with every such event of the hub,
    also over restarts."""

    connected: bool
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DigitalTwinChanged(Event):
    """The digital twin has changed by ``operations``, a JSON Patch; see ``twins.digital.changes``."""

    operations: Sequence[Mapping[str, Any]]
