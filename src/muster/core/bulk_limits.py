"""Limits of import and export; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

IMPORT_LINE_BYTES = Limit(
    "line of an import", 1_048_576, 1_048_576, "bytes", "own choice",
    "A twin of the largest size with its metadata; a longer line is left out and named.",
)  # fmt: skip
IMPORT_CHUNK_BYTES = Limit(
    "bytes of a chunk of an import", 2_097_152, 2_097_152, "bytes", "own choice",
    "What POST /$muster/identities takes at a time; more is answered 413000.",
)  # fmt: skip
IMPORT_CHUNK_LINES = Limit(
    "lines of a chunk of an import", 1000, 1000, "lines", "own choice",
    "More are answered 413002.",
)  # fmt: skip
IMPORT_TRANSACTION = Limit(
    "identities that an import writes at once", 250, 250, "identities", "own choice",
    "In one transaction, a few milliseconds of work: what others write waits no longer than that.",
)  # fmt: skip
EXPORT_PAGE = Limit(
    "lines of a page of an export", 1000, 1000, "lines", "own choice",
    "More that are asked for are given in pages of this size.",
)  # fmt: skip
EXPORT_PAGE_BYTES = Limit(
    "page of an export", 4_194_304, 4_194_304, "bytes", "own choice",
    "A page ends with the line that goes beyond; twins may have 72 KiB and their metadata.",
)  # fmt: skip

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
