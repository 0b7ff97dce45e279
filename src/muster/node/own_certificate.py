"""The operator's own certificate in the hub's name: taken from files, and taken again when they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Self

from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.heads.tls import context_of
from muster.identity.doctor import Shown
from muster.node.certificate import system_roots
from muster.node.certificate_files import CertificateFileError, CertificateFiles, Supplied, load
from muster.node.directory import DataDirectory
from muster.node.file_watch import FileWatch

ROOT_NOT_KNOWN = (
    "The root that clients have to trust is neither in {certificate} nor among this system's: append it there, so that "
    "muster env names it."
)

log = logging.getLogger("muster.node")


class OwnCertificate:
    """What new connections are shown; see ``certificate.ServerCertificate``.

    Both ways to a new one are there: SIGHUP (``reload``), which tools that renew certificates know to send, and looking
    at the files, for those that merely replace them: secrets mounted into containers, and people. A new one that is no
    good is told once, in the log and by `muster doctor`; the old one goes on.
    """

    def __init__(
        self, files: CertificateFiles, names: Callable[[], Sequence[str]], directory: DataDirectory, ambient: Ambient
    ) -> None:
        """Use ``open``."""
        self._files = files
        self._names = names
        self._directory = directory
        self._ambient = ambient
        self._supplied: Supplied
        self._context: SSL.Context
        self._trouble = ""
        self._watch = FileWatch((files.certificate, files.key), self._again, ambient)

    @classmethod
    async def open(
        cls, files: CertificateFiles, names: Callable[[], Sequence[str]], directory: DataDirectory, ambient: Ambient
    ) -> Self:
        """Take the certificate for hubs that have ``names`` then, and look after it from now on.

        Raises ``CertificateFileError`` when it is no good, ``OSError`` when ``directory`` cannot be written.
        """
        made = cls(files, names, directory, ambient)
        await made._watch.begin()
        try:
            await made._take()
        except BaseException:
            await made.close()
            raise
        return made

    def context(self) -> SSL.Context:
        """The context for a handshake that begins now."""
        return self._context

    def covers(self, name: str) -> bool:
        """Whether the certificate is for ``name``."""
        return self._supplied.covers(name)

    async def cover_all(self) -> None:
        """Raise ``HubError`` 400004 unless it is for the names that there are now: only the operator gets another."""
        missing = [name for name in self._names() if not self.covers(name)]
        if missing:
            message = f"The certificate in {self._files.certificate} is not for {missing[0]}, replace it first."
            raise HubError(ARGUMENT_INVALID, message)

    @property
    def rooted(self) -> bool:
        """Whether it is known which root clients have to trust."""
        return self._supplied.rooted

    def own(self) -> Shown:
        """The certificates that clients are shown."""
        leaf, *issuers = self._supplied.chain
        shown = {"hub's certificate": leaf.der}
        shown |= {f"certificate of its issuer {one.subject_text}": one.der for one in issuers}
        return Shown(shown, f"Replace {self._files.certificate} and {self._files.key}: the hub notices.", self._trouble)

    def reload(self) -> None:
        """Take the files now, whether they have changed or not."""
        self._watch.take_now()

    async def close(self) -> None:
        """Look no more."""
        await self._watch.close()

    async def _take(self) -> None:
        supplied = await asyncio.to_thread(load, self._files, self._names(), self._ambient.now(), system_roots)
        try:
            context = context_of([one.parsed for one in supplied.chain], supplied.key)
        except SSL.Error as error:
            raise CertificateFileError(f"OpenSSL does not take {self._files.certificate}: {error}") from None
        anchor = supplied.anchor.parsed.public_bytes(Encoding.PEM)
        self._directory.write(self._directory.ca_file, anchor)
        self._directory.write(self._directory.bundle_file, system_roots() + anchor)
        self._supplied, self._context = supplied, context

    async def _again(self, told: bool) -> None:
        try:
            await self._take()
        except (CertificateFileError, OSError) as error:
            if told or str(error) != self._trouble:
                log.error("the new certificate is not taken, the one of before goes on: %s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""
            log.warning("the certificate in %s is taken", self._files.certificate)
