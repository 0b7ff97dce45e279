"""azure-eventhub as programs run it: processors that share partitions and keep their checkpoints in a blob store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from azurite import Azurite
from processors import Devices, Journal, Processor, register, until

from muster.testing.hub import HubProcess

pytestmark = pytest.mark.sdk

NAMES = [f"device-{number}" for number in range(10)]  # their hashes reach every partition
_containers = itertools.count()
PARTITIONS = {"0", "1", "2", "3"}


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    with Azurite(tmp_path_factory.mktemp("azurite")) as azurite:
        yield azurite


@pytest.fixture
def processor(azurite: Azurite) -> Iterator[Callable[..., Processor]]:
    """Makes processors that share a container of the test's own; closed at the end."""
    container = f"test-{next(_containers)}"
    azurite.add_container(container)
    made: list[Processor] = []

    def make(name: str, hub: HubProcess, journal: Journal, **options: float) -> Processor:
        made.append(Processor(name, hub, azurite.checkpoint_store(container), journal, **options))
        return made[-1]

    yield make
    with ThreadPoolExecutor() as together:
        list(together.map(Processor.close, made))


def balanced(*processors: Processor) -> Callable[[], bool]:
    """Whether each has an equal part of all partitions."""
    part = len(PARTITIONS) // len(processors)
    return lambda: all(len(each.owned) == part for each in processors)


async def test_two_processors_read_a_thousand_messages_once(
    make_hub: Callable[..., HubProcess], processor: Callable[..., Processor]
) -> None:
    hub, journal = make_hub().start(), Journal()
    one, two = processor("one", hub, journal), processor("two", hub, journal)
    async with Devices(hub, register(hub, NAMES)) as devices:
        await until(balanced(one, two), "each processor owns two partitions")
        await devices.send(range(100))
        await until(lambda: len(journal.deliveries) >= 1000, "1,000 messages are processed")
    assert one.owned | two.owned == PARTITIONS
    assert len(journal.deliveries) == 1000, "each once"
    journal.assert_nothing_missing(NAMES, 100)
    readers = {(delivery.partition, delivery.processor) for delivery in journal.deliveries}
    assert readers == {(partition, each.name) for each in (one, two) for partition in each.owned}


async def test_partitions_change_hands_at_the_checkpoint(
    make_hub: Callable[..., HubProcess], processor: Callable[..., Processor]
) -> None:
    """A processor that joins takes its part by force; what one leaves behind the other takes up."""
    hub, journal = make_hub().start(), Journal()
    async with Devices(hub, register(hub, NAMES)) as devices:

        async def send_and_process(numbers: range) -> None:
            await devices.send(numbers)
            count = numbers.stop * len(NAMES)
            await until(lambda: len(journal.distinct()) == count, f"{count} messages are processed")

        async def in_checkpoints(count: int) -> None:
            await until(lambda: journal.checkpointed() == count, f"{count} messages are in checkpoints")

        # it never looks at the store again, so it learns from the hub alone that its links are stolen
        one = processor("one", hub, journal, interval=600)
        await until(balanced(one), "one processor owns everything")
        await send_and_process(range(25))
        await in_checkpoints(250)
        stolen_at = dict(journal.checkpoints)
        two = processor("two", hub, journal)
        await until(balanced(one, two), "the new processor has taken half")
        assert sorted(one.closed) == [(partition, "OWNERSHIP_LOST") for partition in sorted(two.owned)]
        assert sorted(partition for partition, _ in one.errors) == sorted(two.owned)
        assert all("amqp:link:stolen" in error for _, error in one.errors)

        await send_and_process(range(25, 50))
        await in_checkpoints(500)
        assert len(journal.deliveries) == 500, "each once"
        one.checkpointing = False
        await send_and_process(range(50, 75))
        left, left_at = set(one.owned), dict(journal.checkpoints)
        one.close()
        await until(balanced(two), "the one that is left owns everything")
        await send_and_process(range(75, 100))
    journal.assert_nothing_missing(NAMES, 100)
    for partition in PARTITIONS:
        [stretch] = journal.stretches["two", partition]
        assert stretch.checkpoint == (left_at if partition in left else stolen_at)[partition]


@pytest.mark.parametrize("end", [HubProcess.stop, HubProcess.kill])
async def test_processors_go_on_after_a_restart_of_the_hub(
    make_hub: Callable[..., HubProcess], processor: Callable[..., Processor], end: Callable[[HubProcess], object]
) -> None:
    hub, journal = make_hub().start(), Journal()
    connection_strings = register(hub, NAMES)
    # slow, and with little in their own memory, so that the hub ends while there is more to read
    one, two = (processor(name, hub, journal, prefetch=20, pace=0.2) for name in ("one", "two"))
    await until(balanced(one, two), "each processor owns two partitions")
    async with Devices(hub, connection_strings) as devices:
        await devices.send(range(50))
    await until(lambda: len(journal.distinct()) > 100, "both are reading")
    end(hub)
    assert len(journal.distinct()) < 500, "in the middle"
    hub.start()
    one.pace = two.pace = 0
    async with Devices(hub, connection_strings) as devices:
        await devices.send(range(50, 100))
    await until(lambda: len(journal.distinct()) == 1000, "1,000 messages are processed")
    journal.assert_nothing_missing(NAMES, 100)
