"""The built-in authority for devices, as files in a hub's data directory: made, read, added to."""

from __future__ import annotations

import os
from pathlib import Path

from muster.core.errors import INVALID_OPERATION, HubError
from muster.issuing.devices import DeviceAuthorities
from muster.issuing.making import Credentials

ROOT, ISSUING = "root", "issuing"
"""What their files are called; issuing authorities that came later are ``issuing-2`` and so on."""


def name_at_hub(stem: str) -> str:
    """Under which the hub knows the authority in the files ``stem``."""
    return f"muster-{stem}"


class DeviceAuthorityFiles:
    """``device-ca`` below a data directory: certificates, keys, and the list of what was revoked."""

    def __init__(self, data: Path) -> None:
        self.path = data / "device-ca"

    def write(self, authorities: DeviceAuthorities) -> None:
        """Keep new authorities. Raises ``HubError`` when there are some."""
        if self.path.exists():
            raise HubError(INVALID_OPERATION, f"{self.path} is there already; muster ca issue DEVICE uses it.")
        self.path.mkdir(mode=0o700)
        for stem, one in zip((ROOT, ISSUING), authorities, strict=True):
            self._write(stem, one)

    def add_issuing(self, made: Credentials) -> str:
        """Keep another issuing authority, which is used from now on; what its files are called."""
        stem = f"{ISSUING}-{len(self.stems()) + 1}"
        self._write(stem, made)
        return stem

    def _write(self, stem: str, one: Credentials) -> None:
        write_new(self.path / f"{stem}.key", one.key)
        write_new(self.path / f"{stem}.pem", one.certificate)

    def stems(self) -> list[str]:
        """The issuing authorities by their files, the newest last. Raises ``HubError`` when there is none."""
        found = [ISSUING] if (self.path / f"{ISSUING}.pem").exists() else []
        while found and (self.path / f"{ISSUING}-{len(found) + 1}.pem").exists():
            found.append(f"{ISSUING}-{len(found) + 1}")
        if not found:
            raise HubError(INVALID_OPERATION, f"There is no authority in {self.path}; make one first: muster ca init.")
        return found

    def credentials(self, stem: str, key: Path | None = None) -> Credentials:
        """An authority; its key is in ``key`` where it was moved away. Raises ``HubError`` when it is not there."""
        key = key or self.path / f"{stem}.key"
        for file in (key, self.path / f"{stem}.pem"):
            if not file.exists():
                moved = "name the file it was moved to with --root-key" if stem == ROOT else "put it back"
                raise HubError(INVALID_OPERATION, f"{file} is not there; {moved}.")
        return Credentials((self.path / f"{stem}.pem").read_bytes(), key.read_bytes())

    def issuing(self) -> Credentials:
        """The issuing authority that is used. Raises ``HubError`` when there is none."""
        return self.credentials(self.stems()[-1])

    def list_file(self, stem: str) -> Path:
        """What an issuing authority has revoked."""
        return self.path / f"{stem}.crl"


def write_new(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read. Raises ``HubError`` when it is there: a key is not written over."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise HubError(INVALID_OPERATION, f"{path} is there already; move it away, or choose another --out.") from None
    with os.fdopen(handle, "wb") as file:
        file.write(content)
