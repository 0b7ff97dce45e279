"""The directory of sessions and the leases of nodes: one suite for PostgreSQL, the keeper, and that of the tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from muster.identity.model import IdentityKey
from muster.sessions.contract import LeaseStore, Present, SessionDirectory, node_of
from muster.stores.keeper.link import Link
from muster.stores.keeper.sessions import KeeperLeases, KeeperSessions
from muster.stores.postgres.database import Database
from muster.stores.postgres.sessions import PostgresLeaseStore, PostgresSessionDirectory
from tests.keepers import KeeperHere
from tests.postgres import new_database
from tests.session_directory import DirectoryHere

HUB, DEVICE, MODULE = "hub", IdentityKey("Ünit"), IdentityKey("Ünit", "m")
LONG = 300.0
_ROWS_READ = """
SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
WHERE relid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'sessions'::regclass)"""


class Both(NamedTuple):
    """What two nodes have of a store."""

    here: SessionDirectory
    there: SessionDirectory
    leases: LeaseStore


@asynccontextmanager
async def _in_memory(_: str) -> AsyncIterator[Both]:
    one = DirectoryHere()
    yield Both(one, one, one)


@asynccontextmanager
async def _postgres(url: str) -> AsyncIterator[Both]:
    databases = Database(url), Database(url)
    for database in databases:
        await database.open()
    leases = PostgresLeaseStore(databases[0])
    yield Both(*map(PostgresSessionDirectory, databases), leases)
    await leases.close()
    for database in databases:
        await database.close()


@asynccontextmanager
async def _keeper(directory: str) -> AsyncIterator[Both]:
    async with KeeperHere(Path(directory)):
        links = [Link(Path(directory), name) for name in ("here", "there")]
        for link in links:
            await link.open()
        yield Both(*map(KeeperSessions, links), KeeperLeases(links[0]))
        for link in links:
            await link.close()


@pytest.fixture(params=[_in_memory, _postgres, _keeper])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str]:
    return request.param, new_database() if request.param is _postgres else str(tmp_path)


@pytest.fixture
async def both(opener: tuple[Any, str]) -> AsyncIterator[Both]:
    make, url = opener
    async with make(url) as found:
        yield found


async def test_a_claim_tells_who_may_still_have_the_session(both: Both) -> None:
    here, there, leases = both
    a, b = await leases.register("a", LONG, {}), await leases.register("b", LONG, {})
    first = await here.claim(HUB, DEVICE, "1", a, 10.0)
    assert (first.epoch, list(first.holders)) == (1, [a])
    assert await here.find(HUB, DEVICE) == a
    claimed = await there.claim(HUB, DEVICE, "1", b, 11.0)
    assert (claimed.epoch, list(claimed.holders)) == (2, [a, b])
    assert await here.find(HUB, DEVICE) == b
    again = await here.claim(HUB, DEVICE, "1", a, 12.0)  # the device moves faster than the old session ends
    assert (again.epoch, sorted(again.holders)) == (3, [a, b])
    await there.alone(HUB, DEVICE, 2, b)  # too late
    await here.alone(HUB, DEVICE, 3, a)
    once_more = await here.claim(HUB, DEVICE, "1", a, 13.0)
    assert (once_more.epoch, list(once_more.holders)) == (4, [a])


async def test_a_released_session_has_no_holder(both: Both) -> None:
    here, there, leases = both
    a, b = await leases.register("a", LONG, {}), await leases.register("b", LONG, {})
    first = await here.claim(HUB, DEVICE, "1", a, 10.0)
    await here.release(HUB, DEVICE, first.epoch, a, 11.0)
    assert await here.find(HUB, DEVICE) is None
    second = await there.claim(HUB, DEVICE, "1", b, 12.0)
    assert (second.epoch, list(second.holders)) == (2, [b])
    await here.release(HUB, DEVICE, first.epoch, a, 13.0)  # again, and late
    assert await here.find(HUB, DEVICE) == b
    third = await here.claim(HUB, DEVICE, "1", a, 14.0)
    await here.release(HUB, DEVICE, third.epoch, a, 15.0)  # before b has answered
    fourth = await here.claim(HUB, DEVICE, "1", a, 16.0)
    assert sorted(fourth.holders) == [a, b]


async def test_identities_and_hubs_are_apart(both: Both) -> None:
    here, there, leases = both
    a, b = await leases.register("a", LONG, {}), await leases.register("b", LONG, {})
    made = await asyncio.gather(
        here.claim(HUB, DEVICE, "1", a, 1.0), here.claim(HUB, MODULE, "1", a, 1.0),
        there.claim("other", DEVICE, "1", b, 1.0), there.claim(HUB, IdentityKey("ünit"), "1", b, 1.0),
    )  # fmt: skip
    assert [(one.epoch, len(one.holders)) for one in made] == [(1, 1)] * 4
    assert await here.find("other", DEVICE) == b
    assert await here.find(HUB, MODULE) == a
    assert await here.find(HUB, IdentityKey("nobody")) is None


async def test_calls_for_an_identity_take_effect_in_their_order(both: Both) -> None:
    here, _, leases = both
    a = await leases.register("a", LONG, {})
    keys = [IdentityKey(f"d{number}") for number in range(20)]
    claims = [here.claim(HUB, key, "1", a, float(at)) for at in range(10) for key in keys]
    releases = [here.release(HUB, key, 10, a, 20.0) for key in keys]
    last = [here.claim(HUB, key, "2", a, 30.0) for key in keys[:5]]
    epochs = [one.epoch for one in await asyncio.gather(*claims)]
    assert epochs == [at + 1 for at in range(10) for _ in keys]
    await asyncio.gather(*releases)
    assert [one.epoch for one in await asyncio.gather(*last)] == [11] * 5
    found = await here.present(HUB, keys)
    assert found == [Present(True, 30.0)] * 5 + [Present(False, 20.0)] * 15


async def test_many_nodes_claim_the_same_identities_at_once(both: Both) -> None:
    here, there, leases = both
    a, b = await leases.register("a", LONG, {}), await leases.register("b", LONG, {})
    keys = [IdentityKey(f"d{number}") for number in range(300)]
    for at in range(3):
        claims = [here.claim(HUB, key, "1", a, 1.0) for key in keys]
        claims += [there.claim(HUB, key, "1", b, 1.0) for key in reversed(keys)]
        made = await asyncio.gather(*claims)
        by_key = dict(zip([*keys, *reversed(keys)], range(600), strict=True))
        assert len(by_key) == 300
        for number, key in enumerate(keys):
            one, other = made[number], made[300 + keys[::-1].index(key)]
            assert {one.epoch, other.epoch} == {2 * at + 1, 2 * at + 2}
            later = max(one, other, key=lambda claimed: claimed.epoch)
            assert sorted(later.holders) == [a, b]  # who comes second knows of the first


async def test_presence_lasts_as_long_as_the_lease(both: Both) -> None:
    here, _, leases = both
    a = await leases.register("a", LONG, {})
    assert await here.present(HUB, [DEVICE, MODULE]) == [None, None]
    await here.claim(HUB, DEVICE, "1", a, 10.0)
    assert await here.present(HUB, [MODULE, DEVICE]) == [None, Present(True, 10.0)]
    await leases.give_up(a)
    assert await here.present(HUB, [DEVICE]) == [Present(False, 10.0)]
    assert await here.find(HUB, DEVICE) is None


async def test_a_later_identity_of_the_same_id_begins_anew(both: Both) -> None:
    here, _, leases = both
    a = await leases.register("a", LONG, {})
    first = await here.claim(HUB, DEVICE, "1", a, 10.0)
    await here.forget(HUB, DEVICE, "1")  # not yet: it is connected
    assert await here.present(HUB, [DEVICE]) == [Present(True, 10.0)]
    await here.release(HUB, DEVICE, first.epoch, a, 11.0)
    await here.forget(HUB, DEVICE, "0")  # another one
    assert await here.present(HUB, [DEVICE]) == [Present(False, 11.0)]
    await here.forget(HUB, DEVICE, "1")
    assert await here.present(HUB, [DEVICE]) == [None]
    assert (await here.claim(HUB, DEVICE, "2", a, 12.0)).epoch == 2


async def test_a_lease_is_taken_away_only_when_its_time_is_over(both: Both) -> None:
    leases = both.leases
    a, again = await leases.register("a b/c", LONG, {}), await leases.register("a b/c", LONG, {})
    assert a != again
    assert {node_of(a), node_of(again)} == {"a b/c"}
    assert 0 < await leases.expire(a) < LONG + 1
    assert await leases.renew(a, LONG, {}) == [again]
    short = await leases.register("d", 0.2, {})
    await asyncio.sleep(0.25)
    assert await leases.renew(a, LONG, {}) == [again]  # who is late is not listed
    assert await leases.renew(short, LONG, {}) is not None  # late is not too late
    assert await leases.expire(short) > 0
    await leases.renew(short, 0.01, {})
    await asyncio.sleep(0.05)
    assert await leases.expire(short) == 0
    assert await leases.renew(short, LONG, {}) is None  # now it is
    assert await leases.expire("nobody/9") == 0
    await leases.give_up(again)
    assert await leases.renew(a, LONG, {}) == []


async def test_a_node_on_no_bus_hears_from_the_database_whether_others_are() -> None:
    url = await asyncio.to_thread(new_database)
    databases = Database(url), Database(url)
    for database in databases:
        await database.open()
    one, other = map(PostgresLeaseStore, databases)
    a, b = await one.register("a", LONG, {}), await other.register("b", LONG, {})
    assert not await one.cut_off(a, on_bus=True)
    assert await one.cut_off(a, on_bus=False)
    assert not await other.cut_off(b, on_bus=False), "nobody is"
    assert not await one.cut_off(a, on_bus=False)
    assert not await other.cut_off(b, on_bus=True)
    assert await one.cut_off(a, on_bus=False)
    await other.renew(b, 0.01, {})
    await asyncio.sleep(0.05)
    assert not await one.cut_off(a, on_bus=False), "the other one is gone"
    for leases, database in zip((one, other), databases, strict=True):
        await leases.close()
        await database.close()


async def test_nodes_tell_how_many_devices_they_have(both: Both) -> None:
    leases = both.leases
    a, b = await leases.register("a", LONG, {}), await leases.register("b", LONG, {})
    assert await leases.devices(HUB) == 0
    await leases.renew(a, LONG, {HUB: 3, "other": 1})
    await leases.renew(b, LONG, {HUB: 4})
    assert (await leases.devices(HUB), await leases.devices("other")) == (7, 1)
    await leases.give_up(b)
    assert await leases.devices(HUB) == 3


async def test_nodes_are_listed_with_what_they_say_of_themselves(both: Both) -> None:
    leases, before = both.leases, time.time()
    assert await leases.nodes() == []
    a, short = (
        await leases.register("a", LONG, {"host": "é", "ports": {"mqtt": 8883}}),
        await leases.register("b", 0.01, {}),
    )
    await leases.renew(a, LONG, {HUB: 3})
    await asyncio.sleep(0.05)
    first, second = await leases.nodes()
    assert (first.lease, first.about, first.devices) == (a, {"host": "é", "ports": {"mqtt": 8883}}, {HUB: 3})
    assert 0 < first.left < LONG + 1
    assert before - 1 < first.since <= time.time() + 1  # the clock is the store's
    assert (second.lease, second.about, second.devices) == (short, {}, {})
    assert second.left < 0  # its time is over, but nobody has taken it away
    await leases.expire(short)
    await leases.give_up(a)
    assert await leases.nodes() == []


def test_who_asks_need_not_be_a_task(opener: tuple[Any, str]) -> None:
    """Operations of REST that only await futures run without one."""
    make, url = opener

    async def main() -> None:
        async with make(url) as both:
            lease = await both.leases.register("a", LONG, {})
            await both.here.claim(HUB, DEVICE, "1", lease, 1.0)
            for asked, told in ((both.here.find(HUB, DEVICE), lease), (both.here.present(HUB, [DEVICE]), None)):
                over: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                asyncio.get_running_loop().call_soon(_step, asked, over)
                outcome = await over
                assert told is None or outcome == told

    asyncio.run(main())


def _step(asked: Any, over: asyncio.Future[object], _: object = None) -> None:
    """Go on with a coroutine as ``heads.http.connection`` does."""
    try:
        future = asked.send(None)
    except StopIteration as end:
        over.set_result(end.value)
    except Exception as error:
        over.set_exception(error)
    else:
        future._asyncio_future_blocking = False
        future.add_done_callback(lambda _: _step(asked, over))


async def test_what_sessions_cost_does_not_grow_with_their_number() -> None:
    url = await asyncio.to_thread(new_database)
    database = Database(url)
    await database.open()
    directory = PostgresSessionDirectory(database)
    keys = [IdentityKey(f"device-{number}") for number in range(3000)]

    async def rows_read() -> int:
        await asyncio.sleep(1.1)  # a connection of PostgreSQL's tells what it has done once a second
        return int(await database.value(_ROWS_READ))

    try:
        for key in keys:
            directory.claim(HUB, key, "1", "node/1", 1.0)
        await directory.claim(HUB, keys[0], "1", "node/1", 1.0)
        before = await rows_read()
        for at in range(0, 600, 60):
            some = keys[at : at + 60]
            claimed = await asyncio.gather(*(directory.claim(HUB, key, "1", "node/2", 2.0) for key in some))
            places = list(zip(some, claimed, strict=True))
            await asyncio.gather(*(directory.alone(HUB, key, one.epoch, "node/2") for key, one in places))
            await asyncio.gather(*(directory.release(HUB, key, one.epoch, "node/2", 3.0) for key, one in places))
        await asyncio.sleep(1.1)
        await directory.release(HUB, keys[0], 1, "nobody/1", 3.0)  # so that it has told of what came before
        assert await rows_read() - before < 600 * 3 * 5
    finally:
        await database.close()
