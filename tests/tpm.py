"""A TPM 2.0: swtpm, driven by tpm2-tools as SDKs drive theirs, or by a client of the Microsoft simulator's protocol.

The handles and templates are those of the SDKs (provisioning.md 6.3), the commands those of protocol/clients.md.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.addresses import loopback
from tests.provisioning_client import Provisioning

PORT = 2321
EK, SRK, IDENTITY = "0x81010001", "0x81000001", "0x81000100"
_SRK_ATTRIBUTES = "restricted|decrypt|fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda"
ENDORSEMENT_KEY = bytes.fromhex("011a0001000b00030472000000060080004300100800000000000100" + "c5" * 256)
"""A public key of a chip that is not there."""
_MAGIC = bytes.fromhex("badcc0de00000001")
_PATIENCE = 30

needs_tpm = pytest.mark.skipif(
    not (shutil.which("swtpm") and shutil.which("tpm2_createek")), reason="swtpm and tpm2-tools are not installed"
)


class Tpm:
    """A running chip with its endorsement key and storage root key."""

    def __init__(self, directory: Path, address: str) -> None:
        self.directory = directory
        self.address = address
        self.run("createek", "-c", EK, "-G", "rsa", "-u", "ek.pub")
        self.endorsement_key = self._public(EK)
        self.storage_root_key = self._own()

    def _own(self) -> bytes:
        """Make the storage root key of the chip's owner."""
        self.run("createprimary", "-C", "o", "-G", "rsa2048:aes128cfb", "-a", _SRK_ATTRIBUTES, "-c", "srk.ctx")
        self.run("evictcontrol", "-C", "o", "-c", "srk.ctx", SRK)
        self.flush()
        return self._public(SRK)

    def clear_owner(self) -> None:
        """The chip gets another owner: all keys but those of the maker are gone."""
        self.run("clear")
        self.run("createek", "-c", EK, "-G", "rsa", "-u", "ek.pub")
        self.storage_root_key = self._own()

    def run(self, tool: str, *arguments: str) -> bytes:
        """Run one of tpm2-tools in the chip's directory."""
        done = subprocess.run(
            [f"tpm2_{tool}", *arguments], cwd=self.directory, capture_output=True, timeout=_PATIENCE, check=False,
            env={**os.environ, "TPM2TOOLS_TCTI": f"swtpm:host={self.address},port={PORT}"},
        )  # fmt: skip
        assert done.returncode == 0, (tool, arguments, done.stderr.decode())
        return done.stdout

    def flush(self) -> None:
        """There is no resource manager: what the last commands have loaded goes."""
        for kind in ("-t", "-l", "-s"):
            self.run("flushcontext", kind)

    def _public(self, handle: str) -> bytes:
        self.run("readpublic", "-c", handle, "-o", "public.out")
        return (self.directory / "public.out").read_bytes()

    @property
    def registration_id(self) -> str:
        """As the SDKs make one, when they are given none."""
        return base64.b32encode(hashlib.sha256(self.endorsement_key).digest()).decode().lower().rstrip("=")

    @property
    def keys(self) -> dict[str, str]:
        """The public keys as the device sends them."""
        return {
            "endorsementKey": base64.b64encode(self.endorsement_key).decode(),
            "storageRootKey": base64.b64encode(self.storage_root_key).decode(),
        }

    def activate(self, blob: bytes) -> None:
        """Take in the key that came in ``blob``; from then on it is the one that signs."""
        parts = []
        while blob:
            size = 2 + int.from_bytes(blob[:2])
            parts.append(blob[:size])
            blob = blob[size:]
        credential, credential_secret, private, private_secret, public, _data = parts
        for name, content in (
            ("credential", _MAGIC + credential + credential_secret),
            ("key.dup", private), ("key.seed", private_secret), ("key.pub", public),
        ):  # fmt: skip
            (self.directory / name).write_bytes(content)
        self.run("startauthsession", "--policy-session", "-S", "session.ctx")
        self.run("policysecret", "-S", "session.ctx", "-c", "e")
        self.run(
            "activatecredential", "-c", SRK, "-C", EK, "-i", "credential", "-o", "inner", "-P", "session:session.ctx"
        )
        self.flush()
        self.run(
            "import", "-C", SRK, "-i", "key.dup", "-u", "key.pub", "-s", "key.seed", "-k", "inner", "-r", "key.priv"
        )
        self.run("load", "-C", SRK, "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
        with contextlib.suppress(AssertionError):
            self.run("evictcontrol", "-C", "o", "-c", IDENTITY)
        self.run("evictcontrol", "-C", "o", "-c", "key.ctx", IDENTITY)
        self.flush()

    def token(self, resource: str, *, seconds: float = 3600, policy: str = "") -> str:
        """A SAS token that the chip signed."""
        expiry, encoded = int(time.time() + seconds), quote(resource, safe="")
        (self.directory / "signed").write_text(f"{encoded}\n{expiry}")
        self.run("hmac", "-c", IDENTITY, "-o", "signature", "signed")
        signature = quote(base64.b64encode((self.directory / "signature").read_bytes()).decode(), safe="")
        name = f"&skn={policy}" if policy else ""
        return f"SharedAccessSignature sr={encoded}&sig={signature}&se={expiry}{name}"


@contextlib.contextmanager
def tpm(directory: Path) -> Iterator[Tpm]:
    """A new chip, switched on."""
    address, state = loopback(), directory / "state"
    state.mkdir(parents=True)
    chip = subprocess.Popen([
        "swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--flags", "not-need-init,startup-clear",
        "--server", f"type=tcp,port={PORT},bindaddr={address}",
        "--ctrl", f"type=tcp,port={PORT + 1},bindaddr={address}",
    ])  # fmt: skip
    try:
        _wait(address, PORT + 1)
        yield Tpm(directory, address)
    finally:
        chip.kill()
        chip.wait()


def _wait(address: str, port: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection((address, port), _PATIENCE).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "swtpm does not listen"
            time.sleep(0.02)


def enroll(dps: Provisioning, chip: Tpm, name: str, **more: Any) -> None:
    dps.enroll(name, {"type": "tpm", "tpm": {"endorsementKey": chip.keys["endorsementKey"]}}, **more)


def prove(dps: Provisioning, chip: Tpm, name: str) -> str:
    """A token for the registration, signed by the chip that was challenged."""
    asked = dps.register(name, body={"registrationId": name, "tpm": chip.keys})
    assert (asked.status, asked.body["keyName"], "status" in asked.body) == (401, "registration", False), asked
    chip.activate(base64.b64decode(asked.body["authenticationKey"]))
    return chip.token(f"{dps.scope}/registrations/{name}", policy="registration")


def provision(dps: Provisioning, chip: Tpm, name: str) -> dict[str, Any]:
    """As a device does: prove, register, poll, take in the key for the hub."""
    state = dps.provision(name, prove(dps, chip, name), body={"registrationId": name, "tpm": chip.keys})
    assert state["status"] == "assigned", state
    chip.activate(base64.b64decode(state["tpm"]["authenticationKey"]))
    return state


class Simulator:
    """Serves the protocol of Microsoft's simulator, which the SDKs speak, and hands each command to ``chip``.

    Commands on one port: 8 is a command to the chip, 15 the handshake, 20 the end. The other one switches the power,
    which is on.
    """

    def __init__(self, chip: Tpm) -> None:
        self.address = loopback()
        self._chip = chip
        self._listeners = [socket.create_server((self.address, PORT + offset)) for offset in (0, 1)]
        for listener, serve in zip(self._listeners, (self._commands, self._platform), strict=True):
            threading.Thread(target=self._accept, args=(listener, serve), daemon=True).start()

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _accept(self, listener: socket.socket, serve) -> None:  # type: ignore[no-untyped-def]
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def _platform(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            while True:
                exactly(connection, 4)
                connection.sendall(bytes(4))

    def _commands(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(EOFError, OSError):
            while True:
                (kind,) = struct.unpack(">I", exactly(connection, 4))
                if kind == 15:
                    exactly(connection, 4)
                    connection.sendall(struct.pack(">III", 1, 0, 0))
                elif kind == 8:
                    _, size = struct.unpack(">BI", exactly(connection, 5))
                    answer = self._ask(exactly(connection, size))
                    connection.sendall(struct.pack(">I", len(answer)) + answer + bytes(4))
                else:
                    return

    def _ask(self, command: bytes) -> bytes:
        with socket.create_connection((self._chip.address, PORT), _PATIENCE) as chip:
            chip.sendall(command)
            head = exactly(chip, 6)
            return head + exactly(chip, int.from_bytes(head[2:]) - 6)


def exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes. Raises ``EOFError`` where the other end is gone."""
    content = b""
    while len(content) < size:
        more = connection.recv(size - len(content))
        if not more:
            raise EOFError
        content += more
    return content
