"""``muster hub network`` and ``muster provisioning network``: from which addresses clients may come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from muster.cli.network import HubClient
from muster.cli.target import login_options, offline
from muster.core.errors import NOT_FOUND, HubError
from muster.dialect.json_body import Members, parse_json
from muster.dialect.network_bodies import network_body, read_network
from muster.identity.network import Target
from muster.node.directory import DataDirectory

if TYPE_CHECKING:
    from muster.node.offline import OfflineHub

HUB_PATH, PROVISIONING_PATH = "/$muster/network", "/$muster/provisioning/network"

Found = HubClient | DataDirectory
Find = Callable[[Path, str | None, Path | None], Found]
Body = dict[str, Any]


class _Rules:
    """The rules of what the options mean: those of a running hub, or kept in a data directory."""

    def __init__(self, target: Found, *, hub: bool) -> None:
        self._target = target
        self._path = HUB_PATH if hub else PROVISIONING_PATH

    def read(self) -> Body:
        """Them, as ``dialect.network_bodies`` has them."""
        target = self._target
        if isinstance(target, HubClient):
            found: Body = target.call("GET", self._path)
            return found

        async def read(opened: OfflineHub) -> Body:
            return network_body(opened.network.rules, hub=True)

        return offline(target, read)

    def edit(self, change: Callable[[Body], object]) -> None:
        """Have ``change`` edit them in place, and keep that unless somebody else has changed them meanwhile."""
        target = self._target
        if isinstance(target, HubClient):
            body = target.call("GET", self._path)
            etag = body["etag"]
            change(body)
            target.call("PUT", self._path, body, if_match=etag)
            return

        async def edit(opened: OfflineHub) -> None:
            body = network_body(opened.network.rules, hub=True)
            change(body)
            await opened.network.change(read_network(Members.of(body, "The rules"), hub=True))

        offline(target, edit)

    def check(self, address: str, **asked: str) -> Body:
        """What they say of an address."""
        target = self._target
        if isinstance(target, HubClient):
            found: Body = target.call("GET", f"{self._path}/check?{urlencode({'address': address, **asked})}")
            return found

        async def check(opened: OfflineHub) -> Body:
            ruling = opened.network.ruling(f"{address}:0", events=asked.get("events") == "true")
            return {"address": address, "allowed": ruling.allowed, "by": ruling.by}

        return offline(target, check)


def network_commands(data_option: Callable[[Any], Any], find: Find, *, hub: bool) -> click.Group:
    """The commands for a hub, or for the provisioning service; ``find`` finds it by the options, of which
    ``data_option`` is one."""

    @click.group("network")
    def network() -> None:
        """From which addresses clients may come: IP filter rules, of which the first that matches decides.

        What is changed counts at once: connections that would be refused now end. Commands on the same machine are let
        in by their credential alone.
        """

    def command(name: str, function: Callable[..., None], *options: Callable[[Any], Any]) -> None:
        def run(*, data: Path, login: str | None, ca: Path | None, **asked: Any) -> None:
            function(_Rules(find(data, login, ca), hub=hub), **asked)

        run.__doc__ = function.__doc__
        made: Any = login_options(run)
        for option in reversed((*options, data_option)):
            made = option(made)
        network.command(name)(made)

    target = click.option(
        "--target", type=click.Choice([one.value for one in Target]), help="What it is about.  [default: all]"
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, as Azure's resource manager has it.")
    events = click.option(
        "--at-built-in-endpoint", "events", is_flag=True, help="At the built-in Event Hubs-compatible endpoint."
    )
    name, mask, address = (click.argument(one) for one in ("name", "mask", "address"))
    command("show", _show, as_json)
    command("add", _add, name, mask, _REJECT, _BEFORE, *(() if hub else (target,)))
    command("remove", _remove, name)
    command("set", _set, *_SETTINGS, *(_HUB_SETTINGS if hub else ()))
    command("apply", _apply, click.argument("file", type=click.File("rb")))
    command("check", _check, address, events if hub else target)
    return network


_REJECT = click.option("--reject", is_flag=True, help="Refuse those whom it matches; without, they may come.")
_BEFORE = click.option("--before", metavar="NAME", help="The rule that it goes before.  [default: behind all others]")
_SETTINGS = (
    click.option(
        "--public-access",
        type=click.Choice(["enabled", "disabled"]),
        help="Whether others than private networks may come.",
    ),
    click.option(
        "--private-network",
        "private",
        multiple=True,
        metavar="CIDR",
        help="A network that no rule is about, in place of those before. Repeatable.",
    ),
    click.option("--no-private-network", "no_private", is_flag=True, help="No private networks."),
)
_HUB_SETTINGS = (
    click.option(
        "--default-action",
        "default",
        type=click.Choice(["allow", "deny"]),
        help="What becomes of those whom no rule matches.",
    ),
    click.option(
        "--built-in-endpoint/--no-built-in-endpoint",
        "events",
        default=None,
        help="Whether the rules count at the built-in Event Hubs-compatible endpoint.",
    ),
)


def _show(rules: _Rules, *, as_json: bool) -> None:
    """Print the rules in their order."""
    body = rules.read()
    click.echo(json.dumps(body, indent=1) if as_json else "\n".join(_lines(body)))


def _apply(rules: _Rules, *, file: Any) -> None:
    """Replace all by those in FILE ('-' for standard input), JSON as `show --json` prints it."""
    wanted = parse_json(file.read())
    Members.of(wanted, "The file")

    def change(body: Body) -> None:
        body.clear()
        body.update(wanted)

    rules.edit(change)


def _remove(rules: _Rules, *, name: str) -> None:
    """Remove the rule NAME."""

    def change(body: Body) -> None:
        found = [body["ipFilterRules"], (body.get("networkRuleSets") or {}).get("ipRules", [])]
        if not any(one["filterName"].lower() == name.lower() for rows in found for one in rows):
            raise HubError(NOT_FOUND, f"There is no rule {name!r}, see: network show")
        for rows in found:
            rows[:] = [one for one in rows if one["filterName"].lower() != name.lower()]

    rules.edit(change)


def _set(
    rules: _Rules,
    *,
    public_access: str | None,
    private: tuple[str, ...],
    no_private: bool,
    default: str | None = None,
    events: bool | None = None,
) -> None:
    """Change what holds besides the rules."""

    def change(body: Body) -> None:
        if public_access is not None:
            body["publicNetworkAccess"] = public_access.capitalize()
        if private or no_private:
            body["privateNetworks"] = list(private)
        if default is None and events is None:
            return
        found = body.get("networkRuleSets") or {"defaultAction": "Allow", "ipRules": []}
        if default is not None:
            found["defaultAction"] = default.capitalize()
        if events is not None:
            found["applyToBuiltInEventHubEndpoint"] = events
        body["networkRuleSets"] = found

    rules.edit(change)


def _add(rules: _Rules, *, name: str, mask: str, reject: bool, before: str | None, target: str | None = None) -> None:
    """Add a rule NAME for MASK, an address or a network such as 10.1.0.0/16. 0.0.0.0/0 means everybody."""
    row = {"filterName": name, "action": "Reject" if reject else "Accept", "ipMask": mask}
    if target is not None:
        row["target"] = target

    def change(body: Body) -> None:
        rows = body["ipFilterRules"]
        names = [one["filterName"].lower() for one in rows]
        if before is not None and before.lower() not in names:
            raise HubError(NOT_FOUND, f"There is no rule {before!r} among the filters, see: network show")
        rows.insert(len(rows) if before is None else names.index(before.lower()), row)

    rules.edit(change)


def _check(rules: _Rules, *, address: str, events: bool = False, target: str | None = None) -> None:
    """Print what the rules say of ADDRESS, and which of them decides."""
    asked = {"events": "true"} if events else {} if target is None else {"target": target}
    found = rules.check(address, **asked)
    click.echo(f"{found['address']} {'may come' if found['allowed'] else 'is refused'}: {found['by']}")


def _lines(body: Body) -> list[str]:
    lines = [f"public access: {body['publicNetworkAccess'].lower()}"]
    lines += [f"private network: {mask}" for mask in body["privateNetworks"]]
    for one in body["ipFilterRules"]:
        target = f"  ({one['target']})" if "target" in one else ""
        lines.append(f"{one['action']}  {one['ipMask']}  {one['filterName']}{target}")
    found = body.get("networkRuleSets")
    if found is not None:
        lines += [f"Allow   {one['ipMask']}  {one['filterName']}" for one in found["ipRules"]]
        lines.append(f"all others: {found['defaultAction'].lower()}")
        counts = "count" if found["applyToBuiltInEventHubEndpoint"] else "do not count"
        lines.append(f"the rules {counts} at the built-in endpoint")
    return lines
