"""The checks that every credential meets, and the list in which a verdict collects them."""

from __future__ import annotations

from functools import cache

from muster.core.ambient import iso
from muster.core.errors import ErrorRow
from muster.core.values import value
from muster.identity import mistakes, sas
from muster.identity.causes import BY_NAME
from muster.identity.hub import Hub
from muster.identity.sas import SasError, SasToken
from muster.identity.token_ground import TokenGround
from muster.identity.verdict import Check, Outcome

_YEAR = 365.25 * 86400


@value(frozen=True, slots=True)
class Credential:
    """What was presented: a token, or why there is none.

    ``absent`` and ``malformed`` are each the name of a cause and a description: ``absent`` when the text is
    no SAS token at all, ``malformed`` when it is a broken one.
    """

    token: SasToken | None
    absent: tuple[str, str] | None = None
    malformed: tuple[str, str] | None = None


def read_credential(text: str) -> Credential:
    """Read what was sent where a SAS token belongs. Never raises."""
    try:
        return Credential(sas.parse(text))
    except SasError as error:
        absent = mistakes.not_a_token(text)
        if absent is not None:
            return Credential(None, absent=absent)
        return Credential(None, malformed=mistakes.malformed(text, error))


@cache
def _passed(name: str, expected: str, seen: str) -> Check:
    return Check(name, Outcome.PASSED, expected, seen)


@cache
def _skipped(name: str, why: str) -> Check:
    return Check(name, Outcome.SKIPPED, "", why)


class Examination:
    """Checks in the order in which they are made; the first that fails decides ``cause`` and ``error``."""

    __slots__ = ("cause", "checks", "error", "ground")

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.cause = ""
        self.error: ErrorRow | None = None
        self.ground: TokenGround | None = None
        """By what the token counts, once a key is found that has signed it."""

    def passed(self, name: str, expected: str = "", seen: str = "") -> None:
        """Record a check that passed, with texts from a small fixed set (they are kept for good)."""
        self.checks.append(_passed(name, expected, seen))

    def skipped(self, name: str, why: str) -> None:
        """Record a check that could not be made or does not apply; ``why`` from a small fixed set."""
        self.checks.append(_skipped(name, why))

    def failed(self, name: str, cause: str, error: ErrorRow, *, expected: str, seen: str) -> None:
        """Record a check that failed because of ``cause``, a name in ``identity.causes``."""
        self.checks.append(Check(name, Outcome.FAILED, expected, seen, BY_NAME[cause].remedy))
        if self.error is None:
            self.cause, self.error = cause, error


def check_token(exam: Examination, credential: Credential, error: ErrorRow) -> None:
    """Whether the SAS token is well formed."""
    if credential.token is not None:
        exam.passed("token", "sr, sig and se", "well formed")
    elif credential.malformed is not None:
        cause, seen = credential.malformed
        exam.failed("token", cause, error, expected="SharedAccessSignature sr=...&sig=...&se=...", seen=seen)
    else:
        exam.skipped("token", "there is no token")


def check_token_host(exam: Examination, hub: Hub, token: SasToken, error: ErrorRow) -> bool:
    """Whether the token was made for this hub, under any of its names."""
    if any(hub.knows(reading.host) for reading in token.readings):
        exam.passed("token-host", "one of the hub's names", "known")
        return True
    often = any(hub.knows(reading.host) for reading in sas.further_readings(token.resource))
    cause = "scope-encoded-too-often" if often else "token-for-another-hub"
    exam.failed("token-host", cause, error, expected=hosts_text(hub), seen=mistakes.shown(token.readings[0].host))
    return False


def check_expiry(exam: Examination, token: SasToken, now: float, error: ErrorRow, skew: int) -> None:
    """Whether the token is still good at ``now``, ``skew`` seconds of difference between clocks allowed."""
    left = token.expiry - now
    if left + skew >= 0:
        exam.checks.append(Check("expiry", Outcome.PASSED, "not expired", _left_text(left, skew)))
        return
    cause = "device-clock-not-set" if -left > 5 * _YEAR else "token-expired"
    exam.failed(
        "expiry", cause, error,
        expected=f"se at or after {iso(now - skew)} (now, less {skew} s for clocks that differ)",
        seen=f"se={iso(token.expiry)}: expired {-left:.0f} s ago",
    )  # fmt: skip


def _left_text(left: float, skew: int) -> str:
    if left < 0:
        return f"expired {-left:.0f} s ago, within the {skew} s allowed for clocks that differ"
    if left > 1000 * _YEAR:
        return "good for ever; is se in milliseconds?"
    return f"{left:.0f} s left"


def hosts_text(hub: Hub) -> str:
    """The hub's names, its own first."""
    return ", ".join([hub.host, *sorted(hub.hosts - {hub.host})])
