"""The provisioning service in the shape of Azure's resource manager (provisioning.md 7.6), written and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.management_errors import PROPERTY_FIXED
from muster.core.resource import Resource
from muster.dialect.arm import differences
from muster.dialect.etag import etag_of
from muster.dialect.json_body import Members
from muster.dialect.network_bodies import NETWORK_MEMBERS, changed_network, network_body
from muster.dialect.policy_bodies import read_policies
from muster.identity.kept_policies import PolicyDraft
from muster.identity.mistakes import shown
from muster.identity.network import NetworkRules
from muster.identity.policies import OWNER, PROVISIONING_RIGHTS
from muster.identity.sas import host_name
from muster.provisioning.model import AllocationKind


class Link(NamedTuple):
    """A linked hub and its share, 0 for none."""

    host: str
    weight: int


@dataclass(frozen=True, slots=True)
class ServiceDescription:
    """What is told of the provisioning service."""

    name: str
    host: str
    scope: str
    resource: Resource
    policy: AllocationKind
    links: Sequence[Link]
    network: NetworkRules


class ServiceChanges(NamedTuple):
    """What shall be otherwise; ``None`` or nothing: as it is."""

    policy: AllocationKind | None
    weights: Mapping[str, int]
    policies: Mapping[str, PolicyDraft] | None
    network: NetworkRules | None


def service_body(one: ServiceDescription, identity: str) -> dict[str, Any]:
    """``identity`` is its resource id. Keys are not told, as in the cloud."""
    resource = one.resource
    _, _, subscription, _, group, *_ = identity.split("/")
    hubs = [
        {
            "name": link.host, "hostName": link.host, "location": resource.location,
            "connectionString": f"HostName={link.host};SharedAccessKeyName={OWNER};SharedAccessKey=****",
            "applyAllocationPolicy": link.weight > 0, "allocationWeight": link.weight,
            "authenticationType": "KeyBased",
        }
        for link in one.links
    ]  # fmt: skip
    return {
        "id": identity, "name": one.name, "type": "Microsoft.Devices/provisioningServices",
        "location": resource.location, "tags": dict(resource.tags), "etag": etag_of(resource.version),
        "subscriptionid": subscription, "resourcegroup": group,
        "sku": {"name": "S1", "tier": "Standard", "capacity": 1},
        "properties": {
            "state": "Active", "provisioningState": "Succeeded", "iotHubs": hubs,
            "allocationPolicy": _POLICIES[one.policy], "serviceOperationsHostName": one.host,
            "deviceProvisioningHostName": one.host, "idScope": one.scope, **network_body(one.network, hub=False),
            "privateEndpointConnections": [], "enableDataResidency": False, "disableLocalAuth": False,
        },
    }  # fmt: skip


def read_service(body: Members, present: Mapping[str, Any], rules: NetworkRules) -> ServiceChanges:
    """What ``body`` wants otherwise than ``present`` and the network ``rules`` have it.

    Raises ``HubError``: 400310 that names what cannot be set, 400004 for a value.
    """
    properties = body.members("properties")
    rest = {name: value for name, value in body.whole.items() if name not in _TOLD}
    rest["properties"] = {name: value for name, value in properties.whole.items() if name not in _READ}
    if isinstance(rest.get("sku"), dict):
        rest["sku"] = {name: value for name, value in rest["sku"].items() if name != "tier"}
    for path, value in differences(rest, present):
        raise HubError(
            PROPERTY_FIXED, f"{path[:120]} cannot be {shown(str(value))} here, leave it out, or as GET answers it."
        )
    return ServiceChanges(
        properties.choice("allocationPolicy", AllocationKind),
        _read_weights(properties, present),
        read_policies(properties, PROVISIONING_RIGHTS),
        changed_network(properties, rules, hub=False),
    )


def _read_weights(properties: Members, present: Mapping[str, Any]) -> dict[str, int]:
    """The weights that are given, of hubs that must all be there."""
    if properties.raw("iotHubs") is None:
        return {}
    linked = {one["name"]: one["allocationWeight"] for one in present["properties"]["iotHubs"]}
    weights: dict[str, int] = {}
    for at, item in enumerate(properties.items("iotHubs")):
        one = Members.of(item, f"properties.iotHubs[{at}]", f"properties.iotHubs[{at}].")
        host = _host(one, at)
        weight = one.whole_number("allocationWeight")
        if one.raw("applyAllocationPolicy") is not None and not one.flag("applyAllocationPolicy"):
            weight = 0
        weights[host] = linked.get(host, 1) if weight is None else weight
    left_out = [host for host in linked if host not in weights]
    if left_out:
        raise HubError(
            PROPERTY_FIXED,
            f"properties.iotHubs has no {left_out[0]}: all hubs of the deployment are linked, "
            "give it allocationWeight 0 to have no devices assigned to it.",
        )
    return weights


def _host(one: Members, at: int) -> str:
    """The hub that an item names, by its name or in its connection string."""
    named = one.text("name") or one.text("hostName")
    if not named:
        parts = (part.partition("=") for part in (one.text("connectionString") or "").split(";"))
        named = next((value for key, _, value in parts if key.strip().lower() == "hostname"), "")
    if not named:
        raise HubError(ARGUMENT_INVALID, f"properties.iotHubs[{at}] names no hub, give its connectionString or name.")
    return host_name(named.strip())


_POLICIES = {kind: kind.value[0].upper() + kind.value[1:] for kind in AllocationKind}
_TOLD = {"id", "name", "type", "etag", "location", "tags", "subscriptionid", "resourcegroup", "systemData"}
_READ = {
    "iotHubs", "allocationPolicy", "authorizationPolicies", "state", "provisioningState", "privateEndpointConnections",
    "serviceOperationsHostName", "deviceProvisioningHostName", "idScope", "deviceRegistryNamespaces",
    "portalOperationsHostName", *NETWORK_MEMBERS,
}  # fmt: skip
