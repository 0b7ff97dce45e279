"""The built-in authority for devices, as files in a hub's data directory: made, read, added to."""

from __future__ import annotations

import os
from pathlib import Path

from muster.core.errors import INVALID_OPERATION, HubError
from muster.issuing.devices import DeviceAuthorities
from muster.issuing.making import Credentials

ROOT_NAME, ISSUING_NAME = "muster-root", "muster-issuing"
"""Under which the hub knows them."""


class DeviceAuthorityFiles:
    """``device-ca`` below a data directory: certificates, keys, and the list of what was revoked."""

    def __init__(self, data: Path) -> None:
        self.path = data / "device-ca"

    def write(self, authorities: DeviceAuthorities) -> None:
        """Keep new authorities. Raises ``HubError`` when there are some."""
        if self.path.exists():
            raise HubError(INVALID_OPERATION, f"{self.path} is there already; muster ca issue DEVICE uses it.")
        self.path.mkdir(mode=0o700)
        for name, one in zip(("root", "issuing"), authorities, strict=True):
            write_new(self.path / f"{name}.pem", one.certificate)
            write_new(self.path / f"{name}.key", one.key)

    def issuing(self) -> Credentials:
        """The issuing authority. Raises ``HubError`` when there is none."""
        try:
            return Credentials((self.path / "issuing.pem").read_bytes(), (self.path / "issuing.key").read_bytes())
        except FileNotFoundError:
            raise HubError(
                INVALID_OPERATION, f"There is no authority in {self.path}; make one first: muster ca init."
            ) from None

    @property
    def list_file(self) -> Path:
        """What the issuing authority has revoked."""
        return self.path / "issuing.crl"


def write_new(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read. Raises ``HubError`` when it is there: a key is not written over."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise HubError(INVALID_OPERATION, f"{path} is there already; move it away, or choose another --out.") from None
    with os.fdopen(handle, "wb") as file:
        file.write(content)
