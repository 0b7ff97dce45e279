"""``muster import`` and ``muster export`` against a hub of their own."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from test_commands import PORTS, Cli

from muster.core.bulk_limits import IMPORT_CHUNK_BYTES, IMPORT_CHUNK_LINES, IMPORT_LINE_BYTES
from muster.testing.hub import HubProcess

MANY = 50_000
SCOPE = "ms-azure-iot-edge://edge-638000000000000001"
THEN = "2020-01-02T03:04:05.0000000Z"
PATH = "/$muster/identities"


@pytest.fixture
def cli(make_hub: Callable[..., HubProcess]) -> Cli:
    return Cli(make_hub(*PORTS).start())


def key(number: int) -> str:
    return base64.b64encode(hashlib.sha256(b"%d" % number).digest()).decode()


def line(number: int, **members: Any) -> dict[str, Any]:
    """A device as Azure exports it."""
    stamp = {"$lastUpdated": THEN, "$lastUpdatedVersion": 4}
    desired = {"interval": number, "$metadata": {**stamp, "interval": stamp}, "$version": 4}
    return {
        "id": f"d{number:05}", "eTag": "MQ==", "status": "enabled",
        "authentication": {"symmetricKey": {"primaryKey": key(number), "secondaryKey": key(-number)}, "type": "sas"},
        "tags": {"n": number}, "properties": {"desired": desired}, **members,
    }  # fmt: skip


def write(path: Path, lines: Iterable[Any]) -> str:
    path.write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in lines))
    return str(path)


def refused(cli: Cli, *arguments: str) -> tuple[str, str]:
    """Run an import that must end with 1; what it printed, and what it said of errors."""
    process = cli.popen("import", *arguments)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 1, error
    return output.strip(), error


def devices(cli: Cli) -> int:
    status, counts = cli.hub.request("GET", "/statistics/devices")
    assert status == 200
    return int(counts["totalDeviceCount"])


FLEET = [
    {"id": "child", "deviceScope": SCOPE, "parentScopes": [SCOPE], "status": "disabled", "statusReason": "lost"},
    {"id": "edge", "capabilities": {"iotEdge": True}, "deviceScope": SCOPE},
    {"id": "edge", "moduleId": "$edgeAgent", "managedBy": "IotEdge", "properties": {"desired": {"schema": "1.1"}}},
    {"id": "plain", "moduleId": "m", "managedBy": "me", "tags": {"of": "module"}},
    {"id": "plain", "authentication": {"type": "certificateAuthority"}},
    {"id": "thumb", "authentication": {"x509Thumbprint": {"primaryThumbprint": "AB" * 20}}},
    {"id": "it's#1(100%)?;,", "tags": {"place": "Zürich \N{SNOWMAN}", "line": "a\nb"}},
    line(7, properties={
        "desired": line(7)["properties"]["desired"],
        "reported": {"fw": "1.2", "$metadata": {"$lastUpdated": THEN, "fw": {"$lastUpdated": THEN}}, "$version": 17},
    }),
]  # fmt: skip


def test_what_one_hub_exports_another_imports_whole(
    cli: Cli, make_hub: Callable[..., HubProcess], tmp_path: Path
) -> None:
    first, exported = write(tmp_path / "fleet.jsonl", FLEET), tmp_path / "export.jsonl"
    assert cli("import", first) == "7 created, 1 updated, 0 refused", "modules and children stand before what they need"
    cli("export", str(exported))
    assert stat.S_IMODE(exported.stat().st_mode) == 0o600, "there are keys in it"
    assert cli("export") == exported.read_text().strip()
    other = Cli(make_hub(*PORTS).start())
    assert other("import", str(exported)) == "7 created, 2 updated, 0 refused", "system modules come with their device"
    lines = {(one["id"], one.get("moduleId")): one for one in map(json.loads, exported.read_text().splitlines())}
    again = {(one["id"], one.get("moduleId")): one for one in map(json.loads, other("export").splitlines())}
    assert len(lines) == 9
    own = ("eTag", "twinETag", "authentication")
    for name, one in lines.items():
        assert {k: v for k, v in one.items() if k not in own} == {k: v for k, v in again[name].items() if k not in own}
        assert one["authentication"] == again[name]["authentication"]
    moved = lines["d00007", None]["properties"]
    assert (moved["desired"]["$version"], moved["reported"]["$version"]) == (4, 17)
    assert moved["reported"]["$metadata"]["fw"] == {"$lastUpdated": THEN}
    for name in ("edge", "child"):
        assert lines[name, None]["deviceScope"] == SCOPE
    assert other("import", str(exported)) == "0 created, 9 unchanged, 0 refused"
    assert other("export", "--exclude-keys").count('"primaryKey":null') == 9
    assert key(7) not in other("export", "--exclude-keys")


def test_bad_lines_are_named_and_the_others_are_done(cli: Cli, tmp_path: Path) -> None:
    cli("device", "add", "there")
    file, errors = tmp_path / "bad.jsonl", tmp_path / "errors.jsonl"
    secret = {"symmetricKey": {"primaryKey": "no base64 at all", "secondaryKey": key(2)}}
    lines = [
        b'{"id":"a"}', b"{not json", b"", b'{"id":"bad id"}',
        json.dumps({"id": "b", "authentication": secret}).encode(), b'{"id":"c","importMode":"replace"}',
        b'{"id":"there","importMode":"create"}', b'{"id":"a","status":"disabled"}',
        b'{"id":"long","statusReason":"' + b"x" * IMPORT_LINE_BYTES.open + b'"}', b'{"id":"ghost","moduleId":"m"}',
        b'{"id":"ghost","importMode":"delete"}', b'{"id":"d","tags":{"a.b":1}}', b'{"id":"last"}',
    ]  # fmt: skip
    file.write_bytes(b"\r\n".join(lines))
    output, said = refused(cli, str(file), "--errors", str(errors))
    assert output == "2 created, 1 updated, 9 refused"
    found = [json.loads(one) for one in errors.read_text().splitlines()]
    assert sorted((one["line"], one["deviceId"], one["code"]) for one in found) == [
        (2, None, 400006), (4, "bad id", 400004), (5, "b", 400004), (6, "c", 400004), (7, "there", 409001),
        (9, None, 413000), (10, "ghost", 404001), (11, "ghost", 404001), (12, "d", 400004),
    ]  # fmt: skip
    assert "line 7, there: " in said
    assert "line 10, ghost/m: ghost: No such device is registered." in said
    assert "no base64 at all" not in said + errors.read_text()
    listed = cli.hub.request("GET", "/devices")[1]
    assert {one["deviceId"]: one["status"] for one in listed} == {
        "a": "disabled", "there": "enabled", "last": "enabled",
    }, "the later of two lines counts"  # fmt: skip


def test_what_is_shown_of_many_errors_is_bounded(cli: Cli, tmp_path: Path) -> None:
    output, said = refused(cli, write(tmp_path / "bad.jsonl", [{"id": "bad id"}] * 2500))
    assert output == "0 created, 2,500 refused"
    assert said.count("\n") == 11
    assert "and 2,490 more; name a file with --errors" in said


@pytest.mark.timeout(300)
def test_fifty_thousand_are_loaded_in_one_go_while_others_are_served(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "many.jsonl", map(line, range(MANY)))
    process = cli.popen("import", file, "--progress")
    waits = 0
    while process.poll() is None:
        status, _ = cli.hub.request("GET", "/statistics/devices")
        assert status == 200
        waits += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
    output, error = process.communicate(timeout=30)
    assert (process.returncode, output.strip()) == (0, "50,000 created, 0 refused"), error
    assert waits > 3
    assert f"{MANY:,} lines, 100%, " in error.splitlines()[-1]
    assert devices(cli) == MANY
    query = {"query": "SELECT deviceId FROM devices WHERE tags.n = 49999"}
    status, found = cli.hub.request("POST", "/devices/query", query)
    assert (status, found) == (200, [{"deviceId": "d49999"}])
    assert cli("export").count("\n") == MANY - 1
    records = cli("audit", "export").splitlines()
    made = [name for one in map(json.loads, records) for name in one["after"]["made"]]
    assert sorted(made) == [f"d{number:05}" for number in range(MANY)]


def test_an_import_that_is_killed_is_run_again_and_loses_nothing(cli: Cli, tmp_path: Path) -> None:
    lines = [json.dumps(line(number)).encode() + b"\n" for number in range(6000)]
    process = subprocess.Popen(
        [sys.executable, "-m", "muster", "import", "-", "--data", cli.data], stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"".join(lines[:3500]))
    process.stdin.flush()
    while devices(cli) < 2000:
        pass
    process.kill()
    process.wait()
    process.stdin.close()
    some = devices(cli)
    assert 2000 <= some < 6000
    file = tmp_path / "all.jsonl"
    file.write_bytes(b"".join(lines))
    assert devices(cli) >= some
    output = cli("import", str(file))
    created, unchanged = (int(word.replace(",", "")) for word in output.split() if word[0].isdigit() and word != "0")
    assert (created + unchanged, output) == (6000, f"{created:,} created, {unchanged:,} unchanged, 0 refused")
    found = [json.loads(one) for one in cli("export").splitlines()]
    assert [one["tags"]["n"] for one in found] == list(range(6000))
    assert [one["authentication"]["symmetricKey"]["primaryKey"] for one in found] == list(map(key, range(6000)))


def test_a_hub_that_is_killed_says_where_to_go_on(cli: Cli, tmp_path: Path) -> None:
    lines = [json.dumps(line(number)).encode() + b"\n" for number in range(4000)]
    process = subprocess.Popen(
        [sys.executable, "-m", "muster", "import", "-", "--data", cli.data],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b"".join(lines[:2500]))
    process.stdin.flush()
    while devices(cli) < 2000:
        pass
    cli.hub.kill()
    _, error = process.communicate(b"".join(lines[2500:]), timeout=60)
    assert process.returncode == 1
    assert b"Stopped behind line 2000; 2,000 created, 0 refused. To go on: --from-line 2001" in error
    cli.hub.start()
    file = tmp_path / "all.jsonl"
    file.write_bytes(b"".join(lines))
    assert cli("import", str(file), "--from-line", "2001", "--mode", "create") == "2,000 created, 0 refused"
    assert devices(cli) == 4000


def test_ctrl_c_says_where_it_is(cli: Cli) -> None:
    process = subprocess.Popen(
        ["env", "--default-signal=INT", sys.executable, "-m", "muster", "import", "-", "--data", cli.data],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(b"".join(json.dumps(line(number)).encode() + b"\n" for number in range(1200)))
    process.stdin.flush()
    while devices(cli) < 1000:
        pass
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    assert b"interrupted\nStopped behind line 1000; 1,000 created, 0 refused." in error


def test_a_deletion_and_a_mode_for_all_lines(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", map(line, range(5)))
    assert cli("import", file, "--mode", "CREATE") == "5 created, 0 refused"
    assert "DeviceAlreadyExists" in refused(cli, file, "--mode", "create")[1]
    changed = write(tmp_path / "changed.jsonl", [line(1, status="disabled"), line(2), line(3, tags={})])
    assert cli("import", changed, "--mode", "update") == "0 created, 2 updated, 1 unchanged, 0 refused"
    assert cli("import", file, "--mode", "delete") == "0 created, 5 deleted, 0 refused"
    assert cli("export") == ""


def test_over_the_network_and_only_by_who_may(cli: Cli, tmp_path: Path) -> None:
    file = write(tmp_path / "some.jsonl", map(line, range(3)))
    hub, ca = cli.hub, cli.hub.facts["HUB_CA_FILE"]
    owner = hub.facts["HUB_CONNECTION_STRING"]
    host = owner.partition(";")[0]
    device = Cli(hub)("device", "add", "own")
    assert cli("import", file, "--login", owner, "--ca", ca, data=False) == "3 created, 0 refused"
    assert cli("export", "--login", owner, "--ca", ca, data=False).count('"id":"d0000') == 3
    assert "SharedAccessKeyName" in cli.fail("export", "--login", device, "--ca", ca, data=False)
    keys = base64.b64encode(b"r" * 32).decode()
    hub.request("PUT", "/$muster/policies/reader", {"rights": "RegistryRead", "primaryKey": keys})
    reader = f"{host};SharedAccessKeyName=reader;SharedAccessKey={keys}"
    assert cli("export", "--login", reader, "--ca", ca, data=False).count("\n") == 3
    assert "401" in refused_login(cli, file, reader, ca)


def test_an_import_waits_as_a_throttled_hub_asks(make_hub: Callable[..., HubProcess], tmp_path: Path) -> None:
    cli = Cli(make_hub(*PORTS, "--throttle", "on").start())
    while cli.hub.request("GET", "/devices/nobody")[0] != 429:
        pass
    assert cli("import", write(tmp_path / "some.jsonl", map(line, range(3)))) == "3 created, 0 refused"
    assert cli("export").count("\n") == 2


def refused_login(cli: Cli, file: str, login: str, ca: str) -> str:
    process = cli.popen("import", file, "--login", login, "--ca", ca, data=False)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 1
    return error


def test_a_stopped_hub_is_named(cli: Cli, tmp_path: Path) -> None:
    assert cli.hub.stop() == 0
    for command in (("import", write(tmp_path / "a.jsonl", [line(1)])), ("export",)):
        assert "no hub runs in" in cli.fail(*command)


def test_a_chunk_that_is_too_much_is_refused_whole(cli: Cli) -> None:
    head = {"Content-Type": "application/x-ndjson"}
    for body, row in (
        ([{"id": "x" * 100}] * 3, "ArgumentInvalid"),  # HubProcess sends one JSON array, which is one line
        ("x" * (IMPORT_CHUNK_BYTES.open + 1), "RequestEntityTooLarge"),
    ):
        status, answer = cli.hub.request("POST", PATH, body, **head)
        if status == 200:
            (failure,) = answer["errors"]
            assert (failure["line"], failure["errorCode"]) == (1, row)
        else:
            assert status == 413
    assert IMPORT_CHUNK_LINES.open == 1000
    status, _ = cli.hub.request("POST", PATH, {"id": "a"}, **{"Content-Type": "text/plain"})
    assert status == 415
    for query in ("count=0", "count=1001", "afterModule=m"):
        assert cli.hub.request("GET", f"{PATH}?{query}")[0] == 400
    assert cli.hub.request("POST", f"{PATH}?mode=all", {"id": "a"})[0] == 400
    assert devices(cli) == 0
