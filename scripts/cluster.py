"""Break a cluster under load, again and again, and judge what its clients saw; go on where a stopped run ended.

usage: cluster.py [--again] [--rounds N]     (`make cluster`)

A round is a new deployment (three nodes, three NATS servers, PostgreSQL, a balancer), load by real clients, and one
fault of each kind, in an order and with times that its number decides. What came of it is noted under build/cluster/ in
a file named for the commit; with the last round the page under docs/results/ is written. As root it runs in a network
namespace of its own, so that packets can be lost and partitions are those of a network.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from operator import itemgetter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTES, RESULTS = ROOT / "build" / "cluster", ROOT / "docs" / "results"
APART = "MUSTER_CLUSTER_APART"
ROUNDS = 4

sys.path.insert(0, str(ROOT))


def output_of(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def go_apart() -> None:
    """Begin again in a network namespace of our own, where that is possible."""
    if APART in os.environ or os.geteuid() or not shutil.which("iptables"):
        return
    inside = 'ip link set lo up && exec "$0" "$@"'
    os.environ[APART] = "1"
    os.execvp("unshare", ["unshare", "--net", "sh", "-c", inside, sys.executable, *sys.argv])


async def run(number: int) -> dict[str, Any]:
    """One round: what came of it, as JSON has it."""
    cluster, load = (import_module(f"tests.cluster.{name}") for name in ("deployment", "storm"))
    apart = APART in os.environ
    faults = [*load.FAULTS, *load.PARTITIONS, *([load.LOSS] if apart else [])]
    random.Random(number).shuffle(faults)
    directory = Path(tempfile.mkdtemp(prefix="muster-cluster-"))
    async with cluster.Deployment(directory / "deployment", drop=apart) as deployment:
        outcome = await load.storm(deployment, directory / "history", faults, seed=number)
    if not outcome.problems:
        shutil.rmtree(directory)
    return {"round": number, **outcome._asdict(), "kept": str(directory)}


def write_page(commit: str, rounds: list[dict[str, Any]]) -> Path:
    """The page that says what all rounds came to."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    total = {name: sum(one[name] for one in rounds) for name in ("acknowledged", "read", "repeated")}
    moves: dict[str, list[int]] = {}
    for name, moved in sorted((tuple(fault) for one in rounds for fault in one["faults"]), key=itemgetter(0)):
        moves.setdefault(name, []).append(moved)
    lines = [
        f"# Faults in a cluster, {day}", "",
        f"`make cluster` on {commit[:12]}: three nodes, three NATS servers (R3, synced), PostgreSQL 15, one machine of "
        f"{os.cpu_count()} cores. Six scripted devices with twenty messages in flight and two of azure-iot-device, "
        "methods, desired properties, commands with feedback, which two more devices complete, reject or abandon over "
        "HTTPS; telemetry is read by azure-eventhub.", "",
        f"{sum(map(len, moves.values()))} faults in {len(rounds)} rounds, {total['acknowledged']:,} messages "
        f"acknowledged, {sum(len(one['problems']) for one in rounds)} broken promises, {total['repeated']} of "
        f"{total['read']:,} messages read were repeats. "
        f"{sum(one['counts'].get('beside', 0) for one in rounds)} were sent on a session beside a newer one.", "",
        "| fault | times | connections that devices made from it to the next one, each time |",
        "| --- | --- | --- |",
        *(f"| {name} | {len(counts)} | {', '.join(map(str, counts))} |" for name, counts in moves.items()), "",
        "| round | faults, in their order | acknowledged | repeats | methods done | desired pushed | commands accepted "
        "| feedback | problems |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for one in rounds:
        faults, counts = ", ".join(name for name, _ in one["faults"]), one["counts"]
        cells = [one["round"], faults, one["acknowledged"], one["repeated"]]
        cells += [counts.get(kind, 0) for kind in ("succeeded", "pushed", "commanded", "feedback")]
        lines.append("| " + " | ".join(map(str, [*cells, "; ".join(one["problems"]) or "none"])) + " |")
    page = RESULTS / f"{day}-cluster.md"
    page.write_text("\n".join(lines) + "\n")
    return page


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    chosen = parser.parse_args()
    go_apart()
    NOTES.mkdir(parents=True, exist_ok=True)
    commit = output_of("git", "rev-parse", "HEAD") or "unversioned"
    notes = NOTES / commit
    if chosen.again:
        notes.unlink(missing_ok=True)
    rounds = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    for number in range(len(rounds) + 1, chosen.rounds + 1):
        print(f"round {number} of {chosen.rounds}", flush=True)
        rounds.append(asyncio.run(run(number)))
        print(rounds[-1], flush=True)
        with notes.open("a") as note:
            note.write(json.dumps(rounds[-1]) + "\n")
    print(write_page(commit, rounds))
    return 1 if any(one["problems"] for one in rounds) else 0


if __name__ == "__main__":
    sys.exit(main())
