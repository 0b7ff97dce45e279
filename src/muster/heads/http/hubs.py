"""REST of several hubs on one port: the token's ``sr`` says which is meant, else the Host header."""

from __future__ import annotations

from muster.heads.http.connection import Answering, App
from muster.heads.http.messages import Request
from muster.heads.hubs import HubDirectory, server_name
from muster.identity.sas import resource_hosts


def answer_by_hub(hubs: HubDirectory[App]) -> App:
    """An application that leaves each request to the hub that it means."""

    def answer(request: Request) -> Answering:
        if hubs.alone:
            request.app = hubs.first
            return hubs.first(request)
        headers, transport = request.headers, request.transport
        named = "" if transport is None else server_name(transport)
        hub = hubs.find(*resource_hosts(headers.get("Authorization", "")), headers.get("Host", ""), named)
        request.app = hub
        return hub(request)

    return answer
