"""What the heads of MQTT and AMQP have in common where a device registers: a request in, an answer out that never
raises, in the words of the device API (provisioning.md section 5)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import field
from math import ceil
from typing import Any, NamedTuple

from muster.core.ambient import Ambient, tracking_id
from muster.core.errors import MESSAGE_TOO_LARGE, SERVER_ERROR, UNAUTHORIZED, HubError
from muster.core.json_text import encode_ascii
from muster.core.provisioning_limits import REGISTRATION_BODY_BYTES
from muster.core.throttle_errors import ThrottledError
from muster.core.values import value
from muster.dialect.json_body import Members, parse_json
from muster.dialect.registration_addresses import RegistrationAddress
from muster.dialect.registration_bodies import (
    DeviceRegistration,
    disabled_body,
    error_body,
    operation_body,
    read_registration,
)
from muster.heads.back_off import hold
from muster.identity.mistakes import shown
from muster.identity.refusals import Refusals
from muster.provisioning.attempt import Attempt
from muster.provisioning.registrar import Registrar

log = logging.getLogger("muster.provisioning")


@value(frozen=True, slots=True)
class Proof:
    """What a device has shown before it asks; see ``provisioning.attempt.Attempt``."""

    token: str | None = field(default=None, repr=False)
    endorsement_key: bytes = b""
    storage_root_key: bytes = b""


@value(frozen=True, slots=True)
class Asker:
    """A device on its connection; see ``provisioning.attempt.Attempt``."""

    transport: str
    peer: str
    address: RegistrationAddress
    proof: Proof = field(default=Proof())
    certificates: Sequence[bytes] = field(default=(), repr=False)
    tls_version: str = ""


class Answer(NamedTuple):
    """``status`` as HTTP would have it; ``retry_after`` in seconds, 0 for none; ``error`` for a refusal, whose
    ``body`` is JSON too. ASCII, as Node reads it so."""

    status: int
    body: bytes
    retry_after: int
    error: HubError | None = None


class RegistrationRequests:
    """Answers devices of one provisioning service. ``refusals`` keeps the rules that they break before that."""

    def __init__(self, registrar: Registrar, refusals: Refusals, ambient: Ambient) -> None:
        self._registrar = registrar
        self.refusals = refusals
        self.ambient = ambient

    async def answer(self, asker: Asker, operation_id: str | None, content: bytes) -> Answer:
        """Register a device whose body is ``content`` (perhaps empty), or tell what became of ``operation_id``."""
        try:
            if operation_id is None:
                attempt = _attempt(asker, _read(content))
                found = await self._registrar.register(attempt)
            else:
                attempt = _attempt(asker, DeviceRegistration())  # with the question some repeat the body
                found = await self._registrar.status(attempt, operation_id)
        except HubError as error:
            await self._hold(asker, error)
            return self.refuse(error)
        except Exception:
            log.exception("cannot register %s", asker.address.registration_id)
            return self.refuse(HubError(SERVER_ERROR, "The service failed, see its log under the tracking id."))
        if found.registration is None:
            return Answer(200, _encoded(disabled_body(asker.address.registration_id)), 0)
        return Answer(
            202 if found.retry_after else 200, _encoded(operation_body(found.registration)), found.retry_after
        )

    async def admit(self, asker: Asker) -> Answer | None:
        """Judge a device before it asks for anything: why it is refused, or ``None``. The error may be a challenge."""
        try:
            await self._registrar.admit(_attempt(asker, DeviceRegistration()))
        except HubError as error:
            await self._hold(asker, error)
            return self.refuse(error)
        return None

    async def _hold(self, asker: Asker, error: HubError) -> None:
        if error.row is UNAUTHORIZED:
            await hold(self.refusals, asker.peer, shown(asker.address.registration_id))

    def refuse(self, error: HubError) -> Answer:
        """The answer to a request that cannot be served."""
        tracked = error.tracking_id or tracking_id(self.ambient)
        log.debug("refused: %s (%s)", error, tracked)
        later = ceil(error.retry_after) if isinstance(error, ThrottledError) else 0
        return Answer(error.row.status, _encoded(error_body(error, tracked, self.ambient.now())), later, error)


def _encoded(body: Any) -> bytes:
    return encode_ascii(body).encode()


def _read(content: bytes) -> DeviceRegistration:
    if len(content) > REGISTRATION_BODY_BYTES.open:
        raise HubError(MESSAGE_TOO_LARGE, f"The body is over {REGISTRATION_BODY_BYTES.open} bytes, send less.")
    if not content.strip():
        return DeviceRegistration()
    return read_registration(Members.of(parse_json(content), "The body"))


def _attempt(asker: Asker, body: DeviceRegistration) -> Attempt:
    return Attempt(
        transport=asker.transport,
        peer=asker.peer,
        id_scope=asker.address.id_scope,
        registration_id=asker.address.registration_id,
        api_version=asker.address.api_version,
        token=asker.proof.token,
        certificates=asker.certificates,
        tls_version=asker.tls_version,
        endorsement_key=body.endorsement_key or asker.proof.endorsement_key,
        storage_root_key=body.storage_root_key or asker.proof.storage_root_key,
        csr=body.csr,
        named=body.registration_id,
        payload=body.payload,
    )
