"""How devices spell addresses, tokens and user names over AMQP: each SDK's own way is understood."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest

from muster.core.errors import HubError
from muster.dialect.amqp import PutToken, address_path
from muster.dialect.device_amqp import (
    Part,
    channel_of,
    device_address,
    model_of,
    part_of,
    plain_identity,
    token_audience,
    token_identity,
)
from muster.identity.model import IdentityKey
from muster.identity.sas import sign
from muster.wire.amqp.performatives import RECEIVER, Attach
from muster.wire.amqp.values import Symbol

DEVICE, MODULE = IdentityKey("Dev=1"), IdentityKey("Dev=1", "m")


@pytest.mark.parametrize(
    ("address", "key", "sends", "part"),
    [
        ("/devices/d/messages/events", IdentityKey("d"), True, Part.TELEMETRY),
        ("devices/d/messages/events", IdentityKey("d"), True, Part.TELEMETRY),
        ("amqps://h/devices/d/messages/deviceBound", IdentityKey("d"), False, Part.COMMANDS),
        ("amqps://h:5671/Devices/a%2Fb%25/messages/events", IdentityKey("a/b%"), True, Part.TELEMETRY),
        ("/devices/d/twin", IdentityKey("d"), True, Part.TWIN_REQUESTS),
        ("/devices/d/twin", IdentityKey("d"), False, Part.TWIN_ANSWERS),
        ("/devices/d/methods/devicebound", IdentityKey("d"), False, Part.METHOD_REQUESTS),
        ("/devices/d/methods/devicebound", IdentityKey("d"), True, Part.METHOD_ANSWERS),
        ("/devices/d/modules/m/messages/events", IdentityKey("d", "m"), True, Part.TELEMETRY),
        ("/devices/d/modules/m/messages/events", IdentityKey("d", "m"), False, Part.INPUTS),
        ("/devices/d/Modules/M/messages/devicebound", IdentityKey("d", "M"), False, Part.COMMANDS),
        ("/devices/modules/twin", IdentityKey("modules"), True, Part.TWIN_REQUESTS),
    ],
)
def test_addresses(address: str, key: IdentityKey, sends: bool, part: Part) -> None:
    found = device_address(address_path(address))
    assert found is not None
    assert found.key == key
    assert part_of(found, sends=sends) is part


@pytest.mark.parametrize(
    "address", ["", "/devices", "/devices/d", "/messages/devicebound", "events/ConsumerGroups/a/b/0"]
)
def test_addresses_of_others(address: str) -> None:
    assert device_address(address_path(address)) is None


@pytest.mark.parametrize(
    "address", ["/devices/d/nowhere", "/devices/d/messages", "/devices/d/modules/m", "/devices/d/twin/x"]
)
def test_addresses_where_nothing_is(address: str) -> None:
    found = device_address(address_path(address))
    assert found is not None
    assert part_of(found, sends=True) is None


@pytest.mark.parametrize(
    ("address", "sends"), [("/devices/d/messages/devicebound", True), ("/devices/d/messages/events", False)]
)
def test_links_that_go_the_other_way(address: str, sends: bool) -> None:
    found = device_address(address_path(address))
    assert found is not None
    with pytest.raises(HubError, match="the other way round"):
        part_of(found, sends=sends)


def token(resource: str, policy: str = "") -> str:
    signature = quote(base64.b64encode(sign(resource, "2000000000", b"key")), safe="")
    return f"SharedAccessSignature sig={signature}&se=2000000000&sr={resource}" + (f"&skn={policy}" if policy else "")


@pytest.mark.parametrize(
    ("resource", "audience"),
    [
        ("h%2Fdevices%2FDev%3D1", ()),
        ("h%2fdevices%2fDev%3D1", ("devices", "Dev=1")),
        ("h%2fdevices%2fdev%3D1", ("devices", "Dev=1")),
        ("h%2Fdevices%2FDev%253D1", ("devices", "Dev=1")),
        ("h%2Fdevices%2FDev%253D1", ()),
        ("h/devices/Dev%3D1", ("devices", "Dev=1")),
        ("h/devices/Dev=1", ()),
        ("h:8884/devices/Dev=1", ()),
        ("h%2Fdevices%2FDev%3D1%2Fapi-version%3D2016-11-14", ()),
    ],
)
def test_the_tokens_resource_says_whose_it_is(resource: str, audience: tuple[str, ...]) -> None:
    found = token_identity(PutToken(token(resource), audience))
    assert found == (DEVICE if "%253D" not in resource or audience else IdentityKey("Dev%3D1"))


def test_the_name_of_a_modules_token_may_be_that_of_its_device() -> None:
    """As Java has it."""
    assert token_identity(PutToken(token("h/devices/Dev%3D1/modules/m"), ("devices", "Dev=1"))) == MODULE


def test_a_policys_token_is_nobodys_own() -> None:
    asked = PutToken(token("h", "device"), ("devices", "d"))
    assert token_identity(asked) is None
    assert token_audience(asked) == ("devices", "d")
    assert token_audience(PutToken(token("h%2Fdevices%2Fd", "device"), ())) == ("devices", "d")


def test_of_what_is_no_token_the_name_says_whose_it_would_be() -> None:
    assert token_identity(PutToken("nonsense", ("devices", "d"))) == IdentityKey("d")
    assert token_identity(PutToken("nonsense", ("events",))) is None
    assert token_audience(PutToken("nonsense", ("events",))) == ("events",)


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("d@sas.hub", (IdentityKey("d"), "hub")),
        ("d/modules/m@sas.hub", (IdentityKey("d", "m"), "hub")),
        ("odd@name@sas.hub", (IdentityKey("odd@name"), "hub")),
        ("service@sas.root.hub", None),
        ("d", None),
        ("", None),
        ("@sas.hub", None),
    ],
)
def test_user_names(user: str, expected: object) -> None:
    assert plain_identity(user) == expected


def test_link_properties() -> None:
    def attach(**properties: object) -> Attach:
        named = {Symbol(f"com.microsoft:{name}"): value for name, value in properties.items()}
        return Attach("n", 0, RECEIVER, properties=named)

    assert channel_of(attach(**{"channel-correlation-id": "twin:1"})) == "twin:1"
    assert channel_of(Attach("n", 0, RECEIVER)) == ""
    assert model_of(attach(**{"model-id": " dtmi:a;1 "})) == "dtmi:a;1"
    assert model_of(attach(**{"model-id": None})) is None
    with pytest.raises(HubError, match="2049 characters"):
        model_of(attach(**{"model-id": "x" * 2049}))
