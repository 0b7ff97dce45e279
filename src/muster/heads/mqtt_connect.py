"""How an MQTT connection's CONNECT becomes an attempt that is judged."""

from __future__ import annotations

from typing import Any

from muster.core.ambient import pause
from muster.core.errors import HubError
from muster.core.meters import Meters
from muster.core.throttle_errors import QUOTA_EXCEEDED
from muster.core.throttles import CONNECTIONS
from muster.dialect.mqtt import Login
from muster.heads.client_certificates import tls_credential
from muster.heads.device_services import DeviceServices
from muster.heads.tls import describe_peer
from muster.identity.authenticator import DeviceAttempt
from muster.identity.breaches import breach
from muster.identity.model import IdentityKey
from muster.identity.verdict import Verdict
from muster.wire.mqtt.packets import Connect


async def judge(services: DeviceServices, packet: Connect, login: Login, transport: Any, name: str) -> Verdict:
    """The verdict on a CONNECT that came over ``transport``, a transport of kind ``name``.

    The twin is told of the model that it announces. Above the rate of new connections the verdict comes late.
    Raises ``HubError`` when the stores fail.
    """
    attempt = DeviceAttempt(
        transport=name,
        peer=describe_peer(transport),
        host=login.host,
        key=login.key,
        token=None if packet.password is None else packet.password.decode("utf-8", "replace"),
        api_version=login.api_version,
        client_id=packet.client_id,
        **tls_credential(transport, without=packet.password),
    )
    verdict = await services.authenticator.device(attempt)
    if verdict.error is None:
        try:
            wait = _let_in(services.meters, login.key)
        except HubError as error:
            return _refused(services, attempt, error)
        if wait:
            await pause(services.ambient, wait)
            verdict = await services.authenticator.device(attempt)  # meanwhile it may have lost its ground
    if verdict.error is None and await services.twins.announce(login.key, login.model_id):
        verdict = await services.authenticator.device(attempt)  # meanwhile it may have lost its ground
    return verdict


def _let_in(meters: Meters, key: IdentityKey) -> float:
    """After how many seconds the connection of ``key`` may open. Raises ``HubError`` 429002, 429005 or 403002."""
    if meters.spent():
        raise HubError(QUOTA_EXCEEDED)
    return meters.shape(CONNECTIONS, key.device_id)


def _refused(services: DeviceServices, attempt: DeviceAttempt, error: HubError) -> Verdict:
    quota = error.row is QUOTA_EXCEEDED
    verdict = breach(
        services.ambient, "quota" if quota else "throttle", error.row, transport=attempt.transport, peer=attempt.peer,
        expected="messages left of the day's quota" if quota else "new connections at the rate of the hub's tier",
        seen="none" if quota else error.message, principal=str(attempt.key),
    )  # fmt: skip
    services.refusals.add(verdict)
    return verdict
