"""The SASL mechanism TPM: the conversation in which a device shows the keys of its chip, takes in the key that it is
sent and comes back with a token that the chip signed (provisioning.md 6.5)."""

from __future__ import annotations

from dataclasses import replace

from muster.dialect.registration_addresses import RegistrationAddress
from muster.dialect.tpm_sasl import FIRST, parse_init, parse_response, segments
from muster.heads.registration_requests import Answer, Asker, Proof, RegistrationRequests
from muster.provisioning.attempt import ChallengedError
from muster.wire.amqp.decoding import AmqpDecodeError

_VERSION = "2021-06-01"
"""Until a link names the api-version."""


class TpmLogin:
    """One conversation: responses in, challenges out. ``proof`` is what the device has shown so far."""

    def __init__(self, requests: RegistrationRequests, transport: str, peer: str) -> None:
        self.proof = Proof()
        self._asker = Asker(transport, peer, RegistrationAddress("", "", _VERSION))
        self._requests = requests
        self._step = 0
        self._rest = b""

    async def take(self, response: bytes) -> bytes | bool:
        """The next challenge, or whether the device is let in. Raises ``AmqpDecodeError`` for what is malformed."""
        self._step += 1
        if self._step == 1:
            said = parse_init(response)
            address = RegistrationAddress(said.id_scope, said.registration_id, _VERSION)
            self._asker = replace(self._asker, address=address)
            self.proof = Proof(None, said.endorsement_key)
            return FIRST
        content = parse_response(response)
        if self._step == 2:
            self.proof = replace(self.proof, storage_root_key=content)
            return await self._challenge()
        if self._step == 3:
            return self._rest
        try:
            self.proof = replace(self.proof, token=content.decode())
        except UnicodeDecodeError:
            raise AmqpDecodeError("a token is not UTF-8") from None
        return await self._admit() is None

    async def _challenge(self) -> bytes | bool:
        answer = await self._admit()
        if answer is None or not isinstance(answer.error, ChallengedError):
            return False
        first, self._rest = segments(answer.error.key)
        return first

    async def _admit(self) -> Answer | None:
        return await self._requests.admit(replace(self._asker, proof=self.proof))
