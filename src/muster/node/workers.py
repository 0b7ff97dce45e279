"""Several workers of one machine: equal nodes on the same ports, kept alive by the process that started them.

The kernel gives each connection to one of the workers (``SO_REUSEPORT``). They are nodes like those of other machines,
each with a directory of its own below the common one. What they share is in the database and on the bus; without those
it is in the common directory, and one more process, the keeper, has what only one can have (``node.keeper``). It goes
last; when it ends by itself it is started again, and the workers lose their sessions and go on.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from muster.core.ambient import SystemAmbient
from muster.node.directory import DataDirectory, write_private
from muster.node.keeper import keep, open_socket
from muster.node.settings import Settings, Worker
from muster.node.sockets import bind
from muster.stores.keeper.link import SOCKET

AGAIN_SECONDS, MOST_SECONDS = 1.0, 30.0
"""How long it takes until a worker that ended by itself is started again; twice as long each time that it ends soon."""
_SOON_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_KEEPER = -1
_SECRET_BYTES = 32

log = logging.getLogger("muster.workers")


class Workers:
    """``count`` workers with ``settings``; ``serve`` is what a worker does with its own, until it ends.

    One that ends by itself is started again, once all have been ready; before, all end with its exit code.
    """

    def __init__(self, settings: Settings, count: int, serve: Callable[[Settings], None]) -> None:
        self._directory = DataDirectory.temporary() if settings.data is None else DataDirectory(settings.data)
        self._held: list[socket.socket] = []
        self._settings = replace(
            settings,
            shared_ports=True,
            mqtt_port=self._chosen(settings, settings.mqtt_port, "--mqtt-port"),
            amqp_port=self._chosen(settings, settings.amqp_port, "--amqp-port"),
            https_port=self._chosen(settings, settings.https_port, "--https-port"),
            amqp_plain_port=None
            if settings.amqp_plain_port is None
            else self._chosen(settings, settings.amqp_plain_port, "--amqp-plain-port"),
            local_secret=SystemAmbient.random_bytes(_SECRET_BYTES),
        )
        self._door = None if settings.clustered else open_socket(self._directory.path)
        """Where workers find the keeper, whichever it is."""
        self._ready_file = settings.ready_file
        self._count, self._serve = count, serve
        self._children: dict[int, int] = {}
        """Process ids, each with its worker's number, or ``_KEEPER``."""
        self._told: set[int] = set()
        self._began: dict[int, float] = {}
        self._pauses: dict[int, float] = {}
        self._due: dict[int, float] = {}
        self._greeted = self._stopping = False
        self._worst = 0

    def run(self, greet: Callable[[Mapping[str, Any]], None]) -> int:
        """Start them, and keep them alive until SIGTERM or SIGINT; the exit code. ``greet`` is called when all are
        ready for the first time."""
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._reload())
        try:
            if self._door is not None:
                self._start(_KEEPER)
            for number in range(self._count):
                self._start(number)
            while self._children or (self._due and not self._stopping):
                self._reap()
                if self._stopping:
                    self._end()
                if not self._greeted and not self._stopping and (facts := self._facts()) is not None:
                    self._greeted = True
                    self._announce(facts)
                    greet(facts)
                time.sleep(_LOOK_SECONDS)
            return self._worst
        finally:
            if self._ready_file is not None:
                self._ready_file.unlink(missing_ok=True)
            if self._door is not None:
                self._door.close()
                (self._directory.path / SOCKET).unlink(missing_ok=True)
            self._directory.release()

    def _chosen(self, settings: Settings, port: int, flag: str) -> int:
        """``port``, or one that is free where any will do: held, not listened on, so that all workers can have it."""
        if port:
            return port
        sockets = bind(settings.bind, 0, flag, shared=True)
        self._held += sockets
        return int(sockets[0].getsockname()[1])

    def _place(self, number: int) -> Path:
        return self._directory.path / f"worker-{number}"

    def _ready(self, number: int) -> Path:
        return self._place(number) / "ready.json"

    def _start(self, number: int) -> None:
        if number != _KEEPER:
            place = self._place(number)
            place.mkdir(mode=0o700, exist_ok=True)
            (place / "ready.json").unlink(missing_ok=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until each of both knows what they mean to it
        child = os.fork()
        if child == 0:
            self._be(number)
        self._children[child] = number
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._began[number] = time.monotonic()

    def _be(self, number: int) -> NoReturn:
        """This process is a worker now, or the keeper."""
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # no child outlives the one who looks after it
        code = 1
        try:
            if self._door is None:
                self._serve(replace(self._settings, data=self._place(number), ready_file=self._ready(number)))
            elif number == _KEEPER:
                keep(self._directory.path, self._door, durable=self._settings.durable)
            else:
                self._door.close()
                worker = Worker(self._directory.path, number)
                self._serve(replace(self._settings, worker=worker, ready_file=self._ready(number)))
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            log.exception("%s failed", _name(number))
        finally:
            os._exit(code)

    def _reap(self) -> None:
        while self._children:
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == 0:
                break
            number = self._children.pop(child)
            code = os.waitstatus_to_exitcode(status)
            if self._stopping and code == -signal.SIGTERM:  # told so before it could listen
                code = 0
            if self._stopping or (code > 0 and not self._greeted):  # it has said what is wrong, as one process would
                self._stopping = True
                self._worst = max(self._worst, abs(code))
                continue
            soon = time.monotonic() - self._began[number] <= _SOON_SECONDS
            pause = self._pauses.get(number, AGAIN_SECONDS) if soon else AGAIN_SECONDS
            self._pauses[number] = min(2 * pause, MOST_SECONDS)
            self._due[number] = time.monotonic() + pause
            log.error("%s ended with %s; it is started again in %.0f seconds", _name(number), code, pause)
        now = time.monotonic()
        for number in [number for number, at in self._due.items() if at <= now and not self._stopping]:
            del self._due[number]
            self._start(number)

    def _facts(self) -> Mapping[str, Any] | None:
        """What the first worker says, once all are ready."""
        files = [self._ready(number) for number in range(self._count)]
        if not all(file.exists() for file in files):
            return None
        facts: dict[str, Any] = json.loads(files[0].read_bytes())
        return {**facts, "pid": os.getpid()}

    def _announce(self, facts: Mapping[str, Any]) -> None:
        self._directory.announce(facts)
        if self._ready_file is not None:
            write_private(self._ready_file, json.dumps(facts, indent=1).encode())

    def _stop(self) -> None:
        self._stopping = True

    def _end(self) -> None:
        """Tell those to end that were not told yet; the keeper when there is no worker any more."""
        for child, number in self._children.items():
            if child not in self._told and (number != _KEEPER or len(self._children) == 1):
                self._told.add(child)
                os.kill(child, signal.SIGTERM)

    def _reload(self) -> None:
        for child, number in self._children.items():
            if number != _KEEPER:
                os.kill(child, signal.SIGHUP)


def _name(number: int) -> str:
    return "the keeper" if number == _KEEPER else f"worker {number}"
