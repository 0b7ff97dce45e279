"""The management API put together: what azure-mgmt-iothub and azure-mgmt-iothubprovisioningservices ask for."""

from __future__ import annotations

from functools import partial
from typing import Any

from muster.core.ambient import Ambient
from muster.core.errors import HubError
from muster.core.management_errors import RESOURCE_NOT_FOUND
from muster.dialect.arm import HUBS, SERVICES, list_body
from muster.heads.arm.access import Access
from muster.heads.arm.answers import SERVICE, ArmRows, refuse
from muster.heads.arm.certificates import CertificateResources
from muster.heads.arm.consumer_groups import GroupResources
from muster.heads.arm.hubs import HubResources
from muster.heads.arm.keys import KeyResources
from muster.heads.arm.long_operations import PATH, LongOperations
from muster.heads.arm.managed import ManagedHub, ManagedNode, ManagedService
from muster.heads.arm.measures import Measures
from muster.heads.arm.services import ServiceResources
from muster.heads.arm.unsupported import unsupported_rows
from muster.heads.http.answers import json_answer
from muster.heads.http.app import Refused, build_open_app
from muster.heads.http.connection import App
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation

_EMPTY: tuple[tuple[str, Any], ...] = (
    ("/jobs", list_body([])),
    ("/privateLinkResources", list_body([])),
    ("/privateEndpointConnections", []),
)
"""Lists of what a hub never has, in their shapes; all but the first also of what the provisioning service has not."""
_RESOURCES = (
    ("IotHubs", "IoT hubs"),
    ("IotHubs/eventHubEndpoints/consumerGroups", "Consumer groups"),
    ("IotHubs/certificates", "Certificates of a hub"),
    ("provisioningServices", "Provisioning services"),
    ("provisioningServices/certificates", "Certificates of a provisioning service"),
)
_KINDS = {"Read": "Get", "Write": "Create or update", "Delete": "Remove"}


def build_management(
    node: ManagedNode, provisioning: ManagedService, work: LongOperations, ambient: Ambient, *, refused: Refused
) -> App:
    """The application for the paths of the management API, the same on every host name of ``node``; ``refused`` hears
    of refused changes."""
    return build_open_app(management_rows(node, provisioning, work, ambient), ambient, refuse, refused)


def management_rows(
    node: ManagedNode, provisioning: ManagedService, work: LongOperations, ambient: Ambient
) -> list[Operation]:
    """All operations."""
    access = Access(node, provisioning)
    rows = ArmRows(access)

    async def operations(call: Call) -> Response:
        await access.anything(call)
        return json_answer(list_body([_operation(*one, kind) for one in _RESOURCES for kind in _KINDS]))

    return [
        rows.judged("GET", "/providers/Microsoft.Devices/operations", operations),
        *HubResources(node, access, work, ambient).table(rows),
        *Measures(node, access).table(rows),
        *GroupResources().table(rows),
        *CertificateResources(HUBS, 201).table(rows.of_hub),
        *KeyResources().table(rows),
        *(rows.of_hub("GET", path, partial(_nothing, body)) for path, body in _EMPTY),
        rows.of_hub("GET", "/jobs/{job}", _no_job),
        *ServiceResources(provisioning, ambient).table(rows),
        *CertificateResources(SERVICES, 200).table(rows.of_trust),
        *(rows.of_service("GET", path, partial(_nothing, body)) for path, body in _EMPTY[1:]),
        rows.of_services("GET", f"{SERVICE}/{PATH}/{{operation}}", work.answer),
        *unsupported_rows(rows),
    ]


async def _nothing(body: Any, call: Call, resource: object) -> Response:
    del call, resource
    return json_answer(body)


async def _no_job(_: Call, hub: ManagedHub) -> Response:
    raise HubError(RESOURCE_NOT_FOUND, f"The hub {hub.name} has no jobs of import or export, there are none yet.")


def _operation(resource: str, title: str, kind: str) -> dict[str, object]:
    return {
        "name": f"Microsoft.Devices/{resource}/{kind}",
        "display": {
            "provider": "Muster", "resource": title, "operation": f"{_KINDS[kind]} {title[0].lower()}{title[1:]}",
            "description": "",
        },
    }  # fmt: skip
