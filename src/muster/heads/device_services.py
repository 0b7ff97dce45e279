"""What the heads that devices connect to need of the rest of the hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from muster.core.ambient import Ambient
from muster.core.meters import Meters
from muster.identity.authenticator import Authenticator
from muster.identity.network_access import NetworkAccess
from muster.identity.refusals import Refusals
from muster.messages.commands import Commands
from muster.messages.methods import Methods
from muster.messages.telemetry import Telemetry
from muster.sessions.faults import Faults
from muster.sessions.subscriptions import Subscriptions
from muster.sessions.table import SessionTable
from muster.twins.service import Twins

Renew = Callable[[str, bytes, str], Awaitable[tuple[bytes, ...]]]
"""``provisioning.renewals.Renewals.renew`` at this hub."""


@dataclass(frozen=True, slots=True)
class DeviceServices:
    """The rest of the hub, as far as a device has to do with it."""

    authenticator: Authenticator
    sessions: SessionTable
    subscriptions: Subscriptions
    telemetry: Telemetry
    refusals: Refusals
    ambient: Ambient
    twins: Twins
    methods: Methods
    commands: Commands
    meters: Meters
    renew: Renew
    faults: Faults | None = None
    """Only where clients may ask for such."""
    network: NetworkAccess | None = None
    """From where devices may come; without, from everywhere."""
