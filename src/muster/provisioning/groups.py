"""The enrollment groups as they stand, in memory: every device that is not enrolled by itself is tried against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from muster.core.provisioning_limits import ENROLLMENT_GROUPS
from muster.identity.trust import Trust
from muster.provisioning.attestation.x509 import EnrolledAnchors
from muster.provisioning.contract import ProvisioningStore
from muster.provisioning.model import AttestationKind, Enrollment, EnrollmentKind

_MOST = ENROLLMENT_GROUPS.open * len(AttestationKind)


class Groups:
    """The groups of a provisioning service. To be loaded before anything else, and after each change of a group."""

    def __init__(self, scope: str, store: ProvisioningStore, trust: Trust) -> None:
        self._scope = scope
        self._store = store
        self._trust = trust
        self._all: Sequence[Enrollment] = ()
        self._anchors: EnrolledAnchors | None = None
        self.announce: Callable[[], None] = _ignore
        """To be called when this node has changed a group, so that others load them."""
        trust.when_changed(self._forget)

    async def load(self) -> None:
        """Read all from the store."""
        self._all = await self._store.enrollments(self._scope, EnrollmentKind.GROUP, "", _MOST)
        self._forget()

    def of(self, kind: AttestationKind) -> Sequence[Enrollment]:
        """Those that attest by ``kind``."""
        return [one for one in self._all if one.attestation.kind is kind]

    @property
    def anchors(self) -> EnrolledAnchors:
        """What the certificates of devices may lead to, by all groups of X.509."""
        if self._anchors is None:
            self._anchors = EnrolledAnchors(self.of(AttestationKind.X509), self._trust.registered)
        return self._anchors

    def _forget(self) -> None:
        self._anchors = None


def _ignore() -> None:
    return None
