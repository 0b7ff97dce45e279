"""How a hub can be reached: what ``run.json``, the ready file and ``muster env`` say.

The reach of the last run is kept in the hub's database, so that ``muster env`` says the same when no hub runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from muster.core.settings_store import HubSettingsStore
from muster.dialect.environment import environment, local_connection_string
from muster.identity.hub import Hub, make_hub
from muster.identity.policies import LOCAL
from muster.node.directory import DataDirectory
from muster.node.material import Material

_LAST_RUN = "last-run"


@dataclass(frozen=True, slots=True)
class Reach:
    """Names, addresses and ports of one run. ``hostnames`` are all names, the hub's own first."""

    hostnames: Sequence[str]
    dps_hostname: str
    bind: Sequence[str]
    ports: Mapping[str, int]


async def keep_reach(store: HubSettingsStore, reach: Reach) -> None:
    """Remember ``reach`` as that of the last run; nothing is written when it is known already."""
    text = json.dumps(asdict(reach)).encode()
    if await store.get_setting(_LAST_RUN) != text:
        await store.put_settings({_LAST_RUN: text})


async def last_reach(store: HubSettingsStore) -> Reach | None:
    """The reach of the last run, ``None`` when there was none."""
    text = await store.get_setting(_LAST_RUN)
    return None if text is None else Reach(**json.loads(text))


def facts_of(hub: Hub, material: Material, directory: DataDirectory, reach: Reach) -> dict[str, Any]:
    """The names of ``muster env``, and besides them ``ports`` and ``bind`` (the addresses listened on)."""
    names = environment(
        hub=hub,
        dps_host=reach.dps_hostname or hub.host,
        provisioning=material.provisioning,
        id_scope=material.id_scope,
        ports=reach.ports,
        ca_file=directory.ca_file,
        ca_bundle=directory.bundle_file,
    )
    if LOCAL in hub.policies:
        names["LOCAL_CONNECTION_STRING"] = local_connection_string(hub, reach.ports["https"])
    return {**names, "ports": dict(reach.ports), "bind": list(reach.bind)}


def hub_of(material: Material, reach: Reach) -> Hub:
    """The hub as the identity room sees it, for commands that find no running one."""
    return make_hub(reach.hostnames, material.policies, name=material.name)
