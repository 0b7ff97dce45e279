"""Limits of the faults that clients may ask for; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

FAULT_SECONDS = Limit(
    "delay or duration of a fault that a client asks for",
    3600,
    3600,
    "seconds",
    "own choice",
    "Longer than any client waits before it tries again.",
)
FAULTS_WAITING = Limit(
    "faults that wait for their delay",
    16,
    16,
    "faults per identity",
    "own choice",
    "Each is a timer; further ones are passed over.",
)

ALL: tuple[Limit, ...] = (FAULT_SECONDS, FAULTS_WAITING)
