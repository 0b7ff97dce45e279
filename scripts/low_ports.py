"""Run a command that must listen on ports below 1024, such as the 443 that device SDKs insist on.

usage: low_ports.py COMMAND [ARGUMENTS...]

Root, or a user whom the kernel allows those ports, runs the command as it is. For anyone else it runs in a network of
its own with nothing but a loopback interface, where these ports are free (a Linux user namespace, no privilege needed).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys

LOWEST_NEEDED = 443
INSIDE = "MUSTER_OWN_NETWORK"
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
REMEDY = (
    f"port {LOWEST_NEEDED} may not be bound and a network namespace may not be made; allow the port with: "
    f"sudo sysctl -w net.ipv4.ip_unprivileged_port_start={LOWEST_NEEDED}"
)


def may_bind_low_ports() -> bool:
    """Whether the kernel lets this user listen on the lowest port needed; a port that is taken counts as allowed."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", LOWEST_NEEDED))
        except OSError as refused:
            return refused.errno != errno.EACCES
    return True


def raise_loopback() -> None:
    """Bring `lo` up; the kernel gives it 127.0.0.0/8 and ::1 by itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def main(command: list[str]) -> int:
    if not command:
        print(__doc__)
        return 2
    if os.environ.get(INSIDE):
        raise_loopback()
        del os.environ[INSIDE]
    elif not may_bind_low_ports():
        unshare = ["unshare", "--user", "--map-root-user", "--net"]
        if os.spawnvp(os.P_WAIT, unshare[0], [*unshare, "true"]):
            print(REMEDY, file=sys.stderr)
            return 1
        os.environ[INSIDE] = "1"
        command = [*unshare, sys.executable, *sys.argv[:1], *command]
    return os.execvp(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
