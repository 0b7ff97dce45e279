"""Nothing of one hub is seen, or changed, by whoever may do all at another: tried with every operation of REST."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hub_rows import Rows
from two_hubs import EAST, WEST, TwoHubs, two_hubs

from muster.heads.http.operations import Operation, OperationTable
from muster.identity.changes import Draft
from muster.identity.model import IdentityKey
from muster.testing.mqtt import PINGREQ, MqttClient, publish
from tests.engines import clustered

SECRET = "EASTERN-SECRET"
"""In all that the first hub has; in nothing that is asked."""
PROVISIONING = re.compile("enrollment|registration|provisioning", re.IGNORECASE)
ORDER = {"GET": 0, "POST": 1, "PUT": 2, "PATCH": 3, "DELETE": 4}
STREAM_SECONDS = 1.0
DEVICE, MODULE = "d", "m"
PARTS = {"device_id": DEVICE, "module_id": MODULE, "blob...": f"{DEVICE}/file", "hub": "east"}
BODIES: dict[str, Any] = {
    "POST /devices/query": {"query": "SELECT * FROM devices"},
    "POST /devices": [{"id": DEVICE, "importMode": "delete"}],
    "PUT /devices/{device_id}": {"deviceId": DEVICE, "status": "disabled"},
    "PUT /devices/{device_id}/modules/{module_id}": {"deviceId": DEVICE, "moduleId": MODULE},
    "PATCH /twins/{device_id}": {"tags": {"x": 1}, "properties": {"desired": {"x": 1}}},
    "PUT /twins/{device_id}": {"tags": {}, "properties": {"desired": {}}},
    "POST /twins/{device_id}/methods": {"methodName": "m", "responseTimeoutInSeconds": 5},
    "POST /twins/{device_id}/modules/{module_id}/methods": {"methodName": "m", "responseTimeoutInSeconds": 5},
    "POST /devices/{device_id}/files": {"blobName": "file"},
}


class Recorded:
    """Keeps the operations of every hub that is opened, the first hub's first."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.tables: list[list[Operation]] = []
        recorded = self.tables

        class Table(OperationTable):
            def __init__(self, operations: Iterable[Operation]) -> None:
                recorded.append(list(operations))
                super().__init__(recorded[-1])

        patch.setattr("muster.heads.http.app.OperationTable", Table)


@pytest.fixture
async def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[TwoHubs, Recorded]]:
    recorded = Recorded(monkeypatch)
    async with two_hubs(tmp_path) as hubs:
        yield hubs, recorded


async def answer(hubs: TwoHubs, name: str, operation: Operation) -> str:
    """What hub ``name`` says, or begins to say, to its owner who calls ``operation``."""
    path = "/".join(PARTS.get(part.strip("{}"), part.strip("{}")) for part in operation.path.split("/"))
    url = hubs.url(name, f"{path}?from=start&count=100")
    body = BODIES.get(f"{operation.method} {operation.path}", {})
    headers = {
        "Authorization": hubs.token(name), "Content-Type": "application/json", "If-Match": "*",
        "x-ms-blob-type": "BlockBlob",
    }  # fmt: skip
    data = None if operation.method == "GET" else json.dumps(body)
    found = bytearray()
    async with hubs.session.request(operation.method, url, data=data, headers=headers, ssl=hubs.trust) as response:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STREAM_SECONDS):
                async for chunk in response.content.iter_any():
                    found += chunk
    return f"{response.status} {dict(response.headers)} {found.decode(errors='replace')}"


async def fill(hubs: TwoHubs) -> MqttClient:
    """Put the secret everywhere in the first hub; a connected device of it. The second hub has the same ids."""
    keys = {}
    for name in (EAST, WEST):
        registry = hubs.hub(name).parts.registry
        keys[name] = (await registry.create(Draft(key=IdentityKey(DEVICE)))).authentication.primary_key or ""
        await registry.create(Draft(key=IdentityKey(DEVICE, MODULE)))
    secret = {"secret": SECRET}
    for path in (f"/twins/{DEVICE}", f"/twins/{DEVICE}/modules/{MODULE}"):
        body = {"tags": secret, "properties": {"desired": secret}}
        assert (await hubs.call(EAST, "PATCH", path, body, **{"If-Match": "*"})).status == 200
    device = {"deviceId": f"{SECRET}-2", "status": "disabled", "statusReason": SECRET}
    assert (await hubs.call(EAST, "PUT", f"/devices/{SECRET}-2", device)).status == 200
    if not clustered():  # several nodes have no endpoint for files of their own
        await upload(hubs)
    _, code = await hubs.connect(EAST, f"{SECRET}-3", keys[EAST])
    assert code == 5
    client, code = await hubs.connect(EAST, DEVICE, keys[EAST])
    assert code == 0
    await client.send(publish(f"devices/{DEVICE}/messages/events/", SECRET.encode(), qos=1, packet_id=1))
    await client.expect("PUBACK")
    return client


async def upload(hubs: TwoHubs) -> None:
    blobs = f"/muster-uploads/{DEVICE}/file"
    grant = (await hubs.call(EAST, "POST", f"/devices/{DEVICE}/files", {"blobName": "file"})).json
    url = hubs.url(EAST, f"{blobs}{grant['sasToken']}")
    async with hubs.session.put(
        url, data=SECRET.encode(), headers={"x-ms-blob-type": "BlockBlob"}, ssl=hubs.trust
    ) as response:
        assert response.status == 201, await response.text()


async def state(hubs: TwoHubs, hub: str) -> Rows:
    """All that stands under the name of ``hub`` in the database, but for what its own being asked changes."""
    found = {**await hubs.rows(hub), "refusals": [], "log_numbers": []}
    return {**found, "settings": [row for row in found["settings"] if "west/" not in row]}


async def test_no_operation_shows_or_changes_another_hub(deployment: tuple[TwoHubs, Recorded]) -> None:
    hubs, recorded = deployment
    first, second = (table for table in recorded.tables if any(one.path == "/devices" for one in table))
    assert {(one.method, one.path) for one in second} < {(one.method, one.path) for one in first}
    client = await fill(hubs)
    east = hubs.hub(EAST)

    operations = sorted(first, key=lambda one: ORDER[one.method])
    shown = set()
    for one in operations:
        if one.method == "GET" and SECRET in await answer(hubs, EAST, one):
            shown.add(f"{one.method} {one.path}")
    assert {"GET /devices", "GET /twins/{device_id}", "GET /$muster/why", "GET /$muster/monitor"} <= shown, (
        "asked at its own hub it comes out, so it would be seen here"
    )
    before, stored = await state(hubs, east.name), await hubs.stored(EAST)
    for one in operations:
        refused = sum(east.parts.refusals.counts().values())
        said = await answer(hubs, WEST, one)
        assert SECRET not in said, f"{one.method} {one.path}"
        if (one.method, one.path) not in {(other.method, other.path) for other in second}:
            assert said.startswith("404"), "what changes hubs is the first hub's"
        if not PROVISIONING.search(one.path):  # provisioning is the deployment's, the first hub keeps its refusals
            assert sum(east.parts.refusals.counts().values()) == refused, f"{one.method} {one.path}"

    assert await state(hubs, east.name) == before
    assert await hubs.stored(EAST) == stored
    assert (await hubs.call(WEST, "GET", f"/devices/{DEVICE}")).status == 404, "what was deleted was its own"
    await client.send(PINGREQ)
    await client.expect("PINGRESP")
    await client.close()
