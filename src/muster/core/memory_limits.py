"""Limits of what is kept in memory to find it again sooner; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

PROVEN_TOKENS = Limit(
    "service tokens remembered",
    1024,
    1024,
    "tokens",
    "own choice",
    "Found good for the whole hub and not examined again until they expire; the oldest go first.",
)
IDENTITIES_REMEMBERED = Limit(
    "devices remembered",
    1024,
    1024,
    "devices",
    "own choice",
    "Kept in memory as they were read, with their modules and how many messages wait, until they change.",
)
PATHS_REMEMBERED = Limit(
    "paths of REST remembered",
    1024,
    1024,
    "paths",
    "own choice",
    "Of a path that is asked for again the operation is known, and the parts.",
)
TWINS_REMEMBERED = Limit(
    "twins remembered",
    1024,
    1024,
    "twins",
    "own choice",
    "Those changed last are kept in memory, so that the next change need not read them.",
)
TWIN_REMEMBERED_TEXT = Limit(
    "text of a twin that is remembered",
    4096,
    4096,
    "characters",
    "own choice",
    "Twins with more JSON are read anew for each change.",
)
WORKER_WAITING = Limit(
    "messages between the processes of --workers that wait for one of them",
    67_108_864,
    67_108_864,
    "bytes",
    "own choice",
    "A worker that does not take them is cut off, comes back, and looks at everything anew.",
)

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
