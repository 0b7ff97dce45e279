"""The server certificate is renewed while the hub runs: who connects sees the new one, who is connected stays."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography import x509
from tls_server import Server, echo_server, until

from muster.core.errors import SERVER_ERROR, HubError
from muster.issuing.authority import SERVER_DAYS
from muster.node.certificate import RETRY_SECONDS, ServerCertificate
from muster.node.directory import DataDirectory
from muster.node.material import Material, load_material
from muster.stores.sqlite.database import Writer, open_connection
from muster.stores.sqlite.hub_schema import MIGRATIONS
from muster.stores.sqlite.settings import SqliteHubSettingsStore
from muster.testing.clock import VirtualAmbient

DAY = 86_400.0


class Parts(NamedTuple):
    directory: DataDirectory
    ambient: VirtualAmbient
    server: Server
    failures: list[HubError]
    """What the next attempts to renew fail with."""

    async def shown(self) -> x509.Certificate:
        """The certificate that a new connection sees; that it is signed by the authority is looked at here too."""
        context = ssl.create_default_context(cafile=str(self.directory.ca_file))
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # its dates are those of another clock
        _, writer = await asyncio.open_connection("localhost", self.server.port, ssl=context)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        certificate = x509.load_der_x509_certificate(der)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(self.directory.ca_file.read_bytes()))
        return certificate


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    directory = DataDirectory(tmp_path / "data")
    writer = Writer(directory.hub_database, MIGRATIONS, asyncio.get_running_loop(), durable=False)
    reader = open_connection(writer.path, readonly=True)
    ambient, failures = VirtualAmbient(now=time.time()), list[HubError]()
    make = partial(load_material, SqliteHubSettingsStore(writer, reader), ambient, ["localhost"], development=False)

    async def load() -> Material:
        if failures:
            raise failures.pop()
        return await make()

    certificate = ServerCertificate(directory, ambient, await load(), load)
    async with echo_server(tmp_path, certificate.context) as server:
        server.client.load_verify_locations(str(directory.ca_file))
        yield Parts(directory, ambient, server, failures)
    await certificate.close()
    reader.close()
    await writer.close()
    directory.release()


async def renewed(parts: Parts, before: x509.Certificate) -> x509.Certificate:
    async with asyncio.timeout(20):
        while (now := await parts.shown()) == before:
            await asyncio.sleep(0.01)
    return now


async def test_1_half_way_new_connections_see_a_new_certificate_and_old_ones_go_on(parts: Parts) -> None:
    first = await parts.shown()
    reader, writer = await parts.server.connect()
    parts.ambient.advance((SERVER_DAYS / 2 - 2) * DAY)
    await asyncio.sleep(0.05)
    assert await parts.shown() == first
    parts.ambient.advance(3 * DAY)
    second = await renewed(parts, first)
    assert second.public_key() != first.public_key()
    assert second.not_valid_after_utc > first.not_valid_after_utc
    assert parts.directory.chain_file.read_bytes().startswith(b"-----BEGIN")
    assert x509.load_pem_x509_certificates(parts.directory.chain_file.read_bytes())[0] == second
    writer.write(b"still here")
    assert await reader.readexactly(10) == b"still here"
    writer.close()
    parts.ambient.advance((SERVER_DAYS / 2 + 1) * DAY)
    await renewed(parts, second)


async def test_2_a_renewal_that_fails_is_told_and_tried_again(parts: Parts, caplog: pytest.LogCaptureFixture) -> None:
    first = await parts.shown()
    parts.failures.append(HubError(SERVER_ERROR, "the disk is full"))
    parts.ambient.advance((SERVER_DAYS / 2 + 1) * DAY)
    await until(lambda: "could not be renewed" in caplog.text)
    assert "the disk is full" in caplog.text
    assert await parts.shown() == first
    parts.ambient.advance(RETRY_SECONDS)
    await renewed(parts, first)
