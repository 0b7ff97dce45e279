"""What `muster doctor` looks at in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from muster.core.errors import HubError
from muster.identity.doctor import Finding, Level
from muster.stores.postgres.database import LANES, READERS, Database
from muster.stores.postgres.schema import newest_layout

OLDEST_VERSION = 150_000
CONNECTIONS = LANES + READERS + 1
"""Of one process: those that write, those that read, and that of its lease."""
_MOST_APART = 5.0
_FACTS = """
SELECT current_setting('server_version_num')::int AS version, pg_encoding_to_char(d.encoding) AS encoding,
    current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('synchronous_standby_names') AS standbys, (SELECT count(*) FROM pg_stat_replication) AS replicas,
    current_setting('autovacuum') AS autovacuum,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS room,
    (SELECT count(*) FROM nodes WHERE until > clock_timestamp()) AS nodes,
    (SELECT version_num FROM alembic_version) AS layout, extract(epoch FROM clock_timestamp())::float8 AS now
FROM pg_database d WHERE d.datname = current_database()"""


async def examine(database: Database, now: Callable[[], float]) -> list[Finding]:
    """What there is to see to; ``now`` is this node's clock, in seconds since 1970."""
    before = now()
    try:
        row = await database.row(_FACTS)
    except HubError as error:
        remedy = "Start it, or mend the network: connected devices go on sending telemetry, all else is refused."
        return [Finding(Level.BAD, "database-away", f"PostgreSQL cannot be asked: {error.message}.", remedy)]
    assert row is not None, "there is the database that was asked"
    facts = dict(row)
    apart = max(before - facts["now"], facts["now"] - now(), 0.0)
    return [*findings_of(facts, newest_layout()), *_clock(apart)]


def findings_of(facts: Mapping[str, Any], newest: str) -> Iterator[Finding]:
    """Of ``facts``, as the server said them; ``newest`` is the layout of the tables that this version knows."""
    if facts["version"] < OLDEST_VERSION:
        text = f"PostgreSQL is of version {facts['version'] // 10_000}."
        yield Finding(Level.BAD, "database-old", text, "Upgrade to 15 or later: the hub is not tested with older ones.")
    if facts["encoding"] != "UTF8":
        text = f"The database's encoding is {facts['encoding']}."
        yield Finding(Level.BAD, "database-encoding", text, "Move it to a database made with ENCODING 'UTF8'.")
    for name in ("fsync", "full_page_writes"):
        if facts[name] != "on":
            text = f"{name} is off in PostgreSQL: a power cut loses or breaks what was acknowledged."
            yield Finding(Level.BAD, "database-not-durable", text, f"Set {name} = on, and reload.")
    if facts["synchronous_commit"] not in ("on", "remote_apply"):
        text = f"synchronous_commit is {facts['synchronous_commit']} for the hub, which asks for on."
        remedy = "Reach PostgreSQL without the pooler between, which drops the settings of sessions."
        yield Finding(Level.BAD, "database-not-durable", text, remedy)
    if facts["replicas"] and not facts["standbys"]:
        text = "PostgreSQL has a replica that commits do not wait for: a failover loses what was acknowledged last."
        remedy = "Set synchronous_standby_names, with two replicas or more so that one may be away."
        yield Finding(Level.WARNING, "database-replica-late", text, remedy)
    if facts["autovacuum"] != "on":
        text = "autovacuum is off in PostgreSQL: tables grow with every change."
        yield Finding(Level.WARNING, "database-no-vacuum", text, "Set autovacuum = on, and reload.")
    needed = CONNECTIONS * (facts["nodes"] + 1)  # one more while a node is replaced
    if needed > facts["room"]:
        text = f"PostgreSQL lets in {facts['room']} connections; {facts['nodes']} nodes and one more need {needed}."
        remedy = f"Raise max_connections: {CONNECTIONS} for each node or worker, one more than you have, and some."
        yield Finding(Level.WARNING, "database-connections", text, remedy)
    if facts["layout"] != newest:
        text = f"The tables have layout {facts['layout']}, of a newer version than this node's, which knows {newest}."
        remedy = "Finish the upgrade: this node cannot be started again as it is."
        yield Finding(Level.WARNING, "database-newer", text, remedy)


def _clock(apart: float) -> Iterator[Finding]:
    if apart > _MOST_APART:
        text = f"The clocks of this node and of PostgreSQL are {apart:.0f} s apart."
        remedy = "Let all machines follow a time server (NTP): tokens are judged by each node's own clock."
        yield Finding(Level.WARNING, "database-clock", text, remedy)
