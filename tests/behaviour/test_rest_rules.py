"""What holds for every REST call: who may, api-versions, methods, paths, the shape of errors, health."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hub_rest import API, POLICIES, RestHub, rest_hub, token

from muster.heads.http.messages import Response, StreamResponse
from muster.heads.http.operations import Call, Operation
from muster.identity.policies import SharedAccessPolicy
from muster.identity.verdict import Right

TRACKING = r"[0-9a-f]{32}-G:\d+-TimeStamp:\d\d/\d\d/\d{4} \d\d:\d\d:\d\d"


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RestHub]:
    async with rest_hub(tmp_path) as hub:
        yield hub


def fields_of(head: bytes) -> dict[str, str]:
    """The header fields of an answer's head."""
    return dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if line)  # type: ignore[misc]


async def test_1_an_error_looks_byte_for_byte_as_on_the_service(hub: RestHub) -> None:
    answer = await hub.raw(
        b"GET /devices/ghost?" + API.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        b"Authorization: " + token().encode() + b"\r\n\r\n"
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 Not Found\r\n")
    fields = fields_of(head)
    assert fields["Content-Type"] == "application/json; charset=utf-8"
    assert fields["Content-Length"] == str(len(body))
    assert fields["Server"] == "Microsoft-HTTPAPI/2.0"
    assert fields["iothub-errorcode"] == "DeviceNotFound"
    assert (fields["X-Content-Type-Options"], fields["Cache-Control"]) == ("nosniff", "no-store")
    assert "Strict-Transport-Security" not in fields, "a hub on localhost would bar a browser from all else there"
    found = re.fullmatch(
        rb'\{"Message":"ErrorCode:DeviceNotFound;ghost","ExceptionMessage":"Tracking ID:('
        + TRACKING.encode()
        + rb')"\}',
        body,
    )
    assert found is not None, body
    assert fields["x-ms-request-id"].replace("-", "") == found[1].decode()[:32]


async def test_2_without_credential_the_answer_is_the_service_s_401_and_a_verdict_is_kept(hub: RestHub) -> None:
    answer = await hub.call("GET", "/devices", Authorization="")
    assert answer.status == 401
    assert answer.headers["iothub-errorcode"] == "IotHubUnauthorizedAccess"
    found = re.fullmatch(
        r'\{"Message":"ErrorCode:IotHubUnauthorizedAccess;Unauthorized","ExceptionMessage":"Tracking ID:(.+)"\}',
        answer.body.decode(),
    )
    assert found is not None
    assert re.fullmatch(TRACKING, found[1])
    assert answer.headers["x-ms-request-id"].replace("-", "") == found[1][:32]
    kept = await hub.refusals.find(found[1])
    assert kept is not None
    assert kept.tracking_id == found[1]
    assert kept.report["transport"] == "https"


WRONG_CREDENTIALS = {
    "no token at all": "hello",
    "another scheme": "Basic aW90aHVib3duZXI6eA==",
    "expired": token(expiry=1_500_000_000),
    "another hub": token(resource="other.azure-devices.net"),
    "an unknown policy": token(SharedAccessPolicy("nobody", Right.NONE, base64.b64encode(b"x" * 32).decode(), "")),
    "the key of another policy": token(
        SharedAccessPolicy("iothubowner", Right.NONE, POLICIES["service"].primary_key, "")
    ),
    "a changed signature": token().replace("sig=", "sig=A"),
    "a scope below the path": token(resource="localhost/devices/other"),
}


@pytest.mark.parametrize("name", WRONG_CREDENTIALS)
async def test_3_every_wrong_credential_gets_the_same_401_and_a_verdict_of_its_own(hub: RestHub, name: str) -> None:
    answer = await hub.call("GET", "/devices/d", Authorization=WRONG_CREDENTIALS[name])
    assert (answer.status, answer.error, answer.message) == (401, "IotHubUnauthorizedAccess", "Unauthorized")
    kept = await hub.refusals.find(answer.json["ExceptionMessage"].removeprefix("Tracking ID:"))
    assert kept is not None
    signature = WRONG_CREDENTIALS[name].partition("sig=")[2].partition("&")[0]
    report = json.dumps(dict(kept.report))
    assert not signature or (signature not in report and unquote(signature) not in report)


READ, WRITE, CONNECT = "read", "write", "connect"
NEEDS = [
    ("GET", "/devices", READ),
    ("GET", "/devices/d", READ),
    ("GET", "/devices/d/modules", READ),
    ("GET", "/devices/d/modules/m", READ),
    ("GET", "/statistics/devices", READ),
    ("GET", "/statistics/service", CONNECT),
    ("PUT", "/devices/d", WRITE),
    ("DELETE", "/devices/d", WRITE),
    ("PUT", "/devices/d/modules/m", WRITE),
    ("DELETE", "/devices/d/modules/m", WRITE),
    ("POST", "/devices", WRITE),
    ("POST", "/devices/keys/regenerate", WRITE),
]
GRANTS = {
    "iothubowner": {READ, WRITE, CONNECT},
    "service": {CONNECT},
    "device": set(),
    "registryRead": {READ},
    "registryReadWrite": {READ, WRITE},
}


@pytest.mark.parametrize("policy", GRANTS)
async def test_4_each_policy_may_exactly_what_it_grants(hub: RestHub, policy: str) -> None:
    for method, path, need in NEEDS:
        body: Any = {} if method in {"PUT", "POST"} else None
        answer = await hub.call(method, path, body, Authorization=token(policy))
        assert (answer.status != 401) == (need in GRANTS[policy]), (method, path, answer.body)
    assert list(await hub.registry.devices()) == [], "no call came through with its empty body"


@pytest.mark.parametrize(
    "resource", ["localhost", "LOCALHOST", "localhost:8443", "localhost/devices", "localhost/devices/d"]
)
async def test_5_a_token_for_the_host_or_for_what_holds_the_path_opens_it(hub: RestHub, resource: str) -> None:
    answer = await hub.call("GET", "/devices/d", Authorization=token(resource=resource))
    assert answer.status == 404


@pytest.mark.parametrize(
    "version", ["2016-11-14", "2018-06-30", "2020-05-31-preview", "2021-04-12", "2024-03-31", "2031-12-31"]
)
async def test_6_known_and_newer_api_versions_are_taken(hub: RestHub, version: str) -> None:
    assert (await hub.call("GET", "/devices", query=f"api-version={version}")).status == 200


@pytest.mark.parametrize(
    "query",
    ["", "api-version=", "api-version=1", "api-version=2021-4-12", "api-version=2016-02-03", "api-version=2021-13-01",
     "api-version=2021-04-12x", "apiversion=2021-04-12"],
)  # fmt: skip
async def test_7_a_missing_or_impossible_api_version_is_400001(hub: RestHub, query: str) -> None:
    answer = await hub.call("GET", "/devices", query=query)
    assert (answer.status, answer.error) == (400, "InvalidProtocolVersion")
    assert "api-version" in answer.message


async def test_8_a_post_may_mean_another_method_as_java_does_it(hub: RestHub) -> None:
    created = await hub.call("POST", "/devices/d", {"deviceId": "d"}, X_HTTP_Method_Override="PUT")
    assert created.status == 200
    assert (await hub.call("POST", "/devices/d", X_HTTP_Method_Override="get")).json == created.json
    patched = await hub.call("POST", "/devices/d", {}, X_HTTP_Method_Override="PATCH")
    assert (patched.status, patched.error) == (405, "GenericMethodNotAllowed")
    assert (await hub.call("GET", "/devices/d", X_HTTP_Method_Override="DELETE")).status == 200, (
        "only POST is overridden"
    )
    assert (await hub.call("POST", "/devices/d", X_HTTP_Method_Override="DELETE")).status == 204


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/devices/d", "DELETE, GET, PUT"),
        ("POST", "/devices/d", "DELETE, GET, PUT"),
        ("PUT", "/devices", "GET, POST"),
        ("DELETE", "/statistics/devices", "GET"),
        ("PUT", "/devices/keys/regenerate", "POST"),
        ("POST", "/health/live", "GET"),
    ],
)
async def test_9_a_wrong_method_is_405_and_names_the_right_ones(
    hub: RestHub, method: str, path: str, allow: str
) -> None:
    answer = await hub.call(method, path)
    assert (answer.status, answer.error) == (405, "GenericMethodNotAllowed")
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/devices/d/unknown", "/devices/d/modules/m/x", "/statistics", "/devices//"]
)
async def test_10_an_unknown_path_is_404_in_the_service_s_shape(hub: RestHub, path: str) -> None:
    answer = await hub.call("GET", path, Authorization="")
    assert (answer.status, answer.error) == (404, "GenericNotFound")


async def test_11_a_head_is_a_get_without_its_body(hub: RestHub) -> None:
    answer = await hub.call("HEAD", "/devices")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "2")


async def test_12_health_is_open_and_readiness_follows_the_listeners(hub: RestHub) -> None:
    for path in ("/health/live", "/health/ready", "/health/ready/"):
        assert (await hub.call("GET", path, query="", Authorization="")).status == 200
    hub.ready = False
    assert (await hub.call("GET", "/health/ready", query="", Authorization="")).status == 503
    assert (await hub.call("GET", "/health/live", query="", Authorization="")).status == 200


async def test_13_a_failure_of_our_own_is_500_and_tells_nothing_but_its_tracking_id(
    hub: RestHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("internal detail")

    monkeypatch.setattr(hub.registry, "counts", fail)
    answer = await hub.call("GET", "/statistics/devices")
    assert (answer.status, answer.error) == (500, "ServerError")
    assert b"detail" not in answer.body
    tracking = answer.json["ExceptionMessage"].removeprefix("Tracking ID:")
    assert tracking in caplog.text
    assert "internal detail" in caplog.text


@pytest.mark.parametrize(
    "head",
    [b"GET /devices/\xff\xfe?" + API.encode() + b" HTTP/1.1\r\nHost: h", b"hello", b"GET / HTTP/1.1\r\nbad header",
     b"GET / HTTP/1.1\r\nContent-Length: x", b"GET / HTTP/9", b"G\x00T / HTTP/1.1",
     b"GET / HTTP/1.1\r\nAuthorization: a\r\n " + token().encode(),
     b"GET / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", b"GET / HTTP/2.0",
     b"GET / HTTP/1.1\r\nAuthorization: " + token().encode() + b"\x00",
     b"GET http://[" + token().encode() + b" HTTP/1.1"],
    ids=lambda head: ascii(head[:32]),
)  # fmt: skip
async def test_14_what_is_no_http_is_400_and_one_line_in_the_log(
    hub: RestHub, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    answer = await hub.raw(head + b"\r\n\r\n")
    assert answer.split(b" ")[1] == b"400"
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info]
    assert "sig=" not in caplog.text


async def test_15_a_request_without_a_host_is_judged_like_any_other(hub: RestHub) -> None:
    request = f"GET /devices?{API} HTTP/1.0\r\nAuthorization: {token()}\r\n\r\n"
    assert (await hub.raw(request.encode())).startswith(b"HTTP/1.0 200 ")


async def broken_stream(call: Call) -> StreamResponse:
    answer = StreamResponse()
    await answer.prepare(call.request)
    await answer.write(b"first line\n")
    raise ZeroDivisionError("internal detail")


async def test_16_a_stream_is_signed_like_any_answer_and_breaks_off_when_its_operation_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rest_hub(tmp_path, more=[Operation("GET", "/stream", None, broken_stream)]) as hub:
        answer = await hub.raw(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert fields_of(head)["Server"] == "Microsoft-HTTPAPI/2.0"
    assert body == b"b\r\nfirst line\n\r\n", "no second answer, and no end of the chunks"
    assert [record.name for record in caplog.records if record.levelname == "ERROR"] == ["muster.http"]
    assert fields_of(head)["x-ms-request-id"].replace("-", "") in caplog.text


@pytest.mark.parametrize(
    "target",
    [f"/devices/a%0Ab?{API}", f"/devices/a%0D%0Ab?{API}", "/%0A", "*", "elsewhere:443", "http://elsewhere/nothing"],
)
async def test_17_whatever_the_target_the_answer_has_the_service_s_shape(
    hub: RestHub, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    method = {"*": "OPTIONS", "elsewhere:443": "CONNECT"}.get(target, "GET")
    answer = await hub.raw(
        f"{method} {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n".encode()
        + f"Authorization: {token()}\r\n\r\n".encode()
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert fields_of(head)["iothub-errorcode"] in {"DeviceNotFound", "GenericNotFound"}, answer
    assert json.loads(body)["Message"].startswith(f"ErrorCode:{fields_of(head)['iothub-errorcode']};")
    assert not [record for record in caplog.records if record.exc_info]


async def test_18_nobody_makes_the_hub_unpack_a_body(hub: RestHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for body in (gzip.compress(b" " * 20_000_000), b"not gzip"):
        answer = await hub.call("PUT", "/devices/d", data=body, Content_Encoding="gzip", Authorization="")
        assert answer.status == 401
    assert not [record for record in caplog.records if record.name == "muster.http.wire"]


async def test_19_a_broken_chunk_of_a_refused_call_is_one_line_in_the_log(
    hub: RestHub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    answer = await hub.raw(
        f"PUT /devices/d?{API} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".encode()
    )
    assert answer.split(b" ")[1] in {b"400", b"401"}
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info]


async def test_20_a_key_in_a_path_is_not_logged(hub: RestHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "muster")
    key = POLICIES["service"].primary_key
    answer = await hub.call("GET", f"/devices/{quote(f'SharedAccessKey={key}', safe='')}", Authorization="")
    assert answer.status == 401
    assert "IotHubUnauthorizedAccess" in caplog.text
    assert key not in unquote(caplog.text)


async def test_21_a_connection_without_a_further_request_is_closed(tmp_path: Path) -> None:
    async with rest_hub(tmp_path, idle_seconds=0.1) as hub:
        for rest in (b"", b"GET /hea"):
            answer = await hub.raw(b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n" + rest)
            assert answer.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("waits", "done"), [(False, "finished"), (True, "cancelled")])
async def test_what_was_begun_is_done_whole_when_the_caller_goes_but_waiting_ends(
    tmp_path: Path, waits: bool, done: str
) -> None:
    begun, goes_on, outcome = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop().create_future()

    async def work(_: Call) -> Response:
        begun.set()
        try:
            await goes_on.wait()
            outcome.set_result("finished")
        except asyncio.CancelledError:
            outcome.set_result("cancelled")
            raise
        return Response()

    async with rest_hub(tmp_path, [Operation("GET", "/work", None, work, waits)]) as hub:
        request = asyncio.create_task(hub.call("GET", "/work"))
        await begun.wait()
        request.cancel()
        await asyncio.sleep(0.1)
        assert outcome.done() == waits
        goes_on.set()
        assert await asyncio.wait_for(outcome, 5) == done


async def test_22_an_expectation_that_cannot_be_met_is_417(hub: RestHub, caplog: pytest.LogCaptureFixture) -> None:
    answer = await hub.raw(b"GET /devices HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert not [record for record in caplog.records if record.exc_info]
