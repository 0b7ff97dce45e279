"""Who may call: the ``Authorization`` header judged against the right that an operation needs (service.md 1.1)."""

from __future__ import annotations

from typing import Protocol

from muster.core.errors import HubError
from muster.heads.http.operations import Call
from muster.heads.tls import describe_peer
from muster.identity.authenticator import ServiceAttempt
from muster.identity.verdict import Right, Verdict


class ServiceGate(Protocol):
    """The part of ``identity.authenticator.Authenticator`` that judges services."""

    def proven(self, token: str, required: Right) -> str | None:
        """Who calls, if that token was allowed before and would be again."""
        ...

    def service(self, attempt: ServiceAttempt) -> Verdict:
        """Judge an attempt."""
        ...


def authorize(call: Call, right: Right, gate: ServiceGate) -> None:
    """Let the call through, or refuse it with the verdict's error.

    The message says no more than the service does; the verdict, kept under the same tracking id, says the rest.
    """
    request = call.request
    token = request.headers.get("Authorization", "")
    known = gate.proven(token, right)
    if known is not None:
        call.caller = known
        return
    verdict = gate.service(
        ServiceAttempt(
            transport="https",
            peer="unknown" if request.transport is None else describe_peer(request.transport),
            host=request.headers.get("Host", ""),
            token=token,
            required=right,
            resource=call.path,
        )
    )
    if verdict.error is not None:
        raise HubError(verdict.error, "Unauthorized", tracking_id=verdict.tracking_id)
    call.caller = verdict.principal
