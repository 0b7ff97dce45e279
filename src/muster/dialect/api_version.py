"""The ``api-version`` that every call names."""

from __future__ import annotations

import re
from functools import lru_cache

from muster.core.errors import INVALID_PROTOCOL_VERSION, HubError

OLDEST = "2016-11-14"
"""The first version that has the shapes of today (service.md 2.1)."""

_FORM = re.compile(r"[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])(?:-preview)?", re.IGNORECASE)


@lru_cache(maxsize=64)
def check_api_version(version: str | None) -> None:
    """Refuse (400001) a version that is missing, has not the form of a date, or is older than 2016-11-14.

    A newer one than we know is taken: SDKs change their version far more often than what they send.
    """
    if not version:
        raise HubError(
            INVALID_PROTOCOL_VERSION, "The api-version is missing, add ?api-version=2021-04-12 to the address."
        )
    if not _FORM.fullmatch(version):
        raise HubError(
            INVALID_PROTOCOL_VERSION, "The api-version is not a date like 2021-04-12, send ?api-version=2021-04-12."
        )
    if version[: len(OLDEST)] < OLDEST:
        raise HubError(
            INVALID_PROTOCOL_VERSION, f"The api-version is older than {OLDEST}, send ?api-version=2021-04-12."
        )
