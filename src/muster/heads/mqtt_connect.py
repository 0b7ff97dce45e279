"""How an MQTT connection's CONNECT becomes an attempt that is judged."""

from __future__ import annotations

from typing import Any

from muster.core.errors import DEVICE_UNAUTHORIZED
from muster.dialect.mqtt import Login
from muster.heads.admission import admitted
from muster.heads.back_off import hold
from muster.heads.client_certificates import tls_credential
from muster.heads.device_services import DeviceServices
from muster.heads.tls import describe_peer
from muster.identity.authenticator import DeviceAttempt
from muster.identity.verdict import Verdict
from muster.wire.mqtt.packets import Connect


async def judge(services: DeviceServices, packet: Connect, login: Login, transport: Any, name: str) -> Verdict:
    """The verdict on a CONNECT that came over ``transport``, a transport of kind ``name``.

    The twin is told of the model that it announces. Above the rate of new connections the verdict comes late.
    From where it comes counts before anything else, and once more at the end. Raises ``HubError`` when the stores fail.
    """
    refused = _by_network(services, transport, name, login)
    if refused is not None:
        await hold(services.refusals, refused.peer, refused.principal)
        return refused
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
    verdict = await admitted(services, attempt)
    if verdict.error is None and await services.twins.announce(login.key, login.model_id):
        verdict = await services.authenticator.device(attempt)  # meanwhile it may have lost its ground
    return verdict if verdict.error is not None else _by_network(services, transport, name, login) or verdict


def _by_network(services: DeviceServices, transport: Any, name: str, login: Login) -> Verdict | None:
    network = services.network
    if network is None or not network.watches:
        return None
    peer = describe_peer(transport)
    return network.refusal(name, peer, principal=str(login.key), error=DEVICE_UNAUTHORIZED)
