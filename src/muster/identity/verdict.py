"""The verdict: what was checked when somebody asked to be let in, in order, with what was expected and seen.

A verdict is a value. It never holds a secret: keys, tokens and passwords are described, not copied.
"""

from __future__ import annotations

from enum import Flag, StrEnum, auto
from typing import TYPE_CHECKING, NamedTuple

from muster.core.errors import ErrorRow
from muster.core.values import value
from muster.identity.model import Identity

if TYPE_CHECKING:
    from muster.access.decision import Caller
    from muster.access.roles import Action
    from muster.identity.token_ground import TokenGround
    from muster.identity.trust import ChainProof


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Right(Flag):
    """What a shared access policy grants: at a hub (cs Common/Data/AccessRights.cs), and from ``SERVICE_CONFIG`` on at
    a provisioning service (provisioning.md 7.1)."""

    NONE = 0
    REGISTRY_READ = auto()
    REGISTRY_WRITE = auto()
    SERVICE_CONNECT = auto()
    DEVICE_CONNECT = auto()
    SERVICE_CONFIG = auto()
    ENROLLMENT_READ = auto()
    ENROLLMENT_WRITE = auto()
    REGISTRATION_READ = auto()
    REGISTRATION_WRITE = auto()


@value(frozen=True, slots=True)
class Check:
    """One check. ``name`` is stable and lower-case (``token-expiry``); ``remedy`` says what to do on failure."""

    name: str
    outcome: Outcome
    expected: str = ""
    seen: str = ""
    remedy: str = ""


class Admission(NamedTuple):
    """What the caller of a bearer token may do.

    ``asked`` is what he was judged for and his token is made for, ``allowed`` what of it he may do on the whole hub,
    and ``by_device`` what perhaps to some devices: each is to be asked about.
    """

    asked: tuple[Action, ...]
    allowed: frozenset[Action]
    by_device: frozenset[Action]

    def admits(self, action: Action) -> bool:
        """Whether there is anything that he may do ``action`` to."""
        return action in self.allowed or action in self.by_device


@value(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision on one attempt to authenticate or to act.

    ``cause`` names the first failed check more closely (``key-of-other-device``), empty when allowed;
    ``error`` is the catalogue's row that decides the wire answer, ``None`` when allowed. ``expires_at``
    (seconds since 1970, clock skew included) ends what was allowed; ``None`` for no end.
    ``auth_method`` is the JSON text of ``iothub-connection-auth-method`` (device.md section 7). ``proof`` is the chain
    of a certificate that an authority has issued, ``ground`` what a SAS token counts by: what was allowed ends when it
    is lost;
    ``by_certificate`` whether one was judged at all, ``thumbprint`` that of the identity which was its. ``caller`` is
    who a bearer token speaks for, ``admission`` what he may do where that was judged before it was known what for.
    """

    tracking_id: str
    at: float
    transport: str
    peer: str
    principal: str
    checks: tuple[Check, ...]
    cause: str = ""
    error: ErrorRow | None = None
    identity: Identity | None = None
    policy: str = ""
    rights: Right = Right.NONE
    expires_at: float | None = None
    auth_method: str = ""
    proof: ChainProof | None = None
    ground: TokenGround | None = None
    by_certificate: bool = False
    thumbprint: str = ""
    caller: Caller | None = None
    admission: Admission | None = None

    @property
    def signed(self) -> bool:
        """Whether a key of ``principal`` has signed what was shown: then he is who he says, also where he may not."""
        return any(check.name == "signature" and check.outcome is Outcome.PASSED for check in self.checks)

    @property
    def allowed(self) -> bool:
        """Whether the attempt succeeded."""
        return self.error is None
