"""Connection strings: read, written, refused naming the part; and the names of `muster env` made from them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from muster.core.errors import HubError
from muster.dialect.connection_string import ConnectionString, Kind, parse_connection_string
from muster.dialect.environment import environment
from muster.identity.hub import make_hub
from muster.identity.model import IdentityKey
from muster.identity.policies import development_key, development_policies, development_provisioning_policy

KEY = development_key("test")


def test_a_device_string() -> None:
    text = f"HostName=hub.example:8883;DeviceId=dev=1;SharedAccessKey={KEY};GatewayHostName=gw"
    parsed = parse_connection_string(text)
    assert parsed.kind is Kind.DEVICE
    assert (parsed.host, parsed.identity, parsed.gateway) == ("hub.example:8883", IdentityKey("dev=1"), "gw")
    assert len(parsed.key_bytes) == 32
    assert parse_connection_string(parsed.text()) == parsed


def test_a_module_string_a_service_string_and_an_x509_string() -> None:
    module = parse_connection_string(f"hostname=h;DEVICEID=d;ModuleId=m;sharedaccesskey={KEY};")
    assert module.identity == IdentityKey("d", "m")
    service = parse_connection_string(f'"HostName=h;SharedAccessKeyName=service;SharedAccessKey={KEY}"\n')
    assert (service.kind, service.policy) == (Kind.SERVICE, "service")
    assert parse_connection_string("HostName=h;DeviceId=d;x509=true").x509
    signed = parse_connection_string(
        "HostName=h;DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=h&sig=x&se=1"
    )
    assert signed.signature == "SharedAccessSignature sr=h&sig=x&se=1"


def test_an_event_hubs_string() -> None:
    text = f"Endpoint=sb://h:5672/;SharedAccessKeyName=service;SharedAccessKey={KEY};EntityPath=hub;UseDevelopmentEmulator=true"
    parsed = parse_connection_string(text)
    assert (parsed.kind, parsed.host, parsed.entity_path, parsed.emulator) == (Kind.EVENT_HUBS, "h:5672", "hub", True)
    assert parsed.text() == text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "is empty"),
        (" '' ", "is empty"),
        (";", "HostName"),
        ("hello", "Part 1"),
        (f"HostName=h;Colour=red;SharedAccessKey={KEY}", "Part 2"),
        (f"HostName=h;HostName=i;SharedAccessKeyName=s;SharedAccessKey={KEY}", "HostName stands twice"),
        (f"DeviceId=d;SharedAccessKey={KEY}", "HostName"),
        (f"HostName=h;ModuleId=m;SharedAccessKey={KEY}", "ModuleId needs a DeviceId"),
        ("HostName=h;DeviceId=d;SharedAccessKey=notbase64", "SharedAccessKey is not base64"),
        ("HostName=h;DeviceId=d", "SharedAccessKey is missing"),
        (f"HostName=h;SharedAccessKey={KEY}", "SharedAccessKeyName"),
        (f"Endpoint=nonsense;SharedAccessKeyName=s;SharedAccessKey={KEY}", "Endpoint is not an address"),
        (f"Endpoint=sb://[x/;SharedAccessKeyName=s;SharedAccessKey={KEY}", "Endpoint is not an address"),
        ("HostName=" + "h" * 9000, "longer than"),
    ],
)
def test_a_wrong_string_is_refused_naming_the_part_and_hiding_the_values(text: str, named: str) -> None:
    with pytest.raises(HubError, match=named) as refusal:
        parse_connection_string(text)
    assert refusal.value.row.status == 400
    assert KEY not in str(refusal.value)
    assert "notbase64" not in str(refusal.value)


def test_an_id_with_a_semicolon_is_refused_when_written_and_no_key_shows_in_a_repr() -> None:
    with pytest.raises(HubError, match="DeviceId holds a ';'"):
        ConnectionString(host_name="h", device_id="a;b", key=KEY).text()
    assert KEY not in repr(ConnectionString(host_name="h", device_id="a", key=KEY, signature=KEY))
    with pytest.raises(HubError, match="SharedAccessKey is missing"):
        _ = ConnectionString(host_name="h", device_id="d", x509=True).key_bytes


@given(
    st.text(max_size=9000)
    | st.lists(
        st.tuples(
            st.sampled_from(
                ["HostName", "DeviceId", "SharedAccessKey", "Endpoint", "SharedAccessKeyName", "x509", "x"]
            ),
            st.text(max_size=30) | st.sampled_from([KEY, "sb://h/", "sb://[", "true"]),
        ),
        max_size=6,
    ).map(lambda parts: ";".join(f"{name}={value}" for name, value in parts))
)
@example("Endpoint=sb://[::1;SharedAccessKeyName=a;SharedAccessKey=" + KEY)
def test_anything_is_a_connection_string_or_a_named_refusal(text: str) -> None:
    try:
        parsed = parse_connection_string(text)
    except HubError as refusal:
        refused = refusal.row.status
    else:
        refused = 400
        assert parse_connection_string(parsed.text()) == parsed
        assert parsed.host
        assert parsed.kind in Kind
    assert refused == 400


VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=";\"'"), min_size=1, max_size=30)


@given(VALUE, VALUE, VALUE | st.just(""))
def test_what_is_written_is_read_back(host: str, device: str, module: str) -> None:
    made = ConnectionString(host_name=host, device_id=device, module_id=module, key=KEY)
    assert parse_connection_string(made.text()) == made


def names(ports: dict[str, int], host: str = "hub.example") -> dict[str, str]:
    return environment(
        hub=make_hub([host], development_policies()), dps_host="dps.example", id_scope="0ne0",
        provisioning=development_provisioning_policy(), ports=ports,
        ca_file=Path("/d/ca.pem"), ca_bundle=Path("/d/all.pem"),
    )  # fmt: skip


def test_the_names_of_a_hub_on_the_usual_ports() -> None:
    found = names({"mqtt": 8883, "amqp": 5671, "https": 443})
    assert found["HUB_HOST"] == "hub.example"
    assert found["HUB_CONNECTION_STRING"].startswith("HostName=hub.example;SharedAccessKeyName=iothubowner;")
    assert found["SERVICE_CONNECTION_STRING"].startswith("HostName=hub.example;SharedAccessKeyName=service;")
    assert found["EVENTHUB_CONNECTION_STRING"].startswith("Endpoint=sb://hub.example/;SharedAccessKeyName=service;")
    assert found["EVENTHUB_CONNECTION_STRING"].endswith(";EntityPath=hub")
    assert found["DPS_CONNECTION_STRING"].startswith(
        "HostName=dps.example;SharedAccessKeyName=provisioningserviceowner;"
    )
    assert (found["DPS_HOST"], found["DPS_ID_SCOPE"]) == ("dps.example", "0ne0")
    assert found["NODE_EXTRA_CA_CERTS"] == found["HUB_CA_FILE"] == "/d/ca.pem"
    assert found["REQUESTS_CA_BUNDLE"] == found["SSL_CERT_FILE"] == found["HUB_CA_BUNDLE"] == "/d/all.pem"
    assert "EVENTHUB_EMULATOR_CONNECTION_STRING" not in found
    assert all(isinstance(value, str) for value in found.values())


def test_other_ports_stand_where_clients_can_be_told() -> None:
    found = names({"mqtt": 1, "amqp": 2, "https": 8443, "amqp_plain": 5672}, "::1")
    assert found["HUB_HOST"] == "::1"
    assert found["HUB_CONNECTION_STRING"].startswith("HostName=[::1]:8443;")
    assert parse_connection_string(found["EVENTHUB_CONNECTION_STRING"]).host == "[::1]:2"
    emulator = parse_connection_string(found["EVENTHUB_EMULATOR_CONNECTION_STRING"])
    assert (emulator.host, emulator.emulator) == ("[::1]:5672", True)
    assert (found["MQTT_PORT"], found["AMQP_PORT"], found["HTTPS_PORT"]) == ("1", "2", "8443")
