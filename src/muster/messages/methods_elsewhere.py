"""Method calls where a deployment has several nodes: the node that a service called asks the one that has the session.

A call goes to one node once. It is made again only when that node said that it has asked nobody, or was not there to
hear it; else it ends, for whether the device acted is unknown. Its time-outs are kept where the session is.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from muster.core.bus import METHOD_WANTED, METHODS_TAKEN, NoAnswerError, NodeBus
from muster.core.errors import CONNECTION_CLOSED, METHOD_TIMEOUT, NOT_FOUND, HubError
from muster.identity.model import IdentityKey, key_of
from muster.messages.methods import MethodAnswer, Methods, MethodSessions, MethodTimeoutError

_SUBJECT = "method.invoke"
_MORE_SECONDS = 3.0
"""How much longer than the device may take the answer of its node is waited for."""
_WANTED_KEPT = 10_000
_NOBODY = b""

Find = Callable[[IdentityKey], Awaitable[str | None]]
"""The other node that has the session of an identity, by its name on the bus. Raises ``HubError``."""


class MethodsElsewhere:
    """Implements ``messages.methods.Elsewhere`` for ``methods``, and answers the other nodes."""

    def __init__(self, methods: Methods, sessions: MethodSessions, bus: NodeBus, find: Find) -> None:
        self._methods, self._sessions, self._bus, self._find = methods, sessions, bus, find
        self._wanted: OrderedDict[IdentityKey, None] = OrderedDict()
        """Identities that calls of other nodes wait for, or have waited for."""
        methods.elsewhere = self
        bus.answer(_SUBJECT, self._asked)
        bus.subscribe(METHOD_WANTED, self._want_here)
        bus.subscribe(METHODS_TAKEN, lambda payload: methods.wake(key_of(payload)))
        sessions.when_methods_taken(self._taken)

    async def invoke(self, key: IdentityKey, name: str, payload: bytes, seconds: float) -> MethodAnswer | None:
        """See ``Elsewhere``."""
        node = await self._find(key)
        if node is None:
            return None
        head = json.dumps([key.device_id, key.module_id, name, seconds]).encode()
        try:
            said = await self._bus.ask(node, _SUBJECT, head + b"\n" + payload, seconds + _MORE_SECONDS)
        except NoAnswerError as error:
            if error.gone:
                return None
            raise HubError(CONNECTION_CLOSED, "The device's node did not answer; it may have acted.") from None
        except HubError as error:
            if error.row is METHOD_TIMEOUT:
                raise MethodTimeoutError(METHOD_TIMEOUT, error.message, seconds) from None
            if error.row is NOT_FOUND:  # the node has closed the hub
                return None
            raise
        if said == _NOBODY:
            return None
        status, _, answer = said.partition(b"\n")
        return MethodAnswer(int(status), answer)

    def want(self, key: IdentityKey, name: str) -> None:
        """See ``Elsewhere``."""
        self._bus.publish(METHOD_WANTED, f"{key}\n{name}")

    async def _asked(self, question: bytes) -> bytes:
        head, _, payload = question.partition(b"\n")
        device_id, module_id, name, seconds = json.loads(head)
        answer = await self._methods.invoke_here(IdentityKey(device_id, module_id), name, payload, seconds)
        return _NOBODY if answer is None else b"%d\n%b" % (answer.status, answer.payload)

    def _want_here(self, payload: str) -> None:
        identity, _, name = payload.partition("\n")
        key = key_of(identity)
        if self._sessions.taker(key, name) is not None:  # it was taken while the others were told
            self._bus.publish(METHODS_TAKEN, identity)
            return
        self._wanted[key] = None
        self._wanted.move_to_end(key)
        if len(self._wanted) > _WANTED_KEPT:
            self._wanted.popitem(last=False)

    def _taken(self, key: IdentityKey) -> None:
        if key in self._wanted:
            del self._wanted[key]  # who still waits for another method wants it again
            self._bus.publish(METHODS_TAKEN, str(key))
