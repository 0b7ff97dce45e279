"""The settings that a node is started with, on record where they differ from those of the start before."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from muster.core.ambient import Ambient
from muster.core.audit import Act, draft, fingerprint
from muster.core.settings_store import HubSettingsStore
from muster.node.settings import Settings

_SETTING = "settings-told"
_SECRET = frozenset({"storage_connection_string", "database", "bus"})
_PLACES = frozenset({"data", "ready_file", "worker", "local_secret"})
"""Where something is, not how the node is; or made for one run."""
_OWN = frozenset({"bind", "mqtt_port", "amqp_port", "https_port", "amqp_plain_port", "shared_ports"})
"""What each of several nodes may have another way."""


async def record_settings(settings: Settings, kept: HubSettingsStore, ambient: Ambient) -> None:
    """Remember ``settings``, and put on record what of them has changed since the last start.

    Raises ``HubError`` 500001.
    """
    told = _told(settings)
    earlier = json.loads(await kept.get_setting(_SETTING) or b"null")
    if told == earlier:
        return
    record = None
    changed = [name for name in told if name in (earlier or ()) and told[name] != earlier[name]]
    if changed:
        act = Act("settings.change", f"user {os.getuid()}", transport="start")
        before, after = ({name: held[name] for name in changed} for held in (earlier, told))
        record = draft("", act, "settings", ambient.now(), before=before, after=after)
    await kept.put_settings({_SETTING: json.dumps(told).encode()}, record)


def _told(settings: Settings) -> dict[str, Any]:
    """As JSON has it, secrets as fingerprints."""
    left_out = _PLACES | _OWN if settings.clustered or settings.worker else _PLACES
    members = {one.name: getattr(settings, one.name) for one in fields(settings) if one.name not in left_out}
    for name in _SECRET:
        members[name] = fingerprint(str(members[name])) if members[name] else ""
    plain: dict[str, Any] = json.loads(json.dumps(members, default=_plain))
    return plain


def _plain(value: object) -> Any:
    if isinstance(value, frozenset):
        return sorted(value)
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return str(value)
