"""What may be published to a connection, and under which packet id."""

from __future__ import annotations

from muster.dialect.mqtt import SubscriptionKind
from muster.heads.mqtt_delivery import Delivery
from muster.identity.model import IdentityKey
from muster.wire.mqtt import encoder

KEY = IdentityKey("d")
RESPONSES, DESIRED = "$iothub/twin/res/#", "$iothub/twin/PATCH/properties/desired/#"
KIND = SubscriptionKind.DESIRED_PROPERTIES


def delivery(**qos: int) -> Delivery:
    made = Delivery()
    made.grant({{"res": RESPONSES, "desired": DESIRED}[name]: value for name, value in qos.items()}, KEY)
    return made


def test_without_a_grant_nothing_goes_out() -> None:
    assert Delivery().packet(KIND, "t", b"", 1) is None
    assert delivery(res=1).packet(KIND, "t", b"", 1) is None


def test_the_lower_qos_counts() -> None:
    assert delivery(desired=0).packet(KIND, "t", b"p", 1) == encoder.publish("t", b"p")
    assert delivery(desired=1).packet(KIND, "t", b"p", 0) == encoder.publish("t", b"p")
    assert delivery(desired=1).packet(KIND, "t", b"p", 1) == encoder.publish("t", b"p", 1, 1)


def test_of_several_filters_of_a_kind_the_highest_qos_counts() -> None:
    made = Delivery()
    made.grant({DESIRED: 0, f"{DESIRED[:-1]}?x": 1, "$iothub/twin/PATCH/properties/desired/?y": 0}, KEY)
    assert made.packet(KIND, "t", b"p", 1) == encoder.publish("t", b"p", 1, 1)


def test_packet_ids_in_flight_are_not_used_again() -> None:
    made = delivery(desired=1)
    ids = [made._take() for _ in range(32_767)]
    assert ids == list(range(1, 32_768))
    assert made.packet(KIND, "t", b"p", 1) == encoder.publish("t", b"p"), "QoS 0 is left"
    made.acknowledged(300)
    made.acknowledged(300)
    assert made._take() == 300
    assert made._take() == 0
