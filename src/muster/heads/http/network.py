"""From where HTTPS is called, and the operations by which that is ruled, under ``/$muster``: Azure has them in its
resource manager."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from muster.access.roles import ManagementAction
from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.etag import etag_of
from muster.dialect.network_bodies import network_body, read_network
from muster.heads.http.answers import json_answer
from muster.heads.http.messages import Request, Response
from muster.heads.http.operations import Call, Operation
from muster.heads.tls import describe_peer
from muster.identity.mistakes import shown
from muster.identity.network import Target, address_of, host_of
from muster.identity.network_access import NetworkAccess
from muster.identity.policies import BUILT_IN, OWNER, PROVISIONING_RIGHTS
from muster.identity.verdict import Right

_ADMINISTRATION = ("$muster/", "subscriptions/", "providers/")
"""Where rules are made: our own operations and the resource manager's."""
HUB_PATH, PROVISIONING_PATH = "/$muster/network", "/$muster/provisioning/network"


def check_network(call: Call, network: NetworkAccess, target: Target = Target.ALL) -> None:
    """Raise ``HubError`` 401002, and keep the refusal, unless the caller may be where it is.

    From the machine itself the rules can always be mended: there the credential alone counts for administration.
    """
    transport = call.request.transport
    if not network.watches or (call.path.lower().startswith(_ADMINISTRATION) and is_local(call.request)):
        return
    network.require("https", "unknown" if transport is None else describe_peer(transport), target=target)


def is_local(request: Request) -> bool:
    """Whether the caller is on this machine: at a loopback address, or at the one that it called."""
    transport = request.transport
    if transport is None:
        return False
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    address = address_of(peer[0]) if peer else None
    return address is not None and (address.is_loopback or (bool(own) and address == address_of(own[0])))


_Handler = Callable[[Call], Awaitable[Response]]
Maker = Callable[[str, str, Right, _Handler, ManagementAction], Operation]


def _hub_operation(method: str, path: str, right: Right, handler: _Handler, action: ManagementAction) -> Operation:
    return Operation(method, path, right, handler, actions=(action,))


class NetworkOperations:
    """Rules shown, replaced and tried. Who may do that could let everybody in, so he must have every right."""

    def __init__(self, network: NetworkAccess, operation: Maker | None = None) -> None:
        """They are a hub's; those of a provisioning service with its own ``operation``, which makes a row."""
        self._network = network
        self._hub = operation is None
        self._operation = operation or _hub_operation

    def table(self) -> list[Operation]:
        """The rows for the operation table."""
        make = self._operation
        path, right = (HUB_PATH, BUILT_IN[OWNER]) if self._hub else (PROVISIONING_PATH, PROVISIONING_RIGHTS)
        return [
            make("GET", path, right, self.show, ManagementAction.READ),
            replace(make("PUT", path, right, self.replace, ManagementAction.WRITE), changes="network.put"),
            make("GET", f"{path}/check", right, self.check, ManagementAction.READ),
        ]

    async def show(self, _: Call) -> Response:
        """The rules as ``dialect.network_bodies`` has them, with their ``etag``."""
        return self._answer()

    async def replace(self, call: Call) -> Response:
        """Put rules in place of those before, if they are still those of ``If-Match``; the answer shows them.

        Raises ``HubError`` as ``read_network`` and ``NetworkAccess.change``.
        """
        rules = read_network(await call.json_object(), hub=self._hub)
        await self._network.change(rules, call.if_match(), call.note("network"))
        return self._answer()

    async def check(self, call: Call) -> Response:
        """``{"address", "allowed", "by"}``: what the rules say of the query's ``address``.

        With ``events=true`` at the built-in endpoint, with ``target`` at that API of a provisioning service. Raises
        ``HubError`` 400004.
        """
        text, named = call.query("address") or "", (call.query("target") or Target.ALL).lower()
        target = next((one for one in Target if one.lower() == named), None)
        if address_of(text) is None or target is None:
            wrong = "address is no IP address" if target is not None else f"target is none of {', '.join(Target)}"
            raise HubError(ARGUMENT_INVALID, f"{wrong}, give one.")
        ruling = self._network.ruling(f"{text}:0", target, events=call.query("events") == "true")
        return json_answer({"address": shown(host_of(f"{text}:0")), "allowed": ruling.allowed, "by": ruling.by})

    def _answer(self) -> Response:
        etag = etag_of(self._network.version)
        return json_answer({**network_body(self._network.rules, hub=self._hub), "etag": etag}, etag=etag)
