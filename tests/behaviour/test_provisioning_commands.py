"""``muster provisioning`` against a hub of its own, and a webhook that it asks."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from test_commands import Cli

from muster.testing.hub import HubProcess
from tests.certificate_maker import Maker
from tests.provisioning_client import Provisioning
from tests.tpm import ENDORSEMENT_KEY


@pytest.fixture
def cli(make_hub: Callable[..., HubProcess]) -> Iterator[Cli]:
    with make_hub() as hub:
        yield Cli(hub)


def test_zero_touch_by_a_group(cli: Cli) -> None:
    dps = Provisioning(cli.hub)
    said = cli("provisioning", "group", "add", "factory")
    assert said.startswith("factory  symmetricKey  enabled\n  primary key  ")
    key = cli("provisioning", "group", "key", "factory", "dev1")
    state = dps.provision("dev1", dps.token("dev1", key))
    assert state["assignedHub"] == cli.hub.address
    second = cli("provisioning", "group", "key", "factory", "dev1", "--secondary")
    assert second != key
    assert dps.provision("dev1", dps.token("dev1", second))["status"] == "assigned"
    shown = cli.json("provisioning", "group", "show", "factory", "--keys")
    assert [one["registrationId"] for one in shown["registrations"]] == ["dev1"]
    assert shown["attestation"]["symmetricKey"]["primaryKey"] in said
    assert cli("provisioning", "group", "list") == "factory  symmetricKey  enabled"
    cli("provisioning", "group", "delete", "factory")
    assert "404201" not in cli.fail("provisioning", "group", "show", "factory")


def test_a_device_with_a_tpm_by_its_public_key_as_tools_write_it_and_in_base64(cli: Cli) -> None:
    text = base64.b64encode(ENDORSEMENT_KEY)
    for number, content in enumerate((ENDORSEMENT_KEY, text, text + b"\n")):
        file = cli.hub.directory / "ek.pub"
        file.write_bytes(content)
        made = cli.json("provisioning", "enrollment", "add", f"chip{number}", "--tpm", str(file), "--json")
        assert made["attestation"] == {"type": "tpm", "tpm": {"endorsementKey": text.decode()}}
    file.write_bytes(b"no key")
    assert "endorsementKey" in cli.fail("provisioning", "enrollment", "add", "bad", "--tpm", str(file))


def test_policies_added_listed_kept_and_removed(cli: Cli) -> None:
    text = cli("provisioning", "policy", "add", "factory", "--right", "EnrollmentWrite", "--right", "EnrollmentRead")
    assert "SharedAccessKeyName=factory;" in text
    assert cli("provisioning", "policy", "list").splitlines()[1] == "factory  EnrollmentRead, EnrollmentWrite"
    again = cli("provisioning", "policy", "add", "factory", "--right", "EnrollmentRead")
    assert again == text, "the keys stay"
    cli.hub.stop()
    cli.hub.start()
    listed = [json.loads(line) for line in cli("provisioning", "policy", "list", "--json").splitlines()]
    assert listed[1] == {"keyName": "factory", "rights": "EnrollmentRead"}
    dps, key = Provisioning(cli.hub), text.partition("SharedAccessKey=")[2]
    token = cli.hub.token("", key, "factory")
    assert dps.call("GET", "/enrollments/none", Authorization=token).status == 404
    cli("provisioning", "policy", "remove", "factory")
    assert dps.call("GET", "/enrollments/none", Authorization=token).status == 401


def test_enrollments_of_single_devices_with_all_that_they_may_have(cli: Cli) -> None:
    dps, make = Provisioning(cli.hub), Maker(time.time())
    leaf, second = make.issue("x", None), make.issue("x", None)
    files = [cli.hub.directory / name for name in ("leaf.pem", "second.pem", "twin.json")]
    files[0].write_bytes(leaf.pem)
    files[1].write_bytes(second.der)
    files[2].write_text(json.dumps({"tags": {"a": 1}}))
    certificate, other, twin = map(str, files)
    cli(
        "provisioning", "enrollment", "add", "x", "--certificate", certificate, "--secondary-certificate", other,
        "--twin", twin, "--device-id", "at-hub", "--hub", cli.hub.address, "--allocation", "static", "--edge",
        "--reprovision", "never",
    )  # fmt: skip
    made = cli.json("provisioning", "enrollment", "show", "x")
    assert made["reprovisionPolicy"] == {"updateHubAssignment": False, "migrateDeviceData": False}
    assert (made["allocationPolicy"], made["iotHubs"]) == ("static", [cli.hub.address])
    for pair in (leaf, second):
        assert dps.provision("x", chain=[pair])["deviceId"] == "at-hub"
    assert cli.hub.request("GET", "/twins/at-hub")[1]["tags"] == {"a": 1}
    assert cli("provisioning", "enrollment", "list") == f"x  x509  enabled  assigned {cli.hub.address}"
    made = cli.json("provisioning", "enrollment", "add", "y", "--disabled", "--json")
    assert made["provisioningStatus"] == "disabled"
    assert [
        json.loads(line)["registrationId"] for line in cli("provisioning", "enrollment", "list", "--json").split("\n")
    ] == ["x", "y"]


def test_what_is_wrong_is_said_in_a_line(cli: Cli) -> None:
    assert "linked are" in cli.fail("provisioning", "enrollment", "add", "a", "--hub", "elsewhere.example")
    assert "cannot be taken" in cli.fail("provisioning", "group", "add", "g", "--certificate", __file__)
    login = f"HostName={cli.hub.address}:{cli.hub.port('https')};SharedAccessKeyName=nobody;SharedAccessKey=a2V5"
    said = cli.fail("provisioning", "group", "list", "--login", login, "--ca", cli.hub.facts["HUB_CA_FILE"], data=False)
    assert "muster why" in said
    cli.hub.stop()
    assert "no hub runs" in cli.fail("provisioning", "group", "list")


def test_allocation_is_shown_and_changed(cli: Cli) -> None:
    host = cli.hub.address
    assert cli("provisioning", "allocation") == f"policy  hashed\n     1  {host}"
    changed = cli("provisioning", "allocation", "--weight", f"{host}=7", "--policy", "geoLatency")
    assert changed == f"policy  geoLatency\n     7  {host}" == cli("provisioning", "allocation")
    assert "linked are" in cli.fail("provisioning", "allocation", "--weight", "elsewhere.example=1")


def test_log_and_why_tell_of_a_device(cli: Cli) -> None:
    dps = Provisioning(cli.hub)
    group = dps.group("factory")
    assert dps.register("dev1", dps.token("dev1", group["attestation"]["symmetricKey"]["primaryKey"])).status == 401
    dps.provision("dev1", dps.derived_token("dev1", group))
    lines = cli("provisioning", "log", "dev1").split("\n")
    assert [line.split("  ", 2)[2] for line in lines] == [
        f"assigned to {cli.hub.address} as dev1 (initialAssignment)",
        "proved who it is (group factory) over dps-https",
        "refused, group-key-used: The token was signed with the group's own key, which no device should have.",
    ]
    assert "✗ signature" in cli("provisioning", "log", "dev1", "--checks")
    assert len(cli("provisioning", "log", "--json", "--count", "2").split("\n")) == 2
    told = cli("why", "--device", "dev1")
    assert "group-key-used" in told
    assert "HTTP 401 (401002" in told
    dps.group("factory", provisioningStatus="disabled")
    dps.register("dev1", dps.derived_token("dev1", group))
    assert 'registration status "disabled"' in cli("why", "--device", "dev1")
    counted = cli("provisioning", "counts")
    assert f"1  deviceAssignments  {cli.hub.address}" in counted
    cli.hub.kill()
    cli.hub.start()
    assert len(cli("provisioning", "log", "dev1").split("\n")) == 4, "it is kept over a kill"


class Function(BaseHTTPRequestHandler):
    """A webhook that answers as it is told to, and remembers what it was asked."""

    asked: list[Any]
    answer: tuple[int, bytes]

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, body = self.answer
        if status == 0:
            time.sleep(8)
            return
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_a_webhook_is_asked_over_http_within_a_time_limit(cli: Cli) -> None:
    dps, host = Provisioning(cli.hub), cli.hub.address
    server = ThreadingHTTPServer((host, 0), Function)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Function.asked, url = [], f"http://{host}:{server.server_address[1]}/api/pick?code=1"
    try:
        cli("provisioning", "group", "add", "factory", "--webhook", url)
        group = dps.call("POST", "/enrollmentGroups/factory/attestationmechanism").body
        told = {"attestation": group}

        def outcome(name: str, answer: tuple[int, bytes]) -> dict[str, Any]:
            Function.answer = answer
            body = {"registrationId": name, "payload": {"modelId": "dtmi:a:b;1"}}
            return dps.provision(name, dps.derived_token(name, told), body=body)

        good = json.dumps({"iotHubHostName": host, "payload": {"for": "you"}}).encode()
        assert outcome("dev1", (200, good))["payload"] == {"for": "you"}
        assert Function.asked[0]["deviceRuntimeContext"]["payload"] == {"modelId": "dtmi:a:b;1"}
        assert Function.asked[0]["linkedHubs"] == [host]
        failed = outcome("dev2", (500, b""))
        assert (failed["status"], failed["errorCode"]) == ("failed", 400207)
        assert failed["errorMessage"] == "Custom allocation failed with status code: 500"
        late = outcome("dev3", (0, b""))
        assert (late["errorCode"], "within 5 seconds" in late["errorMessage"]) == (400207, True)
    finally:
        server.shutdown()
        server.server_close()
