"""Faults that clients ask for: how a message spells them, when they begin, how long they last."""

from __future__ import annotations

from pathlib import Path

import pytest

from muster.core.errors import DEVICE_UNAUTHORIZED, THROTTLED, HubError
from muster.core.fault_limits import FAULTS_WAITING
from muster.core.throttle_errors import QUOTA_EXCEEDED
from muster.dialect.faults import DELAY, DURATION, OPERATION, REASON, read_fault
from muster.identity.model import IdentityKey
from muster.node.settings import Settings
from muster.sessions.faults import REFUSALS, Fault, Faults, Target
from muster.testing.clock import VirtualAmbient

KEY, OTHER = IdentityKey("d"), IdentityKey("d", "m")

SPELLED = {
    "KillTcp": Target.TRANSPORT, "KillAmqpConnection": Target.CONNECTION, "KillAmqpSession": Target.SESSION,
    "KillAmqpCBSLinkReq": Target.CREDENTIAL_REQUESTS, "KillAmqpCBSLinkResp": Target.CREDENTIAL_ANSWERS,
    "KillAmqpD2CLink": Target.TELEMETRY, "KillAmqpC2DLink": Target.COMMANDS,
    "KillAmqpTwinLinkReq": Target.TWIN_REQUESTS, "KillAmqpTwinLinkResp": Target.TWIN_ANSWERS,
    "KillAmqpMethodReqLink": Target.METHOD_REQUESTS, "KillAmqpMethodRespLink": Target.METHOD_ANSWERS,
    "InvokeThrottling": Target.THROTTLING, "InvokeMaxMessageQuota": Target.QUOTA,
    "InvokeAuthError": Target.AUTHORIZATION, "ShutDownAmqp": Target.AMQP_GOODBYE, "ShutDownMqtt": Target.MQTT_GOODBYE,
}  # fmt: skip


@pytest.mark.parametrize(("name", "target"), SPELLED.items())
def test_every_fault_that_the_sdks_tests_name(name: str, target: Target) -> None:
    fault = read_fault({OPERATION: name, REASON: "boom", DELAY: "1", DURATION: "20"})
    assert fault == Fault(target, name.startswith("ShutDown"), 1.0, 20.0)


def test_all_targets_can_be_named() -> None:
    assert set(SPELLED.values()) == set(Target)


@pytest.mark.parametrize(
    ("reason", "graceful"),
    [("byebye", True), ("ByeBye", True), ("boom", False), ("Boom", False), (" severs the TCP connection ", False),
     (None, False), ("", False)],
)  # fmt: skip
def test_only_byebye_asks_for_a_goodbye(reason: str | None, graceful: bool) -> None:
    fault = read_fault({OPERATION: "KillTcp", REASON: reason})
    assert fault == Fault(Target.TRANSPORT, graceful)


def test_what_is_not_said_is_at_once_and_once_but_a_refusal_lasts() -> None:
    assert read_fault({OPERATION: "KillTcp"}) == Fault(Target.TRANSPORT, False, 0.0, 0.0)
    assert read_fault({OPERATION: "InvokeThrottling"}) == Fault(Target.THROTTLING, False, 0.0, 5.0)
    assert read_fault({OPERATION: "InvokeThrottling", DELAY: 0.25, DURATION: 0}) == Fault(
        Target.THROTTLING, False, 0.25, 0.0
    )
    assert read_fault({}) is None
    assert read_fault({"other": "KillTcp", DELAY: "x"}) is None


@pytest.mark.parametrize(
    ("properties", "named"),
    [
        ({OPERATION: "killtcp"}, OPERATION), ({OPERATION: ""}, OPERATION),
        *(({OPERATION: "KillTcp", name: value}, name) for name in (DELAY, DURATION)
          for value in ("", "x", "-1", "1e3", "3601", "9" * 50, "1.", "nan")),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(properties: dict[str, object], named: str) -> None:
    with pytest.raises(HubError) as caught:
        read_fault(properties)
    assert named in caught.value.message


class Bench:
    def __init__(self) -> None:
        self.ambient = VirtualAmbient()
        self.faults = Faults(self.ambient)
        self.struck: list[Fault] = []
        self.faults.attend(KEY, self.struck.append)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_fault_strikes_after_its_delay_and_lasts_for_its_duration(bench: Bench) -> None:
    fault = Fault(Target.TRANSPORT, False, 2.0, 3.0)
    bench.faults.inject(KEY, fault)
    bench.ambient.advance(1.9)
    assert (bench.struck, bench.faults.lasting(KEY, Target.TRANSPORT)) == ([], None)
    bench.ambient.advance(0.1)
    assert bench.struck == [fault]
    lasting = bench.faults.lasting(KEY, Target.TRANSPORT)
    assert lasting is not None
    assert lasting.until == bench.ambient.now() + 3
    assert bench.faults.lasting(KEY, Target.TELEMETRY) is None
    assert bench.faults.lasting(OTHER, Target.TRANSPORT) is None
    bench.ambient.advance(3)
    assert bench.faults.lasting(KEY, Target.TRANSPORT) is None
    assert bench.struck == [fault], "once"


def test_without_a_duration_it_is_over_at_once(bench: Bench) -> None:
    bench.faults.inject(KEY, Fault(Target.TELEMETRY))
    bench.ambient.advance(0)
    assert [fault.target for fault in bench.struck] == [Target.TELEMETRY]
    assert bench.faults.lasting(KEY, Target.TELEMETRY) is None


@pytest.mark.parametrize(
    ("target", "row"),
    [(Target.THROTTLING, THROTTLED), (Target.QUOTA, QUOTA_EXCEEDED), (Target.AUTHORIZATION, DEVICE_UNAUTHORIZED)],
)
def test_what_messages_are_answered_meanwhile(bench: Bench, target: Target, row: object) -> None:
    assert bench.faults.refusal(KEY) is None
    bench.faults.inject(KEY, Fault(target, False, 1.0, 5.0))
    bench.ambient.advance(1)
    assert bench.faults.refusal(KEY) is row is REFUSALS[target]
    assert bench.faults.refusal(OTHER) is None
    bench.ambient.advance(5)
    assert bench.faults.refusal(KEY) is None


def test_whoever_attends_when_it_begins_is_told_and_nobody_who_has_left(bench: Bench) -> None:
    later: list[Fault] = []
    bench.faults.inject(KEY, Fault(Target.TRANSPORT, False, 1.0))
    bench.faults.attend(KEY, later.append)
    bench.faults.leave(KEY, bench.struck.append)
    bench.ambient.advance(1)
    assert (len(bench.struck), len(later)) == (0, 1)
    bench.faults.inject(KEY, Fault(Target.TRANSPORT))
    bench.faults.leave(KEY, later.append)
    bench.ambient.advance(0)
    assert len(later) == 1
    bench.faults.inject(KEY, Fault(Target.TRANSPORT), bench.struck.append)
    bench.ambient.advance(0)
    assert len(bench.struck) == 1, "one who asks for himself needs not attend"


def test_so_many_may_wait_and_no_more(bench: Bench) -> None:
    most = FAULTS_WAITING.open
    for _ in range(most + 5):
        bench.faults.inject(KEY, Fault(Target.TRANSPORT, False, 1.0))
    bench.faults.inject(OTHER, Fault(Target.TRANSPORT, False, 1.0))
    bench.ambient.advance(1)
    assert len(bench.struck) == most
    bench.faults.inject(KEY, Fault(Target.TRANSPORT))
    bench.ambient.advance(0)
    assert len(bench.struck) == most + 1


def test_two_of_a_kind_last_each_their_time(bench: Bench) -> None:
    for delay in (0.0, 2.0):
        bench.faults.inject(KEY, Fault(Target.QUOTA, False, delay, 3.0))
    for _ in range(4):
        bench.ambient.advance(1)
        assert bench.faults.refusal(KEY) is QUOTA_EXCEEDED
    bench.ambient.advance(1)
    assert bench.faults.refusal(KEY) is None


@pytest.mark.parametrize(
    ("data", "told", "taken"),
    [(None, None, True), (Path("d"), None, False), (None, False, False), (Path("d"), True, True)],
)
def test_only_an_ephemeral_hub_takes_faults_unless_told_otherwise(
    data: Path | None, told: bool | None, taken: bool
) -> None:
    assert Settings(data=data, fault_injection=told).takes_faults is taken
