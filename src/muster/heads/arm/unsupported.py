"""What Azure's management API has and this one has not: a row each, with what to do instead. ``docs/management.md``
lists them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, NoReturn

from muster.core.errors import HubError
from muster.core.management_errors import NOT_SUPPORTED
from muster.heads.arm.answers import HUB, SERVICE, ArmRows
from muster.heads.arm.services import ONE_SERVICE
from muster.heads.http.operations import Call, Operation


class Unsupported(NamedTuple):
    """``what`` is the operation in words, ``instead`` what to do."""

    method: str
    path: str
    what: str
    instead: str


_ROUTES = (
    "Message routes are not built yet: everything goes to the built-in endpoint, read it with an Event Hubs client."
)
_BULK = "Use muster import and muster export, or the registry's bulk operations of the service SDKs."
_LINKS = "The deployment is on a network of your own: bind it to private addresses with muster serve --bind."
_HUB_LINK = f"{HUB}/privateEndpointConnections/{{connection}}"
_SERVICE_LINK = f"{SERVICE}/privateEndpointConnections/{{connection}}"

ROWS = (
    Unsupported("POST", f"{HUB}/failover", "Manual failover",
                "A deployment has one region; restore its data directory on another machine."),
    Unsupported("POST", f"{HUB}/routing/routes/$testall", "Testing all routes", _ROUTES),
    Unsupported("POST", f"{HUB}/routing/routes/$testnew", "Testing a route", _ROUTES),
    Unsupported("POST", f"{HUB}/exportDevices", "Exporting devices", _BULK),
    Unsupported("POST", f"{HUB}/importDevices", "Importing devices", _BULK),
    Unsupported("GET", _HUB_LINK, "A private endpoint connection", _LINKS),
    Unsupported("PUT", _HUB_LINK, "A private endpoint connection", _LINKS),
    Unsupported("DELETE", _HUB_LINK, "A private endpoint connection", _LINKS),
    Unsupported("GET", f"{HUB}/privateLinkResources/{{link}}", "A private link resource", _LINKS),
    Unsupported("GET", _SERVICE_LINK, "A private endpoint connection", _LINKS),
    Unsupported("PUT", _SERVICE_LINK, "A private endpoint connection", _LINKS),
    Unsupported("DELETE", _SERVICE_LINK, "A private endpoint connection", _LINKS),
    Unsupported("GET", f"{SERVICE}/privateLinkResources/{{link}}", "A private link resource", _LINKS),
    Unsupported("DELETE", SERVICE, "Removing the provisioning service", ONE_SERVICE),
)  # fmt: skip


def unsupported_rows(rows: ArmRows) -> list[Operation]:
    """Rows of the operation table that refuse, once it is known who calls."""
    return [
        rows.of_hub(one.method, one.path.removeprefix(HUB), _refusal(one))
        if one.path.startswith(HUB)
        else rows.of_service(one.method, one.path.removeprefix(SERVICE), _refusal(one))
        for one in ROWS
    ]


def _refusal(row: Unsupported) -> Callable[[Call, object], Awaitable[NoReturn]]:
    async def refuse(call: Call, resource: object) -> NoReturn:
        del call, resource
        raise HubError(NOT_SUPPORTED, f"{row.what} is not supported. {row.instead}")

    return refuse
