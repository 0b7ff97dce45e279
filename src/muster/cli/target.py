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

_HUB = "muster.hub"

_STARTING_SECONDS = 10.0


def deployment_option(function: F) -> F:
    """``--data``, for commands on what all hubs there share."""
    return click.option(
        "--data", type=click.Path(path_type=Path, file_okay=False), default="muster-data", show_default=True,
        help="The hub's data directory.",
    )(function)  # fmt: skip


def data_option(function: F) -> F:
    """``--data``, and ``--hub``, which is read here alone."""
    hub = click.option(
        "--hub", metavar="NAME", expose_value=False, callback=_keep_hub,
        help="The hub there that is meant.  [default: the first; see: muster hub list]",
    )  # fmt: skip
    return deployment_option(hub(function))


def _keep_hub(context: click.Context, _: click.Parameter, name: str | None) -> None:
    context.meta[_HUB] = name or ""


def hub_name() -> str:
    """The name that ``--hub`` gave, empty for the first hub."""
    context = click.get_current_context(silent=True)
    return "" if context is None else str(context.meta.get(_HUB, ""))


def hub_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of the hub that ``--hub`` means, out of those of all. Raises ``HubError`` 400003 when there is none."""
    name, hubs = hub_name(), facts.get("hubs", {})
    if not name:
        return facts
    if name not in hubs:
        raise HubError(INVALID_OPERATION, f"There is no hub {name[:80]}, there is {', '.join(hubs)}.")
    shared = {key: value for key, value in facts.items() if not isinstance(value, str)}
    return {**shared, **hubs[name]}


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
        if hub_name():
            raise click.UsageError("--hub is for a data directory; --login names its hub itself.")
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
    """What the running hub announced in ``data``, as it is for the hub that ``--hub`` means; ``None`` while it has not.

    Raises as ``hub_facts``.
    """
    try:
        facts = json.loads((data / "run.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return hub_facts(facts) if isinstance(facts, dict) else None


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
    """Run ``use`` with the ``node.offline.OfflineHub`` of ``directory`` that ``--hub`` means, then give it up."""
    from muster.node.offline import open_offline  # noqa: PLC0415 - brings the stores in

    async def run() -> T:
        async with open_offline(directory, hub_name()) as hub:
            return await use(hub)

    try:
        return asyncio.run(run())
    finally:
        directory.release()
