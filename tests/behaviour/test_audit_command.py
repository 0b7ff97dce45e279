"""``muster audit``: list, export, verify and head, on a running hub, on a stopped one, and on an export."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_commands import PORTS, Cli
from two_hubs import EAST, WEST, two_hubs

from muster.core.audit import fingerprint
from muster.identity.sas import decode_key, make
from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process

of_the_file = pytest.mark.embedded("without a hub that runs, the log is read from hub.db")


@pytest.fixture
def cli(make_hub: Callable[..., HubProcess]) -> Cli:
    return Cli(make_hub(*PORTS).start())


@of_the_file
def test_the_log_is_the_same_from_a_running_hub_and_from_its_directory(cli: Cli) -> None:
    cli("device", "add", "a")
    cli.hub.request("DELETE", "/devices/nobody")
    cli("device", "add", "b")
    running = cli("audit", "export")
    subjects = [json.loads(line)["subject"] for line in running.splitlines()]
    assert subjects == ["devices/a", "devices/nobody", "devices/b"]
    lines = cli("audit", "list", "--count", "2").splitlines()
    assert "device.delete devices/nobody  refused: 404001, " in lines[0]
    assert lines[1].split("  ")[3].startswith("iothubowner (policy) from 127.")
    assert lines[1].endswith("device.put devices/b")
    mark = cli("audit", "head")
    assert cli("audit", "verify", "--mark", mark) == f"whole, 3 records: {mark}"
    assert cli.hub.stop() == 0
    assert cli("audit", "export") == running
    assert cli("audit", "verify", "--mark", mark) == f"whole, 3 records: {mark}"
    cli("device", "add", "c")
    last = json.loads(cli("audit", "export", "--subject", "devices/c"))
    assert (last["number"], last["transport"], last["caller"][:5]) == (4, "offline", "user ")
    assert "whole, 4 records" in cli("audit", "verify", "--mark", mark)


def test_times_and_subjects_choose_what_is_shown(cli: Cli) -> None:
    cli("device", "add", "a")
    cli("device", "add", "a", "--module", "m")
    cli("device", "add", "ab")
    every = [json.loads(line) for line in cli("audit", "export").splitlines()]
    assert [one["subject"] for one in every] == ["devices/a", "devices/a/modules/m", "devices/ab"]
    assert len(cli("audit", "export", "--subject", "devices/a").splitlines()) == 2
    assert json.loads(cli("audit", "export", "--since", every[2]["at"])) == every[2]
    assert [json.loads(line) for line in cli("audit", "export", "--until", every[2]["at"]).splitlines()] == every[:2]
    process = cli.popen("audit", "export", "--since", "yesterday")
    assert "is no moment" in process.communicate(timeout=30)[1]
    assert process.returncode == 2


@of_the_file
def test_what_was_done_to_the_files_is_named(cli: Cli, tmp_path: Path) -> None:
    for name in ("a", "b", "c", "d"):
        cli("device", "add", name)
    mark = cli("audit", "head")
    export = tmp_path / "audit.jsonl"
    export.write_text(cli("audit", "export") + "\n")
    assert cli.hub.stop() == 0

    def says(*wanted: str) -> None:
        assert wanted[0] in cli.fail("audit", "verify", *wanted[1:])

    lines = export.read_text().splitlines(keepends=True)
    file = tmp_path / "changed.jsonl"
    for changed, said in (
        ([lines[0], lines[1].replace("devices/b", "devices/x"), *lines[2:]], "record 2: it was changed"),
        ([lines[0], *lines[2:]], "record 2: it is missing, record 3 follows record 1"),
        ([lines[0], lines[2], lines[1], lines[3]], "record 2: it stands behind record 3"),
    ):
        file.write_text("".join(changed))
        says(said, "--file", str(file))
    file.write_text("".join(lines[:3]))
    assert "whole, 3 records" in cli("audit", "verify", "--file", str(file)), "nothing in it tells of the fourth"
    says("record 4: it is missing", "--file", str(file), "--mark", mark)

    with sqlite3.connect(cli.hub.directory / "data" / "hub.db") as database:
        database.execute("DROP TRIGGER audit_is_not_removed")
        database.execute("DELETE FROM audit WHERE number = 4")
    database.close()
    says("record 4: it is missing, and all up to 4: the end was cut off")
    cli.hub.start()
    says("record 4: it is missing, and all up to 4: the end was cut off")
    cli("device", "add", "e")
    says("record 4: it is missing, record 5 follows record 3")


async def test_a_hub_sees_what_is_its_own_and_the_first_one_everything(tmp_path: Path) -> None:
    async with two_hubs(tmp_path) as hubs:
        east = hubs.hub(EAST).name
        for name in (EAST, WEST):
            assert (await hubs.call(name, "PUT", f"/devices/{name}", {"deviceId": name})).status == 200
        await hubs.call(WEST, "PUT", "/devices/x", {"deviceId": "x"}, token=hubs.token(EAST))

        async def seen(at: str, query: str = "") -> list[tuple[str, str]]:
            answer = await hubs.call(at, "GET", f"/$muster/audit{query}")
            assert answer.status == 200
            found = [json.loads(line) for line in answer.text.splitlines()]
            return [(one["scope"], one["subject"]) for one in found]

        assert await seen(WEST) == [(WEST, "devices/west")]
        assert await seen(WEST, f"?hub={east}") == [(WEST, "devices/west")]
        everything = await seen(EAST)
        assert {(east, "devices/east"), (WEST, "devices/west")} <= set(everything)
        assert await seen(EAST, f"?hub={WEST}") == [(WEST, "devices/west")]
        assert (await hubs.call(WEST, "GET", "/$muster/audit/head")).status == 404
        assert (await hubs.call(EAST, "GET", "/$muster/audit?since=now")).status == 400
        assert (await hubs.call(EAST, "GET", "/$muster/audit", token="")).status == 401


async def test_who_lacks_a_right_is_named_and_who_proves_nothing_is_not(tmp_path: Path) -> None:
    async with two_hubs(tmp_path, second=False) as hubs:
        service = hubs.hub(EAST).facts.policies["service"]
        secret = decode_key(service.primary_key)
        assert secret is not None
        token = make(hubs.addresses[EAST], int(time.time()) + 600, secret, "service")
        for shown in (token, token.replace("sig=", "sig=x")):
            answer = await hubs.call(EAST, "PUT", "/devices/d", {"deviceId": "d"}, token=shown)
            assert answer.status in {401, 403}
        assert (await hubs.call(EAST, "PUT", "/devices/d", {"deviceId": "d"})).status == 200
        told: list[tuple[str, str]] = []
        async with asyncio.timeout(10):
            while len(told) < 3:  # records of what was refused may be written behind the answer
                answer = await hubs.call(EAST, "GET", "/$muster/audit")
                told = [(one["verdict"], one["caller"]) for one in map(json.loads, answer.text.splitlines())]
        assert sorted(told) == [("allowed", "iothubowner (policy)"), ("refused", ""), ("refused", "service (policy)")]


def test_settings_that_are_others_at_a_start_are_on_record(tmp_path: Path) -> None:
    secret = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=c2VjcmV0;BlobEndpoint=https://localhost:1/a"
    first = hub_process(tmp_path, loopback(), *PORTS)
    options = ("--units", "2", "--storage-connection-string", secret)
    then = hub_process(tmp_path, first.address, *PORTS, *options)
    for hub in (first, first, then, then):
        with hub:
            text = Cli(hub)("audit", "export")
    (record,) = map(json.loads, text.splitlines())
    assert (record["operation"], record["subject"], record["transport"]) == ("settings.change", "settings", "start")
    assert (record["before"]["units"], record["after"]["units"]) == (1, 2)
    assert record["after"]["storage_connection_string"] == fingerprint(secret)
    assert "c2VjcmV0" not in text
