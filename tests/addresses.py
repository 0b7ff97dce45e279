"""Loopback addresses for hubs of tests: SDKs insist on their ports, so hubs differ by address.

A module of its own, as pytest loads ``conftest.py`` under another name than an import does: there must be one counter.
"""

from __future__ import annotations

import itertools
import os

_numbers = itertools.count()
_BLOCK = 240


def loopback() -> str:
    """An address that no other process of tests has, in this run or another."""
    block, host = divmod(next(_numbers), _BLOCK)
    high, low = divmod((os.getpid() + 20_011 * block) % 60_000, 250)
    return f"127.{high + 10}.{low}.{host + 11}"
