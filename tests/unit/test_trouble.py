"""A log that fails to store: told once, probed for its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from test_telemetry import FULL, HeldLog, rounds, serve

from muster.core.errors import HubError
from muster.messages.trouble import PROBE_SECONDS
from muster.stores.sqlite.telemetry import SqliteTelemetryLog
from muster.testing.clock import VirtualAmbient
from muster.testing.disk import RecordingDisk


class BrokenLog(HeldLog):
    """Its probes fail while ``broken``."""

    broken = True
    probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if self.broken:
            raise FULL


async def test_a_run_of_failures_is_told_once_and_probed_for_its_end(caplog: pytest.LogCaptureFixture) -> None:
    log, ambient = BrokenLog(), VirtualAmbient()
    telemetry = serve(log, ambient)

    async def commit(error: HubError | None) -> None:
        telemetry.append(0, b"a")
        await rounds()
        log.end(error)

    for _ in range(3):
        await commit(FULL)
        assert telemetry.failing
        ambient.advance(PROBE_SECONDS)
        await rounds()
        assert telemetry.failing
    assert log.probes == 3
    log.broken = False
    ambient.advance(PROBE_SECONDS)
    await rounds()
    assert not telemetry.failing
    await commit(FULL)
    assert telemetry.failing, "there was room for the probe, not for the message"
    await commit(None)
    assert not telemetry.failing
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert str(FULL) in told[0]
    assert "after 4 failed commits" in told[1]
    ambient.advance(PROBE_SECONDS)
    await rounds()
    assert log.probes == 4, "nothing is probed when all is well"
    await commit(FULL)
    assert len(caplog.records) == 3
    await telemetry.close()


async def test_a_probe_knows_a_full_disk(tmp_path: Path) -> None:
    with RecordingDisk("full-for-probes") as disk:
        path, loop = tmp_path / "telemetry.db", asyncio.get_running_loop()
        log = SqliteTelemetryLog(path, 2, loop, created_at=3.0, vfs=disk.name, durable=False)
        for full in (False, True, True, False):
            disk.full = full
            if full:
                with pytest.raises(HubError, match="the disk is full"):
                    await log.probe()
            else:
                await log.probe()
        await log.close()
