"""Client certificates in a node: what it trusts, kept up to date, and the sessions that hang on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muster.core.ambient import Ambient
from muster.core.bus import Bus
from muster.heads.http.authorities import AuthorityOperations
from muster.heads.http.doctor import DoctorOperations
from muster.heads.http.operations import Operation
from muster.identity.authenticator import Authenticator
from muster.identity.authorities import Authorities
from muster.identity.authority_contract import AuthorityStore
from muster.identity.bearer_gate import BearerGate
from muster.identity.contract import IdentityStore
from muster.identity.doctor import Examine, Shown
from muster.identity.hub import Hub
from muster.identity.refusals import Refusals
from muster.identity.revocation_news import RevocationNews
from muster.identity.trust import Trust
from muster.node.fetch import fetch
from muster.sessions.grounds import CertificateGrounds
from muster.sessions.table import SessionTable


@dataclass(frozen=True, slots=True)
class Certificates:
    """The parts that others need; ``news`` is to be stopped."""

    hub: Hub
    trust: Trust
    authorities: Authorities
    news: RevocationNews
    refusals: Refusals
    ambient: Ambient

    def authenticator(self, identities: IdentityStore, bearer: BearerGate | None) -> Authenticator:
        """Who judges by tokens and by certificates."""
        return Authenticator(
            self.hub, identities, self.ambient, self.refusals, trust=self.trust, ask=self.news.ask, bearer=bearer
        )

    def operations(
        self,
        authenticator: Authenticator,
        identities: IdentityStore,
        sessions: SessionTable,
        own: Callable[[], Shown],
        deployment: Sequence[Examine],
    ) -> list[Operation]:
        """What REST offers of them; ``own`` are the certificates that the hub shows, ``deployment`` look at what all
        hubs share."""
        doctor = DoctorOperations(
            authenticator=authenticator,
            identities=identities,
            sessions=sessions,
            trust=self.trust,
            ambient=self.ambient,
            certificates=own,
            troubles=self.news.troubles,
            deployment=deployment,
        )
        return [*AuthorityOperations(self.authorities, self.trust).table(), *doctor.table()]


async def open_certificates(
    hub: Hub, store: AuthorityStore, *, sessions: SessionTable, refusals: Refusals, bus: Bus, ambient: Ambient
) -> Certificates:
    """Read the authorities, watch the sessions, begin to ask for news."""
    trust = Trust(hub.name, store, bus, ambient)
    await trust.load()
    grounds = CertificateGrounds(sessions, trust, refusals, ambient)
    authorities = Authorities(hub.name, store, trust, bus, ambient, profile=hub.profile)
    news = RevocationNews(trust, authorities, fetch, ambient, grounds.proofs)
    news.start()
    return Certificates(hub, trust, authorities, news, refusals, ambient)
