"""A hub in the shape of Azure's resource manager (``IotHubDescription``, service.md 6.6), written and read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.limits import PARTITIONS
from muster.core.management_errors import PROPERTY_FIXED
from muster.core.resource import DEFAULT_LOCATION, Resource
from muster.core.throttles import QUOTAS, Tier
from muster.dialect.arm import differences, duration_seconds, duration_text
from muster.dialect.etag import etag_of
from muster.dialect.json_body import Members, check_text
from muster.dialect.network_bodies import NETWORK_MEMBERS, network_body
from muster.identity.hub import Switches
from muster.identity.mistakes import shown
from muster.identity.network import NetworkRules

DAY_SECONDS, MOST_DAYS, MOST_UNITS = 86_400, 36_500, 200
NO_LIMIT = 2**63 - 1
"""The most that a client can read where there is no limit."""
HOSTS_TAG = "muster-host-names"
"""The tag that says, at a hub's creation, by which names clients reach it, with commas or blanks between them."""
MOST_TAGS, LONGEST_TAG, LONGEST_VALUE = 50, 512, 256
_SPANS = (60, 172_800)


@dataclass(frozen=True, slots=True)
class HubDescription:
    """What is told of a hub. ``endpoint`` is the address of its Event Hubs, times are in seconds."""

    name: str
    host: str
    endpoint: str
    resource: Resource
    tier: Tier
    units: int
    partitions: int
    retention_seconds: int
    command_ttl_seconds: int
    command_deliveries: int
    queue_ttl_seconds: int
    queue_lock_seconds: int
    queue_deliveries: int
    upload_ttl_seconds: int
    file_notifications: bool
    switches: Switches
    network: NetworkRules


def hub_body(one: HubDescription, identity: str, *, state: str = "Active", done: str = "Succeeded") -> dict[str, Any]:
    """``identity`` is its resource id, ``state`` that of the hub, ``done`` that of its provisioning."""
    resource = one.resource
    _, _, subscription, _, group, *_ = identity.split("/")
    return {
        "id": identity, "name": one.name, "type": "Microsoft.Devices/IotHubs", "location": resource.location,
        "tags": dict(resource.tags), "etag": etag_of(resource.version), "subscriptionid": subscription,
        "resourcegroup": group,
        "sku": {"name": one.tier.value, "tier": "Free" if one.tier is Tier.F1 else "Standard", "capacity": one.units},
        "properties": {"provisioningState": done, "state": state, **_properties(one)},
    }  # fmt: skip


def _properties(one: HubDescription) -> dict[str, Any]:
    queue = {
        "lockDurationAsIso8601": duration_text(one.queue_lock_seconds),
        "ttlAsIso8601": duration_text(one.queue_ttl_seconds),
        "maxDeliveryCount": one.queue_deliveries,
    }
    events = {
        "retentionTimeInDays": max(1, one.retention_seconds // DAY_SECONDS), "partitionCount": one.partitions,
        "partitionIds": [str(number) for number in range(one.partitions)], "path": one.name, "endpoint": one.endpoint,
    }  # fmt: skip
    kinds = ("serviceBusQueues", "serviceBusTopics", "eventHubs", "storageContainers", "cosmosDBSqlContainers")
    fallback = {"name": "$fallback", "source": "DeviceMessages", "condition": "true", "endpointNames": ["events"],
                "isEnabled": True}  # fmt: skip
    return {
        "hostName": one.host, "locations": [{"location": one.resource.location, "role": "primary"}],
        **network_body(one.network, hub=True), "minTlsVersion": "1.2", "privateEndpointConnections": [],
        "eventHubEndpoints": {"events": events},
        "routing": {"endpoints": {kind: [] for kind in kinds}, "routes": [], "fallbackRoute": fallback},
        "storageEndpoints": {"$default": {"sasTtlAsIso8601": duration_text(one.upload_ttl_seconds),
                                          "connectionString": "", "containerName": ""}},
        "messagingEndpoints": {"fileNotifications": queue},
        "enableFileUploadNotifications": one.file_notifications,
        "cloudToDevice": {
            "maxDeliveryCount": one.command_deliveries,
            "defaultTtlAsIso8601": duration_text(one.command_ttl_seconds), "feedback": dict(queue),
        },
        "features": "DeviceManagement", "enableDataResidency": False,
        "disableLocalAuth": one.switches.disable_local_auth, "disableDeviceSAS": one.switches.disable_device_sas,
        "disableModuleSAS": one.switches.disable_module_sas,
    }  # fmt: skip


# --- what is sent


def read_tags(body: Members) -> dict[str, str] | None:
    """``tags``, ``None`` when they are not given. Raises ``HubError`` 400004."""
    if body.raw("tags") is None:
        return None
    given = body.raw("tags")
    if not isinstance(given, dict) or len(given) > MOST_TAGS:
        raise HubError(ARGUMENT_INVALID, f"tags must be an object of up to {MOST_TAGS} texts.")
    tags = {name: check_text(value, f"tags.{name[:64]}") for name, value in given.items()}
    if any(len(name) > LONGEST_TAG or len(value) > LONGEST_VALUE for name, value in tags.items()):
        raise HubError(
            ARGUMENT_INVALID, f"Names of tags have {LONGEST_TAG}, values {LONGEST_VALUE} characters at most."
        )
    return tags


def read_location(body: Members) -> str:
    """``location``, which says nothing here and is given back as it came."""
    return (body.text("location") or DEFAULT_LOCATION)[:128]


def read_changes(body: Mapping[str, Any], present: Mapping[str, Any], *, new: bool) -> dict[str, Any]:
    """What ``body`` wants otherwise than ``present`` has it, under the names of ``node.settings.HubSettings``;
    ``switches`` are those that change, by name. Network rules and policies have readers of their own.

    Raises ``HubError``: 400310 that names what cannot be set (``new``: at a hub's creation), 400004 for a value.
    """
    found: dict[str, Any] = {}
    switches: dict[str, bool] = {}
    for path, value in differences(_settable(body), present):
        if path in _SWITCHES:
            switches[_SWITCHES[path]] = _flag(path, value)
        elif path in _FIELDS and (new or path not in _ONLY_NEW):
            name, read = _FIELDS[path]
            found[name] = read(path, value)
        else:
            raise HubError(PROPERTY_FIXED, f"{path[:120]} cannot be {shown(str(value))} here: {_why(path, new)}")
    if switches:
        found["switches"] = switches
    return found


def _settable(body: Mapping[str, Any]) -> dict[str, Any]:
    """``body`` without what is only ever told."""
    kept = {name: value for name, value in body.items() if name not in _TOLD}
    for name, told in (("properties", _PROPERTIES_TOLD), ("sku", {"tier"})):
        if isinstance(kept.get(name), dict):
            kept[name] = {member: value for member, value in kept[name].items() if member not in told}
    if isinstance(kept.get("identity"), dict) and kept["identity"].get("type") in {None, "None"}:
        del kept["identity"]
    return kept


def _why(path: str, new: bool) -> str:
    if path in _ONLY_NEW and not new:
        return "it is decided when the hub is made; add another hub."
    for beginning, reason in _REASONS.items():
        if path.startswith(beginning):
            return reason
    return "leave it out, or as GET answers it."


def _flag(path: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise HubError(ARGUMENT_INVALID, f"{path} must be true or false.")
    return value


def _whole(least: int, most: int, unit: int = 1) -> Callable[[str, Any], int]:
    def read(path: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise HubError(ARGUMENT_INVALID, f"{path} must be a whole number from {least} to {most}.")
        return value * unit

    return read


def _span(path: str, value: Any) -> int:
    seconds = duration_seconds(value) if isinstance(value, str) else None
    least, most = _SPANS
    if seconds is None or not least <= seconds <= most:
        raise HubError(
            ARGUMENT_INVALID, f"{path} must be a time span from {duration_text(least)} to {duration_text(most)}."
        )
    return int(seconds)


def _tier(path: str, value: Any) -> Tier:
    if value not in QUOTAS:
        raise HubError(ARGUMENT_INVALID, f"{path} must be one of {', '.join(QUOTAS)}, which the basic tiers equal.")
    return Tier(value)


_TOLD = {"id", "name", "type", "etag", "location", "tags", "subscriptionid", "resourcegroup", "systemData"}
_PROPERTIES_TOLD = {
    "provisioningState", "state", "hostName", "locations", "privateEndpointConnections", "features",
    "authorizationPolicies", *NETWORK_MEMBERS,
}  # fmt: skip
_PARTITION_COUNT = "properties.eventHubEndpoints.events.partitionCount"
_ONLY_NEW = {_PARTITION_COUNT}
_SWITCHES = {
    "properties.disableLocalAuth": "disable_local_auth",
    "properties.disableDeviceSAS": "disable_device_sas",
    "properties.disableModuleSAS": "disable_module_sas",
}
_FIELDS: dict[str, tuple[str, Callable[[str, Any], Any]]] = {
    "sku.name": ("tier", _tier),
    "sku.capacity": ("units", _whole(1, MOST_UNITS)),
    _PARTITION_COUNT: ("partitions", _whole(1, PARTITIONS.open)),
    "properties.eventHubEndpoints.events.retentionTimeInDays": ("retention_seconds", _whole(1, MOST_DAYS, DAY_SECONDS)),
    "properties.cloudToDevice.maxDeliveryCount": ("command_deliveries", _whole(1, 100)),
    "properties.cloudToDevice.defaultTtlAsIso8601": ("command_ttl_seconds", _span),
}
_REASONS = {
    "properties.routing": "the hub has no message routes yet, everything goes to events.",
    "properties.storageEndpoints": "where files go is an option of muster serve, --storage-connection-string.",
    "properties.encryption": "the data directory is encrypted by the operator's file system.",
    "identity": "the hub has no identity of its own in Azure.",
}
