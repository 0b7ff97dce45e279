"""The hub's own certificate is renewed while it runs: new connections see the new one, old ones go on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

from cryptography import x509

from muster.core.settings_store import HubSettingsStore
from muster.heads.listener import TlsListener
from muster.identity.hub import ALWAYS
from muster.node.directory import DataDirectory
from muster.node.material import load_material
from muster.node.server_certificate import ServerCertificate
from muster.testing.clock import VirtualAmbient
from tests.behaviour.tls_server import Echo

DAY = 86_400


class Kept:
    """``HubSettingsStore`` in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get_setting(self, name: str) -> bytes | None:
        return self.values.get(name)

    async def put_settings(self, values: dict[str, bytes]) -> None:
        self.values |= values


async def shown(port: int, ca_file: Path) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
    """The serial of the certificate that the server shows, and the connection."""
    context = ssl.create_default_context(cafile=str(ca_file))
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # the clock of the hub is not ours
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return x509.load_der_x509_certificate(der).serial_number, reader, writer


async def test_it_is_renewed_and_nobody_is_disconnected(tmp_path: Path) -> None:
    kept: HubSettingsStore = Kept()  # type: ignore[assignment]
    ambient, loop, made = VirtualAmbient(), asyncio.get_running_loop(), list[Echo]()
    material = await load_material(kept, ambient, ALWAYS, development=True)
    directory = DataDirectory(tmp_path / "data")
    serving = ServerCertificate(kept, material, ALWAYS, directory, ambient)
    listener = TlsListener(loop, serving.context, lambda: Echo(made))
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    listener.listen([sock])
    port = sock.getsockname()[1]
    try:
        first, reader, writer = await shown(port, directory.ca_file)
        ambient.advance(400 * DAY)
        await asyncio.sleep(0)
        assert (await shown(port, directory.ca_file))[0] == first, "half of its life is not over"
        ambient.advance(15 * DAY)
        async with asyncio.timeout(10):
            while (second := (await shown(port, directory.ca_file))[0]) == first:
                await asyncio.sleep(0.01)
        writer.write(b"still here")
        assert await reader.readexactly(10) == b"still here"
        again = await load_material(kept, ambient, ALWAYS, development=True)
        assert x509.load_pem_x509_certificate(again.server.certificate).serial_number == second
        assert x509.load_pem_x509_certificate(directory.chain_file.read_bytes()).serial_number == second
        assert set(serving.own()) == {"hub's certificate", "hub's CA"}
    finally:
        serving.close()
        listener.stop_accepting()
        listener.abort_connections()
        directory.release()
