"""The hubs of a node as the management API sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from muster.core.queue_limits import QUEUE_DELIVERIES, QUEUE_LOCK, QUEUE_TTL
from muster.core.resource import Resource
from muster.dialect.arm_hubs import HubDescription
from muster.dialect.environment import AMQP_PORT, with_port
from muster.heads.arm.managed import ManagedHub
from muster.identity.hub import hub_name
from muster.identity.network import NetworkRules
from muster.node.hub import OpenHub
from muster.node.settings import HubSettings, Settings


def managed_hub(hub: OpenHub, ports: Mapping[str, int], *, first: bool) -> ManagedHub:
    """``hub`` of a node that listens on ``ports``."""
    parts, changes = hub.parts, hub.changes
    hosts = hub.facts.hosts if first else hub.own_hosts
    return ManagedHub(
        facts=hub.facts,
        first=first,
        names=frozenset([hub.name.lower(), *(hub_name(host).lower() for host in hosts)]),
        describe=lambda: describe(
            hub.name,
            replace(changes.settings, switches=hub.facts.switches),
            ports,
            parts.resource.resource,
            parts.network.rules,
        ),
        change=changes.make,
        policies=hub.policies,
        switches=hub.switches,
        gate=parts.authenticator,
        network=parts.network,
        refusals=parts.refusals,
        registry=parts.registry,
        telemetry=parts.telemetry,
        groups=parts.groups,
        meters=parts.meters,
        authorities=parts.certificates.authorities,
        resource=parts.resource,
    )


def default_hub(name: str, settings: Settings, ports: Mapping[str, int]) -> HubDescription:
    """What a hub ``name`` will be like beside the first one of ``settings`` when nothing is said of it."""
    wanted = HubSettings(name=name, hostnames=(host_beside(name, settings.hub_host),))
    return describe(name, settings.of(wanted), ports, Resource(), NetworkRules())


def host_beside(name: str, host: str) -> str:
    """The host name of a hub ``name`` beside one that is reached by ``host``: another name in the same domain."""
    _, dot, domain = host.partition(".")
    return f"{name}.{domain}" if dot and hub_name(host) != host else f"{name}.localhost"


def describe(
    name: str, settings: Settings, ports: Mapping[str, int], resource: Resource, network: NetworkRules
) -> HubDescription:
    """The hub ``name`` of ``settings``."""
    return HubDescription(
        name=name,
        host=settings.hub_host,
        endpoint=f"sb://{with_port(settings.hub_host, ports['amqp'], AMQP_PORT)}/",
        resource=resource,
        tier=settings.tier,
        units=settings.units,
        partitions=settings.partitions,
        retention_seconds=settings.retention_seconds,
        command_ttl_seconds=settings.command_ttl_seconds,
        command_deliveries=settings.command_deliveries,
        queue_ttl_seconds=QUEUE_TTL.open,
        queue_lock_seconds=QUEUE_LOCK.open,
        queue_deliveries=QUEUE_DELIVERIES.open,
        upload_ttl_seconds=settings.upload_ttl_seconds,
        file_notifications=settings.notify_of_files,
        switches=settings.switches,
        network=network,
    )
