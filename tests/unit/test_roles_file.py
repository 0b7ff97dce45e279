"""The file of roles: taken at the start and whenever it changes, all of it or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import pytest

from muster.access.granting import Granting
from muster.access.grants import GrantStore
from muster.core.audit import Draft
from muster.core.errors import HubError
from muster.core.grant_limits import ROLES_FILE_BYTES
from muster.node.file_watch import LOOK_SECONDS
from muster.node.roles_file import RolesFile
from muster.testing.clock import VirtualAmbient
from muster.twins.query.parser import parse_condition


def grant_to(*groups: str) -> str:
    return "".join(f'[[grants]]\nrole = "IoT Hub Data Reader"\ngroup = "{group}"\n' for group in groups)


class Place:
    """A file, who looks at it, and what counts by it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ambient = VirtualAmbient()
        self.granting = Granting(_Nothing(), lambda text: void(parse_condition(text)), _nowhere)
        self.kept = _Kept()
        self.file: RolesFile
        self._changed = asyncio.Event()
        self.granting.changed = self._changed.set

    @property
    def groups(self) -> list[str]:
        return sorted(told.grant.principal for told in self.granting.grants() if told.in_file)

    async def until_taken(self, do: Callable[[], None]) -> None:
        self._changed.clear()
        do()
        await asyncio.wait_for(self._changed.wait(), 30)

    async def until_trouble(self, do: Callable[[], None]) -> str:
        self.file.trouble = ""
        do()
        async with asyncio.timeout(30):
            while not self.file.trouble:
                await asyncio.sleep(0)
        return self.file.trouble

    async def look(self) -> None:
        """Time for two looks, the second of which takes what has settled."""
        for _ in range(2):
            await self._idle()
            self.ambient.advance(LOOK_SECONDS)
            await self._idle()

    async def _idle(self) -> None:
        """A look goes to a thread; none begins while one goes on."""
        async with asyncio.timeout(30):
            while self.file._watch._tasks:
                await asyncio.sleep(0)


class _Nothing(GrantStore): ...


class _Kept:
    """A ``HubSettingsStore``, and what was put on record with them."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.records: list[Draft] = []

    async def get_setting(self, name: str) -> bytes | None:
        return self.values.get(name)

    async def put_settings(self, values: Mapping[str, bytes], draft: Draft | None = None) -> None:
        self.values |= values
        self.records += [] if draft is None else [draft]


async def _nowhere(hub: str, device_id: str, conditions: Sequence[str]) -> bool:
    return False


def void(_: object) -> None:
    return None


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path / "roles.toml")
    place.path.write_text(grant_to("first"))
    place.file = await RolesFile.open(place.path, place.granting, place.kept, place.ambient)
    yield place
    await place.file.close()


async def test_what_is_written_counts_after_two_looks(place: Place) -> None:
    assert place.groups == ["first"]
    place.path.write_text(grant_to("first", "second"))
    await place.look()
    assert [record.after.count("group") for record in place.kept.records] == [1, 2]
    assert place.groups == ["first", "second"]
    place.path.write_text("")
    await place.look()
    assert place.groups == []


async def test_a_file_that_nobody_touches_is_not_taken_again(place: Place) -> None:
    taken: list[bool] = []
    place.granting.changed = lambda: taken.append(True)
    await place.look()
    assert not taken


async def test_told_it_is_taken_at_once(place: Place) -> None:
    place.path.write_text(grant_to("told"))
    await place.until_taken(place.file.reload)
    assert (place.groups, place.file.trouble) == (["told"], "")


@pytest.mark.parametrize("wrong", ["[[grants", '[[grants]]\nrole = "Nobody"\ngroup = "x"\n', None])
async def test_a_file_that_is_wrong_or_gone_changes_nothing_until_it_is_good(place: Place, wrong: str | None) -> None:
    place.path.unlink() if wrong is None else place.path.write_text(grant_to("other") + wrong)
    trouble = await place.until_trouble(place.file.reload)
    assert trouble.startswith(f"the file of roles {place.path}: ")
    assert place.groups == ["first"]
    place.path.write_text(grant_to("second"))
    await place.look()
    assert (place.groups, place.file.trouble) == (["second"], "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file"),
        ("role = 1", "no part of it"),
        ("#" * (ROLES_FILE_BYTES.open + 1), "bytes"),
    ],
)
async def test_at_the_start_a_file_that_is_wrong_is_a_refusal(tmp_path: Path, content: str | None, said: str) -> None:
    place = Place(tmp_path / "roles.toml")
    if content is not None:
        place.path.write_text(content)
    with pytest.raises(HubError, match=said):
        await RolesFile.open(place.path, place.granting, place.kept, place.ambient)
