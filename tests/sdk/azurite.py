"""Azurite, Microsoft's stand-in for Azure Storage: keeps the checkpoints of the tests in memory."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any, Self

from azure.eventhub.extensions.checkpointstoreblob import BlobCheckpointStore
from azure.eventhub.extensions.checkpointstoreblob._vendor.storage.blob import ContainerClient

MAIN = Path(__file__).resolve().parents[1] / "node" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
START_SECONDS = 30.0
ACCOUNT = "checkpoints"


class CheckpointStore(BlobCheckpointStore):
    """Remembers what it answered last when a processor asked where to start."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.answered: dict[str, int] = {}

    def list_checkpoints(self, *arguments: Any, **options: Any) -> Any:
        found = super().list_checkpoints(*arguments, **options)
        self.answered = {each["partition_id"]: each["sequence_number"] for each in found}
        return found


class Azurite:
    """The blob service on a free port of 127.0.0.1, with an account of its own.

    With ``secure``, a directory with ``server.pem``, ``server.key`` and ``ca.pem``, it speaks HTTPS.
    """

    def __init__(self, directory: Path, secure: Path | None = None) -> None:
        self._directory = directory
        self._secure = secure
        self._key = base64.b64encode(os.urandom(32)).decode()
        self._log = directory / "azurite.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""

    def __enter__(self) -> Self:
        command = ["node", str(MAIN), "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--silent",
                   "--skipApiVersionCheck", "--disableTelemetry"]  # fmt: skip
        if self._secure is not None:
            command += ["--cert", str(self._secure / "server.pem"), "--key", str(self._secure / "server.key")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, stdout=log, stderr=log,
                env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{self._key}"},
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not (found := re.search(r"successfully listens on (\S+)", self._log.read_text())):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(f"Azurite did not start: {self._log.read_text()}")
            time.sleep(0.05)
        self._url = f"{found[1]}/{ACCOUNT}"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()

    def add_container(self, name: str) -> None:
        """Make an empty container."""
        with ContainerClient(self._url, name, credential=self._credential, connection_verify=self._trust) as client:
            client.create_container()

    @property
    def connection_string(self) -> str:
        """That of the account, its key included."""
        protocol = self._url.partition(":")[0]
        return (
            f"DefaultEndpointsProtocol={protocol};AccountName={ACCOUNT};AccountKey={self._key};"
            f"BlobEndpoint={self._url};"
        )

    @property
    def _trust(self) -> bool | str:
        return True if self._secure is None else str(self._secure / "ca.pem")

    def checkpoint_store(self, container: str) -> CheckpointStore:
        """A checkpoint store on a container, as each processor has one of its own."""
        return CheckpointStore(self._url, container, credential=self._credential)

    @property
    def _credential(self) -> dict[str, str]:
        return {"account_name": ACCOUNT, "account_key": self._key}
