"""What an AMQP device is told of telemetry that is on disk: of just that, in whichever order it came."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from muster.core.errors import SERVER_ERROR, HubError
from muster.heads.device_telemetry import Acknowledgements
from muster.messages.telemetry import Batch
from muster.testing.clock import VirtualAmbient


class _Stub(SimpleNamespace):
    __hash__ = object.__hash__


def settled(ids: list[int], error: HubError | None = None) -> list[int]:
    """The deliveries that are settled once a batch with these ``ids`` has ended."""
    told: list[int] = []
    accept = lambda first, last: told.extend(range(first, last + 1))  # noqa: E731
    session: Any = _Stub(ended=False, accept=accept, write=lambda one: accept(one.first, one.last))
    connection: Any = _Stub(closing=False, flush=lambda: None)
    acknowledgements, batch = Acknowledgements(connection, VirtualAmbient()), Batch(1)
    for number in ids:
        acknowledgements.of(batch, session).append(number)
    acknowledgements._durable(acknowledgements._owed, error)
    return told


def test_a_run_does_not_reach_over_a_message_that_has_not_come() -> None:
    """Deliveries 6 to 8 began on three links, in frames between which 9 came; 7 has not ended yet."""
    assert settled([5, 9, 6, 8]) == [5, 6, 8, 9]


@given(st.sets(st.integers(0, 40)).flatmap(lambda ids: st.permutations(sorted(ids))), st.booleans())
def test_what_came_is_settled_and_nothing_else(ids: list[int], good: bool) -> None:
    assert settled(list(ids), None if good else HubError(SERVER_ERROR)) == sorted(ids)
