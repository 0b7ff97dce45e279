"""Run the tests marked `soak` one by one, and go on where a stopped run ended.

usage: soak.py [--again] [PYTEST ARGUMENTS...]     (`make soak`)

Each test has a pytest of its own. What passed is noted under build/soak/ in a file named for the commit, so a second
call runs only what is left; `--again` forgets the notes. With uncommitted changes nothing is skipped.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTES = ROOT / "build" / "soak"
PYTEST = (sys.executable, "-m", "pytest", "-m", "soak", "-p", "no:cacheprovider")


def output_of(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def soak_tests(arguments: list[str]) -> list[str]:
    """The node ids of the soak tests, in pytest's order."""
    listed = output_of(*PYTEST, "--collect-only", "--quiet", *arguments)
    return [line for line in listed.splitlines() if "::" in line]


def notes_file() -> Path:
    """Where this commit's passed tests are noted; emptied when the checkout is not what the commit says."""
    NOTES.mkdir(parents=True, exist_ok=True)
    file = NOTES / (output_of("git", "rev-parse", "HEAD").strip() or "unversioned")
    if output_of("git", "status", "--porcelain", "--untracked-files=no"):
        file.unlink(missing_ok=True)
    return file


def main(arguments: list[str]) -> int:
    notes = notes_file()
    if "--again" in arguments:
        arguments.remove("--again")
        notes.unlink(missing_ok=True)
    done = set(notes.read_text().splitlines()) if notes.exists() else set()
    tests = soak_tests(arguments)
    failed = 0
    for number, test in enumerate(tests, start=1):
        if test in done:
            continue
        print(f"[{number}/{len(tests)}] {test}", flush=True)
        if subprocess.run([*PYTEST, "--quiet", "--timeout=7200", test], cwd=ROOT, check=False).returncode:
            failed += 1
            continue
        with notes.open("a") as note:
            note.write(f"{test}\n")
    print(f"{len(tests) - failed} passed, {failed} failed")
    return 1 if failed or not tests else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
