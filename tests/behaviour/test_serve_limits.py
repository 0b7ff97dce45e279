"""`muster serve` and the limits of its process: open files."""

from __future__ import annotations

import resource
from collections.abc import Callable

from muster.testing.hub import HubProcess

ANY_PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
FEW = "files may be open"


def under_limits(soft: int, hard: int) -> tuple[str, ...]:
    """A shell that starts a command with these limits of open files."""
    return "sh", "-c", f'ulimit -Sn {soft}; ulimit -Hn {hard}; exec "$@"', "sh"


def test_1_the_soft_limit_of_open_files_is_raised_to_the_hard_one(make_hub: Callable[..., HubProcess]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hub = make_hub(*ANY_PORTS, prefix=under_limits(256, hard)).start()
    assert resource.prlimit(hub.pid, resource.RLIMIT_NOFILE) == (hard, hard)
    assert (FEW in hub.log_file.read_text()) is (hard != resource.RLIM_INFINITY and hard < 8192)


def test_2_a_low_limit_is_said_in_the_log(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub(*ANY_PORTS, prefix=under_limits(256, 512)).start()
    assert resource.prlimit(hub.pid, resource.RLIMIT_NOFILE) == (512, 512)
    assert f"only 512 {FEW}" in hub.log_file.read_text()
