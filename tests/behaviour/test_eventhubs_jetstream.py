"""azure-eventhub against nodes whose telemetry is in JetStream: sequence numbers have gaps, and nobody minds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub._eventprocessor.in_memory_checkpoint_store import InMemoryCheckpointStore
from azure.eventhub._utils import get_last_enqueued_event_properties
from eventhub_server import EventHubServer
from test_eventhubs_python import Reader, client, close_all

from tests.nats_servers import NatsCluster

WAIT = 30.0
TEXTS = [f"{commit}/{number}" for commit, count in enumerate((1, 3, 2, 1, 4)) for number in range(count)]


@pytest.fixture
def start(tmp_path: Path, nats: NatsCluster) -> Iterator[Callable[[], EventHubServer]]:
    """Starts a node each time."""
    with ExitStack() as stack:

        def node() -> EventHubServer:
            home = tmp_path / f"node{len(nodes)}" / tmp_path.name  # all bear one name
            home.mkdir(parents=True)
            nodes.append(stack.enter_context(EventHubServer(home, servers=nats)))
            return nodes[-1]

        nodes: list[EventHubServer] = []
        yield node


@pytest.fixture
def read() -> Iterator[Callable[..., Reader]]:
    readers: list[Reader] = []

    def make(*arguments: Any, **options: Any) -> Reader:
        readers.append(Reader(*arguments, **options))
        return readers[-1]

    yield make
    close_all(readers)


def fill(*nodes: EventHubServer) -> None:
    """``TEXTS``, the nodes taking turns, a commit each time."""
    for number in range(5):
        bodies = [text.encode() for text in TEXTS if text.startswith(f"{number}/")]
        nodes[number % len(nodes)].send("d", bodies)


def test_every_position_that_a_client_may_keep(
    start: Callable[[], EventHubServer], read: Callable[..., Reader]
) -> None:
    writer, server = start(), start()
    fill(writer, server)
    events = list(read(server).until(len(TEXTS)))
    assert [event.body_as_str() for event in events] == TEXTS
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > len(TEXTS), "there are gaps"
    assert [event.offset for event in events] == list(map(str, numbers))
    for at in (0, 1, 3, 5, 9):
        behind = [read(server, position, group="other") for position in (events[at].offset, numbers[at])]
        itself = read(server, numbers[at], starting_position_inclusive=True, group="other")
        for reader in behind:
            assert reader.bodies(len(TEXTS) - at - 1) == TEXTS[at + 1 :]
        assert itself.bodies(len(TEXTS) - at) == TEXTS[at:]
        close_all([*behind, itself])
    enqueued = events[0].enqueued_time
    assert read(server, enqueued - timedelta(milliseconds=1), group="third").bodies(len(TEXTS)) == TEXTS


def test_who_waits_for_what_is_new_hears_of_it_from_any_node(
    start: Callable[[], EventHubServer], read: Callable[..., Reader]
) -> None:
    writer, server = start(), start()
    fill(writer)
    latest = read(server, "@latest", track_last_enqueued_event_properties=True)
    deadline = time.monotonic() + WAIT
    while not server.call(lambda: bool(server.telemetry._subscribers[0] and server.telemetry._live[0])):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    writer.send("d", [b"new", b"newer"])
    server.send("d", [b"newest"])
    assert latest.bodies(3) == ["new", "newer", "newest"]


def test_nothing_is_behind_when_all_was_read(start: Callable[[], EventHubServer], read: Callable[..., Reader]) -> None:
    writer, server = start(), start()
    with client(server) as consumer:
        empty = consumer.get_partition_properties("0")
        fill(writer)
        full = consumer.get_partition_properties("0")
    assert (empty["beginning_sequence_number"], empty["last_enqueued_sequence_number"]) == (0, -1)
    assert (empty["last_enqueued_offset"], empty["is_empty"]) == ("-1", True)
    last = read(server, track_last_enqueued_event_properties=True).until(len(TEXTS))[-1]
    assert (full["beginning_sequence_number"], full["is_empty"]) == (0, False)
    assert full["last_enqueued_sequence_number"] == last.sequence_number
    assert full["last_enqueued_offset"] == last.offset
    assert full["last_enqueued_time_utc"] == last.enqueued_time
    told = get_last_enqueued_event_properties(last)
    assert told["sequence_number"] == last.sequence_number
    assert told["offset"] == last.offset


def consumed(server: EventHubServer, store: InMemoryCheckpointStore, count: int) -> list[str]:
    """What a client with checkpoints gets next, each event checkpointed."""
    bodies: list[str] = []
    enough = threading.Event()

    def on_event(context: Any, event: Any) -> None:
        if len(bodies) < count:
            bodies.append(event.body_as_str())
            context.update_checkpoint(event)
        if len(bodies) == count:
            enough.set()

    with client(server, checkpoint_store=store, load_balancing_interval=0.5) as consumer:
        receive = partial(consumer.receive, on_event=on_event, starting_position="-1")
        thread = threading.Thread(target=receive)
        thread.start()
        assert enough.wait(WAIT)
    thread.join(WAIT)
    return bodies


def test_checkpoints_lead_on_at_another_node_and_after_all_have_gone(start: Callable[[], EventHubServer]) -> None:
    fill(start())
    store = InMemoryCheckpointStore()
    seen: list[str] = []
    for count in (2, 5, 4):
        seen += consumed(start(), store, count)
    assert seen == TEXTS
