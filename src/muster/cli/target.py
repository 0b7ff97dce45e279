"""Which hub a command talks to: a running one over HTTPS, or a data directory whose hub does not run."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from muster.cli.network import HubClient
from muster.core.errors import INVALID_OPERATION, HubError
from muster.dialect.connection_string import Kind, parse_connection_string
from muster.node.directory import DataDirectory, DirectoryInUseError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_STARTING_SECONDS = 10.0


def data_option(function: F) -> F:
    """``--data``."""
    return click.option(
        "--data", type=click.Path(path_type=Path, file_okay=False), default="muster-data", show_default=True,
        help="The hub's data directory.",
    )(function)  # fmt: skip


def login_options(function: F) -> F:
    """``--login`` and ``--ca``, for a hub elsewhere."""
    ca = click.option(
        "--ca", type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="Certificate to trust with --login.  [default: the system's]",
    )  # fmt: skip
    login = click.option(
        "--login", metavar="CONNECTION_STRING",
        help="Talk to this hub over the network, instead of the one in --data. MUSTER_LOGIN keeps the key out of ps.",
    )  # fmt: skip
    return login(ca(function))


def running(data: Path, login: str | None, ca: Path | None) -> HubClient | DataDirectory:
    """The running hub that ``login`` or ``data`` means, else the directory, now owned by the caller.

    Raises ``HubError`` when ``data`` holds no hub.
    """
    if login is not None:
        parsed = parse_connection_string(login)
        if parsed.kind is not Kind.SERVICE:
            raise HubError(INVALID_OPERATION, "--login needs a connection string with SharedAccessKeyName.")
        return HubClient(parsed, ca)
    if not (data / "lock").is_file():  # looked for first: a directory that is not a hub's is left as it is
        raise HubError(
            INVALID_OPERATION,
            f"{data.absolute()} holds no hub; name the directory of yours with --data, or start one there: "
            f"muster serve --data {data}",
        )
    deadline = time.monotonic() + _STARTING_SECONDS
    while True:
        try:
            return DataDirectory(data)
        except DirectoryInUseError:
            facts = read_facts(data)
            if facts is not None:
                return client_of(facts)
        if time.monotonic() > deadline:
            raise HubError(INVALID_OPERATION, f"{data} is in use by a hub that does not get ready; see its output.")
        time.sleep(0.05)


def read_facts(data: Path) -> dict[str, Any] | None:
    """What the running hub announced in ``data``, ``None`` while it has not."""
    try:
        facts = json.loads((data / "run.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None


def client_of(facts: dict[str, Any]) -> HubClient:
    """A client of the hub that announced ``facts``, at an address where it listens."""
    owner = parse_connection_string(facts.get("LOCAL_CONNECTION_STRING") or facts["HUB_CONNECTION_STRING"])
    return HubClient(owner, Path(facts["HUB_CA_FILE"]), addresses=facts["bind"], port=facts["ports"]["https"])


def provisioning_client(data: Path, login: str | None, ca: Path | None) -> HubClient:
    """The provisioning service that ``login`` or ``data`` means. Raises ``HubError`` when none runs in ``data``."""
    target = running(data, login, ca)
    if not isinstance(target, HubClient):
        target.release()
        raise HubError(INVALID_OPERATION, f"no hub runs in {data}; start it with: muster serve --data {data}")
    facts = None if login is not None else read_facts(data)
    if facts is None:
        return target
    owner = parse_connection_string(facts["DPS_CONNECTION_STRING"])
    return HubClient(owner, Path(facts["HUB_CA_FILE"]), addresses=facts["bind"], port=facts["ports"]["https"])


def offline(directory: DataDirectory, use: Callable[[Any], Awaitable[T]]) -> T:
    """Run ``use`` with the ``node.offline.OfflineHub`` of ``directory``, then give the directory up."""
    from muster.node.offline import open_offline  # noqa: PLC0415 - brings the stores in

    async def run() -> T:
        async with open_offline(directory) as hub:
            return await use(hub)

    try:
        return asyncio.run(run())
    finally:
        directory.release()
