"""Faults that a client asks for, so that it can prove that it recovers: what is to fail, when, and for how long.

They strike the client's own identity and nobody else. A fault that cuts something does so once its delay is over, and
again whenever that opens while its duration lasts; one that refuses has the identity's messages answered with an error
for its duration. Heads ask for faults (``inject``), and act on them: only they know what a protocol has to cut.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple

from muster.core.ambient import Ambient
from muster.core.errors import DEVICE_UNAUTHORIZED, THROTTLED, ErrorRow
from muster.core.fault_limits import FAULTS_WAITING
from muster.core.throttle_errors import QUOTA_EXCEEDED
from muster.identity.model import IdentityKey

log = logging.getLogger("muster.faults")


class Target(StrEnum):
    """What a fault strikes: what is cut, or the answer that messages get."""

    TRANSPORT = "the transport connection"
    CONNECTION = "the AMQP connection"
    SESSION = "the AMQP session"
    CREDENTIAL_REQUESTS = "the link for tokens"
    CREDENTIAL_ANSWERS = "the link for answers to tokens"
    TELEMETRY = "the telemetry link"
    COMMANDS = "the link for cloud-to-device messages"
    TWIN_REQUESTS = "the link for twin requests"
    TWIN_ANSWERS = "the link for twin answers"
    METHOD_REQUESTS = "the link for method requests"
    METHOD_ANSWERS = "the link for method answers"
    AMQP_GOODBYE = "the AMQP connection, in good order"
    MQTT_GOODBYE = "the MQTT connection, in good order"
    THROTTLING = "throttled"
    QUOTA = "above the quota"
    AUTHORIZATION = "unauthorized"


REFUSALS: Final[dict[Target, ErrorRow]] = {
    Target.THROTTLING: THROTTLED,
    Target.QUOTA: QUOTA_EXCEEDED,
    Target.AUTHORIZATION: DEVICE_UNAUTHORIZED,
}
"""The faults that answer instead of cutting, and what they answer."""


class Fault(NamedTuple):
    """One fault. ``graceful`` asks for a goodbye where the protocol has one; times are in seconds."""

    target: Target
    graceful: bool = False
    delay: float = 0.0
    duration: float = 0.0

    @property
    def refusal(self) -> ErrorRow | None:
        """What messages are answered while it lasts, ``None`` where it cuts."""
        return REFUSALS.get(self.target)


class Lasting(NamedTuple):
    """A fault that lasts until ``until`` (seconds since 1970)."""

    fault: Fault
    until: float


Strike = Callable[[Fault], None]
"""Told on the loop that a fault begins: a head's chance to cut, or to forget what it remembers of earlier messages."""


class Faults:
    """The faults of one hub. Only there when it lets clients ask for faults."""

    def __init__(self, ambient: Ambient) -> None:
        self._ambient = ambient
        self._strikes: dict[IdentityKey, Strike] = {}
        self._waiting: dict[IdentityKey, int] = {}
        self._lasting: dict[IdentityKey, list[Lasting]] = {}

    def attend(self, key: IdentityKey, strike: Strike) -> None:
        """From now on ``strike`` hears of the faults of ``key``, in the place of any other."""
        self._strikes[key] = strike

    def leave(self, key: IdentityKey, strike: Strike) -> None:
        """``strike`` hears nothing more; harmless when another one has its place."""
        if self._strikes.get(key) == strike:
            del self._strikes[key]

    def inject(self, key: IdentityKey, fault: Fault, strike: Strike | None = None) -> None:
        """Have ``fault`` strike ``key`` once its delay is over. Without ``strike`` whoever attends then hears of it.

        An identity may have ``FAULTS_WAITING`` faults ahead of it, further ones are passed over.
        """
        waiting = self._waiting.get(key, 0)
        if waiting >= FAULTS_WAITING.open:
            log.warning("%s: a fault is passed over: %d wait already", key, waiting)
            return
        self._waiting[key] = waiting + 1
        self._ambient.at(self._ambient.now() + fault.delay, partial(self._begin, key, fault, strike))

    def lasting(self, key: IdentityKey, *targets: Target) -> Lasting | None:
        """A fault of ``key`` at one of ``targets`` that lasts now, the oldest of them."""
        for lasting in self._lasting.get(key, ()):
            if lasting.fault.target in targets:
                return lasting
        return None

    def refusal(self, key: IdentityKey) -> ErrorRow | None:
        """What a message of ``key`` is to be answered with now, ``None`` for nothing out of the ordinary."""
        lasting = self.lasting(key, *REFUSALS)
        return None if lasting is None else lasting.fault.refusal

    def _begin(self, key: IdentityKey, fault: Fault, strike: Strike | None) -> None:
        waiting = self._waiting.pop(key) - 1
        if waiting:
            self._waiting[key] = waiting
        log.info("%s: the fault begins that it asked for: %s, for %g s", key, fault.target, fault.duration)
        if fault.duration > 0:
            lasting = Lasting(fault, self._ambient.now() + fault.duration)
            self._lasting.setdefault(key, []).append(lasting)
            self._ambient.at(lasting.until, partial(self._end, key, lasting))
        strike = strike or self._strikes.get(key)
        if strike is not None:
            strike(fault)

    def _end(self, key: IdentityKey, over: Lasting) -> None:
        lasting = self._lasting[key]
        lasting.remove(over)
        if not lasting:
            del self._lasting[key]
