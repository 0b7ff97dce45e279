"""What a message costs with workers, beside one process: CPU of all processes of the hub, in the same run.

usage: python -m bench.workers [--quick]

Both hubs are up on one core, each with a receiver on all partitions; the load comes from the other core and visits
them in turn. So it says what the way to the keeper costs, not how many cores it can use.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from bench import measure
from bench.measure import FULL, QUICK
from bench.run import build_programs, running, say
from bench.servers import Accounts, Device, Muster, Server

WORKERS = 2
WINDOWS = (1, 20)
CPU = "server_us_per_message"


class Workers(Muster):
    """The same hub with workers."""

    name = f"{WORKERS} workers"

    def __init__(self, directory: Path, accounts: Accounts) -> None:
        super().__init__(directory, accounts, "--workers", str(WORKERS))

    @property
    def pids(self) -> list[int]:
        """The workers and the keeper; whoever looks after them sleeps."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(child) for child in children.split()]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.workers", description="The cost of a message with workers.")
    parser.add_argument("--quick", action="store_true", help="a minute's look; figures are not for quoting")
    scale = QUICK if parser.parse_args().quick else FULL
    build_programs()
    with tempfile.TemporaryDirectory(prefix="bench-workers-", dir=Path.cwd()) as directory:
        accounts = Accounts(Path(directory), [Device(f"device-{number:05d}") for number in range(scale.devices)])
        accounts.write()
        servers: list[Server] = [Muster(Path(directory), accounts), Workers(Path(directory), accounts)]
        with running(servers):
            for window in WINDOWS:
                found = [[measure.window(server, scale, window) for server in servers] for _ in range(scale.rounds)]
                medians = [measure.median_of([one[which] for one in found], CPU) for which in range(len(servers))]
                for server, median in zip(servers, medians, strict=True):
                    say(f"window {window:2}  {server.name:10} {median:6.1f} us a message  {median / medians[0]:.2f}")


if __name__ == "__main__":
    main()
