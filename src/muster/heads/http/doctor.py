"""``/$muster/doctor``: what works today and will hurt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from muster.access.roles import ManagementAction
from muster.core.ambient import Ambient
from muster.core.errors import HubError
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Response
from muster.heads.http.operations import Call, Operation
from muster.identity import doctor
from muster.identity.authenticator import Authenticator
from muster.identity.contract import IdentityStore
from muster.identity.policies import BUILT_IN, OWNER
from muster.identity.trust import Trust
from muster.sessions.table import SessionTable

_MOST_DEVICES = 20_000
_AT_ONCE = 200


class DoctorOperations:
    """Looks at one hub. ``certificates`` are those that it shows; ``troubles`` says from where no news of revocations
    come, and why; ``deployment`` look at what all hubs share, for the owner of the first one."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        identities: IdentityStore,
        sessions: SessionTable,
        trust: Trust,
        ambient: Ambient,
        certificates: Callable[[], doctor.Shown],
        troubles: Callable[[], Mapping[str, str]],
        deployment: Sequence[doctor.Examine],
    ) -> None:
        self._authenticator = authenticator
        self._identities = identities
        self._sessions = sessions
        self._trust = trust
        self._ambient = ambient
        self._certificates = certificates
        self._troubles = troubles
        self._deployment = deployment

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        return [Operation("GET", "/$muster/doctor", BUILT_IN[OWNER], self.look, actions=(ManagementAction.READ,))]

    async def look(self, _: Call) -> Response:
        """``{"now", "devices", "complete", "findings": [...]}``: the loudest first, of 20,000 devices at most."""
        now, hub, trust = self._ambient.now(), self._authenticator.hub, self._trust
        registered = trust.registered
        lists = {one.name: trust.lists_of(one.name) for one in registered}
        ends = [(str(one.key), one.certificate_ends) for one in self._sessions.all() if one.certificate_ends]
        findings = [
            *doctor.server_findings(self._certificates(), now),
            *doctor.authority_findings(registered, lists, now),
            *doctor.news_findings(self._troubles()),
            *doctor.session_findings(ends, now),
            *doctor.policy_findings(self._authenticator.policies_used, local_auth=not hub.switches.disable_local_auth),
        ]
        for examine in self._deployment:
            findings += await examine()
        seen, looked_at = doctor.Identities(), 0
        try:
            looked_at = await self._look_at_devices(hub.name, seen)
        except HubError as error:
            text, remedy = f"Devices cannot be read: {error.message}.", "Mend the database: nobody is let in meanwhile."
            findings.append(doctor.Finding(doctor.Level.BAD, "devices-unreadable", text, remedy))
        findings += seen.findings(authorities=any(one.verified for one in registered))
        order = list(doctor.Level)
        findings.sort(key=lambda finding: order.index(finding.level))
        return json_answer(
            {
                "now": now,
                "devices": looked_at,
                "complete": looked_at < _MOST_DEVICES,
                "findings": [finding._asdict() for finding in findings],
            }
        )

    async def _look_at_devices(self, hub: str, seen: doctor.Identities) -> int:
        """How many there were, 20,000 at most."""
        devices = await self._identities.devices(hub, _MOST_DEVICES)
        for number, device in enumerate(devices, 1):
            seen.add(device)
            for module in await self._identities.modules(hub, device.device_id):
                seen.add(module)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return len(devices)
