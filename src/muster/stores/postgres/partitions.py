"""Tables that are spread by a hash, for the migrations."""

from __future__ import annotations

PARTITIONS = 16
"""Tables that such a table consists of."""


def by_device(name: str, columns: str, key: str) -> tuple[str, ...]:
    """The statements that make the table ``name`` with hub and device_id, ``columns`` and PRIMARY KEY (hub, device_id,
    ``key``), in partitions. The ids are compared byte by byte, whatever the database's own order is."""
    device = 'hub text COLLATE "C" NOT NULL, device_id text COLLATE "C" NOT NULL'
    return spread(name, f"{device}, {columns}, PRIMARY KEY (hub, device_id, {key})", "hub, device_id")


def spread(name: str, columns: str, by: str) -> tuple[str, ...]:
    """The statements that make the table ``name`` of ``columns``, in partitions: a hash of the columns ``by`` says
    which one a row is in."""
    return (
        f"CREATE TABLE {name} ({columns}) PARTITION BY HASH ({by})",
        *(
            f"CREATE TABLE {name}_{at} PARTITION OF {name} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {at})"
            for at in range(PARTITIONS)
        ),
    )
