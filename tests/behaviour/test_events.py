"""Events on the built-in endpoint, sentence by sentence: REST and MQTT in, stored messages out (service.md 6.4).

1. Changes of twins, by services and by devices, with what was changed and what is known of it.
2. Identities that come and go, with their twins.
3. Connections that begin and end, with a number that always rises.
4. Changes of digital twins as JSON Patch.
5. What is refused, or changes nothing, is no event; a kind that is off leaves nothing anywhere.
6. Events stand in the device's partition in the order of what happened; a failing or slow disk delays them, no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hub_rest import create
from method_hub import MethodHub, method_hub
from mqtt_hub import MAX_PENDING_BYTES, alive

from muster.core.ambient import iso
from muster.core.errors import SERVER_ERROR, HubError
from muster.core.limits import EVENTS_RELAYED
from muster.events.model import Source
from muster.events.relay import RETRY_SECONDS
from muster.identity.changes import ANY
from muster.identity.model import IdentityKey
from muster.stores.sqlite.database import open_connection
from muster.testing.mqtt import DISCONNECT, publish

KEY, MODULE = IdentityKey("d"), IdentityKey("d", "m")
NEVER = "0001-01-01T00:00:00Z"
MODEL = "dtmi:com:example:Thermostat;1"
Maker = Callable[..., contextlib.AbstractAsyncContextManager[MethodHub]]


@pytest.fixture
def hub_with(tmp_path: Path) -> Maker:
    """A hub with the kinds of events that are named, on the same data each time."""
    return lambda *sources: method_hub(tmp_path, sources)


@pytest.fixture
async def hub(hub_with: Maker) -> AsyncIterator[MethodHub]:
    async with hub_with(*Source) as running:
        yield running


async def of(hub: MethodHub, source: str, device_id: str = "d") -> list[dict[str, Any]]:
    """The events of one source."""
    found = await hub.mqtt.events(device_id)
    return [event for event in found if event["annotations"]["iothub-message-source"] == source]


async def bodies(hub: MethodHub, source: str, device_id: str = "d") -> list[tuple[str, Any]]:
    """Operation and body of each event of one source."""
    return [(event["properties"]["opType"], json.loads(event["body"])) for event in await of(hub, source, device_id)]


def stripped(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what is its own each time; the correlation id must be hex digits."""
    kept = {name: event[name] for name in ("annotations", "properties", "system_properties")}
    told = dict(kept["system_properties"])
    assert int(told.pop("correlation-id"), 16) >= 0
    positions = {"x-opt-sequence-number", "x-opt-offset", "x-opt-enqueued-time", "iothub-enqueuedtime"}
    assert positions <= set(kept["annotations"])
    annotations = {name: value for name, value in kept["annotations"].items() if name not in positions}
    return {"annotations": annotations, "properties": kept["properties"], "system_properties": told}


def form(hub: MethodHub, source: str, schema: str, operation: str, module: str | None = None) -> dict[str, Any]:
    """What 6.4 says of every event."""
    annotated = {} if module is None or "Connection" in source else {"iothub-connection-module-id": module}
    named = {} if module is None else {"moduleId": module}
    at = iso(hub.ambient.now())
    patch = source.startswith("digital")
    return {
        "annotations": {"iothub-connection-device-id": "d", **annotated, "iothub-message-source": source},
        "properties": {
            "hubName": "localhost",
            "deviceId": "d",
            "operationTimestamp": at.replace("Z", "+00:00") if patch else at,
            **named,
            "opType": operation,
            "iothub-message-schema": schema,
        },
        "system_properties": {
            "user-id": "localhost",
            "content-type": "application/json-patch+json" if patch else "application/json",
            "content-encoding": "utf-8",
        },
    }


# --- 1: twins


@pytest.mark.parametrize("module_id", [None, "m"])
async def test_101_a_service_updates_a_twin(hub: MethodHub, module_id: str | None) -> None:
    await create(hub.rest)
    await hub.mqtt.key("d", module_id)
    path = "/twins/d" if module_id is None else f"/twins/d/modules/{module_id}"
    await hub.rest.call("PATCH", path, {"properties": {"desired": {"old": 1, "gone": {"x": 1}}}})
    hub.ambient.advance(5)
    change = {
        "tags": {"t": "v", "u": None},
        "properties": {"desired": {"p": {"q": [1]}, "gone": {"x": None}, "n": None}},
    }
    assert (await hub.rest.call("PATCH", path, change)).status == 200
    _, event = await of(hub, "twinChangeEvents")
    assert stripped(event) == form(hub, "twinChangeEvents", "twinChangeNotification", "updateTwin", module_id)
    stamp = {"$lastUpdated": iso(hub.ambient.now()), "$lastUpdatedVersion": 3}
    assert json.loads(event["body"]) == {
        "version": 4,
        "tags": {"t": "v", "u": None},
        "properties": {
            "desired": {
                "p": {"q": [1]},
                "gone": {"x": None},
                "n": None,
                "$metadata": {**stamp, "p": {**stamp, "q": stamp}, "gone": stamp},
                "$version": 3,
            }
        },
    }


async def test_102_a_service_replaces_a_twin(hub: MethodHub) -> None:
    await create(hub.rest)
    await hub.mqtt.unclaimed.report(KEY, {"r": 1})
    body = {"tags": {"t": 1}, "properties": {"desired": {"p": 1}}}
    etag = (await hub.rest.call("PUT", "/twins/d", body)).headers["ETag"]
    event = (await of(hub, "twinChangeEvents"))[-1]
    assert stripped(event) == form(hub, "twinChangeEvents", "twinChangeNotification", "replaceTwin")
    at = iso(hub.ambient.now())
    stamp = {"$lastUpdated": at, "$lastUpdatedVersion": 2}
    assert json.loads(event["body"]) == {
        "deviceId": "d",
        "etag": etag.strip('"'),
        "version": 4,
        "tags": {"t": 1},
        "properties": {
            "desired": {"p": 1, "$metadata": {**stamp, "p": stamp}, "$version": 2},
            "reported": {
                "r": 1,
                "$metadata": {"$lastUpdated": at, "r": {"$lastUpdated": at}},
                "$version": 2,
            },
        },
    }


async def test_103_a_device_reports(hub: MethodHub) -> None:
    client = await hub.mqtt.device("d")
    await client.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", b'{"a":{"b":1},"c":null}'))
    await client.expect("PUBACK")
    (event,) = await of(hub, "twinChangeEvents")
    assert stripped(event) == form(hub, "twinChangeEvents", "twinChangeNotification", "updateTwin")
    stamp = {"$lastUpdated": iso(hub.ambient.now())}
    reported = {"a": {"b": 1}, "c": None, "$metadata": {**stamp, "a": {**stamp, "b": stamp}}, "$version": 2}
    assert json.loads(event["body"]) == {"version": 3, "properties": {"reported": reported}}


async def test_104_every_change_is_an_event_of_its_own_in_their_order(hub: MethodHub) -> None:
    await create(hub.rest)
    writes = [hub.mqtt.twins.patch(KEY, {"n": n}, None) for n in range(EVENTS_RELAYED.open + 20)]
    await asyncio.gather(*writes)
    told = [body for _, body in await bodies(hub, "twinChangeEvents")]
    assert [body["version"] for body in told] == list(range(3, 3 + len(writes)))
    assert [body["tags"]["n"] for body in told] == list(range(len(writes)))
    found = await of(hub, "twinChangeEvents")
    assert len({event["system_properties"]["correlation-id"] for event in found}) == len(writes)


# --- 2: identities


async def test_201_a_device_and_its_module_come_and_go(hub: MethodHub) -> None:
    await create(hub.rest)
    await hub.mqtt.key("d", "m")
    await hub.mqtt.twins.patch(MODULE, {"t": 1}, None)
    assert (await hub.rest.call("DELETE", "/devices/d", If_Match="*")).status == 204
    created, module_created, module_deleted, deleted = await of(hub, "deviceLifecycleEvents")
    schema = "deviceLifecycleNotification"
    for event, operation, module in (
        (created, "createDeviceIdentity", None),
        (module_created, "createDeviceIdentity", "m"),
        (module_deleted, "deleteDeviceIdentity", "m"),
        (deleted, "deleteDeviceIdentity", None),
    ):
        assert stripped(event) == form(hub, "deviceLifecycleEvents", schema, operation, module)
    empty = {"$metadata": {"$lastUpdated": NEVER}, "$version": 1}
    properties = {"desired": empty, "reported": empty}
    twin = {"deviceId": "d", "etag": "AAAAAAAAAAE=", "version": 2, "properties": properties}
    assert json.loads(created["body"]) == json.loads(deleted["body"]) == twin
    assert json.loads(module_created["body"]) == {**twin, "moduleId": "m"}
    assert json.loads(module_deleted["body"]) == {
        "deviceId": "d", "moduleId": "m", "etag": "AAAAAAAAAAI=", "version": 3, "tags": {"t": 1},
        "properties": properties,
    }  # fmt: skip


async def test_202_bulk_calls_and_edge_devices(hub: MethodHub) -> None:
    items = [{"id": name, "importMode": "create", "status": "enabled"} for name in ("d", "e")]
    assert (await hub.rest.call("POST", "/devices", items)).status == 200
    assert (await hub.rest.call("POST", "/devices", items)).status == 400, "they exist"
    edge = {"deviceId": "d", "capabilities": {"iotEdge": True}}
    assert (await hub.rest.call("PUT", "/devices/d", edge, If_Match="*")).status == 200
    gone = [{"id": name, "importMode": "delete"} for name in ("d", "e")]
    assert (await hub.rest.call("POST", "/devices", gone)).status == 200
    told = [(op, body.get("moduleId")) for op, body in await bodies(hub, "deviceLifecycleEvents")]
    system = ["$edgeAgent", "$edgeHub"]
    assert told == [
        ("createDeviceIdentity", None),
        *(("createDeviceIdentity", name) for name in system),
        *(("deleteDeviceIdentity", name) for name in system),
        ("deleteDeviceIdentity", None),
    ]
    assert [op for op, _ in await bodies(hub, "deviceLifecycleEvents", "e")] == [
        "createDeviceIdentity",
        "deleteDeviceIdentity",
    ]


async def test_203_a_change_of_an_identity_is_no_event(hub: MethodHub) -> None:
    await create(hub.rest)
    assert (
        await hub.rest.call("PUT", "/devices/d", {"deviceId": "d", "status": "disabled"}, If_Match="*")
    ).status == 200
    assert len(await hub.mqtt.events("d")) == 1


# --- 3: connections


@pytest.mark.parametrize("module_id", [None, "m"])
async def test_301_a_connection_begins_and_ends(hub: MethodHub, module_id: str | None) -> None:
    client = await hub.mqtt.device("d", module_id)
    await client.send(DISCONNECT)
    await client.expect_end()
    await hub.mqtt.settled(lambda: not hub.mqtt.sessions.is_connected(IdentityKey("d", module_id)))
    events = await of(hub, "deviceConnectionStateEvents")
    schema = "deviceConnectionStateNotification"
    for event, operation in zip(events, ("deviceConnected", "deviceDisconnected"), strict=True):
        assert stripped(event) == form(hub, "deviceConnectionStateEvents", schema, operation, module_id)
    numbers = [json.loads(event["body"])["sequenceNumber"] for event in events]
    assert numbers == sorted(set(numbers))
    assert all(len(number) == 64 and number == f"{int(number, 16):064X}" for number in numbers)


async def test_302_a_takeover_is_an_end_and_a_begin(hub: MethodHub) -> None:
    await hub.mqtt.device("d")
    await hub.mqtt.device("d")
    told = await bodies(hub, "deviceConnectionStateEvents")
    assert [op for op, _ in told] == ["deviceConnected", "deviceDisconnected", "deviceConnected"]
    numbers = [body["sequenceNumber"] for _, body in told]
    assert numbers == sorted(set(numbers))


async def test_303_numbers_rise_over_restarts_also_when_the_clock_is_set_back(hub_with: Maker) -> None:
    for _ in range(3):  # each begins at the same moment of the virtual clock
        async with hub_with(Source.CONNECTION) as hub:
            await hub.mqtt.device("d")
    async with hub_with() as hub:
        told = await bodies(hub, "deviceConnectionStateEvents")
    assert [op for op, _ in told] == ["deviceConnected", "deviceDisconnected"] * 3
    numbers = [body["sequenceNumber"] for _, body in told]
    assert numbers == sorted(set(numbers))


async def test_304_who_is_refused_has_not_been_connected(hub: MethodHub) -> None:
    client = await hub.mqtt.open()
    name, user, _ = await hub.mqtt.login("d")
    assert (await client.connect(name, user, "wrong"))[1] == 5
    assert await bodies(hub, "deviceConnectionStateEvents") == []


async def test_305_a_deleted_device_is_disconnected_after_that(hub: MethodHub) -> None:
    client = await hub.mqtt.device("d")
    await hub.mqtt.registry.delete(KEY, ANY)
    await client.expect_end()
    assert [event["properties"]["opType"] for event in await hub.mqtt.events("d")] == [
        "createDeviceIdentity", "deviceConnected", "deleteDeviceIdentity", "deviceDisconnected",
    ]  # fmt: skip


# --- 4: digital twins


async def test_401_the_digital_twin_changes(hub: MethodHub) -> None:
    client = await hub.mqtt.open()
    name, user, password = await hub.mqtt.login("d")
    assert await client.connect(name, f"{user}&model-id={MODEL}", password) == (False, 0)
    patch = [{"op": "add", "path": "/c/target", "value": 21.5}]
    assert (await hub.rest.call("PATCH", "/digitaltwins/d", patch)).status == 202
    acknowledged = b'{"c":{"__t":"c","target":{"value":21.5,"ac":200,"av":2}},"s":"x"}'
    await client.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", acknowledged))
    await client.expect("PUBACK")
    await hub.mqtt.twins.patch(KEY, {"no": "part of it"}, None)
    await hub.mqtt.twins.replace(KEY, None, None)
    await hub.mqtt.device("d")
    at = iso(hub.ambient.now())
    place = "/c/$metadata/target"
    events = await of(hub, "digitalTwinChangeEvents")
    for event in events:
        assert stripped(event) == form(hub, "digitalTwinChangeEvents", "digitalTwinChangeNotification", "updateTwin")
    assert [json.loads(event["body"]) for event in events] == [
        [{"op": "replace", "path": "/$metadata/$model", "value": MODEL}],
        [{"op": "add", "path": "/c", "value": {"$metadata": {"target": {"desiredValue": 21.5, "desiredVersion": 2}}}}],
        [
            {"op": "add", "path": "/$metadata/s", "value": {"lastUpdateTime": at}},
            {"op": "add", "path": f"{place}/ackCode", "value": 200},
            {"op": "add", "path": f"{place}/ackVersion", "value": 2},
            {"op": "add", "path": f"{place}/lastUpdateTime", "value": at},
            {"op": "add", "path": "/c/target", "value": 21.5},
            {"op": "add", "path": "/s", "value": "x"},
        ],
        [{"op": "remove", "path": f"{place}/desiredValue"}, {"op": "remove", "path": f"{place}/desiredVersion"}],
        [{"op": "replace", "path": "/$metadata/$model", "value": ""}],
    ]


async def test_402_a_change_of_both_twins_is_told_of_the_twin_first(hub: MethodHub) -> None:
    await create(hub.rest)
    await hub.mqtt.unclaimed.report(KEY, {"a": 1})
    sources = [event["annotations"]["iothub-message-source"] for event in await hub.mqtt.events("d")]
    assert sources == ["deviceLifecycleEvents", "twinChangeEvents", "digitalTwinChangeEvents"]


async def test_403_a_module_has_a_digital_twin_of_its_own(hub: MethodHub) -> None:
    await hub.mqtt.key("d")
    await hub.mqtt.key("d", "m")
    patch = [{"op": "add", "path": "/p", "value": 1}]
    assert (await hub.rest.call("PATCH", "/digitaltwins/d/modules/m", patch)).status == 202
    (event,) = await of(hub, "digitalTwinChangeEvents")
    assert stripped(event) == form(hub, "digitalTwinChangeEvents", "digitalTwinChangeNotification", "updateTwin", "m")


# --- 5: what is no event


async def test_501_refused_and_empty_changes(hub: MethodHub) -> None:
    await create(hub.rest)
    call = hub.rest.call
    assert (await call("PUT", "/devices/d", {"deviceId": "d"})).status == 409
    assert (await call("DELETE", "/devices/d", If_Match="MQ==")).status == 412
    assert (await call("PATCH", "/twins/d", {"tags": {"a.b": 1}})).status == 400
    assert (await call("PATCH", "/twins/d", {"tags": {"a": 1}}, If_Match="AAAAAAAAAAk=")).status == 412
    assert (await call("PATCH", "/twins/d", {})).status == 200
    assert (await call("PATCH", "/digitaltwins/d", [{"op": "add", "path": "/a", "value": [1]}])).status == 400
    assert (await call("PATCH", "/digitaltwins/d", [{"op": "remove", "path": "/a"}])).status == 202
    with pytest.raises(HubError):
        await hub.mqtt.unclaimed.report(KEY, {"a": 1}, version=9)
    await hub.mqtt.unclaimed.report(KEY, {})
    assert len(await hub.mqtt.events("d")) == 1, "the device was created, and nothing else happened"


ALL_OF_IT = {
    Source.TWIN: "twinChangeEvents",
    Source.LIFECYCLE: "deviceLifecycleEvents",
    Source.CONNECTION: "deviceConnectionStateEvents",
    Source.DIGITAL_TWIN: "digitalTwinChangeEvents",
}


async def everything(hub: MethodHub) -> set[str]:
    """Do something of every kind; the sources that were heard of."""
    client = await hub.mqtt.device("d")
    await client.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", b'{"a":1}'))
    await client.expect("PUBACK")
    await hub.mqtt.twins.replace(KEY, {"a": 1}, {"b": 1})
    await hub.mqtt.registry.delete(KEY, ANY)
    await client.expect_end()
    return {event["annotations"]["iothub-message-source"] for event in await hub.mqtt.events("d")}


@pytest.mark.parametrize("source", Source)
async def test_502_each_kind_is_switched_on_by_itself(hub_with: Maker, source: Source) -> None:
    async with hub_with(source) as hub:
        assert await everything(hub) == {ALL_OF_IT[source]}


@pytest.mark.embedded("hub.db tells by its numbers whether there ever was a row")
async def test_503_without_any_nothing_is_written(hub_with: Maker, tmp_path: Path) -> None:
    async with hub_with() as hub:
        assert await everything(hub) == set()
        assert hub.mqtt.telemetry.commits == 0
        numbers = "SELECT count(*) FROM sqlite_sequence WHERE name != 'audit'"
        with contextlib.closing(open_connection(tmp_path / "hub.db", readonly=True)) as connection:
            assert connection.execute(numbers).get == 0, "no row ever"


# --- 6: order, and trouble


async def test_601_events_stand_among_the_telemetry_of_the_device(hub: MethodHub) -> None:
    client = await hub.mqtt.device("d")
    assert len(await hub.mqtt.events("d")) == 2, "that it was created, and has connected"
    for n in range(3):
        await client.send(publish("devices/d/messages/events/", b"%d" % n, packet_id=n + 1))
        await client.expect("PUBACK")
        await hub.mqtt.twins.patch(KEY, {"n": n}, None)
        assert len(await of(hub, "twinChangeEvents")) == n + 1
    kinds = [message["annotations"]["iothub-message-source"] for message in await hub.mqtt.messages("d")]
    assert kinds[2:] == ["Telemetry", "twinChangeEvents"] * 3


async def test_602_a_disk_that_fails_delays_events_and_no_more(hub: MethodHub) -> None:
    await create(hub.rest)
    assert len(await hub.mqtt.events("d")) == 1
    hub.mqtt.log.failure = HubError(SERVER_ERROR, "the disk is full")
    failed = hub.mqtt.telemetry.failed_commits
    for n in range(3):
        await hub.mqtt.twins.patch(KEY, {"n": n}, None)
    await hub.mqtt.settled(lambda: hub.mqtt.telemetry.failed_commits > failed)
    hub.mqtt.log.failure = None
    hub.ambient.advance(RETRY_SECONDS)
    told = [body["tags"]["n"] for _, body in await bodies(hub, "twinChangeEvents")]
    assert told == [0, 1, 2]


async def test_603_what_the_log_cannot_take_waits_on_disk(hub: MethodHub) -> None:
    client = await hub.mqtt.device("d")
    assert len(await hub.mqtt.events("d")) == 2
    hub.mqtt.log.held = True
    size = 200_000
    for n in range(MAX_PENDING_BYTES // size + 2):
        await client.send(publish("devices/d/messages/events/", b"x" * size, packet_id=n + 1))
    await hub.mqtt.settled(lambda: hub.mqtt.telemetry.congested)
    pending = hub.mqtt.telemetry.pending_bytes
    for n in range(50):
        await hub.mqtt.twins.patch(KEY, {"n": n}, None)
    assert hub.mqtt.telemetry.pending_bytes == pending
    assert len(await hub.mqtt.untold.take(0, 99, 1 << 20)) == 50
    hub.mqtt.log.release()
    assert [body["tags"]["n"] for _, body in await bodies(hub, "twinChangeEvents")] == list(range(50))
    for n in range(MAX_PENDING_BYTES // size + 2):
        assert (await client.expect("PUBACK")).packet_id == n + 1
    await alive(client)


async def test_604_what_an_earlier_run_left_is_told_also_with_events_off(hub_with: Maker) -> None:
    async with hub_with(Source.TWIN) as hub:
        await create(hub.rest)
        await hub.mqtt.events("d")
        hub.mqtt.log.failure = HubError(SERVER_ERROR, "the disk is full")
        await hub.mqtt.twins.patch(KEY, {"n": 1}, None)
        await hub.mqtt.relay.close()
        assert await hub.mqtt.messages("d") == []
    async with hub_with() as hub:
        assert [body["tags"] for _, body in await bodies(hub, "twinChangeEvents")] == [{"n": 1}]


async def test_605_the_largest_twin_fits_an_event(hub: MethodHub) -> None:
    await create(hub.rest)
    many = {f"k{n:04}": n for n in range(2500)}
    await hub.mqtt.unclaimed.report(KEY, many)
    await hub.mqtt.twins.replace(KEY, {f"t{n:03}": n for n in range(680)}, many)
    (_, update), (_, whole) = await bodies(hub, "twinChangeEvents")
    assert update["properties"]["reported"].keys() - {"$metadata", "$version"} == many.keys()
    for part in ("desired", "reported"):
        assert whole["properties"][part].keys() - {"$metadata", "$version"} == many.keys()


async def test_606_many_devices_at_once_each_in_its_own_order(hub: MethodHub) -> None:
    reports, names = 5, [f"d{n}" for n in range(20)]

    async def live(name: str) -> None:
        key = IdentityKey(name)
        client = await hub.mqtt.device(name)
        for n in range(reports):
            body = b'{"n":%d}' % n
            await client.send(publish("$iothub/twin/PATCH/properties/reported/?$rid=1", body, packet_id=n + 1))
            await asyncio.gather(client.expect("PUBACK"), hub.mqtt.twins.patch(key, {"n": n}, None))
        await hub.mqtt.registry.delete(key, ANY)
        await client.expect_end()

    await asyncio.gather(*map(live, names))
    for name in names:
        events = [(e["properties"]["opType"], json.loads(e["body"])) for e in await hub.mqtt.events(name)]
        told = [op for op, _ in events if op != "updateTwin"]
        assert told == ["createDeviceIdentity", "deviceConnected", "deleteDeviceIdentity", "deviceDisconnected"]
        versions = [body["version"] for op, body in events if op == "updateTwin" and isinstance(body, dict)]
        assert versions == list(range(3, 3 + 2 * reports))
        assert events[-2][1]["version"] == versions[-1], "the twin as it was in the end"
