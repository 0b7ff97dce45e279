"""Changes that were refused: on record too, but so many an hour only."""

from __future__ import annotations

from muster.audit.contract import AuditLog
from muster.core.ambient import Ambient
from muster.core.audit import Act, Draft
from muster.core.audit_limits import AUDIT_REFUSALS_AN_HOUR, AUDIT_REFUSALS_BURST
from muster.core.errors import ErrorRow
from muster.core.rate import RateLimit
from muster.core.redaction import redacted

_LONGEST_SUBJECT = 256
_SECONDS = 3600


class RefusedChanges:
    """Records refusals in ``log``. Callers who are known and who are not have a rate each, so that strangers cannot
    keep what a known caller tries off the record."""

    def __init__(self, log: AuditLog, ambient: Ambient) -> None:
        self._log = log
        self._ambient = ambient
        rate, burst = AUDIT_REFUSALS_AN_HOUR.open / _SECONDS, AUDIT_REFUSALS_BURST.open
        self._rates = {known: RateLimit(rate, burst, ambient.monotonic) for known in (False, True)}
        self._omitted = {False: 0, True: 0}

    def add(self, scope: str, act: Act, subject: str, row: ErrorRow) -> None:
        """``act`` on ``subject`` was refused with ``row``. Quick, whatever the load."""
        known = bool(act.caller)
        if not self._rates[known].take():
            self._omitted[known] += 1
            return
        omitted, self._omitted[known] = self._omitted[known], 0
        self._log.note(Draft(scope, act, shown(subject), self._ambient.now(), error=row.code, omitted=omitted))


def shown(subject: str) -> str:
    """What a stranger named, fit for a record: short, without secrets, whole characters."""
    return redacted(subject[:_LONGEST_SUBJECT].encode("utf-8", "backslashreplace").decode())
