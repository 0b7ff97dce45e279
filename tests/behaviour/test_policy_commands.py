"""``muster hub policy``, ``muster hub set`` and ``muster token --about`` on a running deployment."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest
from test_commands import Cli

from muster.dialect.connection_string import parse_connection_string
from muster.testing.hub import HubProcess
from tests.addresses import loopback

PORTS = ("--mqtt-port", "0", "--amqp-port", "0", "--https-port", "0")


@pytest.fixture
def cli(make_hub: Callable[..., HubProcess]) -> Iterator[Cli]:
    west = loopback()
    with make_hub(*PORTS, "--bind", west, "--hub", f"west={west}") as hub:
        yield Cli(hub)


def test_policies_are_set_shown_rotated_and_deleted_also_those_of_another_hub(cli: Cli) -> None:
    text = cli("hub", "policy", "set", "own", "--right", "ServiceConnect", "--right", "registryread")
    assert cli("hub", "policy", "show", "own") == text
    assert parse_connection_string(text).policy == "own"
    assert cli("hub", "policy", "list").splitlines()[-1] == "own  RegistryRead, ServiceConnect"
    assert "own" not in [
        json.loads(one)["keyName"] for one in cli("hub", "policy", "list", "--hub", "west", "--json").splitlines()
    ]
    before = cli.json("hub", "policy", "show", "own", "--json")
    after = cli.json("hub", "policy", "rotate", "own", "swap", "--json")
    assert (after["primaryKey"], after["secondaryKey"]) == (before["secondaryKey"], before["primaryKey"])
    assert after["connectionString"].endswith(before["secondaryKey"])
    west = cli("hub", "policy", "rotate", "iothubowner", "primary", "--hub", "west")
    assert cli.json("env", "--hub", "west", "--format", "json")["HUB_CONNECTION_STRING"] == west
    assert "DeviceId=d;" in cli("device", "add", "d", "--hub", "west"), "commands know the new key"
    cli("hub", "policy", "delete", "own")
    assert "own" in cli.fail("hub", "policy", "show", "own")
    assert "iothubowner" in cli.fail("hub", "policy", "delete", "iothubowner")
    cli.hub.stop()
    assert "no hub runs" in cli.fail("hub", "policy", "list")


def test_the_owner_of_the_provisioning_service_is_rotated_and_commands_go_on(cli: Cli) -> None:
    cli("provisioning", "policy", "add", "factory", "--right", "EnrollmentRead")
    new = cli("provisioning", "policy", "rotate", "provisioningserviceowner", "primary")
    assert cli.json("env", "--format", "json")["DPS_CONNECTION_STRING"] == new
    cli("provisioning", "policy", "remove", "factory")
    assert len(cli("provisioning", "policy", "list").splitlines()) == 1


def test_a_token_about_one_device_is_good_for_calls_about_it(cli: Cli) -> None:
    cli("device", "add", "one")
    cli("device", "add", "two")
    login = cli("hub", "policy", "set", "own", "--right", "RegistryRead", "--right", "ServiceConnect")
    token = cli("token", "--about", "one", "--login", login, data=False)
    for path, status in (
        ("/devices/one", 200), ("/twins/one", 200), ("/devices/two", 401), ("/twins/two", 401), ("/devices", 401),
    ):  # fmt: skip
        assert cli.hub.request("GET", path, Authorization=token)[0] == status, path
    assert cli.hub.request("PATCH", "/twins/one", {"tags": {"a": 1}}, Authorization=token)[0] == 200
    assert cli.hub.request("POST", "/devices/query", {"query": "SELECT * FROM devices"}, Authorization=token)[0] == 401
    assert "scope-too-narrow" in cli("why", "--last")
    assert cli.hub.request("DELETE", "/devices/one", Authorization=token)[0] == 401, "not without the right"


def test_what_is_set_is_shown_and_the_settings_have_the_last_word(make_hub: Callable[..., HubProcess]) -> None:
    with make_hub(*PORTS, "--disable-module-sas") as hub:
        cli = Cli(hub)
        name = next(iter(hub.facts["hubs"]))
        cli("hub", "set", name, "--local-auth", "off", "--device-sas", "off")
        shown = cli.json("hub", "show", name)
        assert [shown[one] for one in ("disableLocalAuth", "disableDeviceSAS", "disableModuleSAS")] == [True] * 3
        assert hub.request("GET", "/devices")[0] == 401
        assert "local-auth-disabled" in cli("why", "--last")
        assert "disable-module-sas" in cli.fail("hub", "set", name, "--module-sas", "on")
        cli("hub", "set", name, "--local-auth", "on", "--device-sas", "on")
        assert hub.request("GET", "/devices")[0] == 200
