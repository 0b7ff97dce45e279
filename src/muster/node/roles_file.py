"""The operator's file of roles and grants: taken at the start, and again when it changes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import asdict
from pathlib import Path
from typing import Self

from muster.access.granting import Granting
from muster.access.grants import KeptRoles
from muster.core.ambient import Ambient
from muster.core.audit import Act, draft
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.grant_limits import ROLES_FILE_BYTES
from muster.core.settings_store import HubSettingsStore
from muster.dialect.grant_bodies import read_roles_file
from muster.node.file_watch import FileWatch

log = logging.getLogger("muster.node")

_SETTING = "roles-file"


class RolesFile:
    """What is in the file counts, all of it or nothing: one that is wrong, or gone, is told in the log and by
    ``trouble``, and what it held before goes on. An empty file takes all back."""

    def __init__(self, path: Path, granting: Granting, kept: HubSettingsStore, ambient: Ambient) -> None:
        """Use ``open``."""
        self._path, self._granting, self._kept, self._ambient = path, granting, kept, ambient
        self._watch = FileWatch((path,), self._again, ambient)
        self.trouble = ""
        """Why the file does not count as it is now; empty when it does."""

    @classmethod
    async def open(cls, path: Path, granting: Granting, kept: HubSettingsStore, ambient: Ambient) -> Self:
        """Take the file and look after it from now on; ``kept`` remembers what was taken, so that what is new in it
        goes on record. Raises ``HubError`` that names what is wrong with it."""
        made = cls(path, granting, kept, ambient)
        await made._watch.begin()
        try:
            await made._take()
        except BaseException:
            await made.close()
            raise
        return made

    def reload(self) -> None:
        """Take it now, whether it has changed or not."""
        self._watch.take_now()

    async def close(self) -> None:
        """Look no more."""
        await self._watch.close()

    async def _take(self) -> None:
        try:
            filed, owner = await asyncio.to_thread(_read, self._path)
            self._granting.check_file(filed)
            await self._record(filed, owner)
            self._granting.take_file(filed)
        except HubError as error:
            raise HubError(error.row, f"the file of roles {self._path}: {error.message}") from None

    async def _record(self, filed: KeptRoles, owner: int) -> None:
        """Put on record what counts from now on, if it is not what counted before, at an earlier start too."""
        told = {
            "roles": {role.name: list(role.patterns) for role in filed.roles},
            "grants": {grant.id: asdict(grant) for grant in filed.grants},
        }
        earlier = json.loads(await self._kept.get_setting(_SETTING) or b"null")
        if told != earlier:
            act = Act("roles.file", f"user {owner}", transport="file")
            record = draft("", act, "roles/file", self._ambient.now(), before=earlier, after=told)
            await self._kept.put_settings({_SETTING: json.dumps(told).encode()}, record)

    async def _again(self, told: bool) -> None:
        try:
            await self._take()
        except HubError as error:
            if told or error.message != self.trouble:
                log.error("%s; the roles and grants of before go on", error.message)
            self.trouble = error.message
        else:
            self.trouble = ""
            log.warning("the file of roles %s is taken", self._path)


def _read(path: Path) -> tuple[KeptRoles, int]:
    """What is in the file, and whose it is."""
    most = ROLES_FILE_BYTES.open
    try:
        with path.open("rb") as file:
            content, owner = file.read(most + 1), os.fstat(file.fileno()).st_uid
    except OSError as error:
        raise HubError(ARGUMENT_INVALID, f"It cannot be read: {error.strerror or error}.") from None
    if len(content) > most:
        raise HubError(ARGUMENT_INVALID, f"It has more than {most} bytes, grant roles to groups.")
    return read_roles_file(content), owner
