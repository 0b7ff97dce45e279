"""Resources of the management API, as commands reach them: the paths, and a running deployment."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

from muster.cli.network import HubClient
from muster.cli.target import running
from muster.core.errors import INVALID_OPERATION, HubError

_PROVIDER = "/subscriptions/muster/resourceGroups/muster/providers/Microsoft.Devices"
"""Any subscription and group will do."""


def running_client(data: Path, login: str | None, ca: Path | None) -> HubClient:
    """The running hub that ``login`` or ``data`` means. Raises ``HubError`` 400003 when none runs in ``data``."""
    target = running(data, login, ca)
    if not isinstance(target, HubClient):
        target.release()
        raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")
    return target


def hub_path(name: str, *below: str) -> str:
    """The path of the hub ``name``, or of what is ``below`` it."""
    return "/".join([f"{_PROVIDER}/IotHubs/{_quoted(name)}", *map(_quoted, below)])


def services_path() -> str:
    """The path of all provisioning services."""
    return f"{_PROVIDER}/provisioningServices"


def values(target: HubClient, path: str) -> list[dict[str, Any]]:
    """A list of resources."""
    found: list[dict[str, Any]] = target.call("GET", path)["value"]
    return found


def _quoted(name: str) -> str:
    return quote(name, safe="$")
