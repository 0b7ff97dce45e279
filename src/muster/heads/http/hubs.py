"""REST of several hubs on one port: the token's ``sr`` says which is meant, else the Host header."""

from __future__ import annotations

from muster.heads.http.connection import Answering, App
from muster.heads.http.messages import Request
from muster.heads.hubs import HubDirectory, server_name
from muster.identity.sas import resource_hosts

_MANAGEMENT = ("/subscriptions/", "/providers/")
_LONGEST = max(map(len, _MANAGEMENT))


def answer_by_hub(hubs: HubDirectory[App], management: App) -> App:
    """An application that leaves each request to the hub that it means, and those of the management API, which names
    the hub in its path, to ``management``."""

    def answer(request: Request) -> Answering:
        if request.raw_path[:_LONGEST].lower().startswith(_MANAGEMENT):
            request.app = management
            return management(request)
        if hubs.alone:
            request.app = hubs.first
            return hubs.first(request)
        headers, transport = request.headers, request.transport
        named = "" if transport is None else server_name(transport)
        hub = hubs.find(*resource_hosts(headers.get("Authorization", "")), headers.get("Host", ""), named)
        request.app = hub
        return hub(request)

    return answer
