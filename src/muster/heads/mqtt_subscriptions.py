"""SUBSCRIBE and UNSUBSCRIBE on an MQTT connection: what is granted, and what is answered once it is on disk."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from muster.core.limits import MQTT_FILTER_CHARACTERS
from muster.dialect.mqtt import subscription_kind
from muster.identity.model import IdentityKey
from muster.sessions.subscriptions import Subscriptions
from muster.sessions.table import Session
from muster.wire.mqtt import encoder
from muster.wire.mqtt.packets import SUBSCRIBE_REFUSED, Subscribe, Unsubscribe


class Changed(NamedTuple):
    """The session has the filters that it will have; ``answer`` goes out when ``kept``, if there is one, is done."""

    answer: bytes
    kept: asyncio.Future[None] | None


def change(subscriptions: Subscriptions, session: Session, packet: Subscribe | Unsubscribe) -> Changed:
    """Do what the device asks for. At QoS 1 at most; what is not for it, or too long, is refused in SUBACK."""
    if isinstance(packet, Unsubscribe):
        return Changed(encoder.unsuback(packet.packet_id), subscriptions.unsubscribe(session, packet.filters))
    granted = {name: min(qos, 1) for name, qos in packet.filters if _is_granted(name, session.key)}
    kept = subscriptions.subscribe(session, granted)
    codes = [session.filters.get(name, SUBSCRIBE_REFUSED) for name, _ in packet.filters]
    return Changed(encoder.suback(packet.packet_id, codes), kept)


def _is_granted(name: str, key: IdentityKey) -> bool:
    return len(name) <= MQTT_FILTER_CHARACTERS.open and subscription_kind(name, key) is not None
