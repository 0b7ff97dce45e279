"""File upload as a device sees it: a place is asked for, the file is sent, the end is reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from file_hub import FileHub, file_hub, storage_error
from hub_rest import token

from muster.core.errors import SERVER_ERROR, UNAVAILABLE, HubError
from muster.core.limits import Profile
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity.changes import ANY, Draft
from muster.identity.keys import Credentials
from muster.identity.model import AuthenticationType, IdentityKey, Status
from muster.identity.verdict import Right
from muster.stores.postgres.uploads import PostgresUploadStore
from muster.stores.sqlite.uploads import SqliteUploadStore
from muster.testing.clock import VirtualAmbient
from tests.certificate_maker import Maker


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[FileHub]:
    async with file_hub(tmp_path) as hub:
        yield hub


async def test_1_a_file_is_sent_reported_and_announced(hub: FileHub) -> None:
    place = await hub.begin("a/b c.txt")
    assert (await hub.put(place, b"hello", Content_Type="text/plain")).status == 201
    answer = await hub.report(place.correlation_id)
    assert (answer.status, answer.body) == (204, b"")
    [notice] = hub.notices.kept
    assert (notice.device_id, notice.blob_name, notice.enqueued) == ("d", "d/a/b c.txt", hub.ambient.now())
    assert notice.file == (f"https://localhost:{hub.port}/muster-uploads/d/a/b%20c.txt", 5, hub.ambient.now())
    assert (await hub.get(place)).body == b"hello"


async def test_2_node_reports_with_the_id_in_the_path(hub: FileHub) -> None:
    place = await hub.begin()
    await hub.put(place, b"hello")
    path = f"/devices/d/files/notifications/{place.correlation_id}"
    answer = await hub.as_device("POST", path, {"isSuccess": True, "statusCode": 201, "statusDescription": None})
    assert answer.status == 204
    assert len(hub.notices.kept) == 1


async def test_3_a_failed_upload_gives_the_slot_back_and_announces_nothing(hub: FileHub) -> None:
    place = await hub.begin()
    assert (await hub.report(place.correlation_id, isSuccess=False, statusCode=-1)).status == 204
    assert hub.notices.kept == []
    assert (await hub.report(place.correlation_id, isSuccess=False)).error == "InvalidFileUploadCorrelationId"


async def test_4_a_report_counts_once_however_often_it_comes(hub: FileHub) -> None:
    place = await hub.begin()
    await hub.put(place, b"hello")
    answers = await asyncio.gather(*(hub.report(place.correlation_id) for _ in range(5)))
    assert sorted(answer.status for answer in answers) == [204, 400, 400, 400, 400]
    assert len(hub.notices.kept) == 1


async def test_5_success_without_a_file_is_refused_and_can_be_mended(hub: FileHub) -> None:
    place = await hub.begin()
    assert (await hub.report(place.correlation_id)).error == "InvalidStorageEndpointOrBlob"
    await hub.put(place, b"hello")
    hub.notices.failure = HubError(UNAVAILABLE)
    assert (await hub.report(place.correlation_id)).status == 503, "and nothing is lost"
    assert (await hub.report(place.correlation_id)).status == 204
    assert len(hub.notices.kept) == 1


async def test_5_1_a_slot_that_could_not_be_given_up_lets_the_device_report_again(
    hub: FileHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the file is announced with the report that gives it up."""

    async def fail(*_: object) -> bool:
        raise HubError(SERVER_ERROR)

    place = await hub.begin()
    await hub.put(place, b"hello")
    for store in (SqliteUploadStore, PostgresUploadStore):
        monkeypatch.setattr(store, "end", fail)
    assert (await hub.report(place.correlation_id)).status == 500
    monkeypatch.undo()
    assert (await hub.report(place.correlation_id)).status == 204
    assert len(hub.notices.kept) == 1


@pytest.mark.parametrize(
    ("members", "error"),
    [
        ({"correlationId": None}, "InvalidFileUploadCorrelationId"),
        ({"correlationId": 7}, "InvalidFileUploadCorrelationId"),
        ({"correlationId": "nobody's"}, "InvalidFileUploadCorrelationId"),
        ({"correlationId": "é€"}, "InvalidFileUploadCorrelationId"),
        ({"correlationId": "\ud800"}, "InvalidFileUploadCorrelationId"),
        ({"isSuccess": None}, "InvalidFileUploadCompletionStatus"),
        ({"isSuccess": "true"}, "InvalidFileUploadCompletionStatus"),
        ({"statusCode": "200"}, "InvalidFileUploadCompletionStatus"),
        ({"statusCode": 1.5}, "InvalidFileUploadCompletionStatus"),
        ({"statusCode": True}, "InvalidFileUploadCompletionStatus"),
    ],
)
async def test_6_a_wrong_report_names_what_is_wrong(hub: FileHub, members: dict[str, Any], error: str) -> None:
    place = await hub.begin()
    answer = await hub.report(place.correlation_id, **members)
    assert (answer.status, answer.error) == (400, error)
    assert next(iter(members)) in answer.message
    assert (await hub.report(place.correlation_id, isSuccess=False)).status == 204, "the slot is still there"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("x", 200), ("a.b/c..d/..e", 200), ("ü €/%2F?#+ '", 200), ("x" * 1022, 200), ("x" * 1023, 400), ("", 400),
        (".", 400), ("..", 400), ("a/../b", 400), ("../e/x", 400), ("a//b", 400), ("/a", 400), ("a/", 400),
        ("a/./b", 400), ("a\\b", 400), ("a\nb", 400), ("a\x00", 400), ("\x7f", 400), ("\ud800", 400),
        (7, 400), (None, 400),
    ],
)  # fmt: skip
async def test_7_names_that_some_client_would_turn_into_others_are_refused(
    hub: FileHub, name: Any, status: int
) -> None:
    answer = await hub.as_device("POST", "/devices/d/files", {"blobName": name})
    assert answer.status == status
    if status == 400:
        assert answer.error == ("ArgumentNull" if name is None else "ArgumentInvalid")
        assert "blobName" in answer.message
    else:
        assert answer.json["blobName"] == f"d/{name}"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"'])
async def test_8_a_body_that_is_no_object_is_refused(hub: FileHub, body: bytes) -> None:
    for path in ("/devices/d/files", "/devices/d/files/notifications"):
        answer = await hub.call(
            "POST", path, data=body, Authorization=await hub.device_token("d"), Content_Type="application/json"
        )
        assert answer.status == 400
        assert answer.error in {
            "ArgumentNull",
            "IotHubFormatError",
            "ArgumentInvalid",
            "InvalidFileUploadCorrelationId",
        }


async def test_9_ten_uploads_at_once_with_the_cloud_s_limits(tmp_path: Path) -> None:
    async with file_hub(tmp_path, profile=Profile.AZURE) as hub:
        places = [await hub.begin(f"f{number}") for number in range(10)]
        answer = await hub.as_device("POST", "/devices/d/files", {"blobName": "x"})
        assert (answer.status, answer.error) == (403, "DeviceMaximumActiveFileUploadLimitExceeded")
        assert "cannot exceed 10" in answer.message
        await hub.begin(device_id="e")
        await hub.report(places[0].correlation_id, isSuccess=False)
        await hub.begin("again")
        assert (await hub.as_device("POST", "/devices/d/files", {"blobName": "x"})).status == 403
        hub.ambient.advance(3600)
        await hub.begin("an hour later")


async def test_10_more_than_ten_with_ours(hub: FileHub) -> None:
    for number in range(12):
        await hub.begin(f"f{number}")


async def test_11_a_slot_lapses_with_its_sas(hub: FileHub) -> None:
    place = await hub.begin()
    await hub.put(place, b"hello")
    hub.ambient.advance(3599)
    other = await hub.begin("other")
    assert (await hub.put(place, b"again")).status == 201
    hub.ambient.advance(1)
    assert storage_error(await hub.put(place, b"late")) == (403, "AuthenticationFailed")
    for _ in range(2):
        answer = await hub.report(place.correlation_id)
        assert (answer.status, answer.error) == (400, "ExpiredFileUploadCorrelationId")
    assert (await hub.report(other.correlation_id, isSuccess=False)).status == 204
    assert hub.notices.kept == []


async def test_12_slots_survive_a_restart_and_lapse_after_it(tmp_path: Path) -> None:
    ambient = VirtualAmbient()
    async with file_hub(tmp_path, profile=Profile.AZURE) as hub:
        places = [await hub.begin(f"f{number}") for number in range(10)]
        await hub.put(places[0], b"hello")
    async with file_hub(tmp_path, profile=Profile.AZURE, ambient=ambient) as hub:
        assert (await hub.as_device("POST", "/devices/d/files", {"blobName": "x"})).status == 403
        assert (await hub.get(places[0])).body == b"hello"
        assert (await hub.report(places[0].correlation_id)).status == 204
        ambient.advance(3600)
        assert (await hub.report(places[1].correlation_id)).error == "ExpiredFileUploadCorrelationId"


async def test_13_deleting_the_device_drops_its_slots(tmp_path: Path) -> None:
    async with file_hub(tmp_path, profile=Profile.AZURE) as hub:
        places = [await hub.begin(f"f{number}") for number in range(10)]
        await hub.registry.delete(IdentityKey("d"), ANY)
        for number in range(10):
            await hub.begin(f"anew{number}")
        answer = await hub.report(places[0].correlation_id)
        assert (answer.status, answer.error) == (400, "InvalidFileUploadCorrelationId")


async def test_14_a_slot_is_its_device_s_alone(hub: FileHub) -> None:
    place = await hub.begin()
    await hub.put(place, b"hello")
    answer = await hub.report(place.correlation_id, device_id="e")
    assert (answer.status, answer.error) == (400, "InvalidFileUploadCorrelationId")
    assert (await hub.report(place.correlation_id)).status == 204


async def test_15_a_hub_without_storage_says_so(tmp_path: Path) -> None:
    async with file_hub(tmp_path, storage=lambda _: None) as hub:
        for path, body in (
            ("/devices/d/files", {"blobName": "x"}),
            ("/devices/d/files/notifications", {"correlationId": "x", "isSuccess": True}),
        ):
            answer = await hub.as_device("POST", path, body)
            assert (answer.status, answer.error) == (400, "DefaultStorageEndpointNotConfigured")


async def test_16_services_are_told_only_where_that_is_switched_on(tmp_path: Path) -> None:
    async with file_hub(tmp_path, told=False) as hub:
        place = await hub.begin()
        await hub.put(place, b"hello")
        assert (await hub.report(place.correlation_id)).status == 204
        assert hub.notices.kept == []


# --- who may


async def begin_with(hub: FileHub, authorization: str, path: str = "/devices/d/files") -> tuple[int, str, str]:
    """Status, error and the cause that was kept under the answer's tracking id."""
    await hub.key("d")
    headers = {"Authorization": authorization} if authorization else {}
    answer = await hub.call("POST", path, {"blobName": "x"}, **headers)
    if answer.status == 200:
        return 200, "", ""
    tracking_id = answer.json["ExceptionMessage"].removeprefix("Tracking ID:")
    kept = await hub.refusals.find(tracking_id)
    assert kept is not None, "what the wire does not say is kept"
    assert kept.report["transport"] == "https"
    return answer.status, answer.error, str(kept.report["cause"])


async def test_20_the_device_itself_may_and_policies_with_device_connect(hub: FileHub) -> None:
    assert (await begin_with(hub, await hub.device_token("d")))[0] == 200
    for policy in ("iothubowner", "device"):
        assert (await begin_with(hub, token(policy)))[0] == 200
        assert (await begin_with(hub, token(policy, "localhost/devices/d")))[0] == 200


async def test_21_nobody_else_may(hub: FileHub) -> None:
    unauthorized = 401, "IotHubUnauthorized"
    await hub.key("d", "m")
    assert await begin_with(hub, await hub.device_token("e")) == (*unauthorized, "device-mismatch")
    assert await begin_with(hub, await hub.device_token("d", "m")) == (*unauthorized, "module-token-for-device")
    for policy in ("service", "registryRead", "registryReadWrite"):
        assert await begin_with(hub, token(policy)) == (*unauthorized, "policy-lacks-right")
    assert await begin_with(hub, "") == (*unauthorized, "no-token")
    assert await begin_with(hub, "Bearer x.y.z") == (*unauthorized, "bearer-token")
    assert (await begin_with(hub, await hub.device_token("d", seconds=-301)))[:2] == unauthorized
    assert (await begin_with(hub, await hub.device_token("d", seconds=-299)))[0] == 200, "clocks may differ"


async def test_22_an_unknown_and_a_disabled_device(hub: FileHub) -> None:

    answer = await hub.call("POST", "/devices/nobody/files", {"blobName": "x"}, Authorization=token())
    assert (answer.status, answer.error) == (404, "DeviceNotFound")
    assert (await begin_with(hub, token(), "/devices/nobody/files"))[2] == "device-unknown"
    authorization = await hub.device_token("d")
    await hub.registry.update(Draft(key=IdentityKey("d"), status=Status.DISABLED), ANY)
    assert (await begin_with(hub, authorization))[:2] == (403, "DeviceDisabled")


async def test_23_without_an_api_version_the_caller_is_not_even_judged(hub: FileHub) -> None:
    answer = await hub.call("POST", "/devices/d/files", {"blobName": "x"}, query="")
    assert (answer.status, answer.error) == (400, "InvalidProtocolVersion")


async def test_24_operations_of_modules_are_guarded_alike(tmp_path: Path) -> None:
    seen: list[tuple[str, IdentityKey, str]] = []

    async def handle(call: Call) -> Response:
        assert call.verdict is not None
        seen.append((call.caller, call.identity, call.verdict.auth_method))
        return Response(status=204)

    more = [Operation("POST", "/devices/{device_id}/modules/{module_id}/x", Right.DEVICE_CONNECT, handle)]
    async with file_hub(tmp_path, more=more) as hub:
        await hub.key("d")
        path = "/devices/d/modules/m/x"
        assert (await hub.call("POST", path, Authorization=await hub.device_token("d", "m"))).status == 204
        assert (await hub.call("POST", path, Authorization=token("device"))).status == 204
        for wrong in (await hub.device_token("d"), await hub.device_token("d", "n"), token("service")):
            assert (await hub.call("POST", path, Authorization=wrong)).status == 401
        answer = await hub.call("POST", "/devices/d/modules/o/x", Authorization=token("device"))
        assert (answer.status, answer.error) == (404, "ModuleNotFound")
    assert [(caller, key) for caller, key, _ in seen] == [("d/m", IdentityKey("d", "m"))] * 2
    assert ['"module"' in method for _, _, method in seen] == [True, False]


async def test_25_a_device_with_a_certificate_needs_no_token(hub: FileHub, tmp_path: Path) -> None:
    make = Maker(hub.ambient.now())
    own, other = make.issue("cert", None), make.issue("cert", None)
    credentials = Credentials(AuthenticationType.SELF_SIGNED, primary_thumbprint=own.sha256)
    await hub.registry.create(Draft(key=IdentityKey("cert"), credentials=credentials))
    refused = await hub.call("POST", "/devices/cert/files", {"blobName": "x"})
    assert (refused.status, refused.error) == (401, "IotHubUnauthorized")
    for shown, status in ((own, 200), (other, 401)):
        path = tmp_path / "client.pem"
        path.write_bytes(shown.pem + shown.key_pem)
        hub.trust.load_cert_chain(path)
        await hub.session.close()  # a connection that is kept shows what it began with
        async with aiohttp.ClientSession() as hub.session:
            assert (await hub.call("POST", "/devices/cert/files", {"blobName": "x"})).status == status
