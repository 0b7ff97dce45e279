"""What the stores on PostgreSQL stand on: lanes with group commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from muster.audit.chain import verify
from muster.core.audit import Act, Draft
from muster.core.errors import INVALID_OPERATION, UNAVAILABLE, HubError
from muster.stores.postgres.audit import PostgresAuditLog
from muster.stores.postgres.database import MOST_TOGETHER, Database, Step
from muster.stores.postgres.schema import migrate
from tests.postgres import PostgresServer, new_database

_PUT = "INSERT INTO settings (name, value) VALUES ($1, $2)"
_ADD = "UPDATE settings SET value = value || $2 WHERE name = $1"


@pytest.fixture
def url() -> str:
    return new_database()


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    opened = Database(url)
    await opened.open()
    yield opened
    await opened.close()


def putting(name: str, value: bytes = b"") -> object:
    async def work(step: Step) -> str:
        await step.write(_PUT, name, value)
        return name

    return work


async def kept(database: Database) -> list[str]:
    return [name for (name,) in await database.fetch("SELECT name FROM settings ORDER BY name")]


async def test_what_is_done_at_a_place_is_done_in_the_order_asked_for(database: Database) -> None:
    await database.submit("p", putting("a"))
    count = MOST_TOGETHER + 50

    def adding(number: int) -> object:
        async def work(step: Step) -> None:
            await step.row("SELECT 1 FROM settings WHERE name = $1 FOR UPDATE", "a")
            await step.write(_ADD, "a", number.to_bytes(2, "big"))

        return work

    await asyncio.gather(*(database.submit("p", adding(number)) for number in range(count)))
    value = await database.value("SELECT value FROM settings WHERE name = 'a'")
    assert value == b"".join(number.to_bytes(2, "big") for number in range(count))


async def test_a_work_that_raises_undoes_its_own_changes_only(database: Database) -> None:
    async def failing(step: Step) -> None:
        await step.write(_PUT, "spoilt", b"")
        raise HubError(INVALID_OPERATION, "no")

    async def refusing(step: Step) -> None:
        raise HubError(INVALID_OPERATION, "not even begun")

    works = [putting("a"), failing, putting("b"), refusing, putting("a"), putting("c")]
    outcomes = await asyncio.gather(*(database.submit("p", work) for work in works), return_exceptions=True)
    assert [type(outcome).__name__ for outcome in outcomes] == ["str", "HubError", "str", "HubError", "HubError", "str"]
    assert "UniqueViolation" in str(outcomes[4])
    assert await kept(database) == ["a", "b", "c"]


async def test_outcomes_come_after_the_commit_and_in_their_order(database: Database, url: str) -> None:
    other = Database(url)
    await other.open()
    order: list[str] = []
    seen: list[asyncio.Task[list[str]]] = []

    def done(name: str, error: BaseException | None) -> None:
        assert error is None
        order.append(name)
        seen.append(asyncio.get_running_loop().create_task(kept(other)))

    names = ["z", "y", "x", "w"]
    for name in names:
        database.call("p", putting(name), done)
    await database.submit("p", putting("last"))
    assert order == names
    assert all(set(found) >= set(names) for found in await asyncio.gather(*seen))
    await other.close()


async def test_two_nodes_that_lock_each_other_out_both_end(database: Database, url: str) -> None:
    other = Database(url)
    await other.open()
    await database.submit("p", putting("a"))
    await database.submit("p", putting("b"))
    met = asyncio.Barrier(2)

    def crossing(first: str, second: str) -> object:
        tried = 0

        async def work(step: Step) -> None:
            nonlocal tried
            tried += 1
            await step.row("SELECT 1 FROM settings WHERE name = $1 FOR UPDATE", first)
            if tried == 1:
                await met.wait()
            await step.write(_ADD, second, first.encode())

        return work

    await asyncio.gather(database.submit("p", crossing("a", "b")), other.submit("q", crossing("b", "a")))
    assert await database.value("SELECT value FROM settings WHERE name = 'b'") == b"a"
    assert await database.value("SELECT value FROM settings WHERE name = 'a'") == b"b"
    await other.close()


async def test_nodes_that_start_together_migrate_once() -> None:
    url = await asyncio.to_thread(new_database)
    await asyncio.gather(*(migrate(url) for _ in range(3)))


async def test_a_newer_layout_is_refused(database: Database, url: str) -> None:
    async def work(step: Step) -> None:
        await step.write("UPDATE alembic_version SET version_num = '9999'")

    await database.submit("p", work)
    with pytest.raises(HubError, match="run the newer version") as refused:
        await migrate(url)
    assert refused.value.row is INVALID_OPERATION


async def test_a_server_that_is_gone_refuses_and_is_found_again() -> None:
    server = await asyncio.to_thread(PostgresServer)
    database = Database(server.url("postgres"))
    try:
        await migrate(server.url("postgres"))
        await database.open()
        await database.submit("p", putting("a"))
        await asyncio.to_thread(server.stop)
        for _ in range(2):
            with pytest.raises(HubError) as refused:
                await database.submit("p", putting("b"))
            assert refused.value.row is UNAVAILABLE
            with pytest.raises(HubError) as refused:
                await database.fetch("SELECT 1")
            assert refused.value.row is UNAVAILABLE
        await asyncio.to_thread(server.start)
        await asyncio.sleep(1)  # PAUSE_SECONDS, in which nobody connects, are real time
        await database.submit("p", putting("c"))
        assert await kept(database) == ["a", "c"]
    finally:
        await database.close()
        await asyncio.to_thread(server.remove)


async def test_records_of_two_nodes_become_one_chain(database: Database, url: str) -> None:
    other = Database(url)
    await other.open()
    logs = PostgresAuditLog(database), PostgresAuditLog(other)

    def changing(at: int) -> object:
        async def work(step: Step) -> None:
            step.record([Draft("hub", Act("device.put", "iothubowner"), f"devices/{at % 7}", float(at))])
            await step.write(_PUT, f"d{at}", b"")

        return work

    places = [f"d{at % 7}" for at in range(200)]
    works = ((database if at % 7 % 2 else other).submit(place, changing(at)) for at, place in enumerate(places))
    await asyncio.gather(*works)
    lines = [line for _, line in await logs[0].lines(0, 1000)]
    assert len(lines) == 200
    mark = verify(lines)
    assert (await logs[1].head()) == (mark, 200)
    by_subject = {subject: [line for line in lines if f'devices/{subject}"'.encode() in line] for subject in range(7)}
    for found in by_subject.values():
        times = [line.split(b'"at":"')[1][:20] for line in found]
        assert times == sorted(times)
    await other.close()


async def test_what_is_undone_leaves_no_record(database: Database) -> None:
    log = PostgresAuditLog(database)

    async def failing(step: Step) -> None:
        step.record([Draft("hub", Act("device.put", "iothubowner"), "devices/d", 1.0)])
        await step.write(_PUT, "a", b"")
        raise HubError(INVALID_OPERATION, "no")

    with pytest.raises(HubError):
        await database.submit("p", failing)
    await log.record(Draft("hub", Act("device.put", "iothubowner"), "devices/e", 2.0))
    assert [b"devices/e" in line for _, line in await log.lines(0, 10)] == [True]
