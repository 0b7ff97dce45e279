"""The five transports of a device, each as the same few things that a device does, over real TLS sockets.

A sentence of ``test_every_transport`` is said once and holds on all transports that are able to do what it is about:
``over`` gives it those and no others.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, NamedTuple, Protocol

import pytest


class Ability(Enum):
    """What not every transport is able to do."""

    SESSION = auto()
    """Devices are connected, so the hub can end that; HTTPS only asks and is answered."""
    RENEWAL = auto()
    """A token is put anew on the same connection; MQTT has to connect again."""
    REFUSES_MESSAGES = auto()
    """A message is refused and the next goes through; MQTT can only close."""
    GIVES_BACK = auto()
    """Commands can be abandoned and rejected; MQTT can only acknowledge."""
    TWIN = auto()
    METHODS = auto()


class RefusedError(Exception):
    """The hub has said no; the text is how the wire says it."""


class Place(NamedTuple):
    """A running hub, as devices find it."""

    host: str
    mqtt: int
    amqp: int
    https: int


@dataclass
class Login:
    """Who connects, and with what. ``name`` is ``device`` or ``device/module``."""

    name: str
    token: str | None
    context: ssl.SSLContext = field(repr=False)
    """What the client trusts, and the certificate that it shows."""
    host: str = "localhost"
    """The hub's name, as the client says it."""

    def path(self, end: str) -> str:
        """The address of something of the identity."""
        return f"devices/{self.name.replace('/', '/modules/')}/{end}"


class Got(NamedTuple):
    """A command as it came; ``handle`` is what the transport settles it by."""

    body: bytes
    message_id: str
    properties: Mapping[str, str]
    handle: Any


class Asked(NamedTuple):
    """A method call as it came; ``handle`` is what the transport answers it by."""

    name: str
    payload: bytes
    handle: Any


class DeviceClient(Protocol):
    """A device that has been let in (over HTTPS: that will say who it is with each request)."""

    async def send(self, body: bytes, message_id: str | None = None, **properties: str) -> None:
        """Send telemetry, which is stored when this returns. Raises ``RefusedError``."""
        ...

    async def send_many(self, bodies: Sequence[bytes]) -> None:
        """Send all at once, in this order, as ``send`` does."""
        ...

    async def take_commands(self) -> None: ...

    async def command(self) -> Got:
        """The next command, which must be there or be on its way."""
        ...

    async def complete(self, got: Got) -> None: ...

    async def abandon(self, got: Got) -> None: ...

    async def reject(self, got: Got) -> None: ...

    async def take_twin(self) -> None:
        """Be ready for answers and for changes of desired properties."""
        ...

    async def twin(self) -> dict[str, Any]: ...

    async def report(self, patch: Mapping[str, Any]) -> int:
        """Change reported properties; their version."""
        ...

    async def desired(self) -> dict[str, Any]:
        """The next change of desired properties, ``$version`` among them."""
        ...

    async def take_methods(self) -> None: ...

    async def asked(self) -> Asked: ...

    async def answer(self, asked: Asked, status: int, payload: bytes) -> None: ...

    async def renew(self, token: str) -> None: ...

    async def ended(self) -> str:
        """Wait for the hub to end this; what it said, empty when it cannot say anything."""
        ...

    async def cut(self) -> None:
        """Break the connection without a word."""
        ...

    async def close(self) -> None:
        """Leave as the protocol wants it."""
        ...


class Transport(NamedTuple):
    """One of the five. ``family`` is how its wire speaks: ``mqtt``, ``amqp`` or ``https``."""

    name: str
    family: str
    lacks: frozenset[Ability]
    connect: Callable[[Place, Login], Any]
    """A coroutine function: the ``DeviceClient`` that was let in. Raises ``RefusedError``."""

    def can(self, *abilities: Ability) -> bool:
        return self.lacks.isdisjoint(abilities)


def over(transports: Sequence[Transport], *abilities: Ability) -> pytest.MarkDecorator:
    """A sentence about transports that have all ``abilities``: it is not there for the others."""
    able = [transport for transport in transports if transport.can(*abilities)]
    return pytest.mark.parametrize("transport", able, ids=[transport.name for transport in able])


def from_and_to(transports: Sequence[Transport], *abilities: Ability) -> pytest.MarkDecorator:
    """A sentence about a device that moves from ``transport`` to another one, ``other``."""
    able = [transport for transport in transports if transport.can(*abilities)]
    pairs = [(one, other) for one in able for other in able if one is not other]
    return pytest.mark.parametrize(
        ("transport", "other"), pairs, ids=[f"{one.name}-to-{other.name}" for one, other in pairs]
    )
