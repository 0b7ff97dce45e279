"""What every ``AuditLog`` promises, on each of them, and what SQLite's shows when somebody goes behind its back."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest
from hub_database import Opener, opener_of, shared

from muster.audit.chain import BrokenChainError, verify
from muster.audit.contract import AuditLog
from muster.core.audit import Act, Draft
from muster.core.errors import HubError
from muster.stores.sqlite.audit import SqliteAuditLog, keep
from muster.stores.sqlite.database import Writer

ACT = Act("device.put", "iothubowner (policy)", "127.0.0.1:4711", "https", "0" * 32)


class Kept(NamedTuple):
    log: AuditLog
    writer: Writer


def _sqlite(directory: Path) -> Opener[Kept]:
    return opener_of(directory, lambda writer, reader: Kept(SqliteAuditLog(writer, reader), writer))


@pytest.fixture(params=[_sqlite, shared(_sqlite)], ids=["sqlite", "shared"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Opener[Kept]:
    made: Opener[Kept] = request.param(tmp_path)
    return made


def of(subject: str) -> Draft:
    return Draft("hub", ACT, subject, 1_700_000_000.0, after='{"status":"enabled"}')


async def check(log: AuditLog) -> int:
    """How many records there are, when the chain holds."""
    head = await log.head()
    mark = verify((line for _, line in await log.lines(0, 10_000)), marks=[head.mark], head=head.written)
    assert mark == head.mark
    return mark.number


async def test_records_follow_one_another_over_reopening(opener: Opener[Kept]) -> None:
    async with opener() as (log, _):
        assert await check(log) == 0
        await log.record(of("devices/a"))
        log.note(of("devices/b"))
        await log.record(of("devices/c"))
        assert await check(log) == 3
    async with opener() as (log, _):
        await log.record(of("devices/d"))
        assert await check(log) == 4
        lines = await log.lines(1, 2)
        assert [json.loads(line)["subject"] for _, line in lines] == ["devices/b", "devices/c"]


async def test_a_change_that_fails_leaves_no_record_and_a_record_that_fails_no_change(opener: Opener[Kept]) -> None:
    async with opener() as (log, writer):
        put = "INSERT INTO settings (name, value) VALUES (?, ?)"

        def changed(name: str, draft: Draft, fail: bool) -> asyncio.Future[None]:
            def work(connection: apsw.Connection) -> None:
                connection.execute(put, (name, b"1"))
                keep(writer, connection, [draft])
                if fail:
                    raise HubError.__new__(HubError)

            return writer.submit(work)

        # in one round, so in one transaction, of which only the second is undone
        works = [changed("a", of("a"), False), changed("b", of("b"), True), changed("c", of("c"), False)]
        broken = Draft("hub", ACT, "half \ud800 of a pair", 1.0)
        outcomes = await asyncio.gather(*works, changed("d", broken, False), return_exceptions=True)
        assert [outcome is None for outcome in outcomes] == [True, False, True, False]
        assert await check(log) == 2
        assert [json.loads(line)["subject"] for _, line in await log.lines(0, 10)] == ["a", "c"]
        kept = await writer.submit(lambda connection: connection.execute("SELECT name FROM settings").fetchall())
        assert sorted(kept) == [("a",), ("c",)]


async def _filled(opener: Opener[Kept], count: int = 6) -> None:
    async with opener() as (log, _):
        for number in range(1, count + 1):
            await log.record(of(f"devices/d{number}"))


def _behind_its_back(directory: Path, *statements: str) -> None:
    with apsw.Connection(str(directory / "hub.db")) as connection:
        for name in ("audit_is_not_changed", "audit_is_not_removed"):
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
    connection.close()


async def test_the_table_itself_refuses_changes(tmp_path: Path) -> None:
    opener = _sqlite(tmp_path)
    await _filled(opener, 2)
    async with opener() as (log, writer):
        for statement in ("DELETE FROM audit", "UPDATE audit SET line = 'x' WHERE number = 1"):
            with pytest.raises(HubError, match="only appended to"):
                await writer.submit(lambda connection, statement=statement: connection.execute(statement))
        assert await check(log) == 2


@pytest.mark.parametrize(
    ("statement", "number", "said"),
    [
        ("UPDATE audit SET line = replace(line, 'devices/d3', 'devices/d7') WHERE number = 3", 3, "was changed"),
        ("UPDATE audit SET line = CAST(x'fffe00' AS TEXT) WHERE number = 3", 3, "no record"),
        ("DELETE FROM audit WHERE number = 4", 4, "it is missing"),
        ("DELETE FROM audit WHERE number = 1", 1, "it is missing"),
        ("DELETE FROM audit WHERE number > 4", 5, "all up to 6: the end was cut off"),
        ("DELETE FROM audit", 1, "all up to 6: the end was cut off"),
        (
            "CREATE TEMP TABLE other AS SELECT * FROM audit; UPDATE audit SET line = "
            "(SELECT line FROM other WHERE number = 9 - audit.number) WHERE number IN (4, 5)",
            4,
            "out of order",
        ),
    ],
)
async def test_what_was_done_behind_the_hubs_back_is_found(
    tmp_path: Path, statement: str, number: int, said: str
) -> None:
    opener = _sqlite(tmp_path)
    await _filled(opener)
    _behind_its_back(tmp_path, statement)
    async with opener() as (log, _):
        with pytest.raises(BrokenChainError, match=said) as raised:
            await check(log)
        assert raised.value.number == number
        await log.record(of("devices/later"))
        with pytest.raises(
            BrokenChainError, match=said.replace("all up to 6: the end was cut off", "missing")
        ) as raised:
            await check(log)
        assert raised.value.number == number, "what comes later does not cover it"
