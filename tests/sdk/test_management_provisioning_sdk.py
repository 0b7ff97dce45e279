"""azure-mgmt-iothubprovisioningservices against a deployment: every operation that it has."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import ClientAuthenticationError
from azure.iot.device import ProvisioningDeviceClient
from azure.mgmt.iothubprovisioningservices import IotDpsClient

from muster.heads.arm.unsupported import ROWS
from muster.testing.hub import HubProcess
from tests.addresses import loopback
from tests.certificate_maker import Maker
from tests.engines import hub_process
from tests.sdk.managed_hub import GROUP, SUBSCRIPTION, PolicyCredential, finish, operations_of, refusal

pytestmark = pytest.mark.sdk

OPERATION_GROUPS = ("operations", "dps_certificate", "iot_dps_resource")
UNSUPPORTED = {
    "iot_dps_resource.begin_delete",
    "iot_dps_resource.get_private_link_resources",
    "iot_dps_resource.get_private_endpoint_connection",
    "iot_dps_resource.begin_create_or_update_private_endpoint_connection",
    "iot_dps_resource.begin_delete_private_endpoint_connection",
}
ABSENT = {"iot_dps_resource.get_operation_result": "no such operation"}


class Managed:
    """A running node with two hubs, and the owner of its provisioning service."""

    def __init__(self, process: HubProcess) -> None:
        self.process = process
        self.west = process.other("west").address
        self.client = self.client_of(process.facts["DPS_CONNECTION_STRING"])
        self.service, self.at = self.client.iot_dps_resource, (GROUP, process.address)

    def client_of(self, connection_string: str) -> IotDpsClient:
        return IotDpsClient(
            PolicyCredential(connection_string), SUBSCRIPTION, connection_verify=self.process.facts["HUB_CA_FILE"],
            base_url=f"https://{self.process.address}:{self.process.port('https')}",
        )  # fmt: skip

    def get(self) -> Any:
        return self.service.get(self.process.address, GROUP)

    def put(self, body: Any) -> Any:
        return self.service.begin_create_or_update(*self.at, body).result()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    west, directory = loopback(), tmp_path_factory.mktemp("managed-dps")
    with hub_process(directory, loopback(), "--bind", west, "--hub", f"west={west}") as process:
        yield Managed(process)


def calls(node: Managed) -> dict[str, Callable[[], Any]]:
    """A call of every operation, in an order that works; those that are not supported too."""
    service, name, at = node.service, node.process.address, node.at
    link = {"properties": {"privateLinkServiceConnectionState": {"status": "Approved", "description": ""}}}
    found = {
        "check_provisioning_service_name_availability": lambda: service.check_provisioning_service_name_availability(
            {"name": "another"}
        ),
        "begin_create_or_update": lambda: service.begin_create_or_update(*at, node.get()),
        "begin_update": lambda: service.begin_update(*at, {"tags": {"line": "7"}}),
        "get": node.get,
        "get_operation_result": lambda: service.get_operation_result("o", *at, asyncinfo="true"),
        "list_by_subscription": service.list_by_subscription,
        "list_by_resource_group": lambda: service.list_by_resource_group(GROUP),
        "list_valid_skus": lambda: service.list_valid_skus(name, GROUP),
        "list_keys": lambda: service.list_keys(name, GROUP),
        "list_keys_for_key_name": lambda: service.list_keys_for_key_name(name, "provisioningserviceowner", GROUP),
        "list_private_link_resources": lambda: service.list_private_link_resources(*at),
        "list_private_endpoint_connections": lambda: service.list_private_endpoint_connections(*at),
        "begin_delete": lambda: service.begin_delete(name, GROUP),
        "get_private_link_resources": lambda: service.get_private_link_resources(*at, "g"),
        "get_private_endpoint_connection": lambda: service.get_private_endpoint_connection(*at, "c"),
        "begin_create_or_update_private_endpoint_connection": lambda: (
            service.begin_create_or_update_private_endpoint_connection(*at, "c", link)
        ),
        "begin_delete_private_endpoint_connection": lambda: service.begin_delete_private_endpoint_connection(*at, "c"),
    }
    named = {f"iot_dps_resource.{operation}": call for operation, call in found.items()}
    return {"operations.list": node.client.operations.list, **named, **certificate_calls(node)}


def certificate_calls(node: Managed) -> dict[str, Callable[[], Any]]:
    certificates, maker = node.client.dps_certificate, Maker(time.time())
    root, at = maker.root("Walk"), (GROUP, node.process.address, "walk")
    get = lambda: certificates.get("walk", GROUP, node.process.address)  # noqa: E731
    coded: list[Any] = []

    def generate() -> None:
        arguments = ("walk", GROUP, node.process.address)
        coded.append(
            certificates.generate_verification_code(
                *arguments, etag=get().etag, match_condition=MatchConditions.IfNotModified
            )
        )

    def verify() -> None:
        proof = maker.issue(coded[0].properties.verification_code, root)
        proven = certificates.verify_certificate(
            "walk", GROUP, node.process.address, {"certificate": base64.b64encode(proof.pem).decode()},
            etag=coded[0].etag, match_condition=MatchConditions.IfNotModified,
        )  # fmt: skip
        assert proven.properties.is_verified
        assert proven.type == "Microsoft.Devices/provisioningServices/Certificates"

    def delete() -> None:
        certificates.delete(*at, etag=get().etag, match_condition=MatchConditions.IfNotModified)

    body = {"properties": {"certificate": base64.b64encode(root.pem).decode()}}
    found = {
        "create_or_update": lambda: certificates.create_or_update(*at, body),
        "get": get,
        "list": lambda: certificates.list(*at[:2]),
        "generate_verification_code": generate,
        "verify_certificate": verify,
        "delete": delete,
    }
    return {f"dps_certificate.{operation}": call for operation, call in found.items()}


def test_the_page_lists_every_operation(node: Managed) -> None:
    text = (Path(__file__).parents[2] / "docs" / "management.md").read_text().partition("## Provisioning")[2]
    listed = dict(re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \| (yes|no)\b", text, re.MULTILINE))
    found = operations_of(node.client, OPERATION_GROUPS)
    assert listed == {name: "no" if name in UNSUPPORTED else "yes" for name in found}


def test_every_operation_of_the_sdk_is_answered(node: Managed) -> None:
    walk = calls(node)
    groups = {name for name, one in vars(node.client).items() if type(one).__name__.endswith("Operations")}
    assert groups == set(OPERATION_GROUPS), "a group of operations was forgotten here"
    assert set(walk) == operations_of(node.client, OPERATION_GROUPS), "an operation was forgotten here"
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
    rows = [one for one in ROWS if "/provisioningServices/" in one.path]
    expected = [f"{one.what} is not supported. {one.instead} (501 NotImplemented)" for one in rows]
    assert sorted(refused) == sorted(expected), "each says what to do instead"


def test_linked_hubs_and_allocation_change_at_once_and_stay(node: Managed) -> None:
    found = node.get()
    assert found.properties.id_scope == node.process.facts["DPS_ID_SCOPE"]
    assert found.properties.device_provisioning_host_name == node.process.facts["DPS_HOST"]
    assert {one.name: one.allocation_weight for one in found.properties.iot_hubs} == {
        node.process.address: 1, node.west: 1,
    }  # fmt: skip
    found.properties.allocation_policy = "GeoLatency"
    found.properties.iot_hubs[0].allocation_weight = 0
    found.properties.iot_hubs[1].allocation_weight = 7
    node.put(found)

    def check() -> None:
        properties = node.get().properties
        assert properties.allocation_policy == "GeoLatency"
        assert [(one.allocation_weight, one.apply_allocation_policy) for one in properties.iot_hubs] == [
            (0, False), (7, True),
        ]  # fmt: skip

    check()
    key = base64.b64encode(b"k" * 32).decode()
    enrollment = {
        "registrationId": "assigned",
        "attestation": {"type": "symmetricKey", "symmetricKey": {"primaryKey": key, "secondaryKey": key}},
    }
    node_token = PolicyCredential(node.process.facts["DPS_CONNECTION_STRING"]).get_token().token
    status, _ = node.process.request("PUT", "/enrollments/assigned", enrollment, Authorization=node_token)
    assert status == 200
    device = ProvisioningDeviceClient.create_from_symmetric_key(
        node.process.facts["DPS_HOST"], "assigned", node.process.facts["DPS_ID_SCOPE"], key,
        server_verification_cert=Path(node.process.facts["HUB_CA_FILE"]).read_text(),
    )  # fmt: skip
    assert device.register().registration_state.assigned_hub == node.west, "the only one with a weight"
    assert node.process.stop() == 0
    node.process.start()
    check()


def test_what_cannot_be_set_is_named(node: Managed) -> None:
    found = node.get()
    found.properties.iot_hubs = found.properties.iot_hubs[:1]
    error = refusal(lambda: node.put(found))
    assert (error.status_code, error.error.code) == (400, "PropertyChangeNotAllowed")
    assert node.west in error.message
    strange = node.get()
    strange.properties.iot_hubs = [
        *strange.properties.iot_hubs, {"connectionString": "HostName=else.example;SharedAccessKey=k", "location": "x"},
    ]  # fmt: skip
    assert "else.example is not linked" in refusal(lambda: node.put(strange)).message
    closed = node.get()
    closed.properties.disable_local_auth = True
    assert "properties.disableLocalAuth" in refusal(lambda: node.put(closed)).message
    error = refusal(lambda: node.service.begin_create_or_update(GROUP, "another", node.get()))
    assert (error.status_code, error.error.code) == (501, "OperationNotSupported")
    assert (
        "There is no provisioning service another here" in refusal(lambda: node.service.get("another", GROUP)).message
    )


def test_policies_are_added_their_keys_renewed_and_removed(node: Managed) -> None:
    before = list(node.service.list_keys(node.process.address, GROUP))
    assert [one.key_name for one in before] == ["provisioningserviceowner"]
    body = node.get()
    reader = {"keyName": "reader", "rights": "EnrollmentRead"}
    body.properties.authorization_policies = [*before, reader]
    node.put(body)

    def key_of() -> Any:
        return node.service.list_keys_for_key_name(node.process.address, "reader", GROUP)

    made = key_of()
    assert made.rights == "EnrollmentRead"
    fresh = base64.b64encode(b"f" * 32).decode()
    body.properties.authorization_policies = [*before, {**reader, "primaryKey": fresh}]
    node.put(body)
    assert (key_of().primary_key, key_of().secondary_key) == (fresh, made.secondary_key)
    host = node.process.facts["DPS_HOST"]
    held = f"HostName={host};SharedAccessKeyName=reader;SharedAccessKey={fresh}"
    with pytest.raises(ClientAuthenticationError):
        node.client_of(held).iot_dps_resource.get(node.process.address, GROUP)
    body.properties.authorization_policies = before
    node.put(body)
    assert [one.key_name for one in node.service.list_keys(node.process.address, GROUP)] == ["provisioningserviceowner"]
    owner = node.client_of(node.process.facts["HUB_CONNECTION_STRING"]).iot_dps_resource
    assert owner.get(node.process.address, GROUP).name == node.process.address, "the first hub's owner manages all"
    west = node.client_of(node.process.other("west").facts["HUB_CONNECTION_STRING"]).iot_dps_resource
    assert refusal(lambda: west.get(node.process.address, GROUP)).status_code == 403
