"""The certificate that the hub shows its clients: written for OpenSSL and for people, renewed while the hub runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from OpenSSL import SSL

from muster.core.ambient import Ambient, Timer
from muster.core.errors import HubError
from muster.heads.tls import server_context
from muster.identity.certificates import read_upload
from muster.identity.doctor import Shown
from muster.issuing.authority import half_life
from muster.node.certificate_files import covers
from muster.node.directory import DataDirectory
from muster.node.material import Material

RETRY_SECONDS = 3600.0
"""A renewal that failed is tried again after so long, and there is at least so much time between two of them."""

log = logging.getLogger("muster.node")


class ServerCertificate:
    """What new connections are shown; ``context`` is for ``heads.listener.TlsListener``.

    At half of its life the certificate is renewed: ``load`` is asked for the material again, which makes a new one.
    Connections that are open go on with the old one, which is good for as long again.
    """

    def __init__(
        self, directory: DataDirectory, ambient: Ambient, material: Material, load: Callable[[], Awaitable[Material]]
    ) -> None:
        """Write the certificates into ``directory``. Raises ``OSError`` when that fails."""
        self._directory = directory
        self._ambient = ambient
        self._load = load
        self._task: asyncio.Task[None] | None = None
        authority = material.authority.certificate
        directory.write(directory.ca_file, authority)
        directory.write(directory.bundle_file, system_roots() + authority)
        self._context = self._take(material)
        self._timer = self._arm(half_life(material.server))

    def context(self) -> SSL.Context:
        """The context for a handshake that begins now."""
        return self._context

    def covers(self, name: str) -> bool:
        """Whether the certificate is for ``name``."""
        return covers(read_upload(self._material.server.certificate), name)

    def own(self) -> Shown:
        """The hub's certificates."""
        material = self._material
        called = {"hub's certificate": material.server.certificate, "hub's CA": material.authority.certificate}
        shown = {name: read_upload(pem).der for name, pem in called.items()}
        return Shown(shown, "Start the hub again: it renews its certificate when half of its life is over.")

    async def cover_all(self) -> None:
        """Be for the names that there are now: show what ``load`` gives. Where that fails nothing changes."""
        material = await self._load()
        self._context = self._take(material)
        self._timer.cancel()
        self._timer = self._arm(max(half_life(material.server), self._ambient.now() + RETRY_SECONDS))

    async def close(self) -> None:
        """Renew no more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _take(self, material: Material) -> SSL.Context:
        directory, self._material = self._directory, material
        directory.write(directory.key_file, material.server.key)
        directory.write(directory.chain_file, material.server.certificate + material.authority.certificate)
        return server_context(str(directory.chain_file), str(directory.key_file))

    def _arm(self, moment: float) -> Timer:
        return self._ambient.at(moment, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        moment = 0.0
        try:
            material = await self._load()
            self._context = self._take(material)
            moment = half_life(material.server)
            log.info("the server certificate is renewed")
        except (HubError, OSError, SSL.Error) as error:  # a full disk; there is time until the old one has expired
            log.error("the server certificate could not be renewed, trying again in an hour: %s", error)
        finally:
            self._task = None
        self._timer = self._arm(max(moment, self._ambient.now() + RETRY_SECONDS))


def system_roots() -> bytes:
    """The machine's trusted roots as PEM, empty where it has none in one file."""
    paths = ssl.get_default_verify_paths()
    for candidate in (paths.cafile, paths.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"):
        if candidate and Path(candidate).is_file():
            return Path(candidate).read_bytes().rstrip() + b"\n"
    return b""
