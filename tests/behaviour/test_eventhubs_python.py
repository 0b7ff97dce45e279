"""azure-eventhub against the built-in endpoint: what a Python program reads, and from where."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.eventhub import EventData, EventHubConsumerClient
from azure.eventhub._utils import get_last_enqueued_event_properties
from azure.eventhub.aio import EventHubConsumerClient as AsyncConsumerClient
from azure.eventhub.exceptions import AuthenticationError, EventHubError
from eventhub_server import AUTH, ENTITY, EventHubServer

from muster.testing.clock import VirtualAmbient

WAIT = 20.0


def client(server: EventHubServer, group: str = "$Default", **options: Any) -> EventHubConsumerClient:
    options = {"retry_total": 0, **options}
    return EventHubConsumerClient.from_connection_string(
        server.connection_string(**options.pop("connection", {})), group, **options
    )


class Reader:
    """A consumer in a thread of its own that collects events of one partition."""

    def __init__(self, server: EventHubServer, position: Any = "-1", *, partition: str = "0", **options: Any) -> None:
        receive = {
            name: options.pop(name)
            for name in (
                "starting_position_inclusive",
                "owner_level",
                "prefetch",
                "track_last_enqueued_event_properties",
            )
            if name in options
        }
        self.events: list[EventData] = []
        self.errors: list[Exception] = []
        self._changed = threading.Condition()
        self._client = client(server, **options)
        self._thread = threading.Thread(
            target=self._client.receive,
            kwargs={
                "on_event": self._on_event,
                "on_error": self._on_error,
                "partition_id": partition,
                "starting_position": position,
                **receive,
            },
        )
        self._thread.start()

    def _on_event(self, _: Any, event: EventData | None) -> None:
        with self._changed:
            if event is not None:
                self.events.append(event)
            self._changed.notify()

    def _on_error(self, _: Any, error: Exception) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify()

    def wait(self, done: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(done, WAIT), (len(self.events), self.errors)

    def until(self, count: int) -> list[EventData]:
        """The first ``count`` events, when they are there."""
        self.wait(lambda: len(self.events) >= count)
        return self.events

    def bodies(self, count: int) -> list[str]:
        return [event.body_as_str() for event in self.until(count)]

    def failure(self) -> Exception:
        self.wait(lambda: bool(self.errors))
        return self.errors[0]

    def close(self) -> None:
        self._client.close()
        self._thread.join(WAIT)
        assert not self._thread.is_alive()


def close_all(readers: Sequence[Reader]) -> None:
    """Close them together: each waits for a while."""
    with ThreadPoolExecutor() as together:
        list(together.map(Reader.close, readers))


@pytest.fixture
def read() -> Iterator[Callable[..., Reader]]:
    """Makes readers that are closed at the end."""
    readers: list[Reader] = []

    def make(*arguments: Any, **options: Any) -> Reader:
        readers.append(Reader(*arguments, **options))
        return readers[-1]

    yield make
    close_all(readers)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EventHubServer]:
    with EventHubServer(tmp_path) as server:
        yield server


# --- properties of the hub


def test_properties_of_the_hub_and_its_partitions(server: EventHubServer) -> None:
    server.send("d", [b"a", b"b"])
    with client(server) as consumer:
        hub = consumer.get_eventhub_properties()
        assert (hub["eventhub_name"], hub["partition_ids"]) == (ENTITY, ["0", "1"])
        assert abs(hub["created_at"] - datetime.now(UTC)) < timedelta(minutes=5)
        full, empty = consumer.get_partition_properties("0"), consumer.get_partition_properties("1")
    assert (full["beginning_sequence_number"], full["last_enqueued_sequence_number"]) == (0, 1)
    assert (full["last_enqueued_offset"], full["is_empty"]) == ("1", False)
    assert (empty["beginning_sequence_number"], empty["last_enqueued_sequence_number"]) == (0, -1)
    assert (empty["last_enqueued_offset"], empty["is_empty"]) == ("-1", True)


def test_unknown_hub_and_partition(server: EventHubServer) -> None:
    with client(server, connection={"entity": "nothing"}) as consumer, pytest.raises(EventHubError, match="nothing"):
        consumer.get_eventhub_properties()
    with client(server) as consumer, pytest.raises(EventHubError, match="between 0 and 1"):
        consumer.get_partition_properties("2")


# --- events


def test_an_event_has_all_that_the_device_said(server: EventHubServer, read: Callable[..., Reader]) -> None:
    server.send(
        "dev1", [b'{"t":1}'], **{"message-id": "m1", "content-type": "application/json", "content-encoding": "utf-8"}
    )
    [event] = read(server).until(1)
    assert event.body_as_json() == {"t": 1}
    assert event.properties == {b"number": b"0"}
    assert (event.message_id, event.content_type) == ("m1", "application/json")
    assert (event.sequence_number, event.offset) == (0, "0")
    assert event.enqueued_time is not None
    system = event.system_properties
    assert system[b"iothub-connection-device-id"] == b"dev1"
    assert system[b"iothub-connection-auth-method"] == AUTH.encode()
    assert system[b"iothub-connection-auth-generation-id"] == b"1"
    assert system[b"iothub-message-source"] == b"Telemetry"
    assert abs(system[b"iothub-enqueuedtime"] / 1000 - event.enqueued_time.timestamp()) < 0.001


def test_large_events_cross_frames(server: EventHubServer, read: Callable[..., Reader]) -> None:
    bodies = [bytes([65 + n]) * (250_000 + n) for n in range(5)]
    server.send("d", bodies)
    assert [body.encode() for body in read(server).bodies(5)] == bodies


@pytest.mark.parametrize("prefetch", [1, 3000])
def test_any_prefetch(server: EventHubServer, read: Callable[..., Reader], prefetch: int) -> None:
    server.send("d", [b"%d" % n for n in range(100)])
    assert read(server, prefetch=prefetch).bodies(100) == [str(n) for n in range(100)]


async def test_async_client(server: EventHubServer) -> None:
    server.send("d", [b"%d" % n for n in range(20)])
    server.send("d", [b"other"], partition=1)
    seen: dict[str, list[str]] = {"0": [], "1": []}
    done = asyncio.Event()

    async def on_event(context: Any, event: EventData | None) -> None:
        if event is not None:
            seen[context.partition_id].append(event.body_as_str())
        if len(seen["0"]) + len(seen["1"]) == 21:
            done.set()

    consumer = AsyncConsumerClient.from_connection_string(server.connection_string(), "$default")
    async with consumer:
        assert await consumer.get_partition_ids() == ["0", "1"]
        task = asyncio.create_task(consumer.receive(on_event, starting_position="-1"))
        await asyncio.wait_for(done.wait(), WAIT)
    task.cancel()  # the client's own loop would sleep on for half a minute
    assert seen == {"0": [str(n) for n in range(20)], "1": ["other"]}


# --- where to start


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EventHubServer]:
    """Events 0 to 9, two a second from 1,000 seconds ago on."""
    clock = VirtualAmbient(time.time() - 1000)
    with EventHubServer(tmp_path_factory.mktemp("stocked"), clock=clock) as server:
        for second in range(5):
            server.send("d", [b"%d" % (2 * second), b"%d" % (2 * second + 1)])
            server.call(lambda: clock.advance(1))
        yield server


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("kind", ["offset", "number", "time"])
def test_positions(stocked: EventHubServer, read: Callable[..., Reader], kind: str, inclusive: bool) -> None:
    places = stocked.places()
    number, at = places[4]
    position = {"offset": str(number), "number": number, "time": datetime.fromtimestamp(at / 1000, UTC)}[kind]
    behind = list(range(4 if inclusive else 5, 10))
    if kind == "time":
        behind = [n for n, (_, enqueued) in enumerate(places) if enqueued > at or (inclusive and enqueued == at)]
    reader = read(stocked, position, starting_position_inclusive=inclusive)
    assert reader.bodies(len(behind)) == [str(n) for n in behind]


def test_only_what_comes_from_now_on(server: EventHubServer, read: Callable[..., Reader]) -> None:
    server.send("d", [b"old"])
    reader = read(server, "@latest")
    wait_for_receivers(server, 1)
    server.send("d", [b"new"])
    assert reader.bodies(1) == ["new"]


def wait_for_receivers(server: EventHubServer, count: int) -> None:
    """Until so many receivers are attached."""
    deadline = time.monotonic() + WAIT
    while server.call(lambda: sum(len(held) for held in server.readers._readers.values())) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.embedded("a shared log has a clock of its own")
def test_a_time_to_come_waits_for_it(tmp_path: Path, read: Callable[..., Reader]) -> None:
    clock = VirtualAmbient(time.time() - 1000)
    with EventHubServer(tmp_path, clock=clock) as server:
        server.send("d", [b"early"])
        start = datetime.fromtimestamp(clock.now() + 60, UTC)
        reader = read(server, start)
        wait_for_receivers(server, 1)
        server.send("d", [b"too early"])
        server.call(lambda: clock.advance(100))
        server.send("d", [b"in time"])
        assert reader.bodies(1) == ["in time"]
        reader.close()


def test_a_position_beyond_the_end_is_refused_and_says_so(server: EventHubServer, read: Callable[..., Reader]) -> None:
    """As Azure does: a client whose checkpoint is of another hub must not wait in silence."""
    server.send("d", [b"a"])
    error = read(server, "5000").failure()
    assert "The supplied offset '5000' is invalid. The last offset in the system is '0'" in str(error)


# --- who may read


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"connection": {"key": "d3Jvbmc="}}, AuthenticationError, ""),
        ({"connection": {"policy": "device"}}, AuthenticationError, ""),
        ({"connection": {"entity": "nothing"}}, EventHubError, "could not be found"),
        ({"group": "no-such-group"}, EventHubError, "could not be found"),
    ],
)
def test_refusals(
    server: EventHubServer, read: Callable[..., Reader], options: dict[str, Any], kind: type[Exception], words: str
) -> None:
    error = read(server, **options).failure()
    assert isinstance(error, kind), error
    assert words in str(error)


def test_consumer_groups_read_independently(server: EventHubServer, read: Callable[..., Reader]) -> None:
    server.send("d", [b"a"])
    readers = [read(server, group=group) for group in ("$Default", "other", "THIRD")]
    for reader in readers:
        assert reader.bodies(1) == ["a"]


# --- owner levels


def test_a_higher_owner_level_takes_over(server: EventHubServer, read: Callable[..., Reader]) -> None:
    server.send("d", [b"a"])
    owner = read(server, owner_level=1)
    owner.until(1)
    higher = read(server, owner_level=2)
    higher.until(1)
    assert "higher epoch of '2'" in str(owner.failure())
    owner.close()
    assert "non-epoch receiver is not allowed" in str(read(server).failure())
    server.send("d", [b"b"])
    assert higher.bodies(2) == ["a", "b"]


# --- what is at the end


def test_last_enqueued_properties(server: EventHubServer, read: Callable[..., Reader]) -> None:
    server.send("d", [b"a", b"b", b"c"])
    reader = read(server, track_last_enqueued_event_properties=True)
    reader.until(3)
    last = get_last_enqueued_event_properties(reader.events[0])
    assert last is not None
    assert (last["sequence_number"], last["offset"]) == (2, "2")
    assert last["enqueued_time"] == reader.events[2].enqueued_time
    assert last["retrieval_time"] >= last["enqueued_time"]


# --- catching up and keeping up


@pytest.mark.parametrize("tail_bytes", [0, 20_000])
def test_nothing_is_missed_or_repeated_where_catching_up_ends(
    tmp_path: Path, read: Callable[..., Reader], tail_bytes: int
) -> None:
    """Events keep coming while a receiver works its way from the disk through memory to the live end."""
    with EventHubServer(tmp_path, tail_bytes=tail_bytes) as server:
        for start in range(0, 2000, 100):
            server.send("d", [b"%d" % number for number in range(start, start + 100)])
        readers = [
            read(server, group=group, prefetch=prefetch) for group, prefetch in (("$Default", 300), ("other", 37))
        ]
        for start in range(2000, 4000, 20):
            server.send("d", [b"%d" % number for number in range(start, start + 20)])
        numbers = server.numbers()
        for reader in readers:
            assert reader.bodies(4000) == [str(number) for number in range(4000)]
            assert [event.sequence_number for event in reader.events] == numbers
            reader.close()


def test_a_receiver_that_is_gone_leaves_nothing(server: EventHubServer) -> None:
    server.send("d", [b"a"])
    reader = Reader(server)
    reader.until(1)
    reader.close()
    deadline = time.monotonic() + WAIT
    while server.connected() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.connected() == 0
    assert server.call(lambda: dict(server.readers._readers)) == {}
    assert server.call(lambda: [len(subscribers) for subscribers in server.telemetry._subscribers]) == [0, 0]
