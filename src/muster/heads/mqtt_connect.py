"""What an MQTT connection needs of the rest of the hub, and how its CONNECT becomes an attempt that is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from muster.core.ambient import Ambient
from muster.dialect.mqtt import Login
from muster.heads.client_certificates import tls_credential
from muster.heads.tls import describe_peer
from muster.identity.authenticator import Authenticator, DeviceAttempt
from muster.identity.refusals import Refusals
from muster.identity.verdict import Verdict
from muster.messages.commands import Commands
from muster.messages.methods import Methods
from muster.messages.telemetry import Telemetry
from muster.sessions.table import SessionTable
from muster.twins.service import Twins
from muster.wire.mqtt.packets import Connect


@dataclass(frozen=True, slots=True)
class MqttServices:
    """The rest of the hub, as far as MQTT knows it."""

    authenticator: Authenticator
    sessions: SessionTable
    telemetry: Telemetry
    refusals: Refusals
    ambient: Ambient
    twins: Twins
    methods: Methods
    commands: Commands


async def judge(services: MqttServices, packet: Connect, login: Login, transport: Any, name: str) -> Verdict:
    """The verdict on a CONNECT that came over ``transport``, a transport of kind ``name``.

    The twin is told of the model that it announces. Raises ``HubError`` when the stores fail.
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
    if verdict.error is None and await services.twins.announce(login.key, login.model_id):
        verdict = await services.authenticator.device(attempt)  # meanwhile it may have lost its ground
    return verdict
