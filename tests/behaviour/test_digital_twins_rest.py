"""Plug and play over real sockets: REST on one side, a device that speaks MQTT over TLS on the other.

1. The model that a device announces as it connects is kept with its twin: another one replaces it, none removes it.
2. An unchanged model costs no write.
3. The digital twin shows desired and reported properties by the conventions.
4. A JSON Patch becomes desired properties, of which the device hears; what is refused changes nothing.
5. A command is a method, that of a component ``component*command``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hub_rest import token
from method_hub import MethodHub, answer_packet, expect_request, method_hub, refusal
from mqtt_hub import ends_silently

from muster.core.limits import MODEL_ID_CHARACTERS
from muster.dialect.twin_bodies import twin_body
from muster.identity.changes import ANY, Draft
from muster.identity.model import IdentityKey, Status
from muster.stores.sqlite.database import Writer
from muster.testing.mqtt import MqttClient, subscribe

MODEL, OTHER = "dtmi:com:example:Thermostat;1", "dtmi:com:example:Thermostat;2"
KEY = IdentityKey("d")
DESIRED = "$iothub/twin/PATCH/properties/desired/#"
PATCH = [{"op": "add", "path": "/c/target", "value": 21.5}, {"op": "add", "path": "/p", "value": {"a": 1}}]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[MethodHub]:
    async with method_hub(tmp_path) as running:
        yield running


async def announced(hub: MethodHub, model: str, module_id: str | None = None) -> MqttClient:
    """A device that connects and names its model, percent-encoded or not."""
    client = await hub.mqtt.open()
    name, user, password = await hub.mqtt.login("d", module_id)
    assert await client.connect(name, f"{user}&model-id={model}", password) == (False, 0)
    return client


async def model_of(hub: MethodHub, module_id: str | None = None) -> str:
    """As the twin's body and the digital twin say it."""
    key = IdentityKey("d", module_id)
    registry = hub.mqtt.registry
    body = json.loads(twin_body(await registry.get(key), await hub.mqtt.twins.get(key), await registry.activity(key)))
    path = "/digitaltwins/d" if module_id is None else f"/digitaltwins/d/modules/{module_id}"
    assert (await hub.rest.call("GET", path)).json["$metadata"]["$model"] == body["modelId"]
    return str(body["modelId"])


# --- 1 and 2: the model


async def test_the_model_of_the_last_connection_is_kept(hub: MethodHub) -> None:
    await announced(hub, "dtmi%3Acom%3Aexample%3AThermostat%3B1")
    assert await model_of(hub) == MODEL
    version = (await hub.mqtt.twins.get(KEY)).version
    await announced(hub, OTHER)
    assert await model_of(hub) == OTHER
    await hub.mqtt.device("d")
    assert await model_of(hub) == ""
    twin = await hub.mqtt.twins.get(KEY)
    assert (twin.version, twin.revision) == (version, 1)


async def test_a_module_has_a_model_of_its_own(hub: MethodHub) -> None:
    await announced(hub, MODEL)
    await announced(hub, OTHER, "m")
    assert (await model_of(hub), await model_of(hub, "m")) == (MODEL, OTHER)


async def test_a_model_goes_with_the_identity(hub: MethodHub) -> None:
    await announced(hub, MODEL)
    await hub.mqtt.registry.delete(KEY, ANY)
    await hub.mqtt.registry.create(Draft(key=KEY))
    assert await model_of(hub) == ""


async def test_an_unchanged_model_costs_no_write(hub: MethodHub, monkeypatch: pytest.MonkeyPatch) -> None:
    await announced(hub, MODEL)
    await hub.mqtt.device("e")

    def written(*_: object) -> None:
        raise AssertionError("something was written")

    monkeypatch.setattr(Writer, "call", written)
    client = await hub.mqtt.open()
    name, user, password = await hub.mqtt.login("d")
    assert await client.connect(name, f"{user}&model-id={MODEL}", password) == (False, 0)
    await hub.mqtt.device("e")


async def test_a_model_id_may_not_be_endless(hub: MethodHub) -> None:
    client = await hub.mqtt.open()
    name, user, password = await hub.mqtt.login("d")
    code = await client.connect(name, f"{user}&model-id={'m' * (MODEL_ID_CHARACTERS.open + 1)}", password)
    assert code == (False, 5)
    await ends_silently(client)
    assert await hub.mqtt.last_cause() == "user-name"
    assert await model_of(hub) == ""


async def test_a_device_that_is_refused_announces_nothing(hub: MethodHub) -> None:
    client = await hub.mqtt.open()
    name, user, _ = await hub.mqtt.login("d")
    assert (await client.connect(name, f"{user}&model-id={MODEL}", "wrong"))[1] == 5
    assert await model_of(hub) == ""


@pytest.mark.parametrize("deleted", [True, False])
async def test_who_loses_the_ground_while_the_model_is_written_is_not_let_in(
    hub: MethodHub, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    registry, announce = hub.mqtt.registry, hub.mqtt.twins.announce
    client = await hub.mqtt.open()
    name, user, password = await hub.mqtt.login("d")

    async def meanwhile(key: IdentityKey, model_id: str | None) -> bool:
        if deleted:
            await registry.delete(key, ANY)
        else:
            await registry.update(Draft(key=key, status=Status.DISABLED), ANY)
        return await announce(key, model_id)

    monkeypatch.setattr(hub.mqtt.twins, "announce", meanwhile)
    assert (await client.connect(name, f"{user}&model-id={MODEL}", password))[1] == 5
    await ends_silently(client)
    assert not hub.mqtt.sessions.is_connected(KEY)
    assert await hub.mqtt.last_cause() == ("device-unknown" if deleted else "device-disabled")


# --- 3 and 4: reading and patching


async def test_a_patch_reaches_the_device_and_its_answer_the_view(hub: MethodHub) -> None:
    client = await announced(hub, MODEL)
    await client.send(subscribe(1, [(DESIRED, 0)]))
    await client.expect("SUBACK")
    answer = await hub.rest.call("PATCH", "/digitaltwins/d", PATCH)
    assert (answer.status, answer.body) == (202, b"")
    assert answer.headers["Location"] == "/digitaltwins/d"
    body = (await client.expect("PUBLISH")).body
    told = json.loads(body[2 + int.from_bytes(body[:2], "big") :])
    assert told == {"c": {"__t": "c", "target": 21.5}, "p": {"a": 1}, "$version": 2}

    acknowledged = {"value": 21.5, "ac": 200, "av": 2, "ad": "done"}
    await hub.mqtt.twins.report(KEY, {"c": {"__t": "c", "target": acknowledged}, "serial": "s"})
    read = await hub.rest.call("GET", "/digitaltwins/d")
    assert read.status == 200
    assert read.headers["Content-Type"] == "application/json; charset=utf-8"
    assert read.headers["ETag"] == answer.headers["ETag"]
    seen = read.json
    assert seen["$dtId"] == "d"
    assert seen["$metadata"]["p"] == {"desiredValue": {"a": 1}, "desiredVersion": 2}
    updated = seen["c"]["$metadata"]["target"].pop("lastUpdateTime")
    assert seen["c"] == {
        "target": 21.5,
        "$metadata": {
            "target": {
                "desiredValue": 21.5, "desiredVersion": 2, "ackVersion": 2, "ackCode": 200, "ackDescription": "done",
            }
        },
    }  # fmt: skip
    assert seen["serial"] == "s"
    assert seen["$metadata"]["serial"] == {"lastUpdateTime": updated}


async def test_if_match_is_looked_at(hub: MethodHub) -> None:
    await hub.mqtt.key("d")
    etag = (await hub.rest.call("GET", "/digitaltwins/d")).headers["ETag"]
    for given in (etag, '"*"', "*"):
        answer = await hub.rest.call("PATCH", "/digitaltwins/d", PATCH, If_Match=given)
        assert answer.status == 202
        assert answer.headers["ETag"] != etag
    before = await hub.mqtt.twins.get(KEY)
    answer = await hub.rest.call("PATCH", "/digitaltwins/d", PATCH, If_Match=etag)
    assert (answer.status, answer.error) == (412, "PreconditionFailed")
    assert await hub.mqtt.twins.get(KEY) == before


async def test_java_patches_by_post_and_others_name_the_type_of_the_patch(hub: MethodHub) -> None:
    await hub.mqtt.key("d")
    named = "application/json-patch+json; charset=utf-8"
    assert (await hub.rest.call("PATCH", "/digitaltwins/d", PATCH, Content_Type=named)).status == 202
    assert (await hub.rest.call("PATCH", "/digitaltwins/d", PATCH, Content_Type="text/plain")).status == 415
    assert (await hub.rest.call("POST", "/digitaltwins/d", PATCH, X_HTTP_Method_Override="PATCH")).status == 202


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"op": "add"}, 400, "InvalidDigitalTwinJsonPatch"),
        ([{"op": "move", "path": "/a", "from": "/b"}], 400, "InvalidDigitalTwinJsonPatch"),
        ([{"op": "add", "path": "/a", "value": [1]}], 400, "InvalidDigitalTwinPayload"),
        ([{"op": "add", "path": "/plain/a", "value": 1}], 400, "ArgumentInvalid"),
        ([{"op": "add", "path": "/c", "value": 1}], 400, "InvalidDigitalTwinPatch"),
        ([{"op": "add", "path": "/$dtId", "value": "x"}], 400, "InvalidDigitalTwinPatchPath"),
        ([{"op": "add", "path": "/a", "value": "x" * 4097}], 400, "ArgumentInvalid"),
        ([{"op": "add", "path": f"/a{n}", "value": "x" * 4000} for n in range(9)], 413, "MessageTooLarge"),
        ([PATCH[0], {"op": "add", "path": "/a", "value": 1 << 60}], 400, "ArgumentInvalid"),
    ],
)
async def test_what_is_refused_changes_nothing(hub: MethodHub, body: Any, status: int, error: str) -> None:
    await hub.mqtt.key("d")
    await hub.mqtt.twins.patch(KEY, None, {"plain": {"x": 1}, "c": {"__t": "c"}})
    before = await hub.mqtt.twins.get(KEY)
    answer = await hub.rest.call("PATCH", "/digitaltwins/d", body)
    assert (answer.status, answer.error) == (status, error)
    assert await hub.mqtt.twins.get(KEY) == before


async def test_who_may_and_what_must_be_there(hub: MethodHub) -> None:
    await hub.mqtt.key("d")
    for method, body in (("GET", None), ("PATCH", PATCH)):
        assert (await hub.rest.call(method, "/digitaltwins/x", body)).error == "DeviceNotFound"
        assert (await hub.rest.call(method, "/digitaltwins/d/modules/m", body)).error == "ModuleNotFound"
        answer = await hub.rest.call(method, "/digitaltwins/d", body, Authorization=token("registryReadWrite"))
        assert answer.error == "IotHubUnauthorizedAccess"
    assert (await hub.rest.call("PATCH", "/digitaltwins/d", data=b"[")).error == "IotHubFormatError"
    assert (await hub.rest.call("PUT", "/digitaltwins/d", PATCH)).status == 405


# --- 5: commands


@pytest.mark.parametrize(
    ("place", "name"), [("commands/reboot", "reboot"), ("components/thermostat1/commands/get", "thermostat1*get")]
)
@pytest.mark.parametrize("module_id", [None, "m"])
async def test_a_command_is_a_method(hub: MethodHub, place: str, name: str, module_id: str | None) -> None:
    client = await hub.device("d", module_id)
    root = "/digitaltwins/d" if module_id is None else f"/digitaltwins/d/modules/{module_id}"
    for body, sent in ((None, b"null"), ({"since": [1]}, b'{"since":[1]}'), ("text", b'"text"')):
        call = hub.begin_rest("POST", f"{root}/{place}", body)
        asked, request_id, payload = await expect_request(client)
        assert (asked, payload) == (name, sent)
        await client.send(answer_packet(request_id, 207, b'{"max": 1.50}'))
        answer = await call
        assert (answer.status, answer.body) == (200, b'{"max": 1.50}'), "as the device wrote it"
        assert answer.headers["x-ms-command-statuscode"] == "207"
        assert answer.headers["x-ms-request-id"]


async def test_commands_end_as_methods_do(hub: MethodHub) -> None:
    path, query = "/digitaltwins/d/commands/c", "api-version=2021-04-12"
    await hub.mqtt.key("d")
    assert refusal(await hub.rest.call("POST", path))[:2] == (404, 404103)
    assert refusal(await hub.rest.call("POST", "/digitaltwins/x/commands/c"))[:2] == (404, 404001)
    assert refusal(await hub.rest.call("POST", "/digitaltwins/d/modules/m/commands/c"))[:2] == (404, 404010)
    assert refusal(await hub.rest.call("POST", f"{path}()"))[:2] == (400, 400004)
    assert refusal(await hub.rest.call("POST", path, "x" * 131_071))[:2] == (413, 413001)
    for name, value in (
        ("response", "4"),
        ("response", "301"),
        ("connect", "-1"),
        ("connect", "301"),
        ("connect", "x"),
    ):
        answer = await hub.rest.call("POST", path, query=f"{query}&{name}TimeoutInSeconds={value}")
        status, code, told = refusal(answer)
        assert (status, code) == (400, 400004)
        assert f"{name}TimeoutInSeconds" in told["message"]
    answer = await hub.rest.call("POST", path, Authorization=token("registryReadWrite"))
    assert refusal(answer)[:2] == (401, 401002)


async def test_a_command_waits_for_the_device_and_for_its_answer(hub: MethodHub) -> None:
    await hub.mqtt.key("d")
    query = "api-version=2021-04-12&connectTimeoutInSeconds=60&responseTimeoutInSeconds=7"
    call = hub.begin_rest("POST", "/digitaltwins/d/commands/c", {}, query=query)
    await hub.waiting()
    client = await hub.device()
    assert (await expect_request(client))[0] == "c"
    hub.ambient.advance(7)
    assert refusal(await call)[:2] == (504, 504101)
