"""The provisioning service's device API over HTTPS (provisioning.md section 4): register, poll, look up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.provisioning_limits import REGISTRATION_BODY_BYTES
from muster.dialect.api_version import check_api_version
from muster.dialect.json_body import Members, parse_json
from muster.dialect.registration_bodies import (
    DeviceRegistration,
    device_state_body,
    disabled_body,
    operation_body,
    read_registration,
)
from muster.heads.client_certificates import tls_credential
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call
from muster.heads.http.operations import Operation as Row
from muster.heads.http.provisioning_answers import ProvisioningAnswers
from muster.heads.tls import describe_peer
from muster.provisioning.attempt import Attempt
from muster.provisioning.certificate_requests import ISSUED
from muster.provisioning.registrar import Operation, Registrar

_TRANSPORT = "dps-https"


class DeviceRegistrationOperations:
    """What devices ask of one provisioning service."""

    def __init__(self, registrar: Registrar, answers: ProvisioningAnswers) -> None:
        self._registrar = registrar
        self._answers = answers

    def table(self) -> list[Row]:
        """The rows for the operation table; the id scope is any, and judged with the rest."""
        one, refuse = "/{id_scope}/registrations/{registration_id}", self._answers.refuse
        handlers: list[tuple[str, str, Callable[[Call], Awaitable[Response]]]] = [
            ("PUT", f"{one}/register", self.register),
            ("GET", f"{one}/operations/{{operation_id}}", self.status),
            ("POST", one, self.lookup),
        ]
        return [Row(method, path, None, handler, refuse=refuse, anywhere=True) for method, path, handler in handlers]

    async def register(self, call: Call) -> Response:
        """202 with the operation to ask for: C# and Rust want that, also where the device is assigned already."""
        attempt = _attempt(call, await _body(call))
        return _answer(attempt, await self._registrar.register(attempt), 202)

    async def status(self, call: Call) -> Response:
        """202 while the assignment is in progress, then 200. A body, which Node sends, is passed over."""
        await call.request.body.read(REGISTRATION_BODY_BYTES.open)
        attempt = _attempt(call, DeviceRegistration())
        found = await self._registrar.status(attempt, call.parameters["operation_id"])
        return _answer(attempt, found, 202 if found.retry_after else 200)

    async def lookup(self, call: Call) -> Response:
        """The bare registration."""
        body = await _body(call)
        if body.csr:
            raise HubError(ARGUMENT_INVALID, "csr is for the register call, look up without it.")
        attempt = _attempt(call, body)
        registration = (await self._registrar.lookup(attempt)).registration
        if registration is None:
            return json_answer(disabled_body(attempt.registration_id)["registrationState"])
        told = device_state_body(registration)
        told.pop(ISSUED, None)  # the lookup never returns it (provisioning.md 8.2)
        return json_answer(told)


async def _body(call: Call) -> DeviceRegistration:
    if not call.request.has_body:
        return DeviceRegistration()
    content = await call.request.body.read(REGISTRATION_BODY_BYTES.open)
    return read_registration(Members.of(parse_json(content), "The body"))


def _attempt(call: Call, body: DeviceRegistration) -> Attempt:
    check_api_version(call.query("api-version"))
    request = call.request
    token = request.headers.get("Authorization", "")
    return Attempt(
        transport=_TRANSPORT,
        peer="unknown" if request.transport is None else describe_peer(request.transport),
        id_scope=call.parameters["id_scope"],
        registration_id=call.parameters["registration_id"],
        api_version=call.query("api-version") or "",
        token=token,
        endorsement_key=body.endorsement_key,
        storage_root_key=body.storage_root_key,
        csr=body.csr,
        named=body.registration_id,
        payload=body.payload,
        **({} if request.transport is None else tls_credential(request.transport, without=token)),
    )


def _answer(attempt: Attempt, found: Operation, status: int) -> Response:
    if found.registration is None:
        return json_answer(disabled_body(attempt.registration_id))
    told = {"Retry-After": str(found.retry_after)} if found.retry_after else {}
    return json_answer(operation_body(found.registration), status, **told)
