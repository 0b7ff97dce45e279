"""A small client of a hub's HTTPS interface, for commands."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from muster.cli.words import words_of
from muster.core.ambient import SystemAmbient
from muster.dialect.connection_string import ConnectionString
from muster.identity import sas
from muster.identity.sas import host_name

API_VERSION = "2021-04-12"
_TIMEOUT_SECONDS = 30.0
_IDLE_SECONDS = 5.0
_TOO_MANY = 429
_LONGEST_PAUSE = 60
_CONTINUATION = "x-ms-continuation"
_TOKEN_SECONDS = 3600
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - read from the hub's announcement, not bound


class HubClient:
    """Calls a hub as the policy of a connection string."""

    def __init__(
        self, login: ConnectionString, ca: Path | None, *, addresses: Sequence[str] = (), port: int | None = None
    ) -> None:
        """A client.

        Args:
            login: a service's connection string.
            ca: the certificate to trust, ``None`` for the system's.
            addresses: where the hub listens; default: what its host name resolves to.
            port: its HTTPS port; default: that of the host name, or 443.
        """
        self.login = login
        self.host = host_name(login.host)
        self._ca = ca
        self._addresses = [_ANY.get(address, address) for address in addresses] or [self.host]
        self._port = port or _port_of(login.host)

    def call(self, method: str, path: str, body: Any = None, if_match: str = "") -> Any:
        """The decoded answer of one call, on the precondition ``if_match`` (an ETag or ``*``).

        Raises ``click.ClickException`` with the hub's words when it refuses.
        """
        connection, response = self._request(method, path, body, if_match=if_match)
        try:
            content = response.read()
        finally:
            connection.close()
        return json.loads(content) if content else None

    def content(self, path: str) -> tuple[bytes, Mapping[str, str]]:
        """The body of one answer as it is, and its headers by their names in lower case. Raises as ``call``."""
        connection, response = self._request("GET", path, None)
        try:
            return response.read(), {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()

    def lines(self, path: str) -> Iterator[dict[str, Any]]:
        """The JSON lines of an answer that does not end, as they come."""
        connection, response = self._request("GET", path, None, wait=None)
        try:
            for line in response:
                if line.strip():
                    yield json.loads(line)
        finally:
            connection.close()

    def pages(self, path: str, body: Any) -> Iterator[Any]:
        """The decoded pages of an answer that is given in several (``x-ms-continuation``)."""
        continuation: str | None = None
        while True:
            more = {} if continuation is None else {_CONTINUATION: continuation}
            connection, response = self._request("POST", path, body, more=more)
            try:
                content = response.read()
            finally:
                connection.close()
            yield json.loads(content)
            continuation = response.getheader(_CONTINUATION)
            if continuation is None:
                return

    def _request(
        self,
        method: str,
        path: str,
        body: Any,
        wait: float | None = _TIMEOUT_SECONDS,
        *,
        more: Mapping[str, str] | None = None,
        if_match: str = "",
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self.connect()
        try:
            separator = "&" if "?" in path else "?"
            headers = {"Authorization": self.token(), "Accept": "application/json", **(more or {})}
            content = None
            if if_match:
                headers["If-Match"] = if_match
            if body is not None:
                content, headers["Content-Type"] = json.dumps(body).encode(), "application/json; charset=utf-8"
            connection.request(method, f"{path}{separator}api-version={API_VERSION}", content, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise click.ClickException(_refusal(response))
            if connection.sock is not None:
                connection.sock.settimeout(wait)
        except http.client.HTTPException as error:
            connection.close()
            raise click.ClickException(f"{self.host} did not answer as a hub does: {error!r}") from error
        except BaseException:
            connection.close()
            raise
        return connection, response

    def token(self) -> str:
        """A fresh token of the policy, or the one that the connection string holds."""
        if self.login.signature:
            return self.login.signature
        expiry = int(SystemAmbient.now()) + _TOKEN_SECONDS
        return sas.make(self.host, expiry, self.login.key_bytes, self.login.policy)

    def connect(self) -> http.client.HTTPConnection:
        """A new connection. Raises ``click.ClickException`` when the hub cannot be reached or is not trusted."""
        context = ssl.create_default_context(cafile=self._ca)
        if self._ca is not None:  # it may be an issuer whose own root nobody has given
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        failures = []
        for address in self._addresses:
            try:
                plain = socket.create_connection((address, self._port), _TIMEOUT_SECONDS)
            except OSError as error:
                failures.append(f"{address} port {self._port}: {error.strerror or error}")
                continue
            try:
                sock = context.wrap_socket(plain, server_hostname=self.host)
            except ssl.SSLCertVerificationError as error:
                plain.close()
                hint = "" if self._ca is not None else "; name the hub's CA with --ca"
                raise click.ClickException(f"{self.host} is not trusted: {error.verify_message}{hint}") from error
            except OSError as error:
                plain.close()
                failures.append(f"{address} port {self._port}: {error}")
                continue
            connection = http.client.HTTPConnection(self.login.host)
            connection.sock = sock
            return connection
        raise click.ClickException(f"no hub can be reached at {self.host} ({'; '.join(failures)})")


class HubLine:
    """One connection to a hub for call after call; waits where the hub asks for that."""

    def __init__(self, client: HubClient) -> None:
        self._client = client
        self._connection: http.client.HTTPConnection | None = None
        self._used = 0.0

    def call(self, method: str, path: str, content: bytes | None = None) -> bytes:
        """The body of one answer; ``content`` is JSON lines. Raises as ``HubClient.call``, and ``OSError``."""
        while True:
            status, body, retry_after = self._exchange(method, path, content)
            if status < 300:
                return body
            if status != _TOO_MANY:
                raise click.ClickException(refusal_words(status, body))
            time.sleep(min(max(retry_after, 1), _LONGEST_PAUSE))

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _exchange(self, method: str, path: str, content: bytes | None) -> tuple[int, bytes, int]:
        if time.monotonic() - self._used > _IDLE_SECONDS:  # the hub may have closed it meanwhile
            self.close()
        connection = self._connection = self._connection or self._client.connect()
        headers = {"Authorization": self._client.token(), "Accept": "application/json"}
        if content is not None:
            headers["Content-Type"] = "application/x-ndjson"
        separator = "&" if "?" in path else "?"
        try:
            connection.request(method, f"{path}{separator}api-version={API_VERSION}", content, headers)
            response = connection.getresponse()
            body = response.read()
        except http.client.HTTPException as error:
            self.close()
            raise click.ClickException(f"{self._client.host} did not answer as a hub does: {error!r}") from error
        except OSError as error:
            self.close()
            raise click.ClickException(f"the connection to {self._client.host} is lost: {error}") from error
        self._used = time.monotonic()
        if response.will_close:
            self.close()
        pause = response.getheader("Retry-After", "")
        return response.status, body, int(pause[:4]) if pause.isdigit() else 0


def _refusal(response: http.client.HTTPResponse) -> str:
    """The hub's own words, and where to ask further (service.md 2.3)."""
    return refusal_words(response.status, response.read(65536))


def refusal_words(status: int, content: bytes) -> str:
    """What a refusal says to people."""
    text = f"the hub answered {status}"
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        body = json.loads(content)
        if "message" in body:  # the resource manager's shape, and the provisioning service's
            tracking = body.get("trackingId", "") if status == 401 else ""
            return f"{body['message']} ({status})" + (f". Ask the hub: muster why {tracking}" if tracking else "")
        code, _, message = body["Message"].removeprefix("ErrorCode:").partition(";")
        text = f"{words_of(code, message)} ({status} {code})"
        tracking = body["ExceptionMessage"].partition("Tracking ID:")[2]
        if status == 401 and tracking:
            text += f". Ask the hub: muster why {tracking[:32]}"
    return text


def _port_of(host: str) -> int:
    text = host.rpartition("]")[2] if host.startswith("[") else host
    _, colon, port = text.rpartition(":")
    return int(port) if colon and port.isdigit() and text.count(":") == 1 else 443
