"""The AMQP head: one connection, whatever it is used for.

It opens, authenticates (``heads.amqp_sasl``, ``heads.amqp_login``), keeps the connection alive and hands each link to
the role whose address it names. The same object serves TLS, WebSockets and plain TCP. Which hub is meant is known
before the first token is judged or the first link is attached; from then on the connection is that hub's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from muster.access.roles import Action
from muster.core.ambient import Ambient
from muster.core.amqp_limits import (
    AMQP_COMMANDS_IN_FLIGHT,
    AMQP_FRAME_BYTES,
    AMQP_IDLE,
    AMQP_LINKS,
    AMQP_OPENING_BYTES,
    AMQP_SESSIONS,
    AMQP_UNFINISHED_BYTES,
    AMQP_UNPROVEN,
    AMQP_UNPROVEN_BYTES,
)
from muster.core.errors import (
    ADDRESS_NOT_FOUND,
    SERVER_ERROR,
    UNAUTHORIZED,
    ErrorRow,
    HubError,
)
from muster.core.limits import CONNECT_WAIT
from muster.dialect.amqp import address_host, address_path, to_error
from muster.heads import amqp_network, amqp_roles, amqp_sasl
from muster.heads.amqp_heartbeat import Heartbeat
from muster.heads.amqp_links import LinkHandler, Role
from muster.heads.cbs import Cbs
from muster.heads.device_grants import DeviceGrants
from muster.heads.grants import Grants, Scope, scope_of
from muster.heads.hubs import HubDirectory, server_name
from muster.heads.registration_links import RegistrationLinks
from muster.heads.tls import describe_peer
from muster.identity.authenticator import Authenticator
from muster.identity.breaches import breach
from muster.identity.mistakes import shown
from muster.identity.network_access import NetworkAccess
from muster.identity.refusals import Refusals
from muster.identity.verdict import Right
from muster.sessions.faults import Faults
from muster.wire.amqp.connection import Connection, State
from muster.wire.amqp.events import (
    Closed,
    Delivery,
    Event,
    Failed,
    LinkAttached,
    LinkDetached,
    LinkFlow,
    Opened,
    SaslStarted,
)
from muster.wire.amqp.events import Outcome as DeliveryOutcome
from muster.wire.amqp.link import Link, LinkState, SendingLink
from muster.wire.amqp.performatives import Error, Source, Target
from muster.wire.amqp.session import Limits, Session

log = logging.getLogger("muster.amqp")

_LIMITS = Limits(
    max_frame_size=AMQP_FRAME_BYTES.open,
    sessions=AMQP_SESSIONS.open,
    links=AMQP_LINKS.open,
    unproven_sessions=AMQP_UNPROVEN.open,
    unproven_links=AMQP_UNPROVEN.open,
    unproven_bytes=AMQP_UNPROVEN_BYTES.open,
    tracked_deliveries=AMQP_LINKS.open * AMQP_COMMANDS_IN_FLIGHT.open,
    unfinished_bytes=AMQP_UNFINISHED_BYTES.open,
    before_open=AMQP_OPENING_BYTES.open,
    idle_time_out=AMQP_IDLE.open * 1000,
)


@dataclass(frozen=True, slots=True, eq=False)
class AmqpHub:
    """One hub, as far as AMQP knows it. ``roles`` are asked in turn which of them an address belongs to."""

    authenticator: Authenticator
    refusals: Refusals
    roles: Sequence[Role]
    faults: Faults | None = None
    """Only where clients may ask for such."""
    network: NetworkAccess | None = None
    """From where clients may come; without, from everywhere."""


class AmqpHead:
    """What all connections share. Calling it makes a connection, as a listener's protocol factory."""

    def __init__(
        self,
        hubs: HubDirectory[AmqpHub],
        ambient: Ambient,
        loop: asyncio.AbstractEventLoop,
        registrations: RegistrationLinks | None = None,
    ) -> None:
        """``registrations`` are the links of the provisioning service, where there is one; they belong to no hub."""
        self.hubs = hubs
        self.ambient = ambient
        self.registrations = registrations
        self.shared: Sequence[Role] = (Cbs(),) if registrations is None else (Cbs(), registrations)
        self.loop = loop
        self.connections: set[AmqpConnection] = set()
        self.container_id = ambient.uuid().hex

    def __call__(self) -> AmqpConnection:
        return AmqpConnection(self)

    def end_all(self, row: ErrorRow, hub: AmqpHub | None = None) -> None:
        """Close every connection with ``row``, or those of ``hub``, as when it drains."""
        for connection in tuple(self.connections):
            if hub is None or connection.hub is hub:
                connection.end(HubError(row))

    def access_changed(self, hub: AmqpHub) -> None:
        """What tokens count by at ``hub`` has changed: end what those have let in that count no more."""
        for connection in tuple(self.connections):
            if connection.hub is hub and not connection.closing:
                connection.access_changed()


class AmqpConnection:
    """The protocol object of one connection."""

    __slots__ = (
        "_beat", "_deadline", "_engine", "_handlers", "_tasks", "closing", "device_grants", "grants",
        "head", "held", "host", "hub", "nodes", "peer", "settled", "transport", "transport_name", "writable",
    )  # fmt: skip

    def __init__(self, head: AmqpHead) -> None:
        self.head = head
        self.hub = head.hubs.first
        """Whose connection it is, see ``choose_hub``."""
        self.grants = Grants(head.ambient, partial(self.check_links, "The token for this link has expired."))
        self.device_grants = DeviceGrants(head.ambient)
        self.host = ""
        self.nodes: dict[str, Any] = {}
        """What roles keep for this connection, by a name of theirs: request nodes by address, a gateway's devices."""
        self.peer = self.transport_name = ""
        self.writable = True
        self._engine = Connection(head.container_id, _LIMITS)
        self._handlers: dict[Link, LinkHandler] = {}
        self.transport: Any = None
        self.closing = False
        """Nothing that is said or awaited matters any longer."""
        self.held = False
        """Whether nothing is read because the disk has to catch up."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._deadline: asyncio.TimerHandle | None = None
        self._beat = Heartbeat(self, head.loop)
        self.settled = False
        """Whether ``hub`` has been chosen."""

    @property
    def stranger(self) -> bool:
        """See ``heads.relief``."""
        return self._deadline is not None

    # --- called by the transport

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.peer = describe_peer(transport)
        self.transport_name = "amqp-ws" if transport.get_extra_info("websocket") else "amqp"
        self.head.connections.add(self)
        self._deadline = self.head.loop.call_later(CONNECT_WAIT.open, self._too_slow)

    def data_received(self, data: bytes) -> None:
        if not self.closing:
            self._beat.heard = True
            self._take(data)

    def _take(self, data: bytes) -> None:
        try:
            events = self._engine.receive_data(data)
            while events:
                for event in events:
                    if type(event) is Delivery:  # nearly all are, and a call less counts
                        handler = self._handlers.get(event[0])
                        if handler is not None:
                            handler.delivery(event)
                    else:
                        _ANSWERS[type(event)](self, event)
                # An answer to these two lets the engine read on in what it has got already.
                more = isinstance(events[-1], (SaslStarted, Opened))
                events = self._engine.receive_data(b"") if more else []
        except Exception:
            log.exception("cannot serve the connection from %s", self.peer)
            self.end(HubError(SERVER_ERROR))
        self.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self.writable = False
        self._beat.stop()
        if self._deadline is not None:
            self._deadline.cancel()
        self.head.connections.discard(self)
        for task in self._tasks:
            task.cancel()
        self.grants.clear()
        self.device_grants.clear()
        handlers, self._handlers = self._handlers, {}
        for handler in handlers.values():
            handler.detached()
        log.debug("%s: connection lost (%s)", self.peer, exc or "in order")

    def pause_writing(self) -> None:
        self.writable = False
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.closing:
            return
        self.writable = self._beat.heard = True
        self._read_on()
        for handler in tuple(self._handlers.values()):
            handler.writable()

    def _read_on(self) -> None:
        if self.writable and not (self.held or self.closing):
            self.transport.resume_reading()

    # --- for roles

    def hold(self) -> None:
        """Read nothing more until ``read_on``: the disk has to catch up."""
        if not self.held and not self.closing:
            self.held = True
            self.transport.pause_reading()

    def read_on(self) -> None:
        """Read again what ``hold`` held back."""
        self.held = False
        self._read_on()

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` as long as the connection lasts, then send what it had said."""
        task = self.head.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ran)
        return task

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("cannot serve the connection from %s", self.peer, exc_info=error)
            self.end(HubError(SERVER_ERROR))
        self.flush()

    def proven(self) -> None:
        """The client is somebody: it may have more, and takes as long as it likes."""
        self._engine.prove()
        if self._deadline is not None and self._engine.state is State.OPENED:
            self._deadline.cancel()
            self._deadline = None

    def sasl_outcome(self, accepted: bool) -> None:
        """End the SASL layer's conversation; a client that is refused is hung up on."""
        self._engine.sasl_outcome(accepted)
        if not accepted:
            self._hang_up()

    def sasl_challenge(self, challenge: bytes) -> None:
        """Go on with it: ask the client for more."""
        self._engine.sasl_challenge(challenge)

    def read_sasl(self) -> None:
        """Read on in what came, after an outcome or a challenge that was awaited."""
        self._take(b"")

    def flush(self) -> None:
        """Send what the engine has to say."""
        data = self._engine.data_to_send()
        if data and self.transport is not None:
            self._beat.spoke = True
            self.transport.write(data)

    def choose_hub(self, *hosts: str, entity: str = "") -> None:
        """Turn to the hub that the client means by its first token or link, for as long as the connection lasts.

        The names in ``hosts`` count first, then those of open and of the TLS handshake; ``entity`` is the first segment
        of a path, perhaps an Event Hub's name.
        """
        if not self.settled:
            self.settled = True  # also while a verdict is awaited, and for hubs that are added later
            hubs = self.head.hubs
            if not hubs.alone:
                self.hub = hubs.find(*hosts, self.host, server_name(self.transport), entity=entity)

    def require(self, scope: Scope | None, action: Action | None = None) -> None:
        """Raise ``HubError``, and keep the refusal, unless a token covers ``scope`` (``None``: there is any), else
        401002, and its holder may do ``action``, else 403000."""
        found = self.grants.of(scope)
        if not found:
            wanted = "the hub" if scope is None else "/".join(scope)
            kept = self.keep("link-scope", f"a token for {shown(wanted)} or what is above it", self.grants.described())
            raise HubError(UNAUTHORIZED, f"There is no token for '{shown(wanted)}'.", tracking_id=kept)
        if action is not None and not any(one.admission is None or one.admission.admits(action) for one in found):
            raise amqp_roles.without_role(self, found[-1], action)

    def detach(self, link: Link, problem: HubError | Error) -> None:
        """Detach ``link`` with ``problem``, or refuse it if it was not answered yet, and forget its handler."""
        error = problem if isinstance(problem, Error) else to_error(problem)
        if link.state is LinkState.ATTACHING:
            link.refuse(error)
        else:
            link.detach(error)
        self._forget(link)
        self.flush()

    def end_session(self, session: Session, problem: HubError) -> None:
        """End an AMQP session, and with it its links, with ``problem``."""
        for event in self._engine.end_session(session, to_error(problem)):
            _ANSWERS[type(event)](self, event)
        self.flush()

    def abort(self) -> None:
        """Cut the connection without a word."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def end(self, problem: HubError | None) -> None:
        """Close the connection with ``problem``, or in good order."""
        if self.closing:
            return
        self.closing = True
        self._engine.close(None if problem is None else to_error(problem))
        self.flush()
        if self.transport is not None:
            self.transport.close()

    # --- events

    def _opened(self, event: Opened) -> None:
        self.host = event.open.hostname or self.host
        self._engine.open()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if not (self.grants or self.device_grants):
            self._deadline = self.head.loop.call_later(CONNECT_WAIT.open, self._unauthenticated)
        self._beat.start(event.open.idle_time_out)

    def _attached(self, event: LinkAttached) -> None:
        link = event.link
        terminus = link.attach.source if isinstance(link, SendingLink) else link.attach.target
        address = terminus.address if isinstance(terminus, (Source, Target)) else None
        path = address_path(address)
        try:
            for role in self.head.shared:
                handler = role.attach(self, link, path)
                if handler is not None:
                    self._handlers[link] = handler
                    return
            self.choose_hub(address_host(address), entity=path[0] if path else "")
            amqp_network.check(self, path)
            for role in self.hub.roles:
                handler = role.attach(self, link, path)
                if handler is not None:
                    self._handlers[link] = handler
                    return
            self.require(scope_of(path))
            raise HubError(ADDRESS_NOT_FOUND, f"There is nothing to attach to at {str(address)[:200]!r}.")
        except HubError as problem:
            link.refuse(to_error(problem))

    def _flow(self, event: LinkFlow) -> None:
        handler = self._handlers.get(event.link)
        if handler is not None:
            handler.flow()

    def _outcome(self, event: DeliveryOutcome) -> None:
        handler = self._handlers.get(event.link)
        if handler is not None:
            handler.outcome(event)

    def _detached(self, event: LinkDetached) -> None:
        self._forget(event.link)

    def _closed(self, _: Closed) -> None:
        self._hang_up()

    def _failed(self, event: Failed) -> None:
        log.info("%s broke the protocol: %s: %s", self.peer, event.error.condition, event.error.description)
        self._hang_up()

    # --- the rest

    def _forget(self, link: Link) -> None:
        handler = self._handlers.pop(link, None)
        if handler is not None:
            handler.detached()

    def _hang_up(self) -> None:
        self.closing = True
        self.flush()
        self.transport.close()

    def access_changed(self) -> None:
        """See ``AmqpHead.access_changed``."""
        hub = self.hub.authenticator.hub
        lost = self.grants.withdraw(hub, Right.SERVICE_CONNECT)
        if lost:
            cause, seen = next(iter(lost.values()))
            self.keep(cause, "a token that still counts", seen)
            self.check_links("The token for this link counts no more.")
        self.device_grants.withdraw(hub)

    def check_links(self, why: str) -> None:
        """A token ran out, was withdrawn, or another was put: what none covers ends (service.md 3.2)."""
        for link, handler in tuple(self._handlers.items()):
            if handler.scope is not None and not self.grants.covers(handler.scope, handler.action):
                self.detach(link, HubError(UNAUTHORIZED, why))

    def _too_slow(self) -> None:
        self.keep("connect-wait", f"AMQP open within {CONNECT_WAIT.open} s", "nothing")
        self.transport.close()

    def _unauthenticated(self) -> None:
        kept = self.keep("connect-wait", f"a token within {CONNECT_WAIT.open} s of open", "none")
        self.end(HubError(UNAUTHORIZED, "No token was put to $cbs in time.", tracking_id=kept))

    def heartbeat(self) -> None:
        """See ``heads.amqp_heartbeat.Beating``."""
        if self.writable and self._engine.state is State.OPENED:
            self._engine.heartbeat()
            self.flush()

    def keep(self, name: str, expected: str, seen: str) -> str:
        """Keep that the client broke the rule ``name`` (``identity.causes.BREACHES``); the tracking id."""
        verdict = breach(
            self.head.ambient, name, UNAUTHORIZED, transport=self.transport_name, peer=self.peer, expected=expected,
            seen=seen,
        )  # fmt: skip
        self.hub.refusals.add(verdict)
        return verdict.tracking_id


_ANSWERS: dict[type[Event], Callable[[AmqpConnection, Any], None]] = {
    SaslStarted: amqp_sasl.respond,
    Opened: AmqpConnection._opened,
    LinkAttached: AmqpConnection._attached,
    LinkFlow: AmqpConnection._flow,
    DeliveryOutcome: AmqpConnection._outcome,
    LinkDetached: AmqpConnection._detached,
    Closed: AmqpConnection._closed,
    Failed: AmqpConnection._failed,
}
