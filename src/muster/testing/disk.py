"""A disk that can fill up, and whose power can be cut: a shim under SQLite's file calls.

``RecordingDisk`` writes down every call that changes a file, in order. ``Platter`` plays the record and says
what a power cut could leave: what was synced for sure, and of the rest nothing, all, or any part.

SQLite's shared memory file (``-shm``) does not pass here: it is no durable state and is made anew.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import apsw

SECTOR = 512
"""A write is torn at multiples of so many bytes: SQLite asks disks not to harm neighbouring bytes."""

_SYNCS_DIRECTORY = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL


class Kind(StrEnum):
    """What a call did."""

    CREATE = "create"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    DELETE = "delete"
    SYNC_DIRECTORY = "sync directory"
    NOTE = "note"


class Call(NamedTuple):
    """One recorded call. ``offset`` is the new size for a truncation; ``note`` what the test said at this point."""

    kind: Kind
    name: str = ""
    offset: int = 0
    data: bytes = b""
    note: object = None


class RecordingDisk(apsw.VFS):
    """A SQLite VFS named ``name`` over the system's own; give its name wherever a ``vfs`` is asked for.

    While ``full`` is set, writing fails as it does on a full disk; files named in ``broken`` cannot be flushed.
    ``calls`` is the record. Unregister it (or leave the ``with`` block) when all its files are closed.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.full = False
        self.broken: set[str] = set()
        self.calls: list[Call] = []

    def __enter__(self) -> RecordingDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def note(self, note: object) -> None:
        """Put a remark of the test's own into the record."""
        self.calls.append(Call(Kind.NOTE, note=note))

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        is_new = not os.path.exists(path)
        file = _File(self, name, flags, path)
        if is_new:
            self.calls.append(Call(Kind.CREATE, file.name))
        file.syncs_directory = is_new and bool(flags[0] & _SYNCS_DIRECTORY)
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.calls.append(Call(Kind.DELETE, os.path.basename(filename)))
        if syncdir:
            self.calls.append(Call(Kind.SYNC_DIRECTORY))


class _File(apsw.VFSFile):
    def __init__(self, disk: RecordingDisk, name: str | apsw.URIFilename | None, flags: list[int], path: str) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self.name = os.path.basename(path)
        self.syncs_directory = False

    def xWrite(self, data: Any, offset: int) -> None:
        if self._disk.full:
            raise apsw.FullError("no space left on the device")
        super().xWrite(data, offset)
        self._disk.calls.append(Call(Kind.WRITE, self.name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._disk.calls.append(Call(Kind.TRUNCATE, self.name, newsize))

    def xSync(self, flags: int) -> None:
        if self.name in self._disk.broken:
            raise apsw.IOError("the device could not be flushed")
        super().xSync(flags)
        self._disk.calls.append(Call(Kind.SYNC, self.name))
        if self.syncs_directory:  # as SQLite's unix VFS does on the first sync of a new journal
            self.syncs_directory = False
            self._disk.calls.append(Call(Kind.SYNC_DIRECTORY))


class Leave(StrEnum):
    """What a power cut leaves of the calls that were not synced."""

    NOTHING = "nothing"
    EVERYTHING = "everything"
    ANYTHING = "anything"


class _Node:
    """A file's contents, apart from its name: as synced, and the calls since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.since: list[Call] = []

    def sync(self) -> None:
        _play(self.synced, self.since)
        self.since = []


class Platter:
    """Plays recorded calls, and writes down what a power cut at the present point leaves."""

    def __init__(self) -> None:
        self._named: dict[str, _Node] = {}
        self._synced_names: dict[str, _Node] = {}
        self._renames: list[tuple[str, _Node | None]] = []

    def play(self, call: Call) -> None:
        """Have ``call`` happen."""
        match call.kind:
            case Kind.CREATE:
                self._named[call.name] = _Node()
                self._renames.append((call.name, self._named[call.name]))
            case Kind.DELETE:
                del self._named[call.name]
                self._renames.append((call.name, None))
            case Kind.SYNC_DIRECTORY:
                _rename(self._synced_names, self._renames)
                self._renames = []
            case Kind.SYNC:
                self._named[call.name].sync()
            case Kind.WRITE | Kind.TRUNCATE:
                self._named[call.name].since.append(call)

    def cut(self, directory: Path, leave: Leave, chance: random.Random) -> None:
        """Write into ``directory`` the files that the power cut leaves; ``chance`` chooses where there is a choice."""
        names = dict(self._synced_names)
        kept = {Leave.NOTHING: 0, Leave.EVERYTHING: len(self._renames)}.get(leave)
        _rename(names, self._renames[: chance.randint(0, len(self._renames)) if kept is None else kept])
        for name, node in names.items():
            contents = bytearray(node.synced)
            if leave is Leave.EVERYTHING:
                _play(contents, node.since)
            elif leave is Leave.ANYTHING:
                _play(contents, [_torn(call, chance) for call in node.since if chance.random() < 0.6])
            (directory / name).write_bytes(contents)


def _rename(names: dict[str, _Node], renames: Sequence[tuple[str, _Node | None]]) -> None:
    for name, node in renames:
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _play(contents: bytearray, calls: Sequence[Call]) -> None:
    for call in calls:
        end = call.offset + len(call.data)
        if call.kind is Kind.TRUNCATE:
            del contents[call.offset :]
        contents.extend(bytes(max(0, end - len(contents))))
        contents[call.offset : end] = call.data


def _torn(call: Call, chance: random.Random) -> Call:
    """The call as it was, or cut off at a sector's end, or begun at one."""
    if call.kind is Kind.TRUNCATE or chance.random() < 0.7:
        return call
    at = chance.randrange(0, len(call.data) + 1, SECTOR)
    if chance.random() < 0.5:
        return call._replace(data=call.data[:at])
    return call._replace(offset=call.offset + at, data=call.data[at:])
