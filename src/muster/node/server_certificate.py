"""The certificate that the hub shows: written for others to see, and renewed while the hub runs.

Connections go on with the one they began with; new ones get the present one, and nothing has to be restarted.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path

from OpenSSL import SSL

from muster.core.ambient import Ambient, Timer
from muster.core.errors import HubError
from muster.core.settings_store import HubSettingsStore
from muster.heads.tls import server_context
from muster.identity.certificates import read_upload
from muster.node.directory import DataDirectory
from muster.node.material import Material, renewed
from muster.node.settings import DAY_SECONDS

log = logging.getLogger("muster.node")


class ServerCertificate:
    """The certificate of one hub, in the files of its directory and in ``context``; looked at once a day."""

    def __init__(
        self,
        store: HubSettingsStore,
        material: Material,
        names: Sequence[str],
        directory: DataDirectory,
        ambient: Ambient,
    ) -> None:
        self._store = store
        self._material = material
        self._names = names
        self._directory = directory
        self._ambient = ambient
        self._task: asyncio.Task[None] | None = None
        self._context = self._written()
        self._timer: Timer = ambient.at(ambient.now() + DAY_SECONDS, self._due)

    def context(self) -> SSL.Context:
        """For the next handshake."""
        return self._context

    def own(self) -> dict[str, bytes]:
        """The hub's certificates, DER, by what they are called."""
        material = self._material
        called = {"hub's certificate": material.server.certificate, "hub's CA": material.authority.certificate}
        return {name: read_upload(pem).der for name, pem in called.items()}

    def close(self) -> None:
        """Look no more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _due(self) -> None:
        self._timer = self._ambient.at(self._ambient.now() + DAY_SECONDS, self._due)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        try:
            fresh = await renewed(self._store, self._material, self._names, self._ambient)
            if fresh is not None:
                self._material = fresh
                self._context = self._written()
                log.info("the hub's certificate was renewed")
        except (HubError, OSError) as error:
            log.error("the hub's certificate could not be renewed, it is tried again in a day: %s", error)

    def _written(self) -> SSL.Context:
        directory, material = self._directory, self._material
        authority = material.authority.certificate
        directory.write(directory.ca_file, authority)
        directory.write(directory.bundle_file, _system_roots() + authority)
        directory.write(directory.key_file, material.server.key)
        directory.write(directory.chain_file, material.server.certificate + authority)
        return server_context(str(directory.chain_file), str(directory.key_file))


def _system_roots() -> bytes:
    """The machine's trusted roots as PEM, empty where it has none in one file."""
    paths = ssl.get_default_verify_paths()
    for candidate in (paths.cafile, paths.openssl_cafile, "/etc/ssl/certs/ca-certificates.crt"):
        if candidate and Path(candidate).is_file():
            return Path(candidate).read_bytes().rstrip() + b"\n"
    return b""
