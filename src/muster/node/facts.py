"""How hubs can be reached: what ``run.json``, the ready file and ``muster env`` say.

The reach of the last run is kept in the database, so that ``muster env`` says the same when nothing runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from muster.core.settings_store import HubSettingsStore
from muster.dialect.environment import environment, local_connection_string
from muster.identity.hub import Hub
from muster.identity.kept_policies import KeptPolicies
from muster.node.directory import DataDirectory

_LAST_RUN = "last-run"


@dataclass(frozen=True, slots=True)
class Reach:
    """Names, addresses and ports of one run. ``hostnames`` are all names of the first hub, its own first; ``hubs`` are
    those of the others, by the hubs' names."""

    hostnames: Sequence[str]
    dps_hostname: str
    bind: Sequence[str]
    ports: Mapping[str, int]
    hubs: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Service(NamedTuple):
    """The provisioning service."""

    id_scope: str
    policies: KeptPolicies


async def keep_reach(store: HubSettingsStore, reach: Reach) -> None:
    """Remember ``reach`` as that of the last run; nothing is written when it is known already."""
    text = json.dumps(asdict(reach)).encode()
    if await store.get_setting(_LAST_RUN) != text:
        await store.put_settings({_LAST_RUN: text})


async def last_reach(store: HubSettingsStore) -> Reach | None:
    """The reach of the last run, ``None`` when there was none."""
    text = await store.get_setting(_LAST_RUN)
    return None if text is None else Reach(**json.loads(text))


def facts_of(hubs: Sequence[Hub], service: Service, directory: DataDirectory, reach: Reach) -> dict[str, Any]:
    """The names of ``muster env`` for the first of ``hubs``, and besides them ``ports``, ``bind`` (the addresses
    listened on) and ``hubs``: those names for every hub, by its name."""
    names = {hub.name: _names_of(hub, service, directory, reach) for hub in hubs}
    return {**names[hubs[0].name], "ports": dict(reach.ports), "bind": list(reach.bind), "hubs": names}


def _names_of(hub: Hub, service: Service, directory: DataDirectory, reach: Reach) -> dict[str, str]:
    names = environment(
        hub=hub,
        dps_host=reach.dps_hostname or reach.hostnames[0],
        provisioning=service.policies.owner,
        id_scope=service.id_scope,
        ports=reach.ports,
        ca_file=directory.ca_file,
        ca_bundle=directory.bundle_file,
    )
    if hub.local is not None and hub.switches.disable_local_auth:
        names["LOCAL_CONNECTION_STRING"] = local_connection_string(hub.host, hub.local, reach.ports["https"])
    return names
