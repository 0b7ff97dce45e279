"""What asyncpg raises, in the hub's words."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import asyncpg

from muster.core.errors import SERVER_ERROR, UNAVAILABLE, HubError

LOST_AGAINST_ANOTHER = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
"""Another transaction was in the way: run again, it may succeed."""

UNREACHABLE = (
    OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError, asyncpg.CrashShutdownError, asyncpg.TooManyConnectionsError, asyncpg.QueryCanceledError,
)  # fmt: skip
"""There is no connection any more, and nobody knows what became of the last statement."""


def store_error(error: Exception) -> HubError:
    """``error`` of asyncpg as a refusal that says what to do: 503001 when the server cannot be reached, else 500001."""
    match error:
        case ValueError():  # of asyncpg, for a value that the column cannot take
            advice = "the database cannot keep this"
        case TimeoutError():
            return HubError(UNAVAILABLE, "the database did not answer in time; try again when it does")
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            advice = "the database refused the hub's own user or password; correct --database"
        case asyncpg.InvalidCatalogNameError():
            advice = "there is no such database; create it, or correct --database"
        case asyncpg.DiskFullError():
            advice = "the database's disk is full; free some space, then it goes on by itself"
        case asyncpg.ReadOnlySQLTransactionError():
            advice = "the database only reads, it is a replica; point --database at the primary"
        case _ if isinstance(error, UNREACHABLE):
            return HubError(UNAVAILABLE, f"the database cannot be reached ({type(error).__name__}); try again")
        case _:
            advice = "the database refused"
    return HubError(SERVER_ERROR, f"{advice} ({type(error).__name__}: {error})")


@contextlib.contextmanager
def told_as_refusal() -> Iterator[None]:
    """Turn what asyncpg raises inside into ``HubError``, see ``store_error``."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
        raise store_error(error) from error


def ends_all(error: Exception) -> bool:
    """Whether ``error`` is about the whole transaction. What asyncpg raises for a value that does not fit is not,
    though it is of a kind with what a lost connection raises."""
    return isinstance(error, (*LOST_AGAINST_ANOTHER, *UNREACHABLE)) and not isinstance(error, ValueError)
