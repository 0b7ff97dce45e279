"""Run suites of tests on the engines of several nodes, PostgreSQL and NATS; go on where a stopped run ended.

usage: suites.py [--again] [--processes N] [PATHS...]     (`make suites`)

PATHS are files or directories of tests, by default those of the SDKs and of the chapters that hold for both engines.
They are run a few files at a time. What came of them is noted under build/suites/ in a directory named for the commit,
so a second call runs only what is left; with the last of them the page under docs/results/ is written.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
NOTES, RESULTS = ROOT / "build" / "suites", ROOT / "docs" / "results"
SUITES = ("tests/sdk", "tests/behaviour")
FILES_AT_ONCE = 6


class Outcome(NamedTuple):
    """What became of one test. ``text`` says why it was skipped, or how it failed."""

    file: str
    name: str
    kind: str
    seconds: float
    text: str


def output_of(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def steps(paths: list[str]) -> list[list[str]]:
    """The files of ``paths``, so many at a time."""
    found = [
        str(file.relative_to(ROOT))
        for path in map(ROOT.joinpath, paths)
        for file in (sorted(path.glob("test_*.py")) if path.is_dir() else [path])
    ]
    return [found[start : start + FILES_AT_ONCE] for start in range(0, len(found), FILES_AT_ONCE)]


def run(files: list[str], report: Path, processes: int) -> None:
    """Run ``files``; ``report`` is there afterwards if that came to its end."""
    draft = report.with_suffix(".draft")
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not soak", "-W", "ignore"]
    command = [*pytest, "--engines", "clustered", "-n", str(processes), "--dist", "worksteal", f"--junit-xml={draft}"]
    if subprocess.run([*command, *files], cwd=ROOT, check=False).returncode in (0, 1):
        draft.rename(report)


def outcomes(report: Path) -> Iterator[Outcome]:
    """Of every test of ``report``, which pytest wrote."""
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname", "").replace(".", "/") + ".py"
        told = next((child for child in case if child.tag in ("skipped", "failure", "error")), None)
        kind, text = ("passed", "") if told is None else (told.tag, told.get("message", "").splitlines()[0])
        yield Outcome(file, case.get("name", ""), kind, float(case.get("time", "0")), text)


def write_page(commit: str, found: list[Outcome], command: str) -> Path:
    """The page that says what all came to."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    kinds, load = Counter(one.kind for one in found), os.getloadavg()[2]
    bad = [one for one in found if one.kind in ("failure", "error")]
    lines = [
        f"# Suites on PostgreSQL and NATS, {day}", "",
        f"`{command}` on {commit[:12]}, every hub the only node of a deployment of its own (PostgreSQL 15, one "
        f"nats-server with JetStream, synced), on a machine of {os.cpu_count()} cores with a load of {load:.0f}.", "",
        f"{kinds['passed']} passed, {len(bad)} failed, {kinds['skipped']} skipped.", "",
    ]  # fmt: skip
    if bad:
        lines += ["Failed:", "", *(f"- `{one.file}::{one.name}`: {one.text[:200]}" for one in bad), ""]
    reasons = Counter(one.text.rpartition(": ")[2] for one in found if one.kind == "skipped")
    lines += ["Skipped:", "", *(f"- {count}: {reason}" for reason, count in sorted(reasons.items())), ""]
    lines += ["| file | passed | failed | skipped | seconds |", "| --- | --- | --- | --- | --- |"]
    for file in dict.fromkeys(one.file for one in found):
        own = [one for one in found if one.file == file]
        of = Counter(one.kind for one in own)
        counts = of["passed"], of["failure"] + of["error"], of["skipped"], round(sum(one.seconds for one in own))
        lines.append("| " + " | ".join(map(str, (file, *counts))) + " |")
    page = RESULTS / f"{day}-suites.md"
    page.write_text("\n".join(lines) + "\n")
    return page


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("paths", nargs="*", default=list(SUITES))
    chosen = parser.parse_args()
    commit = output_of("git", "rev-parse", "HEAD") or "unversioned"
    notes = NOTES / commit
    notes.mkdir(parents=True, exist_ok=True)
    reports = []
    for files in steps(chosen.paths):
        report = notes / f"{files[0].replace('/', '-')}-{len(files)}.xml"
        if chosen.again:
            report.unlink(missing_ok=True)
        if not report.exists():
            print(*files, flush=True)
            run(files, report, chosen.processes)
        if not report.exists():
            return 1
        reports.append(report)
    found = [one for report in reports for one in outcomes(report)]
    print(write_page(commit, found, f"make suites SUITES_ARGS='{' '.join(sys.argv[1:])}'"))
    return 1 if any(one.kind in ("failure", "error") for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
