"""Revocation lists from a URL and OCSP responders: real ones on a socket, a clock that tests move."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from muster.core.certificate_limits import RESPONDER_ANSWER_COUNTS, REVOCATION_LIST_RATE, REVOCATION_REFRESH
from muster.identity.authority_contract import RevocationRules
from muster.identity.model import Authentication, IdentityKey
from tests.behaviour.mqtt_hub import MqttHub, alive, ends_silently, mqtt_hub
from tests.behaviour.revocation_place import Place, serving
from tests.behaviour.x509_bench import AUTHENTICATION, Bench
from tests.certificate_maker import Pair

DEV = IdentityKey("dev")


@pytest.fixture
def place() -> Iterator[Place]:
    with serving() as made:
        yield made


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MqttHub]:
    async with mqtt_hub(tmp_path) as hub:
        hub.news.start()
        yield hub


class Scene(Bench):
    """A root with a responder, and the certificate of ``dev``."""

    def __init__(self, hub: MqttHub, directory: Path, place: Place) -> None:
        super().__init__(hub, directory)
        self.place, place.make = place, self.make
        self.root = self.make.root()
        self.leaf = self.make.issue("dev", self.root)
        place.issuers.append(self.root)

    async def begin(self, *, fail_closed: bool = False, responder: bool = True) -> None:
        await self.trust("root", self.root)
        await self.register(DEV, Authentication(AUTHENTICATION))
        url = self.place.url
        rules = RevocationRules(fail_closed, "" if responder else url, url if responder else "")
        await self.hub.authorities.set_rules("root", rules)

    async def code(self) -> int:
        client, code = await self.connect(DEV, self.leaf)
        client.abort()
        return code


@pytest.fixture
def scene(hub: MqttHub, tmp_path: Path, place: Place) -> Scene:
    return Scene(hub, tmp_path, place)


# --- responders


async def test_a_responder_is_asked_once_and_its_word_is_kept(scene: Scene) -> None:
    await scene.begin(fail_closed=True)
    assert [await scene.code() for _ in range(3)] == [0, 0, 0]
    assert scene.place.asked == [scene.leaf.certificate.serial_number]


async def test_what_the_responder_calls_revoked_is_refused(scene: Scene) -> None:
    await scene.begin()
    scene.place.revoked.add(scene.leaf.certificate.serial_number)
    assert await scene.code() == 5
    assert await scene.hub.last_cause() == "certificate-revoked"


async def test_a_session_ends_when_the_responder_changes_its_word(scene: Scene) -> None:
    await scene.begin()
    client, code = await scene.connect(DEV, scene.leaf)
    assert code == 0
    await scene.hub.news.refresh()
    assert len(scene.place.asked) == 2
    await alive(client)
    scene.place.revoked.add(scene.leaf.certificate.serial_number)
    scene.hub.ambient.advance(REVOCATION_REFRESH.open)
    await ends_silently(client)
    assert await scene.hub.last_cause() == "certificate-revoked"


async def test_a_responder_may_change_its_word_back(scene: Scene) -> None:
    await scene.begin()
    scene.place.revoked.add(scene.leaf.certificate.serial_number)
    assert [await scene.code() for _ in range(2)] == [5, 5]
    scene.place.revoked.clear()
    scene.hub.ambient.advance(11)
    assert await scene.code() == 0
    assert len(scene.place.asked) == 2


async def test_who_connects_later_is_asked_about_anew_and_lives_by_the_old_word_when_there_is_no_answer(
    scene: Scene,
) -> None:
    await scene.begin(fail_closed=True)
    assert await scene.code() == 0
    scene.hub.ambient.advance(11)
    scene.place.down = True
    client, code = await scene.connect(DEV, scene.leaf)
    assert code == 0
    await scene.hub.news.refresh()
    await alive(client)
    scene.hub.ambient.advance(RESPONDER_ANSWER_COUNTS.open)
    await ends_silently(client)
    assert await scene.hub.last_cause() == "revocation-unknown"


async def test_what_is_revoked_stays_so_while_the_responder_is_down(scene: Scene) -> None:
    await scene.begin()
    scene.place.revoked.add(scene.leaf.certificate.serial_number)
    assert await scene.code() == 5
    scene.hub.ambient.advance(86_400)
    scene.place.down = True
    assert await scene.code() == 5
    assert await scene.hub.last_cause() == "certificate-revoked"


@pytest.mark.parametrize("trouble", ["down", "unknown", "old", "from the future", "forged"])
@pytest.mark.parametrize("fail_closed", [False, True])
async def test_a_responder_without_an_answer_counts_as_the_authority_wants(
    scene: Scene, trouble: str, fail_closed: bool
) -> None:
    await scene.begin(fail_closed=fail_closed)
    scene.place.down, scene.place.unknown = trouble == "down", trouble == "unknown"
    scene.place.days = {"old": (-9.0, -8.0), "from the future": (1.0, 2.0)}.get(trouble, (-1.0, 1.0))
    scene.place.signer = scene.make.root() if trouble == "forged" else None
    assert await scene.code() == (3 if fail_closed else 0)
    if fail_closed:
        assert await scene.hub.last_cause() == "revocation-unknown"
        scene.place.down = scene.place.unknown = False
        scene.place.days, scene.place.signer = (-1.0, 1.0), None
        assert await scene.code() == 3, "not asked again at once"
        scene.hub.ambient.advance(11)
        assert await scene.code() == 0


async def test_a_responder_may_be_somebody_whom_the_authority_has_made_one(scene: Scene) -> None:
    await scene.begin(fail_closed=True)
    scene.place.signer = scene.make.issue("Responder", scene.root, purposes=[ExtendedKeyUsageOID.OCSP_SIGNING])
    assert await scene.code() == 0


async def test_a_device_of_the_authority_is_no_responder(scene: Scene) -> None:
    await scene.begin(fail_closed=True)
    scene.place.signer = scene.make.issue("neighbour", scene.root)
    assert await scene.code() == 3


async def test_a_device_disabled_while_the_responder_is_asked_is_not_let_in(scene: Scene) -> None:
    await scene.begin()
    before = scene.place.respond

    def respond(request: bytes) -> bytes:
        change = scene.disable(DEV)
        asyncio.run_coroutine_threadsafe(change, loop).result(10)
        return before(request)

    loop = asyncio.get_running_loop()
    scene.place.respond = respond  # type: ignore[method-assign]
    assert await scene.code() == 5
    assert await scene.hub.last_cause() == "device-disabled"


# --- lists


async def test_a_list_is_fetched_and_fetched_again(scene: Scene) -> None:
    scene.place.list = scene.make.revoked(scene.root)
    await scene.begin(fail_closed=True, responder=False)
    await scene.hub.news.refresh()
    client, code = await scene.connect(DEV, scene.leaf)
    assert code == 0
    scene.place.list = scene.make.revoked(scene.root, scene.leaf)
    scene.hub.ambient.advance(REVOCATION_REFRESH.open)
    await ends_silently(client)
    assert REVOCATION_REFRESH.open < 5


@pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
async def test_a_list_that_has_not_changed_is_not_sent_again(scene: Scene, validator: str) -> None:
    scene.place.list, scene.place.validator = scene.make.revoked(scene.root), validator
    await scene.begin(responder=False)
    for _ in range(3):
        await scene.hub.news.refresh()
    first, *others = scene.place.statuses
    assert first == 200
    assert len(others) >= 2
    assert set(others) == {304}
    client, _ = await scene.connect(DEV, scene.leaf)
    scene.place.list, scene.place.changed = scene.make.revoked(scene.root, scene.leaf), scene.place.changed + 1
    scene.hub.ambient.advance(REVOCATION_REFRESH.open)
    await ends_silently(client)
    await scene.hub.news.refresh()
    assert scene.place.statuses[-1] == 304


async def test_a_list_changed_twice_within_a_second_is_seen_where_the_server_knows_seconds_only(scene: Scene) -> None:
    scene.place.list, scene.place.validator = scene.make.revoked(scene.root), "Last-Modified"
    scene.place.changed = time.time()
    await scene.begin(responder=False)
    await scene.hub.news.refresh()
    client, _ = await scene.connect(DEV, scene.leaf)
    scene.place.list = scene.make.revoked(scene.root, scene.leaf)
    scene.hub.ambient.advance(REVOCATION_REFRESH.open)
    await ends_silently(client)


async def test_a_long_list_that_always_comes_whole_is_fetched_seldom(scene: Scene) -> None:
    many = [Pair(scene.leaf.certificate, None)] * 4000
    scene.place.list = scene.make.revoked(scene.root, *many)
    seldom = len(scene.place.list) / REVOCATION_LIST_RATE.open
    assert seldom > REVOCATION_REFRESH.open
    await scene.begin(responder=False)
    await scene.hub.news.refresh()
    before = len(scene.place.statuses)
    scene.hub.ambient.advance(REVOCATION_REFRESH.open)
    await asyncio.sleep(0.05)
    assert len(scene.place.statuses) == before
    scene.hub.ambient.advance(seldom)
    await scene.hub.settled(lambda: len(scene.place.statuses) == before + 1)


async def test_the_interval_is_the_authoritys_and_counts_from_when_it_is_set(scene: Scene) -> None:
    scene.place.list = scene.make.revoked(scene.root)
    await scene.begin(responder=False)
    await scene.hub.news.refresh()
    await scene.hub.authorities.set_rules("root", RevocationRules(list_url=scene.place.url, refresh=3600))
    await scene.hub.news.refresh()
    before = len(scene.place.statuses)
    scene.hub.ambient.advance(3599)
    await asyncio.sleep(0.05)
    assert len(scene.place.statuses) == before
    await scene.hub.authorities.set_rules("root", RevocationRules(list_url=scene.place.url, refresh=1))
    await scene.hub.settled(lambda: len(scene.place.statuses) == before + 1)
    await scene.hub.authorities.set_rules("root", RevocationRules())
    await scene.hub.settled(lambda: not scene.hub.news.troubles())
    scene.hub.ambient.advance(3600)
    await asyncio.sleep(0.05)
    assert len(scene.place.statuses) == before + 1


async def test_what_is_no_list_changes_nothing_and_is_told_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.place.list = b"<html>not found</html>"
    await scene.begin(responder=False)
    for _ in range(3):
        await scene.hub.news.refresh()
    assert not scene.hub.trusted.lists_of("root")
    assert await scene.code() == 0
    assert caplog.text.count("no news from the revocation list of authority root") == 1
    (place,) = scene.hub.news.troubles()
    assert place == "revocation list of authority root"
    scene.place.list = scene.make.revoked(scene.root)
    await scene.hub.news.refresh()
    assert not scene.hub.news.troubles()
    assert "again" in caplog.text


async def test_an_overdue_list_ends_sessions_where_the_authority_fails_closed(scene: Scene) -> None:
    scene.place.list = scene.make.revoked(scene.root, days=(-1, 2))
    await scene.begin(fail_closed=True, responder=False)
    await scene.hub.news.refresh()
    client, code = await scene.connect(DEV, scene.leaf)
    assert code == 0
    scene.hub.ambient.advance(3 * 86_400)
    await ends_silently(client)
    assert await scene.hub.last_cause() == "revocation-unknown"
