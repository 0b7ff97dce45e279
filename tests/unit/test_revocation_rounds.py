"""How often a responder is asked about devices that are connected."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from muster.core.bus import LocalBus
from muster.core.certificate_limits import RESPONDER_QUESTIONS
from muster.core.fetching import Fetched, Request
from muster.core.limits import Profile
from muster.identity.authorities import Authorities
from muster.identity.authority_contract import Authority, AuthorityChange, KeptList, RevocationRules
from muster.identity.certificates import read_certificate
from muster.identity.revocation_news import RevocationNews
from muster.identity.trust import ChainProof, Trust
from muster.testing.clock import VirtualAmbient
from tests.certificate_maker import Maker

RATE = RESPONDER_QUESTIONS.open


class One:
    """A store of one authority that nobody changes."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority

    async def authorities(self, hub: str) -> Sequence[Authority]:
        return [self.authority]

    async def edit_authority(
        self, hub: str, name: str, change: AuthorityChange, note: object = None
    ) -> Authority | None:
        raise NotImplementedError

    async def put_list(self, hub: str, kept: KeptList, draft: object = None) -> bool:
        raise NotImplementedError

    async def lists(self, hub: str) -> Sequence[KeptList]:
        return []


class Scene:
    """``devices`` are connected; ``asked`` are the questions, which get no good answer."""

    def __init__(self, devices: int, refresh: int) -> None:
        self.ambient, self.bus = VirtualAmbient(), LocalBus()
        root = Maker(self.ambient.now()).root()
        rules = RevocationRules(responder_url="http://responder.example/", refresh=refresh)
        authority = Authority(
            name="ca", certificate=root.der, verified=True, created=0, updated=0, version=1, rules=rules
        )
        self.trust = Trust("hub", One(authority), self.bus, self.ambient)
        authorities = Authorities("hub", One(authority), self.trust, self.bus, self.ambient, profile=Profile.OPEN)
        issuer = read_certificate(root.der)
        proofs = [ChainProof(number, f"{number:X}", (issuer,)) for number in range(devices)]
        self.asked = list[bytes]()
        self.news = RevocationNews(self.trust, authorities, self.fetch, self.ambient, lambda: proofs)

    async def fetch(self, request: Request, most: int, seconds: float) -> Fetched:
        assert request.body is not None
        self.asked.append(request.body)
        return Fetched(b"no answer")

    async def begin(self) -> None:
        await self.trust.load()
        self.news.start()

    async def asked_in(self, seconds: float) -> int:
        """How many questions that time brings."""
        before = len(self.asked)
        self.ambient.advance(seconds)
        for _ in range(500):  # nothing but the loop's own turns is waited for
            await asyncio.sleep(0)
        return len(self.asked) - before


@pytest.fixture
async def make() -> AsyncIterator[Callable[[int, int], Scene]]:
    made: list[Scene] = []

    def scene(devices: int, refresh: int) -> Scene:
        made.append(Scene(devices, refresh))
        return made[-1]

    yield scene
    for one in made:
        await one.news.stop()


async def test_few_devices_are_asked_about_once_each_interval(make: Callable[[int, int], Scene]) -> None:
    scene = make(5, 3)
    await scene.begin()
    assert await scene.asked_in(0) == 5
    assert [await scene.asked_in(1) for _ in range(6)] == [0, 0, 5, 0, 0, 5]


async def test_many_devices_are_asked_about_in_turns_so_many_a_second(make: Callable[[int, int], Scene]) -> None:
    scene = make(2 * RATE + 3, 1)
    await scene.begin()
    assert await scene.asked_in(0) == RATE
    assert [await scene.asked_in(1) for _ in range(4)] == [RATE, 3, RATE, RATE]
    assert len(set(scene.asked)) == 2 * RATE + 3
    await scene.news.stop()
    assert await scene.asked_in(10) == 0
