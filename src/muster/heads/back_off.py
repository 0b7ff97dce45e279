"""Answers to failed authentications held back; see ``identity.back_off``."""

from __future__ import annotations

import asyncio

from muster.identity.back_off import BackOff
from muster.identity.refusals import Refusals


async def hold(refusals: Refusals, peer: str, principal: str = "") -> None:
    """Wait before it is answered that ``principal`` failed from ``peer``, if he has failed often of late."""
    await hold_by(refusals.back_off, peer, principal)


async def hold_by(back_off: BackOff, peer: str, principal: str = "") -> None:
    """See ``hold``."""
    seconds = back_off.wait(peer, principal)
    if seconds:
        with back_off.holding(peer) as held:
            if held:
                await asyncio.sleep(seconds)
