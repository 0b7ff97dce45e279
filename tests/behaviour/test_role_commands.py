"""``muster role`` and ``muster serve --roles`` against a hub of their own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from test_commands import Cli

from muster.testing.hub import HubProcess

FILE = '[roles]\nFiled = ["twins/read"]\n\n[[grants]]\nrole = "Filed"\ngroup = "ops"\n'


def grants(cli: Cli) -> list[str]:
    """The lines of ``muster role list`` that are grants, without their ids."""
    return [line.partition("  ")[2] for line in cli("role", "list").splitlines() if "  to " in line]


def test_granted_listed_shown_revoked_and_kept_over_a_kill(make_hub: Callable[..., HubProcess]) -> None:
    hub = make_hub()
    with hub:
        cli = Cli(hub)
        everywhere = cli("role", "grant", "IoT Hub Data Reader", "--group", "ops")
        cli("role", "define", "Field service", "--action", "devices/read", "--action", "twins/*")
        where = ("--issuer", "https://issuer.test/", "--hub", hub.address, "--devices", "tags.site = 'berlin'")
        berlin = cli("role", "grant", "Field service", "--application", "app", *where)
        assert len({everywhere, berlin, cli("role", "grant", "IoT Hub Data Reader", "--group", "ops")}) == 2
        listed = [
            "Field service  to application app  issuer https://issuer.test/  "
            f"hub {hub.address}  devices tags.site = 'berlin'",
            "IoT Hub Data Reader  to group ops",
        ]
        assert sorted(grants(cli)) == listed
        hub.kill()
        hub.start()
        assert sorted(grants(cli)) == listed
        allowed = [f"  Microsoft.Devices/IotHubs/{one}" for one in ("devices/read", "twins/read", "twins/write")]
        shown = ["Field service  (yours)", *allowed, f"{berlin}  {listed[0]}"]
        assert cli("role", "show", "field service").splitlines() == shown
        assert "is granted (1 grants)" in cli.fail("role", "remove", "Field service")
        for grant in (everywhere, berlin):
            cli("role", "revoke", grant)
        cli("role", "remove", "Field service")
        assert grants(cli) == []
        assert "There is no grant" in cli.fail("role", "revoke", berlin)
        assert "There is no role" in cli.fail("role", "show", "Field service")
        assert "    Microsoft.EventHub/namespaces/messages/receive/action" in cli("role", "list", "--actions")
        assert {one["kind"] for one in cli.json("role", "list", "--json")["roles"]} == {"builtIn"}


def test_what_cannot_be_says_why(make_hub: Callable[..., HubProcess]) -> None:
    with make_hub() as hub:
        cli = Cli(hub)
        for arguments, said in (
            (("grant", "Nobody", "--group", "g"), "role 'Nobody' is unknown"),
            (("grant", "Reader", "--group", "g", "--hub", "elsewhere"), "hub 'elsewhere' is not there"),
            (("grant", "Reader", "--group", "g", "--devices", "tags."), "devices is no condition"),
            (("grant", "Reader", "--group", "g", "--devices", ""), "devices is empty, leave it out"),
            (("define", "Mine", "--action", "twin/read"), "no data action fits"),
            (("define", "Owner", "--action", "twins/read"), "built-in"),
            (("remove", "Owner"), "built-in role, it stays"),
        ):
            assert said in cli.fail("role", *arguments)
        for given in ((), ("--group", "g", "--subject", "s")):
            process = cli.popen("role", "grant", "Reader", *given)
            assert "Give one of --subject, --group and --application." in process.communicate(timeout=60)[1]
            assert process.returncode == 2
        assert grants(cli) == []


def test_a_file_is_taken_on_sighup_and_its_mistakes_are_told(
    make_hub: Callable[..., HubProcess], tmp_path: Path
) -> None:
    file = tmp_path / "roles.toml"
    file.write_text(FILE)
    with make_hub("--roles", str(file)) as hub:
        cli = Cli(hub)
        assert grants(cli) == ["Filed  to group ops  (from the file)"]
        (filed,) = cli.json("role", "list", "--json")["grants"]
        assert "stands in the file of roles" in cli.fail("role", "revoke", filed["id"])
        cli("role", "grant", "Filed", "--group", "others")
        file.write_text(FILE.replace("ops", "later"))
        hub.signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while grants(cli)[0] != "Filed  to group later  (from the file)":
            assert time.monotonic() < deadline
        file.write_text("")
        hub.signal(signal.SIGHUP)
        while len(grants(cli)) > 1:
            assert time.monotonic() < deadline
        assert grants(cli) == ["Filed  to group others  (does not count: there is no such role)"]
        file.write_text("[[grants]]")
        hub.signal(signal.SIGHUP)
        while "grants[0] must have one of" not in cli.popen("role", "list").communicate(timeout=60)[1]:
            assert time.monotonic() < deadline


def test_a_file_with_a_mistake_is_refused_at_the_start(make_hub: Callable[..., HubProcess], tmp_path: Path) -> None:
    file = tmp_path / "roles.json"
    file.write_text('{"grants": [{"role": "Reader", "group": "ops", "device": "true"}]}')
    hub = make_hub("--roles", str(file))
    hub.spawn()
    assert hub._process is not None
    assert hub._process.wait(60) == 1
    said = hub.log_file.read_text()
    assert f"the file of roles {file}: grants[0].device is no member of a grant" in said
    assert "Traceback" not in said
