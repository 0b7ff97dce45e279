"""The provisioning service's device API over AMQP 1.0 (provisioning.md section 3): the role of its links.

A device has two links to ``{id scope}/registrations/{id}``: it asks on one and hears on the other. Nobody is judged
before: a token that came by SASL PLAIN is kept for the requests, each of which is judged, and so is a certificate of
the handshake. Requests are answered one after the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from muster.core.errors import CONNECTION_CLOSED, INVALID_OPERATION, INVALID_PROTOCOL_VERSION, HubError
from muster.core.provisioning_limits import REGISTRATION_PACKET_BYTES, REGISTRATION_SILENCE
from muster.dialect.api_version import check_api_version
from muster.dialect.registration_addresses import RegistrationAddress, plain_registration, registration_path
from muster.dialect.registration_messages import Asked, read_request, refusal, reply
from muster.heads.amqp_links import LinkHandler
from muster.heads.client_certificates import tls_credential
from muster.heads.registration_requests import Answer, Asker, Proof, RegistrationRequests
from muster.heads.registration_tpm import TpmLogin
from muster.wire.amqp.decoding import AmqpDecodeError
from muster.wire.amqp.events import Delivery
from muster.wire.amqp.link import Link, ReceivingLink, SendingLink
from muster.wire.amqp.message import decode_message
from muster.wire.amqp.performatives import ACCEPTED, Error, Rejected
from muster.wire.amqp.sasl import Plain
from muster.wire.amqp.values import Symbol

if TYPE_CHECKING:
    from muster.heads.amqp import AmqpConnection

_NODE = "registrations"
_VERSION = Symbol("com.microsoft:api-version")


class RegistrationLinks:
    """See ``heads.amqp_links.Role``."""

    def __init__(self, requests: RegistrationRequests) -> None:
        self._requests = requests

    def login(self, connection: AmqpConnection, said: Plain) -> bool:
        """Keep the token when it was said with the user name of a registration; whether it was."""
        if plain_registration(said.user) is None:
            return False
        self._node(connection).proof = Proof(said.password)
        return True

    async def tpm(self, connection: AmqpConnection, response: bytes) -> bytes | bool:
        """Go on with a TPM's conversation: the next challenge, or whether the device is let in."""
        node = self._node(connection)
        if node.tpm is None:
            node.tpm = TpmLogin(self._requests, f"dps-{connection.transport_name}", connection.peer)
        try:
            said = await node.tpm.take(response)
        except AmqpDecodeError as error:
            connection.keep("sasl-tpm", "the responses of the SASL mechanism TPM", str(error))
            return False
        node.proof = node.tpm.proof
        return said

    def attach(self, connection: AmqpConnection, link: Link, path: tuple[str, ...]) -> LinkHandler | None:
        """See ``heads.amqp_links.Role``. Raises ``HubError`` 400001 for the api-version that the link names."""
        found = registration_path(path)
        if found is None:
            return None
        node = self._node(connection)
        if isinstance(link, SendingLink):
            link.accept()
            return _Answers(node, link, found)
        assert isinstance(link, ReceivingLink)
        version = (link.attach.properties or {}).get(_VERSION)
        if not isinstance(version, str):
            raise HubError(INVALID_PROTOCOL_VERSION, f"The link's properties lack {_VERSION}, such as 2021-06-01.")
        check_api_version(version)
        link.accept(max_message_size=REGISTRATION_PACKET_BYTES.open)
        link.grant(1)
        return _Questions(node, link, RegistrationAddress(*found, version))

    def _node(self, connection: AmqpConnection) -> _Node:
        node = connection.nodes.get(_NODE)
        if node is None:
            node = connection.nodes[_NODE] = _Node(connection, self._requests)
        assert isinstance(node, _Node)
        return node


class _Node:
    """One connection's links, and what came on it before them."""

    def __init__(self, connection: AmqpConnection, requests: RegistrationRequests) -> None:
        self.connection = connection
        self.requests = requests
        self.proof = Proof()
        self.tpm: TpmLogin | None = None
        self.answers: list[_Answers] = []
        self.links = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tag = 0

    def asker(self, address: RegistrationAddress) -> Asker:
        connection = self.connection
        credential = tls_credential(connection.transport, without=self.proof.token)
        return Asker(f"dps-{connection.transport_name}", connection.peer, address, self.proof, **credential)

    def hears(self, address: RegistrationAddress) -> _Answers | None:
        """The newest link on which a device gets its answers."""
        found = (address.id_scope.lower(), address.registration_id.lower())
        return next((one for one in reversed(self.answers) if one.address == found), None)

    def tag(self) -> bytes:
        self._tag = (self._tag + 1) & 0xFFFFFFFF
        return self._tag.to_bytes(4)

    def proven(self) -> None:
        """The device is somebody. It may stay as long as it asks."""
        self.connection.proven()
        self.forget_timer()
        self._timer = self.connection.head.loop.call_later(REGISTRATION_SILENCE.open, self._silent)

    def forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def left(self) -> None:
        """A link is gone."""
        self.links -= 1
        if not self.links and self.connection.closing:
            self.forget_timer()

    def _silent(self) -> None:
        connection = self.connection
        if not connection.closing:
            connection.keep("registration-silence", f"a question every {REGISTRATION_SILENCE.open} s", "none")
            connection.end(HubError(CONNECTION_CLOSED, "Nothing was asked for a long time."))


class _Answers(LinkHandler):
    """The link on which a device hears."""

    __slots__ = ("_link", "_node", "_waiting", "address")

    def __init__(self, node: _Node, link: SendingLink, path: tuple[str, str]) -> None:
        super().__init__(None)
        self.address = (path[0].lower(), path[1].lower())
        self._node, self._link = node, link
        self._waiting: deque[bytes] = deque()
        node.links += 1
        node.answers.append(self)

    def send(self, message: bytes) -> None:
        self._waiting.append(message)
        self.flow()

    def flow(self) -> None:
        waiting, link = self._waiting, self._link
        while waiting and link.send(waiting[0], tag=self._node.tag(), settled=True) is not None:
            waiting.popleft()
        if link.drain:
            link.drained()

    def full(self) -> bool:
        """Whether the device does not take what it asked for."""
        return len(self._waiting) >= _ANSWERS

    def detached(self) -> None:
        self._node.answers.remove(self)
        self._node.left()


_ANSWERS = 8
"""So many answers may wait for a device's credit; more questions are refused."""


class _Questions(LinkHandler):
    """The link on which a device asks."""

    __slots__ = ("_address", "_link", "_node")

    def __init__(self, node: _Node, link: ReceivingLink, address: RegistrationAddress) -> None:
        super().__init__(None)
        self._node, self._link, self._address = node, link, address
        node.links += 1

    def delivery(self, event: Delivery) -> None:
        try:
            asked = read_request(decode_message(event.payload))
            hears = self._node.hears(self._address)
            if hears is None or hears.full():
                raise HubError(INVALID_OPERATION, "There is no link with credit to answer on, attach a receiver first.")
        except AmqpDecodeError as error:
            self._settle(event, Rejected(Error(error.condition, str(error))))
        except HubError as problem:
            self._refuse(event, self._node.requests.refuse(problem))
        else:
            self._node.connection.run(self._answer(event, asked, hears))

    async def _answer(self, event: Delivery, asked: Asked, hears: _Answers) -> None:
        node = self._node
        answer = await node.requests.answer(node.asker(self._address), asked.operation_id, asked.body)
        if answer.error is not None:
            self._refuse(event, answer)
            return
        node.proven()
        self._settle(event, ACCEPTED)
        hears.send(reply(asked, answer.body, answer.retry_after))

    def _refuse(self, event: Delivery, answer: Answer) -> None:
        assert answer.error is not None
        self._settle(event, Rejected(refusal(answer.error.row, answer.body, answer.retry_after)))

    def _settle(self, event: Delivery, outcome: Any) -> None:
        if not event.settled:
            self._link.dispose(event.delivery_id, outcome)
        self._link.grant(1)

    def detached(self) -> None:
        self._node.left()
