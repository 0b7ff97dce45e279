"""The command line without a hub: where flags come from, exit codes, tokens, what it says of wrong use."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from click.testing import CliRunner, Result

from muster.cli.hub_options import EVENTS
from muster.cli.main import COMMANDS, LazyGroup, flag_of, main, options_of
from muster.cli.monitor import line_of
from muster.core import limits, throttles
from muster.events.model import Source
from muster.identity import sas
from muster.identity.policies import development_key

KEY = development_key("test")
DEVICE = f"HostName=hub.example;DeviceId=dev1;SharedAccessKey={KEY}"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs ``muster`` in an empty directory; keyword arguments are environment variables."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, **env: str) -> Result:
        return CliRunner().invoke(main, arguments, env=env, catch_exceptions=False)

    return invoke


def left(result: Result) -> float:
    """Seconds that the token just printed has left."""
    assert result.exit_code == 0, result.output
    return sas.parse(result.stdout.strip()).expiry - time.time()


def test_a_flag_comes_from_the_line_the_environment_or_the_file_in_this_order(run: Run, tmp_path: Path) -> None:
    command = ["token", "--login", DEVICE]
    assert 3590 < left(run(*command)) <= 3600
    (tmp_path / "muster.toml").write_text("ttl = 900\nmqtt-port = 1884\n")
    assert 890 < left(run(*command)) <= 900
    assert 590 < left(run(*command, MUSTER_TTL="600")) <= 600
    assert 290 < left(run(*command, "--ttl", "300", MUSTER_TTL="600")) <= 300
    assert 890 < left(run("token", MUSTER_LOGIN=DEVICE)) <= 900


def test_another_file_may_be_named(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('ttl = 100\nlogin = "' + DEVICE + '"\njson = true\n')
    for result in (run("--config", str(other), "token"), run("token", MUSTER_CONFIG=str(other))):
        assert result.exit_code == 0
        assert json.loads(result.stdout)["resource"] == "hub.example/devices/dev1"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("colour = 1", "'colour' is not a flag"),
        ("ttl = ", "is not a TOML file"),
        ("ttl = [1, 2]", "'ttl' takes one value"),
        ("[token]\nttl = 1", "'token' is not a flag"),
        ('ttl = "soon"', "ttl"),
        ("ttl = 0", "ttl"),
    ],
)
def test_a_wrong_file_is_a_usage_error_that_names_the_key(run: Run, tmp_path: Path, content: str, named: str) -> None:
    (tmp_path / "muster.toml").write_text(content)
    result = run("token", "--login", DEVICE)
    assert result.exit_code == 2
    assert named in result.stderr


def test_a_missing_file_is_an_error_only_when_it_was_named(run: Run) -> None:
    assert run("--config", "nowhere.toml", "limits").exit_code == 2
    assert run("limits").exit_code == 0


def test_a_repeatable_flag_takes_a_list_or_one_value_from_the_file(run: Run, tmp_path: Path) -> None:
    seen: list[tuple[str, ...]] = []
    serve = main.get_command(click.Context(main), "serve")
    assert serve is not None
    original = serve.callback
    serve.callback = lambda **options: seen.append(options["hostname"])
    try:
        for content in ('hostname = "a.example"', 'hostname = ["a.example", "b.example"]'):
            (tmp_path / "muster.toml").write_text(content)
            assert run("serve").exit_code == 0
        assert run("serve", MUSTER_HOSTNAME="c.example d.example").exit_code == 0
    finally:
        serve.callback = original
    assert seen == [("a.example",), ("a.example", "b.example"), ("c.example", "d.example")]


def test_every_flag_of_every_command_has_its_variable() -> None:
    assert isinstance(main, LazyGroup)
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        for option in options_of(command):
            assert option.envvar == f"MUSTER_{flag_of(option).upper()}"
            assert option.help


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["nonsense"], 2, "No such command"),
        (["token", "--ttl", "never"], 2, "--ttl"),
        (["token", "--module", "m"], 2, "--module needs --device"),
        (["token", "--login", "rubbish"], 1, "Part 1 of the connection string"),
        (["token", "--login", ""], 1, "The connection string is empty"),
        (["token", "--login", DEVICE, "--device", "dev1"], 1, "SharedAccessKeyName"),
        (["device", "add", "d", "--auth", "x509-thumbprint"], 2, "--thumbprint"),
        (["device", "add", "d", "--thumbprint", "00"], 2, "--thumbprint"),
        (["device", "add"], 2, "ID"),
        (["why", "0" * 32, "--last"], 2, "one of TRACKING_ID"),
        (["env"], 1, "/muster-data holds no hub; name the directory of yours with --data"),
        (["monitor", "--data", "."], 1, " holds no hub"),
        (["why", "--data", "."], 1, "holds no hub"),
        (["device", "add", "d", "--data", "."], 1, "holds no hub"),
    ],
)
def test_wrong_use_ends_with_its_exit_code_and_one_line(run: Run, arguments: list[str], code: int, named: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, named in result.stderr) == (code, True), result.stderr
    assert "Traceback" not in result.stderr


def test_a_command_that_finds_no_hub_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for data in ("muster-data", "."):
        run("env", "--data", data)
        run("device", "add", "d", "--data", data)
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize(
    ("login", "resource", "policy", "key"),
    [
        (DEVICE, "hub.example/devices/dev1", None, None),
        (f"{DEVICE};ModuleId=m", "hub.example/devices/dev1/modules/m", None, None),
        (f"HostName=h:8443;SharedAccessKeyName=service;SharedAccessKey={KEY}", "h:8443", "service", None),
        (
            f"Endpoint=sb://h/;SharedAccessKeyName=service;SharedAccessKey={KEY};EntityPath=e",
            "sb://h/e",
            "service",
            KEY.encode(),
        ),
    ],
)
def test_a_token_is_made_for_any_connection_string(
    run: Run, login: str, resource: str, policy: str | None, key: bytes | None
) -> None:
    result = run("token", "--login", login)
    parsed = sas.parse(result.stdout.strip())
    assert (unquote(parsed.resource), parsed.policy) == (resource, policy)
    assert sas.signed_by(parsed, key or sas.decode_key(KEY) or b"")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (([], "", ""), []),
        (
            (["--events", "twin, lifecycle", "--events", "digital-twin"], "", ""),
            ["twin", "lifecycle", "digital-twin"],
        ),
        (([], "connection,twin", 'events = "lifecycle"'), ["connection", "twin"]),
        (([], "", 'events = "lifecycle,twin"'), ["lifecycle", "twin"]),
        (([], "", 'events = ["lifecycle", "twin"]'), ["lifecycle", "twin"]),
    ],
)
def test_events_are_named_in_a_list(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: tuple[list[str], str, str], expected: list[str]
) -> None:
    arguments, variable, file = given
    seen: list[list[str]] = []
    command = main.get_command(click.Context(main), "serve")
    assert command is not None
    monkeypatch.setattr(command, "callback", lambda **options: seen.append(options["events"]))
    Path("muster.toml").write_text(file)
    assert run("serve", *arguments, **({"MUSTER_EVENTS": variable} if variable else {})).exit_code == 0
    assert seen == [expected]


@pytest.mark.parametrize("wrong", ["telemetry", "twins", "twin;lifecycle", "twin,TWIN"])
def test_an_unknown_event_is_a_usage_error(run: Run, tmp_path: Path, wrong: str) -> None:
    for result in (run("serve", "--events", wrong), run("serve", MUSTER_EVENTS=wrong)):
        assert result.exit_code == 2
        assert "is none of twin, lifecycle, connection, digital-twin" in result.stderr
    (tmp_path / "muster.toml").write_text(f'events = "{wrong}"')
    assert run("serve").exit_code == 2


def test_the_events_of_the_command_line_are_those_of_the_hub() -> None:
    assert sorted(EVENTS) == sorted(Source)


def test_limits_lists_every_limit(run: Run) -> None:
    text = run("limits").stdout
    rows = json.loads(run("limits", "--json").stdout)
    assert [row["name"] for row in rows["limits"]] == [limit.name for limit in limits.ALL]
    assert [row["name"] for row in rows["throttles"]] == [row.name for row in throttles.ALL]
    assert rows["throttles"][0]["rates"]["S1"] == {"perUnit": 12, "least": 100}
    assert all(limit.name in text and limit.reason in text for limit in (*limits.ALL, *throttles.ALL))


def test_a_message_is_one_line_and_cannot_play_with_the_terminal() -> None:
    message = {
        "enqueued_time": "2027-01-15T08:00:00.1230000Z", "partition": 2, "sequence_number": 7, "device_id": "d",
        "module_id": None, "body": "a\x1b[2J\nb é", "body_encoding": "utf-8", "system_properties": {"message-id": "1"},
        "properties": {"k": "v\r"},
    }  # fmt: skip
    line = line_of(message)
    assert line == "2027-01-15T08:00:00.123Z  d  [p2 #7]  a\\x1b[2J\\nb é  message-id=1 k=v\\r"
    assert line_of({**message, "module_id": "m", "body": "AA==", "body_encoding": "base64"}).split("  ")[1] == "d/m"


def test_help_is_quick_and_imports_no_command() -> None:
    script = """
import sys
from muster.cli.main import main
main(["--help"], standalone_mode=False)
print([name for name in sys.modules if name in {"httptools", "cryptography", "OpenSSL", "apsw", "uvloop"}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(name in done.stdout for name in COMMANDS)
