"""``muster import``: load identities in Azure's export format into a running hub."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any, NamedTuple

import click

from muster.cli.network import HubClient, HubLine
from muster.cli.progress import Progress
from muster.cli.resources import running_client
from muster.cli.target import data_option, login_options
from muster.cli.words import words_of
from muster.core.bulk_limits import IMPORT_CHUNK_BYTES, IMPORT_CHUNK_LINES, IMPORT_LINE_BYTES
from muster.core.errors import BODY_TOO_LARGE, DEVICE_NOT_FOUND, INVALID_DEVICE_SCOPE, ErrorRow
from muster.identity.changes import ImportMode

_SHOWN = 10
"""Errors that are printed; all go into the file of --errors."""
_IN_MEMORY = 4 * 1024 * 1024
"""Bytes of lines to be tried again that are kept in memory; more are kept in a temporary file."""
_PASSES = 32
"""As many levels as a hierarchy may have."""
_CHUNK_BYTES = IMPORT_CHUNK_BYTES.open - IMPORT_LINE_BYTES.open


class Line(NamedTuple):
    """A line of the file, by its number from 1 on; one that is too long is empty."""

    number: int
    content: bytes
    size: int


@click.command("import")
@click.argument("file", metavar="FILE", type=click.File("rb"))
@click.option("--mode", type=click.Choice([mode.value for mode in ImportMode], case_sensitive=False),
              default=ImportMode.CREATE_OR_UPDATE.value, show_default=True, metavar="MODE",
              help="The importMode of lines that name none: create, update, delete, createOrUpdate, updateTwin, or one "
                   "of those that need an ETag.")  # fmt: skip
@click.option("--errors", type=click.File("w", encoding="utf-8", lazy=True), metavar="FILE",
              help="Write every line that was refused there: its number and why, as JSON, no keys.")  # fmt: skip
@click.option("--from-line", type=click.IntRange(1), default=1, show_default=True,
              help="Begin with this line of FILE.")  # fmt: skip
@click.option("--progress/--no-progress", default=None, help="Say how far it is.  [default: on a terminal]")
@data_option
@login_options
def import_(
    *,
    file: IO[bytes],
    mode: str,
    errors: IO[str] | None,
    from_line: int,
    progress: bool | None,
    data: Path,
    login: str | None,
    ca: Path | None,
) -> None:
    """Load the identities and twins in FILE (- for standard input) into the hub: what Azure IoT Hub exports, or
    muster export.

    A JSON object a line. Lines are done one by one in their order, and to do them again is harmless: what is as the
    line says already is left as it is. Exit code 1 when lines were refused.
    """
    client = running_client(data, login, ca)
    told = Progress("lines", shown=progress, total=_size_of(file))
    load = _Load(client, mode, _Failures(errors), told)
    try:
        load.run(_lines(file, from_line))
    except (click.ClickException, OSError, KeyboardInterrupt) as error:
        told.end()
        why = error.format_message() if isinstance(error, click.ClickException) else str(error) or "interrupted"
        if load.done >= from_line:
            why += (
                f"\nStopped behind line {load.done}; {load.summary()}. To go on: --from-line {load.done + 1}, "
                "or load the whole file again, which is harmless."
            )
        load.failures.show()
        raise click.ClickException(why) from error
    told.end()
    click.echo(load.summary())
    load.failures.show()
    if load.failures.count:
        raise SystemExit(1)


def _size_of(file: IO[bytes]) -> int:
    """Bytes of the file, 0 where nobody can tell."""
    path = Path(file.name) if isinstance(file.name, str) else None
    return path.stat().st_size if path is not None and path.is_file() else 0


def _lines(file: IO[bytes], first: int) -> Iterator[Line]:
    """The lines of ``file`` from ``first`` on, without their ends, never more of one than its limit."""
    most, number = IMPORT_LINE_BYTES.open, 0
    while piece := file.readline(most + 2):
        number += 1
        size = len(piece)
        content = piece.rstrip(b"\r\n")
        if len(content) > most:
            content = b""
            while piece and not piece.endswith(b"\n"):
                piece = file.readline(most)
                size += len(piece)
        if number >= first:
            yield Line(number, content, size)


class _Failures:
    """The refused lines: how many, the first of them, all in a file if that is wanted."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file
        self._first: list[dict[str, Any]] = []
        self.count = 0

    def add(self, failure: dict[str, Any]) -> None:
        self.count += 1
        if len(self._first) < _SHOWN:
            self._first.append(failure)
        if self._file is not None:
            self._file.write(json.dumps(failure) + "\n")

    def show(self) -> None:
        for failure in self._first:
            who = "/".join(str(failure[name]) for name in ("deviceId", "moduleId") if failure[name])
            code, why = failure["errorCode"], words_of(failure["errorCode"], failure["errorStatus"])
            place = f"line {failure['line']}, {who}" if who else f"line {failure['line']}"
            click.echo(f"{place}: {why} ({failure['code']} {code})", err=True)
        if self.count > len(self._first):
            where = "see the file of --errors" if self._file is not None else "name a file with --errors"
            click.echo(f"and {self.count - len(self._first):,} more; {where}", err=True)


class _Later:
    """Lines that lack a device or a parent which may stand behind them, with why they were refused."""

    def __init__(self, first: int = 0) -> None:
        self._file: IO[bytes] = SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - who reads it closes it
        self.count, self.first = 0, first

    def add(self, line: Line, failure: dict[str, Any]) -> None:
        self.first = self.first or line.number
        self.count += 1
        self._file.write(json.dumps(failure).encode() + b"\n" + line.content + b"\n")

    def __iter__(self) -> Iterator[tuple[Line, dict[str, Any]]]:
        """Once only."""
        with self._file as file:
            file.seek(0)
            while head := file.readline():
                failure, content = json.loads(head), file.readline()[:-1]
                yield Line(failure["line"], content, 0), failure


class _Load:
    """One import."""

    def __init__(self, client: HubClient, mode: str, failures: _Failures, progress: Progress) -> None:
        self._hub = HubLine(client)
        self._path = f"/$muster/identities?mode={mode}"
        self._progress = progress
        self._counts = dict.fromkeys(("created", "updated", "unchanged", "deleted"), 0)
        self._later = _Later()
        self._answered = 0
        self.failures = failures

    @property
    def done(self) -> int:
        """The last line up to which nothing is left to do."""
        return min(self._answered, self._later.first - 1) if self._later.first else self._answered

    def run(self, lines: Iterable[Line]) -> None:
        """Send all, and then again what lacked something that may have come behind it."""
        try:
            for chunk in _chunks(self._sent(lines)):
                self._send(chunk)
                self._answered = chunk[-1].number
            for _ in range(_PASSES):
                again, self._later = self._later, _Later(self._later.first)
                for chunk in _chunks(line for line, _ in again):
                    self._send(chunk)
                if self._later.count in (0, again.count):
                    break
            for _, failure in self._later:
                self.failures.add(failure)
        finally:
            self._hub.close()

    def summary(self) -> str:
        """What was done, in words."""
        parts = [f"{count:,} {name}" for name, count in self._counts.items() if count or name == "created"]
        return ", ".join([*parts, f"{self.failures.count:,} refused"])

    def _sent(self, lines: Iterable[Line]) -> Iterator[Line]:
        """Those of ``lines`` that can be sent."""
        for line in lines:
            self._progress.step(line.number, line.size)
            if line.size > IMPORT_LINE_BYTES.open and not line.content:
                error = f"The line has {line.size} bytes, {IMPORT_LINE_BYTES.open} are allowed."
                self.failures.add(_failure(line.number, BODY_TOO_LARGE, error))
            elif line.content and not line.content.isspace():
                yield line

    def _send(self, chunk: list[Line]) -> None:
        answer = json.loads(self._hub.call("POST", self._path, b"\n".join([line.content for line in chunk])))
        for name in self._counts:
            self._counts[name] += answer[name]
        for failure in answer["errors"]:
            line = chunk[failure["line"] - 1]
            failure["line"] = line.number
            if _curable(failure):
                self._later.add(line, failure)
            else:
                self.failures.add(failure)


def _chunks(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """``lines`` in as many as go into one call."""
    chunk, size = list[Line](), 0
    for line in lines:
        if chunk and (len(chunk) >= IMPORT_CHUNK_LINES.open or size + len(line.content) >= _CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(line)
        size += len(line.content) + 1
    if chunk:
        yield chunk


def _curable(failure: dict[str, Any]) -> bool:
    """Whether what the line lacks may stand behind it: a module's device, the parent of an edge hierarchy."""
    if failure["code"] == DEVICE_NOT_FOUND.code:
        return failure["moduleId"] is not None and not failure["operation"].startswith("delete")
    return bool(failure["code"] == INVALID_DEVICE_SCOPE.code)


def _failure(number: int, row: ErrorRow, message: str) -> dict[str, Any]:
    return {
        "line": number, "deviceId": None, "moduleId": None, "operation": None, "code": row.code, "errorCode": row.name,
        "errorStatus": message,
    }  # fmt: skip
