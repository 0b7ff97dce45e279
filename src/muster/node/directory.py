"""A data directory: who holds it, what is in it, and the files that others read.

``lock`` is held for as long as a process owns the directory, so there is never a second writer.
``run.json`` is there while a hub runs; the certificate files are written at every start from the database,
where they live.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self


class DirectoryInUseError(Exception):
    """Another process owns the data directory."""


class HubFiles(NamedTuple):
    """Where one hub has what is not in the hubs' common database: its partitions, and the files of its devices unless
    they go to a storage account."""

    telemetry_database: Path
    blobs: Path


class DataDirectory:
    """An owned data directory. Raises ``DirectoryInUseError`` when another process has it, ``OSError`` when it
    cannot be made.

    One that is made is the owner's only; the mode of one that is there already is left to who made it (``--data .``).
    Every file in it is the owner's only.
    """

    def __init__(self, path: Path, *, ephemeral: bool = False) -> None:
        self.path = path
        self._ephemeral = ephemeral
        _make(path, mode=0o700)
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise DirectoryInUseError(f"{path} is in use by another muster process") from None
        (path / "run.json").unlink(missing_ok=True)

    @classmethod
    def temporary(cls) -> Self:
        """A directory in memory where the machine has such a file system, removed by ``release``."""
        shared_memory = Path("/dev/shm")  # noqa: S108
        parent = shared_memory if os.access(shared_memory, os.W_OK) else None
        return cls(Path(tempfile.mkdtemp(prefix="muster-", dir=parent)), ephemeral=True)

    @property
    def hub_database(self) -> Path:
        """Identities and settings of all hubs."""
        return self.path / "hub.db"

    def hub_files(self, name: str = "") -> HubFiles:
        """Of the hub ``name``, or of the first one."""
        ending = f"-{name}" if name else ""
        return HubFiles(self.path / f"telemetry{ending}.db", self.path / f"blobs{ending}")

    @property
    def ca_file(self) -> Path:
        """Our CA's certificate, for clients to trust."""
        return self.path / "ca.pem"

    @property
    def bundle_file(self) -> Path:
        """Our CA and the system's, for clients that talk to others too."""
        return self.path / "bundle.pem"

    @property
    def chain_file(self) -> Path:
        """The server certificate and its issuers."""
        return self.path / "server.pem"

    @property
    def key_file(self) -> Path:
        """The server certificate's private key."""
        return self.path / "server.key"

    def write(self, path: Path, content: bytes) -> None:
        """Replace a file in one step, readable by the owner only."""
        write_private(path, content)

    def announce(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json``: the hub runs, and this is how to reach it."""
        write_private(self.path / "run.json", json.dumps(facts, indent=1).encode())

    def release(self) -> None:
        """Give the directory up; a temporary one is removed."""
        (self.path / "run.json").unlink(missing_ok=True)
        if self._ephemeral:
            shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


class WorkerDirectory(DataDirectory):
    """A data directory of several processes as the worker ``number`` has it: all is in it but the server certificates
    of all workers but the first, which are in places of their own. Whoever looks after the workers owns the directory.
    """

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self._own = path / f"worker-{number}" if number else path
        _make(self._own, mode=0o700)

    @property
    def chain_file(self) -> Path:
        """See ``DataDirectory``."""
        return self._own / "server.pem"

    @property
    def key_file(self) -> Path:
        """See ``DataDirectory``."""
        return self._own / "server.key"

    def announce(self, facts: Mapping[str, Any]) -> None:
        """Write ``run.json`` as all workers would; the process to signal is the one that looks after them."""
        super().announce({**facts, "pid": os.getppid()})

    def release(self) -> None:
        """Nothing is held."""


def _make(path: Path, *, mode: int = 0o777) -> None:
    """Make ``path`` and the directories above it, each of them on disk before anything is put into it."""
    if path.is_dir():
        return
    parent = path.absolute().parent
    _make(parent)
    path.mkdir(mode=mode, exist_ok=True)
    try:
        handle = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # we may write there and not read: then it cannot be asked for
        return
    try:
        os.fsync(handle)  # what is in a directory whose own name is lost by a power cut is lost too
    finally:
        os.close(handle)


def write_private(path: Path, content: bytes) -> None:
    """Replace ``path`` in one step by a file that only its owner may read."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
