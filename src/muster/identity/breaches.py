"""A rule of a protocol that a client broke, told as a verdict of one check, so that `muster why` explains it too."""

from __future__ import annotations

from muster.core.ambient import Ambient, tracking_id
from muster.core.errors import ErrorRow
from muster.identity.causes import BY_NAME
from muster.identity.mistakes import shown
from muster.identity.verdict import Check, Outcome, Verdict

_LONGEST = 400


def breach(
    ambient: Ambient,
    name: str,
    error: ErrorRow,
    *,
    transport: str,
    peer: str,
    expected: str,
    seen: str,
    principal: str = "",
) -> Verdict:
    """The verdict on a client that broke the rule ``name``, a row of ``identity.causes.BREACHES``.

    Args:
        ambient: time and the tracking id.
        name: names the check and the cause.
        error: what is answered, as far as the protocol can say it.
        transport: as in ``DeviceAttempt``.
        peer: likewise.
        expected: what the rule asks for.
        seen: what came instead. What clients wrote must have gone through ``mistakes.shown``; both texts are cut.
        principal: who claims to be there, empty for nobody yet.
    """
    check = Check(name, Outcome.FAILED, _cut(expected), _cut(seen), BY_NAME[name].remedy)
    return Verdict(
        tracking_id=tracking_id(ambient), at=ambient.now(), transport=transport, peer=peer,
        principal=shown(principal) if principal else "", checks=(check,), cause=name, error=error,
    )  # fmt: skip


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
