"""Rows that are changed by looking at them first, on nodes that do so at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from muster.core.errors import UNAVAILABLE, HubError
from muster.stores.postgres.database import Step

T = TypeVar("T")

_TRIES = 5
_ALONE = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"


async def changed(
    read: Callable[[], Awaitable[T | None]],
    change: Callable[[T | None], T | None],
    write: Callable[[T | None, T | None], Awaitable[bool]],
) -> tuple[T | None, T | None]:
    """What a row was and is, after ``change`` was asked what it shall be (``None``: not there).

    ``read`` locks the row; one that is not there cannot be locked, so ``write(before, after)`` is ``False`` when it has
    come meanwhile, and all begins anew. Raises what ``change`` does, and ``HubError`` 503001 when that has no end.
    """
    for _ in range(_TRIES):
        before = await read()
        after = change(before)
        if await write(before, after):
            return before, after
    raise HubError(UNAVAILABLE, "others make and delete the same thing all the time; try again")


async def alone(step: Step, what: str) -> None:
    """Wait until no other transaction is in here with the same ``what``. For things of which there are few."""
    await step.value(_ALONE, what)
