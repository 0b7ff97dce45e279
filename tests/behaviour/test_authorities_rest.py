"""Certificate authorities through REST, in the shape of the resource manager, and through ``muster ca``."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pytest

from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker, Pair
from tests.engines import clustered


@pytest.fixture
def make() -> Maker:
    return Maker(time.time())


def path(hub: HubProcess, name: str = "", action: str = "") -> str:
    tail = "".join(f"/{part}" for part in (name, action) if part)
    return (
        "/subscriptions/91d12660-3dec-467a-be2a-213b5544ddc0/resourceGroups/any-group/providers/Microsoft.Devices"
        f"/IotHubs/{hub.address}/certificates{tail}"
    )


def put(hub: HubProcess, name: str, pair: Pair, etag: str = "", **properties: Any) -> tuple[int, Any]:
    body = {"properties": {"certificate": base64.b64encode(pair.pem).decode(), **properties}}
    return hub.request("PUT", path(hub, name), body, **({"If-Match": etag} if etag else {}))


def test_an_authority_is_registered_proven_and_deleted(hub: HubProcess, make: Maker) -> None:
    root = make.root("Acme Root")
    status, made = put(hub, "proven", root)
    assert status == 201
    assert made["id"] == path(hub, "proven")
    assert made["name"] == "proven"
    assert made["type"] == "Microsoft.Devices/IotHubs/Certificates"
    properties = made["properties"]
    assert properties["subject"] == "CN=Acme Root"
    assert properties["thumbprint"] == root.sha1
    assert properties["isVerified"] is False
    assert base64.b64decode(properties["certificate"]) == root.der
    assert parsedate_to_datetime(properties["expiry"]) == root.certificate.not_valid_after_utc
    assert "verificationCode" not in properties

    status, coded = hub.request("POST", path(hub, "proven", "generateVerificationCode"), **{"If-Match": made["etag"]})
    assert status == 200
    code = coded["properties"]["verificationCode"]
    assert len(code) == 56
    assert coded["etag"] != made["etag"]
    assert coded["id"] == path(hub, "proven")
    assert "verificationCode" not in hub.request("GET", path(hub, "proven"))[1]["properties"]

    def verify(proof: Pair, etag: str) -> tuple[int, Any]:
        body = {"certificate": base64.b64encode(proof.pem).decode()}
        return hub.request("POST", path(hub, "proven", "verify"), body, **{"If-Match": etag})

    for wrong in (make.issue("another name", root), make.issue(code, make.root("Acme Root")), make.issue(code, None)):
        status, error = verify(wrong, coded["etag"])
        assert (status, error["code"], error["httpStatusCode"]) == (400, "400004", "BadRequest")
        assert "proves nothing" in error["message"]
    assert verify(make.issue(code, root), made["etag"])[0] == 412
    status, proven = verify(make.issue(code, root), coded["etag"])
    assert status == 200
    assert proven["properties"]["isVerified"] is True
    assert verify(make.issue(code, root), proven["etag"])[0] == 400, "a code proves once"

    assert hub.request("DELETE", path(hub, "proven"))[0] == 412
    assert hub.request("DELETE", path(hub, "proven"), **{"If-Match": made["etag"]})[0] == 412
    assert hub.request("DELETE", path(hub, "proven"), **{"If-Match": f'"{proven["etag"]}"'})[0] == 204
    assert hub.request("DELETE", path(hub, "proven"), **{"If-Match": "*"})[0] == 204
    status, error = hub.request("GET", path(hub, "proven"))
    assert (status, error["code"]) == (404, "404008")


def test_set_verified_and_replaced(hub: HubProcess, make: Maker) -> None:
    first, second = make.root("First"), make.root("Second")
    status, made = put(hub, "vouched", first, isVerified=True)
    assert (status, made["properties"]["isVerified"]) == (201, True)
    assert put(hub, "vouched", second)[0] == 412, "an update needs If-Match"
    status, same = put(hub, "vouched", first, made["etag"])
    assert (status, same["properties"]["isVerified"]) == (200, True)
    status, other = put(hub, "vouched", second, same["etag"])
    assert (status, other["properties"]["isVerified"]) == (200, False), "another certificate has to be proven anew"
    assert other["properties"]["created"] == made["properties"]["created"]
    listed = hub.request("GET", path(hub))[1]["value"]
    assert [one["id"] for one in listed if one["name"] == "vouched"] == [path(hub, "vouched")]
    hub.request("DELETE", path(hub, "vouched"), **{"If-Match": "*"})


@pytest.mark.parametrize(
    ("spelt", "status"),
    [
        (lambda pair: pair.pem.decode(), 201),
        (lambda pair: base64.b64encode(pair.pem).decode(), 201),
        (lambda pair: base64.b64encode(pair.der).decode(), 201),
        (lambda pair: "\n".join(base64.b64encode(pair.der).decode()[at : at + 64] for at in range(0, 4000, 64)), 201),
        (lambda pair: "", 400),
        (lambda pair: base64.b64encode(pair.der[:-9]).decode(), 400),
        (lambda pair: pair.key_pem.decode(), 400),
        (lambda pair: None, 400),
        (lambda pair: 7, 400),
    ],
)
def test_a_certificate_is_taken_in_every_spelling_and_nothing_else(
    hub: HubProcess, make: Maker, spelt: Callable[[Pair], Any], status: int
) -> None:
    root = make.root("Spelt")
    answered, body = hub.request("PUT", path(hub, "spelt"), {"properties": {"certificate": spelt(root)}})
    assert answered == status, body
    if status == 400:
        assert "ertificate" in body["message"]
        assert root.key_pem.decode()[40:80] not in body["message"]
    hub.request("DELETE", path(hub, "spelt"), **{"If-Match": "*"})


def test_what_is_no_authority_or_no_name_is_refused(hub: HubProcess, make: Maker) -> None:
    status, error = put(hub, "leaf", make.issue("dev", None))
    assert status == 400
    assert "CA:TRUE" in error["message"]
    status, error = put(hub, "a%20b", make.root())
    assert status == 400
    assert "name" in error["message"]


def test_only_the_owner_may_see_and_change_whom_the_hub_trusts(hub: HubProcess) -> None:
    parts = dict(part.split("=", 1) for part in hub.facts["SERVICE_CONNECTION_STRING"].split(";"))
    token = hub.token("", parts["SharedAccessKey"], parts["SharedAccessKeyName"])
    status, error = hub.request("GET", path(hub), Authorization=token)
    assert (status, error["code"]) == (401, "401002")
    assert "Tracking ID" in error["details"]


def test_another_hub_is_not_here(hub: HubProcess) -> None:
    status, error = hub.request("GET", path(hub).replace(hub.address, "elsewhere"))
    assert (status, error["code"]) == (404, "404310")


def test_lists_are_loaded_and_checked(hub: HubProcess, make: Maker) -> None:
    root = make.root("Lists")
    put(hub, "lists", root, isVerified=True)

    def load(der: bytes) -> tuple[int, Any]:
        return hub.request("PUT", "/$muster/authorities/lists/list", {"list": base64.b64encode(der).decode()})

    gone = make.issue("gone", root)
    status, made = load(make.revoked(root, gone))
    assert (status, made["revoked"], made["issuer"]) == (200, 1, "CN=Lists")
    assert load(make.revoked(make.root("Lists"), gone))[0] == 400, "forged"
    assert load(make.revoked(root, days=(-3, 30)))[0] == 400, "older"
    assert load(b"nothing")[0] == 400
    assert hub.request("PUT", "/$muster/authorities/nix/list", {"list": ""})[0] == 404
    assert hub.request("PUT", "/$muster/authorities/lists/list", {"list": "%"})[0] == 400
    for url in ("file:///etc/passwd", "http://user@host/", "http://", "http://a b/"):
        assert hub.request("PUT", "/$muster/authorities/lists/rules", {"listUrl": url})[0] == 400, url
    for seconds in (0, 86_401, 1.5, "3", True):
        rules = {"listUrl": "http://127.0.0.1:9/", "refreshSeconds": seconds}
        assert hub.request("PUT", "/$muster/authorities/lists/rules", rules)[0] == 400, seconds
    status, made = hub.request("PUT", "/$muster/authorities/lists/rules", {"refreshSeconds": 86_400})
    assert (status, made["refreshSeconds"]) == (200, 86_400)
    hub.request("DELETE", path(hub, "lists"), **{"If-Match": "*"})


# --- muster ca


def muster(hub: HubProcess, *arguments: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "muster", *arguments, "--data", str(hub.directory / "data")]
    done = subprocess.run(command, cwd=hub.directory, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_the_built_in_authority_from_init_to_revoke(make_hub: Callable[..., HubProcess]) -> None:
    ports = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
    with make_hub(*ports) as hub:
        assert "muster-issuing  verified" in muster(hub, "ca", "init")
        assert "is there already" in muster(hub, "ca", "init", status=1)
        muster(hub, "device", "add", "dev", "--auth", "x509-ca")
        out = hub.directory / "out"
        pem, key = muster(hub, "ca", "issue", "dev", "--out", str(out)).split()
        assert Path(pem).read_text().count("BEGIN CERTIFICATE") == 2
        assert Path(key).stat().st_mode & 0o777 == 0o600
        assert "is there already" in muster(hub, "ca", "issue", "dev", "--out", str(out), status=1)
        before = Path(pem).read_text()
        muster(hub, "ca", "issue", "dev", "--out", str(out), "--renew")
        assert Path(f"{pem}.old").read_text() == before != Path(pem).read_text()
        assert "64" in muster(hub, "ca", "issue", "d" * 65, "--out", str(out), status=1)
        assert "dev%2Fmod.pem" in muster(hub, "ca", "issue", "dev/mod", "--days", "7", "--out", str(out))
        assert "1 revoked" in muster(hub, "ca", "revoke", pem)
        assert "2 revoked" in muster(hub, "ca", "revoke", str(out / "dev%2Fmod.pem"))
        shown = json.loads(muster(hub, "ca", "show", "muster-issuing"))
        assert shown["revocation"]["lists"][0]["revoked"] == 2
        muster(hub, "ca", "revocation", "muster-issuing", "--fail-closed")
        assert json.loads(muster(hub, "ca", "show", "muster-issuing"))["revocation"]["failClosed"] is True
        root_key = hub.directory / "data" / "device-ca" / "root.key"
        moved = root_key.rename(hub.directory / "moved.key")
        assert "--root-key" in muster(hub, "ca", "rotate", status=1)
        assert "not the root's" in muster(hub, "ca", "rotate", "--root-key", key, status=1)
        assert "muster-issuing-2  verified" in muster(hub, "ca", "rotate", "--root-key", str(moved))
        moved.rename(root_key)
        muster(hub, "ca", "issue", "dev", "--out", str(out), "--renew")
        assert Path(pem).read_text().split("-----END")[1] != before.split("-----END")[1], "by the new one"
        assert "1 revoked" in muster(hub, "ca", "revoke", pem)
        assert "2 revoked" in muster(hub, "ca", "revoke", f"{pem}.old"), "by the old one, which had revoked it before"
        muster(hub, "ca", "delete", "muster-root")
        assert "muster-root" not in muster(hub, "ca", "list")
        assert "There is no certificate" in muster(hub, "ca", "delete", "muster-root", status=1)
        status = 1 if clustered() else 0  # PostgreSQL of the tests syncs nothing
        assert "root.key" in muster(hub, "doctor", status=status)
        zeros = base64.b64encode(bytes(16)).decode()
        shared = {"symmetricKey": {"primaryKey": zeros, "secondaryKey": zeros}}
        for name in ("one", "two"):
            hub.request("PUT", f"/devices/{name}", {"deviceId": name, "authentication": {"type": "sas", **shared}})
        told = [json.loads(line) for line in muster(hub, "doctor", "--json", status=1).splitlines()]
        assert {"credential-shared", "key-weak", "on-sas", "policies-in-use"} <= {one["name"] for one in told}
        assert zeros not in json.dumps(told)
    assert "no hub runs" in muster(hub, "ca", "list", status=1)


def test_an_authority_is_added_and_verified_by_command(hub: HubProcess, make: Maker, tmp_path: Path) -> None:
    root = make.root("Mine")
    (tmp_path / "root.pem").write_bytes(root.pem)
    (tmp_path / "root.key").write_bytes(root.key_pem)
    assert "muster ca verify mine" in muster(hub, "ca", "add", "mine", str(tmp_path / "root.pem"))
    code = muster(hub, "ca", "verify", "mine").split()[0]
    (tmp_path / "proof.pem").write_bytes(make.issue(code, root).pem)
    assert "mine  verified" in muster(hub, "ca", "verify", "mine", str(tmp_path / "proof.pem"))
    (tmp_path / "root.crl").write_bytes(make.revoked(root))
    assert "0 revoked" in muster(hub, "ca", "crl", "mine", str(tmp_path / "root.crl"))
    muster(hub, "ca", "delete", "mine")
    muster(hub, "ca", "add", "mine", str(tmp_path / "root.pem"))
    assert "mine  verified" in muster(hub, "ca", "verify", "mine", "--signing-key", str(tmp_path / "root.key"))
    muster(hub, "ca", "delete", "mine")
    muster(hub, "ca", "add", "mine", str(tmp_path / "root.pem"))
    assert "mine  verified" in muster(hub, "ca", "verify", "mine", "--set-verified")
    muster(hub, "ca", "delete", "mine")


# --- switches


def test_switched_off_kinds_of_token_are_refused_by_name_and_commands_still_work(
    make_hub: Callable[..., HubProcess],
) -> None:
    ports = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")
    with make_hub(*ports, "--disable-local-auth") as hub:
        status, _ = hub.request("GET", "/devices")
        assert status == 401
        assert "local-auth-disabled" in muster(hub, "why", "--last")
        assert "DeviceId=dev" in muster(hub, "device", "add", "dev")
        assert "LOCAL_CONNECTION_STRING" not in muster(hub, "env")
