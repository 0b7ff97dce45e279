"""Every operation of azure-mgmt-iothub, found by looking: answered, or refused with what to do instead."""

from __future__ import annotations

import base64
import inspect
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.mgmt.iothub import IotHubClient
from azure.mgmt.iothub.aio import IotHubClient as AsyncIotHubClient

from muster.heads.arm.unsupported import ROWS
from tests.addresses import loopback
from tests.certificate_maker import Maker
from tests.engines import hub_process
from tests.sdk.managed_hub import GROUP, SCOPES, SUBSCRIPTION, Managed, PolicyCredential, finish, operations_of, refusal

pytestmark = pytest.mark.sdk

OPERATION_GROUPS = (
    "certificates", "iot_hub", "iot_hub_resource", "operations", "private_endpoint_connections",
    "private_link_resources", "resource_provider_common",
)  # fmt: skip


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    other = loopback()
    with hub_process(tmp_path_factory.mktemp("walked"), loopback(), "--bind", other) as process:
        yield Managed(process, other)


def calls(node: Managed) -> dict[str, Callable[[], Any]]:
    """A call of every operation, in an order that works; those that are not supported too."""
    return {**hub_calls(node), **endpoint_calls(node), **certificate_calls(node), **other_calls(node)}


def hub_calls(node: Managed) -> dict[str, Callable[[], Any]]:
    hubs, name = node.client.iot_hub_resource, node.name
    found = {
        "check_name_availability": lambda: hubs.check_name_availability({"name": "walk"}),
        "begin_create_or_update": lambda: hubs.begin_create_or_update(GROUP, "walk", node.body()),
        "begin_update": lambda: hubs.begin_update(GROUP, "walk", {"tags": {"a": "b"}}),
        "get": lambda: hubs.get(GROUP, "walk"),
        "list_by_subscription": hubs.list_by_subscription,
        "list_by_resource_group": lambda: hubs.list_by_resource_group(GROUP),
        "begin_delete": lambda: hubs.begin_delete(GROUP, "walk"),
        "get_stats": lambda: hubs.get_stats(GROUP, name),
        "get_valid_skus": lambda: hubs.get_valid_skus(GROUP, name),
        "get_quota_metrics": lambda: hubs.get_quota_metrics(GROUP, name),
        "list_jobs": lambda: hubs.list_jobs(GROUP, name),
        "get_job": lambda: hubs.get_job(GROUP, name, "j"),
        "list_keys": lambda: hubs.list_keys(GROUP, name),
        "get_keys_for_key_name": lambda: hubs.get_keys_for_key_name(GROUP, name, "service"),
    }
    return {f"iot_hub_resource.{operation}": call for operation, call in found.items()}


def endpoint_calls(node: Managed) -> dict[str, Callable[[], Any]]:
    hubs, at, body = node.client.iot_hub_resource, (GROUP, node.name, "events"), {"properties": {"name": "walk"}}
    route = {"name": "r", "source": "DeviceMessages", "endpointNames": ["events"], "isEnabled": True}
    exports = {"exportBlobContainerUri": "https://a/b", "excludeKeys": True}
    imports = {"inputBlobContainerUri": "https://a/b", "outputBlobContainerUri": "https://a/b"}
    found = {
        "get_endpoint_health": lambda: hubs.get_endpoint_health(*at[:2]),
        "create_event_hub_consumer_group": lambda: hubs.create_event_hub_consumer_group(*at, "walk", body),
        "get_event_hub_consumer_group": lambda: hubs.get_event_hub_consumer_group(*at, "walk"),
        "list_event_hub_consumer_groups": lambda: hubs.list_event_hub_consumer_groups(*at),
        "delete_event_hub_consumer_group": lambda: hubs.delete_event_hub_consumer_group(*at, "walk"),
        "test_all_routes": lambda: hubs.test_all_routes(node.name, GROUP, {}),
        "test_route": lambda: hubs.test_route(node.name, GROUP, {"route": route}),
        "export_devices": lambda: hubs.export_devices(*at[:2], exports),
        "import_devices": lambda: hubs.import_devices(*at[:2], imports),
    }
    return {f"iot_hub_resource.{operation}": call for operation, call in found.items()}


def certificate_calls(node: Managed) -> dict[str, Callable[[], Any]]:
    certificates, at, maker = node.client.certificates, (GROUP, node.name, "walk"), Maker(time.time())
    root = maker.root("Walk")
    body = {"properties": {"certificate": base64.b64encode(root.pem).decode()}}
    coded: list[Any] = []

    def generate() -> None:
        coded.append(certificates.generate_verification_code(*at, certificates.get(*at).etag))

    def verify() -> None:
        proof = maker.issue(coded[0].properties.verification_code, root)
        proven = certificates.verify(*at, coded[0].etag, {"certificate": base64.b64encode(proof.pem).decode()})
        assert proven.properties.is_verified

    return {
        "certificates.create_or_update": lambda: certificates.create_or_update(*at, body),
        "certificates.get": lambda: certificates.get(*at),
        "certificates.list_by_iot_hub": lambda: certificates.list_by_iot_hub(*at[:2]),
        "certificates.generate_verification_code": generate,
        "certificates.verify": verify,
        "certificates.delete": lambda: certificates.delete(*at, certificates.get(*at).etag),
    }


def other_calls(node: Managed) -> dict[str, Callable[[], Any]]:
    client, at = node.client, (GROUP, node.name)
    links, fail = client.private_endpoint_connections, {"failoverRegion": "x"}
    link = {"properties": {"privateLinkServiceConnectionState": {"status": "Approved", "description": ""}}}
    return {
        "operations.list": client.operations.list,
        "resource_provider_common.get_subscription_quota": client.resource_provider_common.get_subscription_quota,
        "iot_hub.begin_manual_failover": lambda: client.iot_hub.begin_manual_failover(node.name, GROUP, fail),
        "private_endpoint_connections.list": lambda: links.list(*at),
        "private_endpoint_connections.get": lambda: links.get(*at, "c"),
        "private_endpoint_connections.begin_update": lambda: links.begin_update(*at, "c", link),
        "private_endpoint_connections.begin_delete": lambda: links.begin_delete(*at, "c"),
        "private_link_resources.list": lambda: client.private_link_resources.list(*at),
        "private_link_resources.get": lambda: client.private_link_resources.get(*at, "g"),
    }


UNSUPPORTED = {
    "iot_hub.begin_manual_failover", "iot_hub_resource.test_all_routes", "iot_hub_resource.test_route",
    "iot_hub_resource.export_devices", "iot_hub_resource.import_devices", "private_endpoint_connections.get",
    "private_endpoint_connections.begin_update", "private_endpoint_connections.begin_delete",
    "private_link_resources.get",
}  # fmt: skip
ABSENT = {"iot_hub_resource.get_job": "no jobs"}


def test_the_page_lists_every_operation(node: Managed) -> None:
    text = (Path(__file__).parents[2] / "docs" / "management.md").read_text().partition("## Provisioning")[0]
    listed = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (yes|no)\b", text, re.MULTILINE))
    found = operations_of(node.client, OPERATION_GROUPS)
    assert listed == {name: "no" if name in UNSUPPORTED else "yes" for name in found}


def test_every_operation_of_the_sdk_is_answered(node: Managed) -> None:
    walk = calls(node)
    assert set(walk) == operations_of(node.client, OPERATION_GROUPS), "an operation was forgotten here"
    properties = {name for name, member in inspect.getmembers(IotHubClient) if isinstance(member, property)}
    assert properties == set(OPERATION_GROUPS), "a group of operations was forgotten here"
    refused = []
    for name, call in walk.items():
        if name in UNSUPPORTED:
            error = refusal(call)
            assert (error.status_code, error.error.code) == (501, "OperationNotSupported"), name
            refused.append(error.error.message)
        elif name in ABSENT:
            assert ABSENT[name] in refusal(call).message
        else:
            finish(call())
    rows = [one for one in ROWS if "/IotHubs/" in one.path]
    expected = [f"{one.what} is not supported. {one.instead} (501 NotImplemented)" for one in rows]
    assert sorted(refused) == sorted(expected), "each says what to do instead"


async def test_the_asynchronous_client_has_the_same_operations(node: Managed) -> None:
    class Credential(PolicyCredential):
        async def get_token(self, *_: str, **__: Any) -> AccessToken:  # type: ignore[override]
            return super().get_token()

    async with AsyncIotHubClient(
        Credential(node.process.facts["HUB_CONNECTION_STRING"]), SUBSCRIPTION, credential_scopes=SCOPES,
        base_url=f"https://{node.name}:{node.process.port('https')}",
        connection_verify=node.process.facts["HUB_CA_FILE"],
    ) as client:  # fmt: skip
        assert operations_of(client, OPERATION_GROUPS) == operations_of(node.client, OPERATION_GROUPS)
        assert node.name in [one.name async for one in client.iot_hub_resource.list_by_subscription()]
