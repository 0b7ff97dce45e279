"""Tables that are spread by device, for the migrations."""

from __future__ import annotations

PARTITIONS = 16
"""Tables that a table of devices consists of; a hash of hub and device says which one a row is in."""


def by_device(name: str, columns: str, key: str) -> tuple[str, ...]:
    """The statements that make the table ``name`` with hub and device_id, ``columns`` and PRIMARY KEY (hub, device_id,
    ``key``), in partitions. The ids are compared byte by byte, whatever the database's own order is."""
    return (
        f'CREATE TABLE {name} (hub text COLLATE "C" NOT NULL, device_id text COLLATE "C" NOT NULL, {columns}, '
        f"PRIMARY KEY (hub, device_id, {key})) PARTITION BY HASH (hub, device_id)",
        *(
            f"CREATE TABLE {name}_{at} PARTITION OF {name} FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {at})"
            for at in range(PARTITIONS)
        ),
    )
