"""User names, topics, bags and filters, as each SDK writes them (device.md 3.1 and 3.7, clients.md 4)."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import ARGUMENT_INVALID, INVALID_OPERATION, HubError
from muster.dialect.mqtt import Login, SubscriptionKind, parse_username, subscription_kind, telemetry_properties
from muster.dialect.property_bag import parse_bag, percent_decoded, size_of
from muster.identity.model import IdentityKey

DEVICE = IdentityKey("dev1")
MODULE = IdentityKey("dev1", "mod1")

# --- user names

USERNAMES = {
    "python": (
        "localhost/dev1/?api-version=2019-10-01&DeviceClientType=azure-iot-device-iothub-py%2F2.14.0%28x%3By%29",
        Login("localhost", DEVICE, "2019-10-01", None, "azure-iot-device-iothub-py/2.14.0(x;y)"),
    ),
    "python with a model": (
        "localhost/dev1/?api-version=2020-09-30&DeviceClientType=py&model-id=dtmi%3Acom%3Aexample%3AThermostat%3B1",
        Login("localhost", DEVICE, "2020-09-30", "dtmi:com:example:Thermostat;1", "py"),
    ),
    "python module": (
        "localhost/dev1/mod1/?api-version=2019-10-01&DeviceClientType=py",
        Login("localhost", MODULE, "2019-10-01", None, "py"),
    ),
    "node, its model unencoded": (
        "localhost/dev1/?api-version=2021-04-12&model-id=dtmi:com:example:Thermostat;1"
        "&DeviceClientType=azure-iot-device%2F1.18.4%20(node%20v20.0.0%3B%20linux)",
        Login("localhost", DEVICE, "2021-04-12", "dtmi:com:example:Thermostat;1",
              "azure-iot-device/1.18.4 (node v20.0.0; linux)"),
    ),
    "node with a port in its host": (
        "localhost:9443/dev1/?api-version=2021-04-12&DeviceClientType=x",
        Login("localhost:9443", DEVICE, "2021-04-12", None, "x"),
    ),
    "c#, with an auth chain": (
        "hub.test/dev1/?api-version=2020-09-30&DeviceClientType=.NET%2F1.42&auth-chain=leaf%3Bedge&model-id=m",
        Login("hub.test", DEVICE, "2020-09-30", "m", ".NET/1.42"),
    ),
    "c, lower-case escapes": (
        "hub.test/dev1/?api-version=2020-09-30&DeviceClientType=iothubclient%2f1.11.0%20(native%3b%20Linux)",
        Login("hub.test", DEVICE, "2020-09-30", None, "iothubclient/1.11.0 (native; Linux)"),
    ),
    "the cli": (
        "localhost/dev1/?api-version=2019-10-01&DeviceClientType=agentNone",
        Login("localhost", DEVICE, "2019-10-01", None, "agentNone"),
    ),
    "no question mark": (
        "h/dev1/api-version=2010-01-01&DeviceClientType=c",
        Login("h", DEVICE, "2010-01-01", None, "c"),
    ),
    "no question mark, module": ("h/dev1/mod1/api-version=2010-01-01&", Login("h", MODULE, "2010-01-01", None, "")),
    "an old client that joins with a slash": (
        "h/dev1/mod1/api-version=2017-06-30/DeviceClientType=Microsoft.Azure.Devices.Client/1.5.1-preview-003",
        Login("h", MODULE, "2017-06-30", None, "Microsoft.Azure.Devices.Client/1.5.1-preview-003"),
    ),
    "a question mark inside ids": (
        "h/dev?1/mod?1/?api-version=2020-09-30",
        Login("h", IdentityKey("dev?1", "mod?1"), "2020-09-30", None, ""),
    ),
    "the first of equal keys counts": (
        "h/dev1/?api-version=1&api-version=2&model-id=a&model-id=b",
        Login("h", DEVICE, "1", "a", ""),
    ),
    "plus is itself": ("h/dev1/?api-version=1&DeviceClientType=a+b%2Bc", Login("h", DEVICE, "1", None, "a+b+c")),
    "unknown keys and keys without a value": (
        "h/dev1/?api-version=1&future=x&DeviceClientType&&model-id",
        Login("h", DEVICE, "1", None, ""),
    ),
    "a blank api-version": ("h/dev1/?api-version=%20&x=y", Login("h", DEVICE, None, None, "")),
    "no api-version": ("h/dev1/?DeviceClientType=x", Login("h", DEVICE, None, None, "x")),
    "no query": ("h/dev1", Login("h", DEVICE, None, None, "")),
    "no query, module": ("h/dev1/mod1", Login("h", MODULE, None, None, "")),
    "an empty query": ("h/dev1/?", Login("h", DEVICE, None, None, "")),
    "blanks around the id": ("h/ dev1 /?api-version=1", Login("h", DEVICE, "1", None, "")),
}  # fmt: skip


@pytest.mark.parametrize(("text", "login"), USERNAMES.values(), ids=USERNAMES.keys())
def test_user_names_are_read(text: str, login: Login) -> None:
    assert parse_username(text) == login


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "host"),
        ("localhost", "names no device"),
        ("/dev1/?api-version=1", "host"),
        ("h//?api-version=1", "empty"),
        ("h/dev1//?api-version=1", "empty"),
        ("h/ /?api-version=1", "empty"),
        ("h/dev1/", "empty"),
        ("h/dev1/mod1/more/?api-version=1", "4 parts"),
        ("h/dev1/mod1/more", "4 parts"),
        ("h/dev1/mod1/api-version=1/more", "5 parts"),
        ("HostName=h;DeviceId=dev1", "names no device"),
    ],
)
def test_other_user_names_are_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(HubError) as caught:
        parse_username(text)
    assert caught.value.row is ARGUMENT_INVALID
    assert why in caught.value.message
    assert "{deviceId}" in caught.value.message


def test_a_long_user_name_is_not_repeated_in_full() -> None:
    with pytest.raises(HubError) as caught:
        parse_username("x" * 60_000)
    assert len(caught.value.message) < 300


@settings(max_examples=300)
@given(
    st.text(max_size=80) | st.lists(st.sampled_from(["h", "/", "?", "api-version=", "&", "%", "=", "d"])).map("".join)
)
def test_arbitrary_user_names_are_read_or_refused(text: str) -> None:
    try:
        login = parse_username(text)
    except HubError:
        return
    assert login.host
    assert login.key.device_id
    assert login.key.module_id != ""


# --- telemetry topics

TOPICS = {
    "no slash": ("devices/dev1/messages/events", {}, {}),
    "no bag": ("devices/dev1/messages/events/", {}, {}),
    "python": (
        "devices/dev1/messages/events/%24.mid=m1&%24.cid=cc&%24.ct=application%2Fjson&%24.ce=utf-8&a%20b=c%26d",
        {"message-id": "m1", "correlation-id": "cc", "content-type": "application/json", "content-encoding": "utf-8"},
        {"a b": "c&d"},
    ),
    "python, the rest": (
        "devices/dev1/messages/events/%24.on=out&%24.uid=u&%24.exp=2030-01-02T03%3A04%3A05"
        "&%24.ifid=urn%3Aazureiot%3ASecurity%3ASecurityAgent%3A1&iothub-creation-time-utc=2030",
        {"output": "out", "user-id": "u", "absolute-expiry-time": "2030-01-02T03:04:05",
         "interface-id": "urn:azureiot:Security:SecurityAgent:1"},
        {"iothub-creation-time-utc": "2030"},
    ),
    "node": (
        "devices/dev1/messages/events/%24.to=%2Fdevices%2Fdev1&%24.sub=thermostat1&k=v!'()*",
        {"to": "/devices/dev1", "component": "thermostat1"},
        {"k": "v!'()*"},
    ),
    "c#, with its trailing slash": (
        "devices/dev1/messages/events/%24.ctime=2030-01-02T03%3A04%3A05.0000000Z&%24.schema=s"
        "&%24.diagid=d&%24.diagctx=creationtimeutc%3D1&iothub-ack=full&iothub-operation=op&null/",
        {"creation-time-utc": "2030-01-02T03:04:05.0000000Z", "schema": "s", "diagnostic-id": "d",
         "diagnostic-context": "creationtimeutc=1"},
        {"iothub-ack": "full", "iothub-operation": "op", "null": None},
    ),
    "java, system keys raw, sender ids not to be trusted": (
        "devices/dev1/messages/events/$.mid=m&$.cdid=other&$.cmid=other&$.ct=text%2Fplain&key=value",
        {"message-id": "m", "content-type": "text/plain"},
        {"key": "value"},
    ),
    "c, lower-case escapes": (
        "devices/dev1/messages/events/%24.mid=a%2fb&%24.uid=x",
        {"message-id": "a/b", "user-id": "x"},
        {},
    ),
    "c, unencoded text": (
        "devices/dev1/messages/events/key=a value/with 50% more=less",
        {},
        {"key": "a value/with 50% more=less"},
    ),
    "a trailing slash only once": ("devices/dev1/messages/events/a=b//", {}, {"a": "b/"}),
    "plus is itself": ("devices/dev1/messages/events/a=1%2B1", {}, {"a": "1+1"}),
    "the last of equal keys counts": ("devices/dev1/messages/events/a=1&%24.mid=x&a=2&$.mid=y", {"message-id": "y"},
                                      {"a": "2"}),
    "null and empty": ("devices/dev1/messages/events/null&empty=&$.mid", {}, {"null": None, "empty": ""}),
    "an empty system property": ("devices/dev1/messages/events/$.mid=", {"message-id": ""}, {}),
    "an unknown system key": ("devices/dev1/messages/events/%24.new=1", {}, {"$.new": "1"}),
    "a key escaped throughout": ("devices/dev1/messages/events/%24%2E%6Did=1", {"message-id": "1"}, {}),
    "empty items": ("devices/dev1/messages/events/&a=1&&b=2&", {}, {"a": "1", "b": "2"}),
    "malformed escapes": ("devices/dev1/messages/events/a=%zz%4&b=%", {}, {"a": "%zz%4", "b": "%"}),
    "escapes that are not UTF-8": ("devices/dev1/messages/events/a=%C3%28%FF", {}, {"a": "%C3(%FF"}),
    "escaped text beyond ASCII": ("devices/dev1/messages/events/a=%E2%82%AC%20%24", {}, {"a": "€ $"}),
    "text beyond ASCII as it is": ("devices/dev1/messages/events/a=€%20", {}, {"a": "€ "}),
}  # fmt: skip


@pytest.mark.parametrize(("topic", "system", "application"), TOPICS.values(), ids=TOPICS.keys())
def test_telemetry_topics_are_read(topic: str, system: dict[str, str], application: dict[str, str | None]) -> None:
    assert telemetry_properties(topic.encode(), DEVICE) == (system, application)


def test_module_topics_are_those_of_the_module() -> None:
    topic = b"devices/dev1/modules/mod1/messages/events/%24.on=output1&a=b/"
    assert telemetry_properties(topic, MODULE) == ({"output": "output1"}, {"a": "b"})
    assert telemetry_properties(b"devices/dev1/modules/mod1/messages/events/", MODULE) == ({}, {})


@pytest.mark.parametrize(
    ("topic", "key"),
    [
        ("devices/dev2/messages/events/", DEVICE),
        ("devices/dev10/messages/events/", DEVICE),
        ("devices/dev/messages/events/", DEVICE),
        ("devices/DEV1/messages/events/", DEVICE),
        ("devices/dev1/messages/events2", DEVICE),
        ("devices/dev1/messages/events?a=b", DEVICE),
        ("devices/dev1/messages/eventsx/", DEVICE),
        ("devices/dev1/messages/devicebound/", DEVICE),
        ("devices/dev1/messages", DEVICE),
        ("devices/dev1/modules/mod1/messages/events/", DEVICE),
        ("devices/dev1/messages/events/", MODULE),
        ("devices/dev1/modules/mod2/messages/events/", MODULE),
        ("$iothub/twin/GET/?$rid=1", DEVICE),
        ("/devices/dev1/messages/events/", DEVICE),
        ("free/topic", DEVICE),
    ],
)
def test_foreign_topics_are_refused_by_name(topic: str, key: IdentityKey) -> None:
    with pytest.raises(HubError) as caught:
        telemetry_properties(topic.encode(), key)
    assert caught.value.row is INVALID_OPERATION
    assert topic in caught.value.message
    assert "/messages/events/" in caught.value.message


@pytest.mark.parametrize("bag", ["=v", "a=1&=v", "&="])
def test_a_value_without_a_name_is_refused(bag: str) -> None:
    with pytest.raises(HubError) as caught:
        telemetry_properties(f"devices/dev1/messages/events/{bag}".encode(), DEVICE)
    assert caught.value.row is ARGUMENT_INVALID


any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = any_text.filter(lambda name: name and not name.startswith("$."))


@given(st.dictionaries(names, st.none() | any_text, max_size=6))
def test_what_is_percent_encoded_comes_back(properties: dict[str, str | None]) -> None:
    bag = "&".join(
        quote(name, safe="") + ("" if value is None else "=" + quote(value, safe=""))
        for name, value in properties.items()
    )
    assert parse_bag(bag) == ({}, properties)


@settings(max_examples=300)
@given(any_text | st.lists(st.sampled_from(["%", "2", "F", "f", "&", "=", "$.", "%24.", "mid", "é", "/"])).map("".join))
def test_arbitrary_bags_are_read_or_refused(bag: str) -> None:
    try:
        system, application = telemetry_properties(f"devices/dev1/messages/events/{bag}".encode(), DEVICE)
    except HubError:
        return
    # Whatever was read can be written as UTF-8, so it fits into an AMQP string.
    "".join([*system.values(), *application, *filter(None, application.values())]).encode()


@given(any_text)
def test_decoding_leaves_no_escape_of_valid_text(text: str) -> None:
    assert percent_decoded(quote(text, safe="")) == text


def test_the_size_counts_values_of_system_and_names_and_values_of_application_properties() -> None:
    assert size_of({}, {}, b"12345") == 5
    assert size_of({"message-id": "abc", "content-type": "é"}, {"name": "value", "ä": None, "e": ""}, b"12") == (
        2 + 3 + 2 + 4 + 5 + 2 + 1
    )


# --- filters


@pytest.mark.parametrize(
    ("topic_filter", "key", "kind"),
    [
        ("devices/dev1/messages/devicebound/#", DEVICE, SubscriptionKind.COMMANDS),
        ("$iothub/methods/POST/#", DEVICE, SubscriptionKind.METHODS),
        ("$iothub/methods/POST/reboot/#", DEVICE, SubscriptionKind.METHODS),
        ("$iothub/twin/res/#", DEVICE, SubscriptionKind.TWIN_RESPONSES),
        ("$iothub/twin/PATCH/properties/desired/#", DEVICE, SubscriptionKind.DESIRED_PROPERTIES),
        ("$iothub/twin/res/#", MODULE, SubscriptionKind.TWIN_RESPONSES),
        ("devices/dev1/modules/mod1/inputs/#", MODULE, SubscriptionKind.INPUTS),
        ("devices/dev1/modules/mod1/inputs/in1/#", MODULE, SubscriptionKind.INPUTS),
        ("devices/dev1/modules/mod1/#", MODULE, SubscriptionKind.MODULE),
        ("devices/dev1/modules/mod1/messages/devicebound/#", MODULE, SubscriptionKind.COMMANDS),
        ("devices/dev2/messages/devicebound/#", DEVICE, None),
        ("devices/dev1/messages/devicebound/#", MODULE, None),
        ("devices/dev1/modules/mod1/#", DEVICE, None),
        ("devices/dev1/modules/mod2/inputs/#", MODULE, None),
        ("devices/+/messages/devicebound/#", DEVICE, None),
        ("devices/dev1/messages/events/#", DEVICE, None),
        ("devices/dev1/#", DEVICE, None),
        ("devices/dev1/messages/devicebound", DEVICE, None),
        ("$iothub/methods/POST/", DEVICE, None),
        ("$iothub/#", DEVICE, None),
        ("#", DEVICE, None),
        ("$SYS/#", DEVICE, None),
        ("free/topic", DEVICE, None),
    ],
)
def test_filters_are_known_by_kind_or_foreign(
    topic_filter: str, key: IdentityKey, kind: SubscriptionKind | None
) -> None:
    assert subscription_kind(topic_filter, key) is kind
