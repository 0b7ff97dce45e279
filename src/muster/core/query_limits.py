"""Limits of queries; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

QUERY_CHARACTERS = Limit(
    "query", 8192, 8192, "characters", "service.md 5.1",
    "Matches the cloud; bounds what reading one costs.",
)  # fmt: skip
QUERY_DEPTH = Limit(
    "nesting of a query", 64, 64, "levels", "own choice",
    "Parentheses, operators and calls in one another; chains of AND and of OR count as one level.",
)  # fmt: skip
QUERY_COLUMNS = Limit(
    "columns of a query", 100, 100, "columns", "own choice",
    "Each may be a whole part of a twin; bounds what a row may cost.",
)  # fmt: skip
QUERY_GROUPS = Limit(
    "paths of GROUP BY", 32, 32, "paths", "own choice",
    "Each row's values of all of them are compared.",
)  # fmt: skip
QUERY_PAGE = Limit(
    "rows in a page of a query", 1000, 1000, "rows", "docs iot-hub-devguide-query-language, of 2016",
    "More that are asked for are given in pages of this size.",
)  # fmt: skip
QUERY_PAGE_DEFAULT = Limit(
    "rows in a page of a query that asks for no size", 100, 100, "rows", "service.md 2.12",
    "Matches the cloud.",
)  # fmt: skip
QUERY_PAGE_BYTES = Limit(
    "page of a query", 4_194_304, 4_194_304, "bytes", "own choice",
    "A page ends with the row that goes beyond; twins may have 72 KiB and their metadata.",
)  # fmt: skip
QUERIES_IN_PROGRESS = Limit(
    "queries in progress", 64, 64, "queries", "own choice",
    "Two run at a time and take turns; more are answered 429001.",
)  # fmt: skip
QUERY_INDEXES = Limit(
    "indexed properties", 32, 32, "properties", "own choice",
    "Each makes every change of a twin a little dearer.",
)  # fmt: skip

ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
