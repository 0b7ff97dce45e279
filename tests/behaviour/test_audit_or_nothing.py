"""A change whose record cannot be written does not happen, whatever is changed."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from two_hubs import EAST, Answer, TwoHubs, two_hubs

from muster.dialect.connection_string import parse_connection_string
from muster.identity.sas import make
from muster.stores.sqlite.storage import SqliteStorage
from tests.certificate_maker import Maker
from tests.engines import clustered

BREAK = (
    "CREATE TRIGGER no_room BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'the test leaves no room'); END",
    "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the test leaves no room'; END $$;"
    "CREATE TRIGGER no_room BEFORE INSERT ON audit_pending FOR EACH ROW EXECUTE FUNCTION no_room()",
)
MEND = "DROP TRIGGER no_room", "DROP TRIGGER no_room ON audit_pending"
"""In SQLite, and in PostgreSQL."""
CERTIFICATES = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{hub}/certificates"
KEYS = {"attestation": {"type": "symmetricKey"}}


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[TwoHubs]:
    async with two_hubs(tmp_path, second=False) as hubs:
        yield hubs


async def sql(hubs: TwoHubs, in_sqlite: str, in_postgres: str) -> None:
    storage, url = hubs.hub(EAST).base.storage, hubs.node.settings.database
    if isinstance(storage, SqliteStorage):
        await storage._writer.submit(lambda connection: connection.execute(in_sqlite))
        return
    connection = await asyncpg.connect(url)
    await connection.execute(in_postgres)
    await connection.close()


async def call(hubs: TwoHubs, method: str, path: str, body: Any = None, **headers: str) -> Answer:
    """As the owner of the hub, or of the provisioning service where that is asked."""
    token = hubs.token(EAST)
    if path.startswith(("/enrollment", "/$muster/provisioning")):
        owner = parse_connection_string(hubs.node.facts["DPS_CONNECTION_STRING"])
        token = make(hubs.addresses[EAST], int(time.time()) + 600, owner.key_bytes, "provisioningserviceowner")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await hubs.call(EAST, method, path.format(hub=hubs.hub(EAST).name), body, token=token, **named)


async def test_nothing_is_changed_that_cannot_be_recorded(hubs: TwoHubs) -> None:
    root = base64.b64encode(Maker(time.time()).root("Root").pem).decode()
    changes: list[tuple[str, str, Any]] = [
        ("PUT", "/devices/new", {"deviceId": "new"}),
        ("DELETE", "/devices/old", None),
        ("POST", "/devices", [{"id": "bulk", "importMode": "create"}]),
        ("PATCH", "/twins/old", {"tags": {"a": 2}, "properties": {"desired": {"b": 2}}}),
        ("PUT", "/twins/old", {"properties": {"desired": {"c": 3}}}),
        ("PATCH", "/digitaltwins/old", [{"op": "add", "path": "/d", "value": 4}]),
        ("DELETE", "/devices/old/commands", None),
        ("PUT", CERTIFICATES + "/new", {"properties": {"certificate": root}}),
        ("PUT", "/enrollments/new", {"registrationId": "new", **KEYS}),
        ("DELETE", "/enrollments/old", None),
        ("PUT", "/$muster/policies/new", {"rights": "RegistryRead"}),
        ("POST", "/$muster/policies/service/rotate", {"key": "primary"}),
        ("PUT", "/$muster/provisioning/policies/new", {"rights": "EnrollmentRead"}),
        ("PATCH", "/$muster/provisioning/allocation", {"allocationPolicy": "static"}),
        ("PUT", "/$muster/network", {"publicNetworkAccess": "Enabled", "privateNetworks": ["10.0.0.0/8"]}),
        ("PUT", "/$muster/hubs/north", {"hostNames": ["north.example"]}),
    ]
    seen = [
        "/devices", "/twins/old", CERTIFICATES, "/enrollments/old", "/$muster/policies", "/$muster/policies/service",
        "/$muster/provisioning/policies", "/$muster/provisioning/allocation", "/$muster/network", "/$muster/hubs",
        "/$muster/audit?count=1000",
    ]  # fmt: skip

    async def state() -> dict[str, str]:
        return {path: (await call(hubs, "GET", path)).text for path in seen}

    assert (await call(hubs, "PUT", "/devices/old", {"deviceId": "old"})).status == 200
    assert (await call(hubs, "PATCH", "/twins/old", {"properties": {"desired": {"b": 1}}})).status == 200
    assert (await call(hubs, "PUT", "/enrollments/old", {"registrationId": "old", **KEYS})).status == 200
    before = await state()
    await sql(hubs, *BREAK)
    for method, path, body in changes:
        answer = await call(hubs, method, path, body)
        one_by_one = clustered() and (method, path) == ("POST", "/devices")  # and told so
        assert answer.status == (400 if one_by_one else 500), (method, path, answer)
        assert await state() == before, (method, path)
    await sql(hubs, *MEND)
    for method, path, body in sorted(changes, key=lambda change: change[:2] == ("DELETE", "/devices/old")):
        assert (await call(hubs, method, path, body)).status < 300, (method, path)
