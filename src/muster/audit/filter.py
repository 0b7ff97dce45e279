"""Which records somebody wants to see."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import NamedTuple

from muster.core.ambient import iso


class Filter(NamedTuple):
    """``since`` and ``until`` are moments as records have them (``moment_from``), the first included, the last not;
    ``subject`` is meant with all below it. Empty texts want everything, and so does ``scope`` when it is ``None``."""

    scope: str | None = None
    subject: str = ""
    since: str = ""
    until: str = ""

    def wants(self, line: bytes) -> bool:
        """Whether ``line`` is wanted; one that cannot be read is, so that nobody hides a record by breaking it."""
        if self == EVERYTHING:
            return True
        try:
            record = json.loads(line)
            at, subject, scope = record["at"], record["subject"], record["scope"]
        except (ValueError, KeyError, TypeError):
            return True
        return (
            (self.scope is None or scope == self.scope)
            and (not self.subject or subject == self.subject or subject.startswith(f"{self.subject}/"))
            and self.since <= at
            and (not self.until or at < self.until)
        )


EVERYTHING = Filter()


def moment_from(text: str) -> str:
    """A moment (ISO 8601, UTC where it says nothing else) as records have it. Raises ``ValueError`` that says what is
    wrong."""
    try:
        moment = datetime.fromisoformat(text)
        return iso((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"{text[:40]!r} is no moment, give one as 2026-11-29T06:00:00Z") from None
