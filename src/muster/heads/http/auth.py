"""Who may call: the ``Authorization`` header judged against the right that an operation needs (service.md 1.1).

Where that right is ``DEVICE_CONNECT`` the device or module of the path itself is meant, or who may act for it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from muster.access.roles import Action
from muster.core.access_errors import FORBIDDEN
from muster.core.errors import UNAUTHORIZED, HubError
from muster.heads.client_certificates import tls_credential
from muster.heads.http.operations import TRANSPORT, Call
from muster.identity.authenticator import DeviceAttempt, ServiceAttempt
from muster.identity.bearer_gate import BearerAttempt, BearerGate, is_bearer
from muster.identity.mistakes import shown
from muster.identity.model import IdentityKey
from muster.identity.verdict import Right, Verdict


class ServiceGate(Protocol):
    """The part of ``identity.authenticator.Authenticator`` that judges services."""

    bearer: BearerGate | None
    """Judges bearer tokens; ``None`` where none count."""

    def proven(self, token: str, required: Right) -> str | None:
        """Who calls, if that token was allowed before and would be again."""
        ...

    def service(self, attempt: ServiceAttempt) -> Verdict:
        """Judge an attempt."""
        ...


class Gate(ServiceGate, Protocol):
    """The part of ``identity.authenticator.Authenticator`` that judges all callers."""

    async def device(self, attempt: DeviceAttempt) -> Verdict:
        """Judge a device or module."""
        ...


def authorize(
    call: Call,
    right: Right,
    gate: ServiceGate,
    actions: tuple[Action, ...] = (),
    *,
    token: str | None = None,
    hub: str | None = None,
) -> Awaitable[None] | None:
    """Let the call through, or refuse it with the verdict's error; what is to be awaited for that, if anything.

    A policy's token must have ``right``, the caller of a bearer token a role for each of ``actions``. The message says
    no more than the service does; the verdict, kept under the same tracking id, says the rest. ``token`` is looked at
    in place of the header, ``hub`` is the one that a bearer is about, where that is neither the operation's nor that of
    the gate.
    """
    request = call.request
    token = request.said.authorization if token is None else token
    hub = _place(call) if hub is None else hub
    known = gate.proven(token, right)
    if known is not None:
        call.caller = known
        return None
    if gate.bearer is not None and is_bearer(token):
        known = gate.bearer.proven(token, actions, hub)
        if known is None:
            return _authorize_bearer(call, gate.bearer, actions, hub)
        call.caller = known
        return None
    verdict = gate.service(
        ServiceAttempt(
            transport=TRANSPORT,
            peer=call.peer,
            host=request.headers.get("Host", ""),
            token=token,
            required=right,
            resource=call.path,
        )
    )
    _settle(call, verdict)
    return None


async def _authorize_bearer(call: Call, gate: BearerGate, actions: tuple[Action, ...], hub: str | None) -> None:
    request = call.request
    verdict = await gate.judge(
        BearerAttempt(
            transport=TRANSPORT,
            peer=call.peer,
            token=request.said.authorization,
            actions=actions,
            device_id=call.parameters.get("device_id"),
            hub=hub,
        )
    )
    _settle(call, verdict)


async def authorize_device(call: Call, gate: Gate, key: IdentityKey, target: IdentityKey | None = None) -> None:
    """As ``authorize``, for the device or module ``key`` (device.md 6.1), which wants to call methods of ``target``.

    It may show its own token, one of a policy with DeviceConnect, or without a token its certificate.
    ``call.verdict`` tells more of it.
    """
    request = call.request
    token = request.said.authorization
    verdict = await gate.device(
        DeviceAttempt(
            transport=TRANSPORT,
            peer=call.peer,
            host=request.headers.get("Host", ""),
            key=key,
            token=token,
            target=target,
            **({} if request.transport is None else tls_credential(request.transport, without=token)),
        )
    )
    _settle(call, verdict)


def _place(call: Call) -> str | None:
    """Where the caller must have his role: at every hub, at the one that the operation names, or that of the gate."""
    return None if call.operation is None else call.operation.scope


def _settle(call: Call, verdict: Verdict) -> None:
    call.verdict = verdict
    if verdict.error is not None:
        message = "Unauthorized" if verdict.error.status == UNAUTHORIZED.status else ""
        if verdict.error is FORBIDDEN:
            asked = f"{call.request.method} on /{shown(call.path)}"
            message = f"Principal {verdict.principal} is not authorized for {asked} due to no assigned permissions."
        raise HubError(verdict.error, message, tracking_id=verdict.tracking_id)
    call.caller = verdict.principal
