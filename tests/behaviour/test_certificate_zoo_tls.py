"""The whole certificate zoo at the door, over real TLS: by our own client and by OpenSSL's.

``tests/sdk/test_certificate_zoo_sdk.py`` has azure-iot-device show the same specimens to a hub in its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from muster.testing.mqtt import connect, publish
from tests import certificate_zoo_bad
from tests.behaviour.mqtt_hub import mqtt_hub
from tests.behaviour.x509_bench import Bench
from tests.certificate_zoo import ZOO, Specimen

assert certificate_zoo_bad
RETRY = {"revocation-unknown": 3}
"""Causes that CONNACK answers with "unavailable, come again", where others are "not authorized"."""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with mqtt_hub(tmp_path) as hub:
        yield Bench(hub, tmp_path)


@pytest.mark.parametrize("name", ZOO)
async def test_a_specimen_at_the_door(bench: Bench, name: str) -> None:
    cause, recipe = ZOO[name]
    specimen = recipe(bench.make)
    await bench.prepare(specimen)
    token = "SharedAccessSignature sr=a&sig=b&se=1" if specimen.with_token else None
    expected = RETRY.get(cause, 5) if cause else 0
    client, code = await bench.connect(specimen.key, specimen.leaf, *specimen.sent, token=token)
    assert code == expected
    assert await bench.hub.last_cause() == cause
    if not cause:
        module = "" if specimen.key.module_id is None else f"modules/{specimen.key.module_id}/"
        await client.send(publish(f"devices/dev/{module}messages/events/", b"hello"))
        await client.expect("PUBACK")
        (message,) = await bench.hub.messages("dev")
        assert '"type":"x509Certificate"' in str(message)
    assert await answer_to_openssl(bench, specimen, token) == bytes((0x20, 2, 0, expected))
    assert bench.hub.refusals.counts() == ({cause: 2} if cause else {})


async def answer_to_openssl(bench: Bench, specimen: Specimen, token: str | None) -> bytes:
    """The CONNACK that ``openssl s_client`` hears, which sends the specimen's certificates and a CONNECT packet."""
    shown = []
    if (leaf := specimen.leaf) is not None:
        certificate, key, chain = (bench.directory / name for name in ("leaf.pem", "leaf.key", "chain.pem"))
        certificate.write_bytes(leaf.pem)
        key.write_bytes(leaf.key_pem)
        chain.write_bytes(b"".join(one.pem for one in specimen.sent))
        shown = ["-cert", certificate, "-key", key, *(["-cert_chain", chain] if specimen.sent else [])]
    process = await asyncio.create_subprocess_exec(
        "openssl", "s_client", "-quiet", "-connect", f"127.0.0.1:{bench.hub.port}", "-servername", "localhost",
        "-CAfile", bench.hub.ca_file, "-verify_return_error", "-cipher", "DEFAULT:@SECLEVEL=0", *shown,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    name = str(specimen.key)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(connect(name, f"localhost/{name}/?api-version=2021-04-12", token))
    try:
        async with asyncio.timeout(20):
            return await process.stdout.readexactly(4)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
