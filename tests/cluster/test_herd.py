"""A node dies and its devices, all at once, come to the other: `bench.fleet`, which does so with 9,000, in small."""

from __future__ import annotations

from pathlib import Path

from bench.fleet import Fleet, Size
from tests.nats_servers import NatsCluster
from tests.postgres import new_database

SMALL = Size(devices=300, rounds=1, rate=50, at_once=32, idle=1, patience=120)


def test_all_devices_of_a_node_that_dies_come_back_at_the_other(nats: NatsCluster, tmp_path: Path) -> None:
    options = ["--database", new_database(), "--bus", ",".join(nats.urls)]
    fleet = Fleet(tmp_path, SMALL, options, dict)
    try:
        fleet.arrive()
        herd = fleet.herd(0)  # which raises unless all are back, none was refused as another, and all sent was stored
        assert herd["counts"]["lost"] == herd["counts"]["connects"] == SMALL.devices
        fleet.go_home(0)
    finally:
        fleet.close()
