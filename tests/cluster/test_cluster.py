"""Three nodes, three NATS servers, PostgreSQL: things break under load, and no promise is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.deployment import Deployment
from tests.cluster.storm import CUT_OFF, FAULTS, storm

pytestmark = pytest.mark.sdk


@pytest.mark.timeout(400)
async def test_three_faults_under_load(tmp_path: Path) -> None:
    async with Deployment(tmp_path / "deployment") as deployment:
        outcome = await storm(deployment, tmp_path / "history", [FAULTS[0], CUT_OFF, FAULTS[2]], seed=1)
    assert outcome.problems == []
    assert outcome.acknowledged > 500
    assert outcome.counts["succeeded"] > 20
    assert outcome.counts["pushed"] > 20
    assert outcome.counts["feedback"] > 20
    assert all(moved for _, moved in outcome.faults[:2]), "devices were at the node that was struck"
