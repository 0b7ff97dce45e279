"""Devices on AMQP: links to an identity's addresses, and the session that they make together (device.md 4.3).

A connection may have many identities, each with links of its own in whichever AMQP sessions. The hub's session of an
identity begins when its first link has been let in, and ends with the last, or when it loses its ground; the others
on the connection do not notice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from muster.core.ambient import Timer, tracking_id
from muster.core.errors import DEVICE_UNAUTHORIZED, SERVER_ERROR, UNAVAILABLE, ErrorRow, HubError
from muster.dialect.device_amqp import Part, device_address, model_of, part_of
from muster.dialect.record import sender_annotations
from muster.heads import amqp_login
from muster.heads.admission import admitted
from muster.heads.amqp_links import LinkHandler
from muster.heads.device_commands import CommandLink
from muster.heads.device_link import DeviceLink, InputLink
from muster.heads.device_methods import MethodAnswerLink, MethodRequestLink
from muster.heads.device_services import DeviceServices
from muster.heads.device_telemetry import Acknowledgements
from muster.heads.device_telemetry_throttled import telemetry_link
from muster.heads.device_twins import TwinAnswerLink, TwinRequestLink, TwinService
from muster.heads.grants import Scope
from muster.identity.breaches import breach
from muster.identity.mistakes import shown
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict
from muster.messages.commands import Received
from muster.messages.methods import MethodRequest
from muster.sessions.table import Session
from muster.wire.amqp.link import Link, ReceivingLink

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection

log = logging.getLogger("muster.amqp")

Kinds = Mapping[Part, Callable[[Any, Any], DeviceLink]]
"""What makes the handlers of links (from a ``DeviceSession`` and the link), by what these are for."""

_DEVICES = "devices"


class DeviceLinks:
    """The role that serves devices and modules."""

    def __init__(self, services: DeviceServices, kind: type[DeviceSession] | None = None) -> None:
        """``kind``: of the sessions to make, if not ``DeviceSession``."""
        self._services = services
        self._kind = kind or DeviceSession

    def attach(self, connection: AmqpConnection, link: Link, path: tuple[str, ...]) -> LinkHandler | None:
        """See ``heads.amqp_links.Role``. The link is answered when its identity has been judged."""
        address = device_address(path)
        if address is None:
            return None
        part = part_of(address, sends=isinstance(link, ReceivingLink))
        if part is None:
            return None
        devices = connection.nodes.get(_DEVICES)
        if devices is None:
            devices = connection.nodes[_DEVICES] = Devices(connection, self._services, self._kind)
        return devices.attach(address.key, part, link)


class Devices:
    """The identities of one connection."""

    def __init__(self, connection: AmqpConnection, services: DeviceServices, kind: type[DeviceSession]) -> None:
        self.connection = connection
        self.services = services
        self._kind = kind
        self.sessions: dict[IdentityKey, DeviceSession] = {}
        self.acknowledgements = Acknowledgements(connection, services.ambient)
        self._holding = False
        connection.device_grants.when_lost = self._lost

    def attach(self, key: IdentityKey, part: Part, link: Link) -> DeviceLink:
        """Begin to let in a link of ``key``. Raises ``HubError`` when it names a model that is too long."""
        model = model_of(link.attach)
        session = self.sessions.get(key)
        if session is None:
            session = self.sessions[key] = self._kind(self, key)
        return session.attach(part, link, model)

    def forget(self, session: DeviceSession) -> None:
        """``session`` has no links any more, or was ended."""
        if self.sessions.get(session.key) is session:
            del self.sessions[session.key]

    def only(self, session: DeviceSession) -> bool:
        """Whether there is no other."""
        return self.sessions.keys() <= {session.key}

    def hold(self) -> None:
        """Read nothing until the disk has caught up."""
        if not self._holding:
            self._holding = True
            self.connection.hold()
            self.services.telemetry.when_clear(self._clear)

    def _clear(self) -> None:
        self._holding = False
        self.connection.read_on()
        for session in tuple(self.sessions.values()):
            session.replenish()
        self.connection.flush()

    def _lost(self, scope: Scope, cause: str, expected: str, seen: str) -> None:
        for session in tuple(self.sessions.values()):
            if session.scope == scope:
                session.lost(cause, expected, seen)


class DeviceSession:
    """One identity on one connection: the sink of its session, and what its links share."""

    __slots__ = (
        "_active",
        "_announced",
        "_expiry",
        "_links",
        "_model",
        "_sender",
        "_task",
        "_waiting",
        "commands",
        "connection",
        "devices",
        "key",
        "methods",
        "partition",
        "scope",
        "services",
        "session",
        "twin",
    )  # fmt: skip

    kinds: ClassVar[Kinds] = {
        Part.TELEMETRY: telemetry_link,
        Part.COMMANDS: CommandLink,
        Part.INPUTS: InputLink,
        Part.TWIN_REQUESTS: TwinRequestLink,
        Part.TWIN_ANSWERS: TwinAnswerLink,
        Part.METHOD_REQUESTS: MethodRequestLink,
        Part.METHOD_ANSWERS: MethodAnswerLink,
    }
    """What serves its links."""

    def __init__(self, devices: Devices, key: IdentityKey) -> None:
        self.devices = devices
        self.connection = devices.connection
        self.services = devices.services
        self.key = key
        self.session: Session | None = None
        self.scope: Scope | None = None
        """Of the token that let it in; ``None`` for a certificate."""
        self.partition = self.services.telemetry.partition_of(key.device_id)
        self.twin = TwinService(self)
        self.commands: CommandLink | None = None
        self.methods: MethodRequestLink | None = None
        self._links: dict[DeviceLink, Part] = {}
        self._waiting: list[DeviceLink] = []
        self._task: asyncio.Task[None] | None = None
        self._expiry: Timer | None = None
        self._sender: Callable[[], bytes] | bytes = b""
        self._model: str | None = None
        self._announced = True
        """Whether the twin knows the model."""
        self._active = -inf

    # --- links come and go

    def attach(self, part: Part, link: Link, model: str | None) -> DeviceLink:
        """A link was attached; it is answered when the identity is judged, at once if that is so already."""
        handler = self.kinds[part](self, link)
        self._links[handler] = part
        if (model or part is Part.TELEMETRY) and (model != self._model or self.session is None):
            self._model, self._announced = model, False
        if self._task is None and self.session is not None and self._announced:
            handler.open()
        else:
            self._waiting.append(handler)
            if self._task is None:
                self._task = self.connection.run(self._admit())
        return handler

    def links(self, part: Part) -> list[DeviceLink]:
        """The links that there are for ``part``."""
        return [link for link, present in self._links.items() if present is part]

    def left(self, handler: DeviceLink) -> None:
        """A link is gone."""
        self._links.pop(handler, None)
        if handler in self._waiting:
            self._waiting.remove(handler)
            handler.link.accept()  # who took it back before it was answered gets both answers
        if not self._links:
            self._close()

    def _close(self) -> None:
        self.devices.forget(self)
        if self._task is not None:
            self._task.cancel()
        if self._expiry is not None:
            self._expiry.cancel()
        session, self.session = self.session, None
        if session is not None:
            self.services.sessions.close(session)
            log.debug("%s: disconnected", self.key)

    # --- the way in

    async def _admit(self) -> None:
        problem: HubError | None = None
        try:
            while self._waiting:
                await self._judge()
        except HubError as error:
            problem = error
        except Exception:
            log.exception("cannot decide on %s from %s", self.key, self.connection.peer)
            problem = HubError(SERVER_ERROR, tracking_id=tracking_id(self.services.ambient))
        self._task = None
        if problem is not None:
            self._refuse(problem)

    async def _judge(self) -> None:
        """Judge the identity and let its links in. Raises ``HubError`` to refuse them."""
        services, announced = self.services, self._announced
        scope, attempt = amqp_login.attempt(self.connection, self.key)
        new = self.session is None
        verdict = await (admitted(services, attempt) if new else services.authenticator.device(attempt))
        if verdict.error is None and not announced:
            self._announced = True
            if await services.twins.announce(self.key, self._model):
                verdict = await services.authenticator.device(attempt)  # meanwhile it may have lost its ground
        if verdict.error is not None:
            raise HubError(verdict.error, tracking_id=verdict.tracking_id)
        if not self._announced:
            return  # another link has named another model
        if self.session is None:
            self._begin(verdict, scope)
            await self._granted()
        self._sender = self._annotations(verdict)
        waiting, self._waiting = self._waiting, []
        for handler in waiting:
            handler.open()

    def _begin(self, verdict: Verdict, scope: Scope | None) -> None:
        self.scope = scope
        self.session = self.services.sessions.open(verdict, self)
        self.session.ground = None  # the token may be renewed: the connection's grants look after it
        self.connection.proven()
        if verdict.by_certificate and verdict.expires_at is not None:
            ended = partial(self.lost, "certificate-end", "a certificate renewed in time", "it has expired")
            self._expiry = self.services.ambient.at(verdict.expires_at, ended)

    async def _granted(self) -> None:
        """No other node has a session of the identity any more. Raises ``HubError`` when this one cannot begin."""
        session = self.session
        if session is not None and session.claim is not None:
            try:
                await session.claim.granted()
            except HubError:
                if self.session is session:
                    self.session = None
                    self.services.sessions.close(session)
                raise

    def _annotations(self, verdict: Verdict) -> Callable[[], bytes]:
        identity = verdict.identity
        assert identity is not None, "an allowed device has an identity"
        return partial(
            sender_annotations,
            device_id=self.key.device_id,
            module_id=self.key.module_id,
            auth_method=verdict.auth_method,
            generation_id=identity.generation_id,
            model_id=self._model,
        )

    @property
    def sender(self) -> bytes:
        """What all telemetry of the session begins with; made when it is first asked for."""
        if not isinstance(self._sender, bytes):
            self._sender = self._sender()
        return self._sender

    def _refuse(self, problem: HubError) -> None:
        log.debug("%s: %s is refused: %s", self.connection.peer, shown(str(self.key)), problem)
        for handler in tuple(self._waiting):
            self.connection.detach(handler.link, problem)

    # --- the way out

    def lost(self, name: str, expected: str, seen: str) -> None:
        """End the session because the client broke the rule ``name`` (``identity.causes.BREACHES``), and keep why."""
        session = self.session
        if session is not None:
            self.breach(name, expected, seen, DEVICE_UNAUTHORIZED)
            self.services.sessions.end(session, DEVICE_UNAUTHORIZED)

    def breach(self, name: str, expected: str, seen: str, row: ErrorRow) -> str:
        """Keep that a rule was broken; the tracking id."""
        verdict = breach(
            self.services.ambient, name, row, transport=self.connection.transport_name, peer=self.connection.peer,
            expected=expected, seen=seen, principal=str(self.key),
        )  # fmt: skip
        self.services.refusals.add(verdict)
        return verdict.tracking_id

    def end(self, error: ErrorRow) -> None:
        """See ``sessions.table.Sink``: the links end with it, or the connection if it has nobody else.

        Not both: Node's client, which answers the end of a link by detaching all others, waits 45 seconds for us then.
        When the hub stops, the connection ends in good order: that client gives up after ``com.microsoft:server-busy``.
        """
        self.session = None
        connection = self.connection
        if error is UNAVAILABLE:
            self._close()
            connection.end(None)
            return
        problem = HubError(error, tracking_id=tracking_id(self.services.ambient))
        if not connection.grants and connection.device_grants.only_for(self.key) and self.devices.only(self):
            self._close()
            connection.end(problem)
            return
        for handler in tuple(self._links):
            connection.detach(handler.link, problem)
        self._close()

    # --- see ``sessions.table.Sink``

    def quiet_seconds(self) -> float:
        return self.connection.head.loop.time() - self._active

    def active(self) -> None:
        """The device has sent a message."""
        self._active = self.connection.head.loop.time()

    def desired_changed(self, patch: Mapping[str, Any], version: int) -> None:
        self.twin.push(patch, version)

    def invoke(self, request: MethodRequest) -> None:
        assert self.methods is not None, "the session takes methods"
        self.methods.invoke(request)

    def command_room(self, held: int) -> int:
        return 0 if self.commands is None else self.commands.room(held)

    def deliver(self, command: Received) -> None:
        assert self.commands is not None, "it had room"
        self.commands.send(command)

    def replenish(self) -> None:
        """There is room for telemetry again."""
        for handler in self.links(Part.TELEMETRY):
            handler.writable()
