"""What tokens on an AMQP connection open, and for how long."""

from __future__ import annotations

import pytest

from muster.core.amqp_limits import AMQP_TOKENS
from muster.core.errors import TOO_MANY_TOKENS, HubError
from muster.heads.grants import Grants, scope_of
from muster.identity.verdict import Right, Verdict
from muster.testing.clock import VirtualAmbient


def verdict(expires_at: float | None) -> Verdict:
    return Verdict(
        tracking_id="t", at=0, transport="amqp", peer="", principal="p", checks=(), rights=Right.SERVICE_CONNECT,
        expires_at=expires_at,
    )  # fmt: skip


def test_a_grant_covers_what_lies_below_it_by_whole_segments() -> None:
    grants = Grants(VirtualAmbient(), lambda: None)
    assert not grants
    grants.add(scope_of(("Events", "ConsumerGroups")), verdict(None))
    assert grants
    assert grants.covers(("events", "consumergroups", "$default"))
    assert grants.covers(("events", "consumergroups"))
    assert not grants.covers(("events",))
    assert not grants.covers(("events", "consumergroupsx"))
    assert not grants.covers(())
    grants.add((), verdict(None))
    assert grants.covers(("anything",))
    assert grants.described() == "events/consumergroups, the hub"


def test_grants_run_out_unless_renewed() -> None:
    ambient = VirtualAmbient()
    told: list[bool] = []
    grants = Grants(ambient, lambda: told.append(grants.covers(("a",))))
    grants.add(("a",), verdict(ambient.now() + 10))
    grants.add(("b",), verdict(ambient.now() + 20))
    grants.add(("a",), verdict(ambient.now() + 30))
    ambient.advance(15)
    assert told == []
    ambient.advance(10)
    assert told == [True]
    assert not grants.covers(("b",))
    ambient.advance(10)
    assert told == [True, False]
    assert not grants


def test_nothing_is_told_after_the_end() -> None:
    ambient = VirtualAmbient()
    told: list[str] = []
    grants = Grants(ambient, lambda: told.append("expired"))
    grants.add(("a",), verdict(ambient.now() + 10))
    grants.clear()
    ambient.advance(100)
    assert told == []


def test_audiences_are_bounded() -> None:
    grants = Grants(VirtualAmbient(), lambda: None)
    for number in range(AMQP_TOKENS.open):
        grants.add((str(number),), verdict(None))
    grants.add(("0",), verdict(None))
    with pytest.raises(HubError) as caught:
        grants.add(("one more",), verdict(None))
    assert caught.value.row is TOO_MANY_TOKENS
