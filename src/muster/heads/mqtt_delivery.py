"""What the hub may publish to one MQTT connection: by its subscriptions, and under which packet ids."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from muster.dialect.mqtt import SubscriptionKind, subscription_kind
from muster.identity.model import IdentityKey
from muster.wire.mqtt import encoder

_LAST_ID = 32_767
"""Higher packet ids are those of commands (``heads.mqtt_commands``)."""


class Delivery:
    """One connection's granted kinds of messages, and the packet ids of those it has not acknowledged."""

    __slots__ = ("_granted", "_in_flight", "_last")

    def __init__(self) -> None:
        self._granted: dict[SubscriptionKind, int] = {}
        self._in_flight: set[int] = set()
        self._last = 0

    def grant(self, filters: Mapping[str, int], key: IdentityKey) -> None:
        """From now on these topic filters of ``key`` are in force, each with its QoS."""
        granted: dict[SubscriptionKind, int] = {}
        for name, qos in filters.items():
            kind = subscription_kind(name, key)
            if kind is not None:
                granted[kind] = max(qos, granted.get(kind, 0))
        self._granted = granted

    def granted(self, kinds: Iterable[SubscriptionKind]) -> int | None:
        """The highest QoS at which one of ``kinds`` may be published; ``None``: none was subscribed to."""
        return max((self._granted[kind] for kind in kinds if kind in self._granted), default=None)

    def packet(self, kind: SubscriptionKind, topic: str, payload: bytes, most_qos: int) -> bytes | None:
        """The PUBLISH, at QoS ``most_qos`` at most; ``None`` without a subscription to ``kind``.

        Should the device never have acknowledged any of 32,767 messages, QoS 0 is left.
        """
        granted = self._granted.get(kind)
        if granted is None:
            return None
        packet_id = self._take() if min(granted, most_qos) else 0
        return encoder.publish(topic, payload, 1 if packet_id else 0, packet_id)

    def acknowledged(self, packet_id: int) -> None:
        """PUBACK; one that was not waited for does no harm."""
        self._in_flight.discard(packet_id)

    def _take(self) -> int:
        if len(self._in_flight) == _LAST_ID:
            return 0
        packet_id = self._last
        while True:
            packet_id = packet_id % _LAST_ID + 1
            if packet_id not in self._in_flight:
                break
        self._last = packet_id
        self._in_flight.add(packet_id)
        return packet_id
