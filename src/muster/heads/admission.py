"""Who may begin a session: the verdict on a device, and the rate of new connections; the same on MQTT and AMQP."""

from __future__ import annotations

from muster.core.ambient import pause
from muster.core.errors import HubError
from muster.core.throttle_errors import QUOTA_EXCEEDED
from muster.core.throttles import CONNECTIONS
from muster.heads.back_off import hold
from muster.heads.device_services import DeviceServices
from muster.identity.authenticator import DeviceAttempt
from muster.identity.breaches import breach
from muster.identity.verdict import Verdict


async def admitted(services: DeviceServices, attempt: DeviceAttempt) -> Verdict:
    """The verdict on who wants to begin a session.

    Above the rate it comes late, and was made when the wait was over. Beyond that, and when the day's quota is used up,
    it is one that refuses. Who is refused anyway uses up nobody's rate. Raises ``HubError`` when the stores fail, and
    503001 when this node takes no sessions: all who were on it come back, and need not be looked up for that.
    """
    services.sessions.check_open()
    verdict = await services.authenticator.device(attempt)
    if verdict.error is not None:
        await hold(services.refusals, verdict.peer, verdict.principal)
        return verdict
    meters = services.meters
    try:
        if meters.spent():
            raise HubError(QUOTA_EXCEEDED)
        wait = meters.shape(CONNECTIONS, attempt.key.device_id)
    except HubError as error:
        return _refused(services, attempt, error)
    if not wait:
        return verdict
    await pause(services.ambient, wait)
    return await services.authenticator.device(attempt)  # meanwhile it may have lost its ground


def _refused(services: DeviceServices, attempt: DeviceAttempt, error: HubError) -> Verdict:
    name, expected, seen = why_not(error, "new connections")
    verdict = breach(
        services.ambient, name, error.row, transport=attempt.transport, peer=attempt.peer, expected=expected, seen=seen,
        principal=str(attempt.key),
    )  # fmt: skip
    services.refusals.add(verdict)
    return verdict


def why_not(error: HubError, what: str) -> tuple[str, str, str]:
    """For ``breach``: the rule of which ``Meters`` refused ``what`` with ``error``, what it asks for, what came."""
    if error.row is QUOTA_EXCEEDED:
        return "quota", "messages left of the day's quota", "none"
    return "throttle", f"{what} at the rate of the hub's tier", error.message
