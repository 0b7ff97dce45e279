"""How to reach a hub, by the names that ``muster env`` prints and the ready file holds; known here only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from muster.dialect.connection_string import ConnectionString
from muster.identity.hub import Hub
from muster.identity.policies import OWNER, SERVICE, SharedAccessPolicy
from muster.identity.verdict import Right

MQTT_PORT, AMQP_PORT, HTTPS_PORT = 8883, 5671, 443
"""The ports that clients know by heart."""


def environment(
    *,
    hub: Hub,
    dps_host: str,
    provisioning: SharedAccessPolicy,
    id_scope: str,
    ports: Mapping[str, int],
    ca_file: Path,
    ca_bundle: Path,
) -> dict[str, str]:
    """The names of ``muster env`` and their values, in order (design.md section 3).

    ``HUB_HOST`` is a bare host name, since most SDKs know their ports by heart. The connection strings of
    services carry the HTTPS port where it is not 443, and that of Event Hubs clients the AMQP port where it is not
    5671: the clients that can be told use it, the others ignore it or would fail either way (clients.md section 2).

    Args:
        hub: names and policies.
        dps_host: the provisioning service's host name.
        provisioning: the provisioning service's owner policy.
        id_scope: the provisioning service's id scope.
        ports: by ``mqtt``, ``amqp``, ``https`` and, when open, ``amqp_plain``.
        ca_file: our CA's certificate.
        ca_bundle: ours and the system's.
    """
    https = ports["https"]
    own, dps = with_port(hub.host, https, HTTPS_PORT), with_port(dps_host, https, HTTPS_PORT)
    ca, bundle = str(ca_file.absolute()), str(ca_bundle.absolute())
    names = {
        "HUB_HOST": hub.host,
        "HUB_CONNECTION_STRING": _service(own, hub.policies[OWNER]),
        "SERVICE_CONNECTION_STRING": _service(own, _for_services(hub)),
        "EVENTHUB_CONNECTION_STRING": _event_hub(hub, ports["amqp"]),
        "DPS_HOST": dps_host,
        "DPS_ID_SCOPE": id_scope,
        "DPS_CONNECTION_STRING": _service(dps, provisioning),
        "HUB_CA_FILE": ca,
        "HUB_CA_BUNDLE": bundle,
        "MQTT_PORT": str(ports["mqtt"]),
        "AMQP_PORT": str(ports["amqp"]),
        "HTTPS_PORT": str(https),
        "REQUESTS_CA_BUNDLE": bundle,
        "SSL_CERT_FILE": bundle,
        "NODE_EXTRA_CA_CERTS": ca,
    }
    if "amqp_plain" in ports:
        names["EVENTHUB_EMULATOR_CONNECTION_STRING"] = _event_hub(hub, ports["amqp_plain"], emulator=True)
    return names


def local_connection_string(host: str, local: SharedAccessPolicy, https_port: int) -> str:
    """For commands on the data directory of the hub ``host``, whose policy is ``local``."""
    return _service(with_port(host, https_port, HTTPS_PORT), local)


def _for_services(hub: Hub) -> SharedAccessPolicy:
    """``service``; where it was removed, or may not connect any more, the policy that may and has the fewest rights."""
    able = [one for one in hub.policies.values() if Right.SERVICE_CONNECT in one.rights]
    return min(able, key=lambda one: (one.name != SERVICE, one.rights.value.bit_count()))


def _service(host: str, policy: SharedAccessPolicy) -> str:
    return ConnectionString(host_name=host, policy=policy.name, key=policy.primary_key).text()


def _event_hub(hub: Hub, port: int, *, emulator: bool = False) -> str:
    """The entity is named as the hub is; ``UseDevelopmentEmulator`` makes clients speak without TLS."""
    policy = _for_services(hub)
    host = with_port(hub.host, port, 0 if emulator else AMQP_PORT)
    return ConnectionString(
        endpoint=f"sb://{host}/", policy=policy.name, key=policy.primary_key, entity_path=hub.name, emulator=emulator
    ).text()


def with_port(host: str, port: int, usual: int) -> str:
    """``host``, with its ``port`` where that is not the ``usual`` one."""
    named = f"[{host}]" if ":" in host else host
    return named if port == usual else f"{named}:{port}"
