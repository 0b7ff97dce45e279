"""The hubs that are linked to a provisioning service, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioning_parts import FakeHub, Steps

from muster.core.errors import SERVER_ERROR, HubError
from muster.provisioning.hubs import LinkedHubs

ONE, TWO = "one.example", "two.example"


class Kept:
    """A settings store in memory."""

    def __init__(self) -> None:
        self.settings: dict[str, bytes] = {}
        self.error: HubError | None = None

    async def get_setting(self, name: str) -> bytes | None:
        return self.settings.get(name)

    async def put_settings(self, settings: Mapping[str, bytes], draft: object = None) -> None:
        if self.error is not None:
            raise self.error
        self.settings.update(settings)

    def follow(self, name: str, reload: object) -> Callable[[], None]:
        return lambda: None

    def announce(self, name: str) -> None:
        pass


def linked(*hosts: str) -> LinkedHubs:
    return LinkedHubs(FakeHub(host, Steps()) for host in hosts)


async def test_a_later_hub_of_the_same_host_name_does_not_get_the_weight_of_one_that_was_unlinked() -> None:
    kept, hubs = Kept(), linked(ONE, TWO)
    await hubs.allocate(None, {ONE: 3, TWO: 7}, kept)
    await hubs.unlink(TWO, kept)
    hubs.link(FakeHub(TWO, Steps()))
    assert (hubs.weight(ONE), hubs.weight(TWO)) == (3, 1)
    started = linked(ONE, TWO)
    await started.load(kept)
    assert (started.weight(ONE), started.weight(TWO)) == (3, 1)


async def test_a_hub_that_was_left_out_at_a_start_finds_its_weight_again() -> None:
    kept, hubs = Kept(), linked(ONE, TWO)
    await hubs.allocate(None, {ONE: 3, TWO: 0}, kept)
    await linked(ONE).load(kept)
    later = linked(ONE, TWO)
    await later.load(kept)
    assert (later.weight(ONE), later.weight(TWO)) == (3, 0)


async def test_a_hub_goes_although_its_weight_cannot_be_forgotten_on_disk() -> None:
    kept, hubs = Kept(), linked(ONE, TWO)
    await hubs.allocate(None, {TWO: 7}, kept)
    kept.error = HubError(SERVER_ERROR, "the disk is full")
    await hubs.unlink(TWO, kept)
    assert list(hubs) == [ONE]
