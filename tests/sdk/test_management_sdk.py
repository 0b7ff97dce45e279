"""azure-mgmt-iothub against a hub, by its base URL and a credential of six lines."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.eventhub import EventHubConsumerClient
from azure.iot.device import IoTHubDeviceClient, Message
from azure.iot.hub import IoTHubRegistryManager

from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.engines import hub_process
from tests.sdk.managed_hub import GROUP, Managed, PolicyCredential, refusal
from tests.sdk.oidc_issuer import OidcIssuer

pytestmark = pytest.mark.sdk


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    other = loopback()
    with hub_process(tmp_path_factory.mktemp("managed"), loopback(), "--bind", other) as process:
        yield Managed(process, other)


def device(hub: HubProcess, facts: dict[str, Any], device_id: str) -> IoTHubDeviceClient:
    """A device that the service SDK registers at the hub of ``facts``, connected."""
    registry = IoTHubRegistryManager.from_connection_string(facts["HUB_CONNECTION_STRING"])
    key = registry.create_device_with_sas(device_id, "", "", "enabled").authentication.symmetric_key.primary_key
    client = IoTHubDeviceClient.create_from_connection_string(
        f"HostName={facts['HUB_HOST']};DeviceId={device_id};SharedAccessKey={key}",
        server_verification_cert=Path(hub.facts["HUB_CA_FILE"]).read_text(),
    )
    client.connect()
    return client


def first_body(hub: HubProcess, connection_string: str, group: str) -> str:
    """Of the first event that the Event Hubs SDK reads through ``group``."""
    found: list[str] = []

    def came(_: object, event: Any) -> None:
        found.append(event.body_as_str())
        client.close()

    client = EventHubConsumerClient.from_connection_string(
        connection_string, group, connection_verify=hub.facts["HUB_CA_FILE"]
    )
    client.receive(came, starting_position="-1")
    return found[0]


def facts_of(managed: Managed, name: str) -> dict[str, Any]:
    """How the hub ``name`` can be reached, from what its resource and its keys say."""
    hubs = managed.client.iot_hub_resource
    hub, keys = hubs.get(GROUP, name), {one.key_name: one for one in hubs.list_keys(GROUP, name)}
    host, endpoint = hub.properties.host_name, hub.properties.event_hub_endpoints["events"]
    owner, service = keys["iothubowner"], keys["service"]
    return {
        "HUB_HOST": host,
        "HUB_CONNECTION_STRING": f"HostName={host};SharedAccessKeyName=iothubowner;SharedAccessKey={owner.primary_key}",
        "EVENTHUB_CONNECTION_STRING": f"Endpoint={endpoint.endpoint};SharedAccessKeyName=service;"
        f"SharedAccessKey={service.primary_key};EntityPath={endpoint.path}",
    }


def test_a_hub_that_is_made_serves_at_once_and_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = loopback()
    with hub_process(tmp_path, loopback(), "--bind", other) as process:
        if process.port("https") != 443:
            pytest.skip("port 443 may not be bound here: sysctl net.ipv4.ip_unprivileged_port_start=443, or be root")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", process.facts["REQUESTS_CA_BUNDLE"])
        managed = Managed(process, other)
        hubs = managed.client.iot_hub_resource
        events = {"eventHubEndpoints": {"events": {"partitionCount": 3, "retentionTimeInDays": 2}}}
        made = managed.make("west", properties=events)
        assert (made.name, made.properties.state, made.properties.host_name) == ("west", "Active", other)
        assert made.id.endswith(f"/resourceGroups/{GROUP}/providers/Microsoft.Devices/IotHubs/west")
        assert (made.location, made.tags["line"]) == ("westeurope", "7")
        endpoint = made.properties.event_hub_endpoints["events"]
        assert (endpoint.partition_count, endpoint.retention_time_in_days) == (3, 2)
        hubs.create_event_hub_consumer_group(GROUP, "west", "events", "reports", {"properties": {"name": "reports"}})
        facts = facts_of(managed, "west")
        client = device(process, facts, "d")
        client.send_message(Message("before"))
        client.shutdown()
        assert first_body(process, facts["EVENTHUB_CONNECTION_STRING"], "reports") == "before"
        assert hubs.get_stats(GROUP, "west").total_device_count == 1
        assert hubs.get_stats(GROUP, process.address).total_device_count == 0
        hubs.begin_update(GROUP, "west", {"tags": {"line": "8"}}).result()

        assert process.stop() == 0
        process.start()
        found = {one.name: one for one in hubs.list_by_resource_group(GROUP)}
        assert set(found) == {"west"}, "the first hub is in the group muster"
        assert found["west"].tags == {"line": "8"}
        assert found["west"].properties.event_hub_endpoints["events"].partition_count == 3
        assert facts_of(managed, "west") == facts
        client = device(process, facts, "e")
        client.send_message(Message("after"))
        client.shutdown()
        assert first_body(process, facts["EVENTHUB_CONNECTION_STRING"], "reports") == "before"
        assert {one.name for one in hubs.list_event_hub_consumer_groups(GROUP, "west", "events")} == {
            "$Default", "reports",
        }  # fmt: skip

        hubs.begin_delete(GROUP, "west").result()
        assert [one.name for one in hubs.list_by_subscription()] == [process.address]
        with pytest.raises(ResourceNotFoundError, match="There is no hub west here"):
            hubs.get(GROUP, "west")


def test_what_can_be_set_counts_at_once(node: Managed) -> None:
    hubs = node.client.iot_hub_resource
    present = hubs.get(GROUP, node.name)
    present.properties.event_hub_endpoints["events"].retention_time_in_days = 5
    present.properties.cloud_to_device.default_ttl_as_iso8601 = timedelta(hours=2)
    present.properties.cloud_to_device.max_delivery_count = 3
    present.sku.name = "S3"
    present.tags = {"plant": "7"}
    hubs.begin_create_or_update(GROUP, node.name, present).result()
    changed = hubs.get(GROUP, node.name)
    assert changed.properties.event_hub_endpoints["events"].retention_time_in_days == 5
    to_devices = changed.properties.cloud_to_device
    assert (to_devices.default_ttl_as_iso8601, to_devices.max_delivery_count) == (timedelta(hours=2), 3)
    assert (changed.sku.name, changed.sku.tier, changed.tags) == ("S3", "Standard", {"plant": "7"})
    stale = refusal(lambda: hubs.begin_create_or_update(GROUP, node.name, changed, if_match=present.etag))
    assert (stale.status_code, stale.error.code) == (412, "PreconditionFailed")
    hubs.begin_create_or_update(GROUP, node.name, changed, if_match=changed.etag).result()


def test_policies_are_written_and_their_keys_renewed(node: Managed) -> None:
    hubs = node.client.iot_hub_resource

    def policies() -> dict[str, Any]:
        return {one.key_name: one for one in hubs.list_keys(GROUP, node.name)}

    def put(*wanted: Any) -> None:
        present = hubs.get(GROUP, node.name)
        present.properties.authorization_policies = list(wanted)
        hubs.begin_create_or_update(GROUP, node.name, present).result()

    before = policies()
    put(*before.values(), {"keyName": "desk", "rights": "RegistryRead"})
    made = policies()["desk"]
    assert made.rights == "RegistryRead"
    desk = f"HostName={node.name};SharedAccessKeyName=desk;SharedAccessKey={made.primary_key}"

    def asks() -> int:
        token = PolicyCredential(desk).get_token().token
        return node.process.request("GET", "/devices/none", Authorization=token)[0]

    assert asks() == 404
    renewed = policies()["desk"]
    renewed.primary_key = ""  # as the command line of Azure has a key made anew
    put(*before.values(), renewed)
    after = hubs.get_keys_for_key_name(GROUP, node.name, "desk")
    assert after.primary_key not in {"", made.primary_key}
    assert after.secondary_key == made.secondary_key
    assert asks() == 401
    with pytest.raises(HttpResponseError, match="iothubowner cannot be removed"):
        put(after)
    put(*before.values())
    assert policies() == before
    with pytest.raises(ResourceNotFoundError, match="has no shared access policy desk"):
        hubs.get_keys_for_key_name(GROUP, node.name, "desk")


def test_local_auth_is_switched_off(tmp_path: Path) -> None:
    with hub_process(tmp_path, loopback()) as process:
        node = Managed(process, "")
        hubs = node.client.iot_hub_resource
        present = hubs.get(GROUP, node.name)
        present.properties.disable_local_auth = True
        hubs.begin_create_or_update(GROUP, node.name, present, polling=False)
        with pytest.raises(ClientAuthenticationError):
            hubs.get(GROUP, node.name)
        assert process.request("GET", "/devices/none")[0] == 401


def test_network_rules_are_set_and_keep_what_is_not_said(node: Managed) -> None:
    hubs, device = node.client.iot_hub_resource, "/devices/none"
    path = f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{node.name}"
    assert node.process.request("PUT", path, {"properties": {"privateNetworks": ["10.0.0.0/8"]}})[0] == 200
    present = hubs.get(GROUP, node.name)
    present.properties.ip_filter_rules = [{"filterName": "none", "action": "Reject", "ipMask": "127.0.0.0/8"}]
    hubs.begin_create_or_update(GROUP, node.name, present).result()
    assert node.process.request("GET", device)[0] == 401
    body = node.process.request("GET", path)[1]["properties"]
    assert [one["ipMask"] for one in body["ipFilterRules"]] == ["127.0.0.0/8"]
    assert body["privateNetworks"] == ["10.0.0.0/8"], "which the SDK does not know"
    present.properties.ip_filter_rules = []
    hubs.begin_create_or_update(GROUP, node.name, present).result()
    assert node.process.request("GET", device)[0] == 404


def test_what_cannot_be_set_is_named(node: Managed) -> None:
    hubs = node.client.iot_hub_resource
    present = hubs.get(GROUP, node.name)
    hubs.begin_create_or_update(GROUP, node.name, present).result()  # as it is
    present.properties.event_hub_endpoints["events"].partition_count = 32
    error = refusal(lambda: hubs.begin_create_or_update(GROUP, node.name, present))
    assert (error.status_code, error.error.code) == (400, "PropertyChangeNotAllowed")
    assert "properties.eventHubEndpoints.events.partitionCount" in error.message
    for properties, part in (
        ({"cloudToDevice": {"maxDeliveryCount": 7, "defaultTtlAsIso8601": "PT3S"}}, "defaultTtlAsIso8601"),
        ({"routing": {"routes": [{"name": "r"}]}}, "no message routes"),
        ({"eventHubEndpoints": {"events": {"partitionCount": 0}}}, "from 1 to 32"),
    ):
        error = refusal(lambda properties=properties: node.make("never", properties=properties))
        assert (error.status_code, part in error.message) == (400, True), error.message
    path = f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{node.name}"
    status, body = node.process.request("PUT", path, {"properties": {"unheard": {"of": 1}}})  # the SDK leaves it out
    assert (status, "properties.unheard.of" in body["error"]["message"]) == (400, True)
    assert "cannot be named" in refusal(lambda: node.make("under_score")).message
    assert "'B1'" not in refusal(lambda: node.make("never", sku={"name": "B1", "capacity": 1})).message
    assert "is a name of the hub" in refusal(lambda: node.make("never", tags={"muster-host-names": node.name})).message
    assert "is the first hub" in refusal(lambda: hubs.begin_delete(GROUP, node.name)).message


def test_the_availability_of_a_name(node: Managed) -> None:
    check = node.client.iot_hub_resource.check_name_availability
    assert check({"name": "free-one"}).name_available
    taken, wrong = check({"name": node.name}), check({"name": "a_b"})
    assert (taken.name_available, taken.reason) == (False, "AlreadyExists")
    assert (wrong.name_available, wrong.reason) == (False, "Invalid")
    assert "cannot be named" in wrong.message


def test_the_caller_must_own_the_hub(node: Managed) -> None:
    hubs = node.client.iot_hub_resource
    node.make("own")
    try:
        owner = node.client_of(facts_of(node, "own")["HUB_CONNECTION_STRING"], node.name).iot_hub_resource
        assert [one.name for one in owner.list_by_subscription()] == ["own"]
        assert owner.get(GROUP, "own").name == "own"
        model = refusal(lambda: owner.get(GROUP, node.name)).model
        assert (model.code, model.http_status_code) == ("403310", "Forbidden"), "the provider's own shape, too"
        for call in (
            lambda: owner.get(GROUP, node.name),
            lambda: owner.get(GROUP, "another"),
            lambda: owner.begin_create_or_update(GROUP, "another", node.body()),
            lambda: owner.begin_delete(GROUP, "own"),
        ):
            error = refusal(call)
            assert (error.status_code, error.error.code) == (403, "AuthorizationFailed")
    finally:
        hubs.begin_delete(GROUP, "own").result()
    service = node.client_of(node.process.facts["SERVICE_CONNECTION_STRING"]).iot_hub_resource
    with pytest.raises(ClientAuthenticationError) as caught:
        service.get(GROUP, node.name)
    assert caught.value.error.code == "IotHubUnauthorizedAccess"
    status, _ = node.process.request(
        "GET", f"/subscriptions/s/resourceGroups/g/providers/Microsoft.Devices/IotHubs/{node.name}"
    )
    assert status == 200, "the signature alone, without Bearer"


def test_roles_of_a_bearer_token(tmp_path: Path) -> None:
    clients = {"reader": {"roles": ["Reader"]}, "manager": {"roles": ["Contributor"]}, "data": {"roles": ["Owns"]}}
    other = loopback()
    with (
        OidcIssuer(tmp_path, clients) as issuer,
        hub_process(tmp_path, loopback(), "--bind", other, *issuer.options) as process,
    ):
        node = Managed(process, other)

        def as_(client: str) -> Any:
            return node.with_credential(issuer.credential(client)).iot_hub_resource

        reader, manager = as_("reader"), as_("manager")
        assert [one.name for one in reader.list_by_subscription()] == [node.name]
        assert reader.get(GROUP, node.name).name == node.name
        for refused in (
            lambda: reader.list_keys(GROUP, node.name),
            lambda: reader.begin_create_or_update(GROUP, "west", node.body()),
            lambda: as_("data").get(GROUP, node.name),
        ):
            error = refusal(refused)
            assert (error.status_code, error.error.code) == (403, "GenericForbidden")
            assert "is not authorized for" in error.message
        assert manager.begin_create_or_update(GROUP, "west", node.body()).result().name == "west"
        assert {one.key_name for one in manager.list_keys(GROUP, "west")} >= {"iothubowner", "service"}
        assert [one.name for one in reader.list_by_resource_group(GROUP)] == ["west"]
        manager.begin_delete(GROUP, "west").result()
        wrong = node.with_credential(issuer.credential("manager"), ["https://iothubs.azure.net/.default"])
        with pytest.raises(ClientAuthenticationError):
            wrong.iot_hub_resource.get(GROUP, node.name)


def test_numbers_of_a_hub(node: Managed) -> None:
    hubs = node.client.iot_hub_resource
    quotas = {one.name: one for one in hubs.get_quota_metrics(GROUP, node.name)}
    assert set(quotas) == {"TotalMessages", "TotalDeviceCount"}
    before = hubs.get_stats(GROUP, node.name).total_device_count
    node.process.add_device("counted")
    assert hubs.get_stats(GROUP, node.name).enabled_device_count == before + 1
    assert {one.sku.name for one in hubs.get_valid_skus(GROUP, node.name)} == {"F1", "S1", "S2", "S3"}
    health = list(hubs.get_endpoint_health(GROUP, node.name))
    assert [(one.endpoint_id, one.health_status) for one in health] == [("events", "healthy")]
    assert {one.name.value for one in node.client.resource_provider_common.get_subscription_quota().value} == {
        "paidHubCount", "freeHubCount",
    }  # fmt: skip


def test_consumer_groups(node: Managed) -> None:
    hubs = node.client.iot_hub_resource
    body = {"properties": {"name": "x"}}
    made = hubs.create_event_hub_consumer_group(GROUP, node.name, "events", "Reports", body)
    assert made.name == "Reports"
    assert hubs.create_event_hub_consumer_group(GROUP, node.name, "events", "reports", body).id == made.id
    hubs.delete_event_hub_consumer_group(GROUP, node.name, "events", "reports")
    with pytest.raises(ResourceNotFoundError, match="There is no consumer group"):
        hubs.get_event_hub_consumer_group(GROUP, node.name, "events", "reports")
    error = refusal(lambda: hubs.delete_event_hub_consumer_group(GROUP, node.name, "events", "$Default"))
    assert (error.status_code, error.error.code) == (409, "ConsumerGroupCannotBeRemoved")
    assert (
        "the built-in one is events"
        in refusal(lambda: hubs.create_event_hub_consumer_group(GROUP, node.name, "other", "x", body)).message
    )
    assert (
        "cannot be a consumer group"
        in refusal(lambda: hubs.create_event_hub_consumer_group(GROUP, node.name, "events", "a b", body)).message
    )
