"""What has been measured so far, so that a benchmark that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from bench.measure import Result

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ("src", "bench")


def source_digest() -> str:
    """A digest of the hub and the benchmark: figures of one are not mixed with those of another."""
    total = hashlib.sha256()
    for room in MEASURED:
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix in {".py", ".c", ".h"}:
                total.update(path.as_posix().encode() + path.read_bytes())
    return total.hexdigest()[:16]


class Journal:
    """Results by measurement, server and round, appended to a file as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._results: dict[tuple[str, str, int], Result] = {}
        if path.exists():
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                self._results[entry["measurement"], entry["server"], entry["round"]] = entry["result"]

    def once(self, measurement: str, server: str, round_number: int, measure: Callable[[], Result]) -> Result:
        """The result noted under these names, or else measure it now and note it."""
        key = (measurement, server, round_number)
        if key not in self._results:
            result = measure()
            entry = {"measurement": measurement, "server": server, "round": round_number, "result": result}
            with self._path.open("a") as file:
                file.write(json.dumps(entry) + "\n")
            self._results[key] = result
        return self._results[key]

    def holds(self, measurement: str, server: str, round_number: int) -> bool:
        """Whether this has been measured."""
        return (measurement, server, round_number) in self._results

    def of(self, measurement: str, server: str) -> list[Result]:
        """The results of one measurement on one server, by round."""
        return [result for key, result in sorted(self._results.items()) if key[:2] == (measurement, server)]
