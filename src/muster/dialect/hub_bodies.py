"""JSON of the hubs of a deployment; no part of Azure's data plane."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.limits import PARTITIONS
from muster.dialect.json_body import Members
from muster.identity.hub import Switches

_DAY_SECONDS = 86_400
_SWITCHES = dict(zip(("disableLocalAuth", "disableDeviceSAS", "disableModuleSAS"), Switches._fields, strict=True))
"""What the resource manager calls them (service.md 6.6)."""


def read_hub(body: Members) -> Mapping[str, Any]:
    """What a hub shall be: ``hostNames``, at least one; ``partitions``, ``consumerGroups`` and ``retentionDays``, each
    as the first hub has it where it is missing.

    Under the names of ``node.settings.HubSettings``. Raises ``HubError`` 400004 that names the member.
    """
    found: dict[str, Any] = {"hostnames": body.texts("hostNames")}
    if not found["hostnames"]:
        raise HubError(ARGUMENT_INVALID, "hostNames is empty, give the hub at least one name that clients reach it by.")
    partitions, days = body.whole_number("partitions"), body.whole_number("retentionDays")
    if partitions is not None:
        if not 1 <= partitions <= PARTITIONS.open:
            raise HubError(ARGUMENT_INVALID, f"partitions must be from 1 to {PARTITIONS.open}, it is {partitions}.")
        found["partitions"] = partitions
    if days is not None:
        if not 1 <= days <= 36_500:
            raise HubError(ARGUMENT_INVALID, f"retentionDays must be from 1 to 36500, it is {days}.")
        found["retention_seconds"] = days * _DAY_SECONDS
    if body.raw("consumerGroups") is not None:
        found["consumer_groups"] = body.texts("consumerGroups")
    return found


def read_switches(body: Members) -> dict[str, bool]:
    """The switches that are said, by the names of ``identity.hub.Switches``. Raises ``HubError`` 400004."""
    return {field: body.flag(member) for member, field in _SWITCHES.items() if body.raw(member) is not None}


def switches_body(switches: Switches) -> dict[str, bool]:
    """The switches as they are told."""
    return dict(zip(_SWITCHES, switches, strict=True))
