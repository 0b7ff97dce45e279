"""The one connection of a process to its NATS servers, shared by the bus and the telemetry logs.

nats-py is the client. It finds the other servers of a cluster by itself, goes on trying for ever, and puts its
subscriptions there again when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, parse_qsl, unquote, urlparse

from nats import errors
from nats.aio.client import Client

from muster.core.errors import INVALID_OPERATION, UNAVAILABLE, HubError

OPENING_SECONDS = 10.0
"""A start fails when no server has answered by then."""
PENDING_BYTES = 8 * 1024 * 1024
"""What is published and not yet handed to the kernel, at most; who publishes more waits, or fails while there is no
connection."""

_RETRY_SECONDS = 0.25
_CONNECT_SECONDS = 2
_PING_SECONDS = 2
_PINGS_MISSED = 2
"""A server that is gone without a word is left after about six seconds."""
_DRAIN_SECONDS = 5

_SCHEMES = ("nats", "tls")
_REFUSED = "Authorization"
_FILES = ("tls_ca", "tls_cert", "tls_key")

_LOG = logging.getLogger("muster.nats")


class _Client(Client):
    """nats-py's client gives up for good when the server sends an error; this one connects again, as others do."""

    async def _process_err(self, err_msg: str) -> None:
        error = errors.Error(f"nats: {err_msg.strip(chr(39))}")
        if "permissions violation" in err_msg:  # of one subject only; the server keeps the connection
            await self._error_cb(error)
        else:
            await self._process_op_err(error)

    async def leave(self) -> None:
        """Lose the connection."""
        await self._process_op_err(errors.StaleConnectionError())


class NatsConnection:
    """Ready to use when made by ``open``. ``client`` is nats-py's; it stays the same over every reconnection.

    What is published while there is no connection waits, up to ``PENDING_BYTES``, and goes out with the next one. Does
    not promise that it arrives, nor that it arrives once: that is for who wants an answer.
    """

    def __init__(self, client: _Client, servers: str) -> None:
        self.client: Client = client
        self._leave = client.leave
        self.servers = servers
        """The servers as they were given, to be shown: without credentials."""
        self.connected = False
        self._listeners: dict[object, Callable[[bool], None]] = {}
        self._trouble = ""

    @classmethod
    async def open(cls, urls: Sequence[str], *, name: str = "muster") -> NatsConnection:
        """Connect to one of ``urls``: ``nats://`` or ``tls://``, with ``user:password@`` or ``token@`` if need be.

        Behind ``?`` may stand ``tls_ca``, ``tls_cert`` and ``tls_key`` (files, PEM). What one URL says of credentials
        and files holds for all servers, those that the cluster tells of too. ``name`` is what the servers show.
        Raises ``HubError``: 400003 for a URL that is none, 503001 when no server answers.
        """
        parsed = [_parsed(url) for url in urls]
        if not parsed:
            raise HubError(INVALID_OPERATION, "--bus names no server; give nats://host:4222, several by comma")
        connection = cls(_Client(), ", ".join(_shown(url) for url in parsed))
        options = _options(parsed)
        try:
            async with asyncio.timeout(OPENING_SECONDS):
                await connection.client.connect(
                    [url._replace(query="").geturl() for url in parsed],
                    name=name,
                    error_cb=connection._failed,
                    disconnected_cb=connection._lost,
                    reconnected_cb=connection._returned,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RETRY_SECONDS,  # type: ignore[arg-type]  # any number will do
                    connect_timeout=_CONNECT_SECONDS,
                    ping_interval=_PING_SECONDS,
                    max_outstanding_pings=_PINGS_MISSED,
                    drain_timeout=_DRAIN_SECONDS,
                    pending_size=PENDING_BYTES,
                    flush_timeout=_CONNECT_SECONDS,  # without one, who waits for room waits for ever when it is cut
                    **options,
                )
        except (TimeoutError, OSError, errors.Error, ValueError) as error:
            await connection._give_up()
            why = connection._trouble or str(error) or "it took too long"
            raise HubError(
                UNAVAILABLE, f"no NATS server can be used at {connection.servers}: {why}; start one, or correct --bus"
            ) from None
        connection.client.options["dont_randomize"] = True  # from now on in turn: the one that was lost comes last
        connection.connected = True
        connection._trouble = ""
        return connection

    def when_changed(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Have ``listener`` told of a lost connection (``False``) and of its return (``True``: subscriptions are in
        place again, what was published meanwhile may be lost); the answer ends that."""
        token = object()
        self._listeners[token] = listener

        def forget() -> None:
            self._listeners.pop(token, None)

        return forget

    async def leave_server(self) -> None:
        """Connect to another server, where there are several: this one is there, and what is published gets nowhere."""
        if self.connected and len(self.client.servers) > 1:
            _LOG.warning("%s is left, it may be cut off from the other servers", self._server())
            await self._leave()

    def _server(self) -> str:
        url = self.client.connected_url
        return "the NATS server" if url is None else _shown(url)

    async def close(self) -> None:
        """Deliver what has arrived, send what was published, as long as that takes a few seconds only. Harmless when
        repeated."""
        if self.client.is_closed:
            return
        self.connected = False
        self._listeners.clear()  # an end that is wanted is no loss
        with suppress(errors.Error, OSError, TimeoutError):
            await self.client.drain()
        await self._give_up()

    async def _give_up(self) -> None:
        with suppress(errors.Error, OSError, TimeoutError, RuntimeError):  # uvloop's, for a transport that is cut
            await self.client.close()

    async def _failed(self, error: Exception) -> None:
        """nats-py reports every attempt; what does not change is told once."""
        what = str(error) or type(error).__name__
        if isinstance(error, errors.SlowConsumerError):
            _LOG.warning("messages from NATS were dropped, this node is too slow: %s", error.subject)
        elif what != self._trouble:
            if _REFUSED not in self._trouble:  # a server that refuses may also be heard to hang up, which says less
                self._trouble = what
            _LOG.info("NATS at %s: %s", self.servers, what)

    async def _lost(self) -> None:
        if self.connected:
            self.connected = False
            _LOG.error("the connection to NATS at %s is lost; trying to get it back", self.servers)
            self._tell(connected=False)

    async def _returned(self) -> None:
        self.connected = True
        self._trouble = ""
        _LOG.warning("connected to NATS again")
        self._tell(connected=True)

    def _tell(self, *, connected: bool) -> None:
        for listener in tuple(self._listeners.values()):
            try:
                listener(connected)
            except Exception:
                _LOG.exception("a listener of the connection to NATS failed")


def _parsed(url: str) -> ParseResult:
    try:
        parsed = urlparse(url)
        port = parsed.port
    except ValueError as error:
        raise HubError(INVALID_OPERATION, f"--bus holds a URL that cannot be read: {error}") from None
    if parsed.scheme not in _SCHEMES or not parsed.hostname or parsed.path.strip("/") or parsed.fragment:
        raise HubError(INVALID_OPERATION, "--bus wants nats://host:4222 or tls://host:4222, several by comma")
    unknown = {key for key, _ in parse_qsl(parsed.query, keep_blank_values=True)} - set(_FILES)
    if unknown:
        raise HubError(
            INVALID_OPERATION, f"--bus: {_shown(parsed)} has '{min(unknown)}' behind '?'; known are {', '.join(_FILES)}"
        )
    return parsed if port else parsed._replace(netloc=f"{parsed.netloc.rstrip(':')}:4222")


def _shown(url: ParseResult) -> str:
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}"


def _options(urls: Sequence[ParseResult]) -> dict[str, Any]:
    """What the client is to know of credentials and TLS. They are given apart from the servers, as it forgets them for
    those that it hears of later."""
    options: dict[str, Any] = {}
    files: dict[str, str] = {}
    for url in reversed(urls):
        files.update(parse_qsl(url.query))
        if url.username is None:
            continue
        if url.password is None:
            options = {"token": unquote(url.username)}
        else:
            options = {"user": unquote(url.username), "password": unquote(url.password)}
    for kind, file in files.items():
        if not Path(file).is_file():
            raise HubError(INVALID_OPERATION, f"--bus: {kind} names '{file}', which is no file")
    if "tls_ca" in files or "tls_cert" in files:
        try:
            options["tls"] = context = ssl.create_default_context(cafile=files.get("tls_ca"))
            if "tls_cert" in files:
                context.load_cert_chain(files["tls_cert"], files.get("tls_key"))
        except OSError as error:
            raise HubError(INVALID_OPERATION, f"--bus: the TLS files cannot be used: {error}") from None
    return options
