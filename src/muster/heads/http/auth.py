"""Who may call: the ``Authorization`` header judged against the right that an operation needs (service.md 1.1).

Where that right is ``DeviceConnect`` the device or module of the path itself is meant, or who may act for it.
"""

from __future__ import annotations

from typing import Protocol

from muster.core.errors import UNAUTHORIZED, HubError
from muster.heads.http.operations import Call
from muster.heads.tls import describe_peer
from muster.identity.authenticator import DeviceAttempt, ServiceAttempt
from muster.identity.verdict import Right, Verdict

_TRANSPORT = "https"


class Gate(Protocol):
    """The part of ``identity.authenticator.Authenticator`` that judges callers."""

    def service(self, attempt: ServiceAttempt) -> Verdict:
        """Judge a service."""
        ...

    async def device(self, attempt: DeviceAttempt) -> Verdict:
        """Judge a device or module."""
        ...


async def authorize(call: Call, right: Right, gate: Gate) -> None:
    """Let the call through, its verdict in ``call.verdict``, or refuse it with the verdict's error.

    The message says no more than the service does; the verdict, kept under the same tracking id, says the rest.
    ``Right.DEVICE_CONNECT`` asks for the identity that ``device_id`` and ``module_id`` of the path name: by its own
    token, or by that of a policy with this right (device.md 6.1).
    """
    request = call.request
    peer = "unknown" if request.transport is None else describe_peer(request.transport)
    host, token = request.headers.get("Host", ""), request.headers.get("Authorization", "")
    if right is Right.DEVICE_CONNECT:
        key = call.identity
        verdict = await gate.device(DeviceAttempt(transport=_TRANSPORT, peer=peer, host=host, key=key, token=token))
    else:
        verdict = gate.service(
            ServiceAttempt(transport=_TRANSPORT, peer=peer, host=host, token=token, required=right, resource=call.path)
        )
    if verdict.error is not None:
        message = "Unauthorized" if verdict.error.status == UNAUTHORIZED.status else ""
        raise HubError(verdict.error, message, tracking_id=verdict.tracking_id)
    call.verdict = verdict
