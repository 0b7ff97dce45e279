"""Devices put into the tables of PostgreSQL by SQL, as `muster import` puts those of `bench.identities.line_of`."""

from __future__ import annotations

import asyncio
import os

import asyncpg

_NUMBERS = "FROM generate_series({first}, {last}) AS n"
_NAME = "'device-' || lpad(n::text, 8, '0')"
_STAMP = '{{"$lastUpdated": "2026-11-29T09:00:00.0000000Z"}}'
_VERSIONED = '{{"$lastUpdated": "2026-11-29T09:00:00.0000000Z", "$lastUpdatedVersion": 2}}'
FILL = (
    "INSERT INTO identities (hub, device_id, module_id, generation_id, version, authentication, primary_key, "
    "secondary_key, status, status_updated, iot_edge) "
    f"SELECT '{{hub}}', {_NAME}, '', (638000000000000000 + n)::text, 1, "
    f"'sas', encode(sha256(('bench ' || {_NAME})::bytea), 'base64'), encode(sha256(({_NAME})::bytea), 'base64'), "
    f"'enabled', 0, false {_NUMBERS}",
    "INSERT INTO twins (hub, device_id, module_id, version, revision, tags, desired, desired_metadata, "
    f"desired_version, reported, reported_metadata, reported_version) SELECT '{{hub}}', {_NAME}, '', 5, 2, "
    "jsonb_build_object('building', 'b' || n / {group}, 'floor', n / {group} % 20), '{{\"interval\": 60}}', "
    f"jsonb_build_object('interval', '{_VERSIONED}'::jsonb) || '{_VERSIONED}', 2, "
    "jsonb_build_object('firmware', '1.' || n / {group} % 9), "
    f"jsonb_build_object('firmware', '{_STAMP}'::jsonb) || '{_STAMP}', 2 {_NUMBERS}",
    "UPDATE identity_counts SET devices = devices + {last} - {first} + 1 WHERE (hub, status, bucket) IN "
    "(SELECT hub, status, bucket FROM identity_counts WHERE hub = '{hub}' AND status = 'enabled' LIMIT 1)",
)
"""Makes the devices of a hub from one number to another, groups of so many; braces are those of ``str.format``."""


async def fill(url: str, first: int, last: int, group: int) -> None:
    """Put the devices from number ``first`` to before ``last`` into the database at ``url``, whose hub has some.

    Then have the server tidy up, so that it does not while something is measured.
    """
    asking = await asyncpg.connect(url)
    try:
        hub = await asking.fetchval("SELECT hub FROM identity_counts LIMIT 1")
        values = {"hub": hub, "first": first, "last": last - 1, "group": group}
        await asyncio.gather(*(_run(url, statement.format(**values)) for statement in FILL))
        await asking.execute("VACUUM ANALYZE", timeout=None)
        await asking.execute("CHECKPOINT", timeout=None)
    finally:
        await asking.close()


async def _run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        os.sched_setaffinity(await connection.fetchval("SELECT pg_backend_pid()"), range(os.cpu_count() or 1))
        await connection.execute(statement, timeout=None)
    finally:
        await connection.close()
