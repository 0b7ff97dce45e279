"""Why a handshake failed, by OpenSSL's words for it."""

from __future__ import annotations

from typing import Any

import pytest
from OpenSSL import SSL

from muster.heads.handshakes import HandshakeRefusals
from muster.heads.hubs import HubDirectory
from muster.identity.refusals import Refusals
from muster.testing.clock import VirtualAmbient


class Transport:
    def __init__(self, server_name: bytes | None) -> None:
        self.known = {"server_name": server_name, "peername": ("10.0.0.1", 5)}

    def get_extra_info(self, name: str) -> Any:
        return self.known[name]


@pytest.mark.parametrize(
    ("error", "server_name", "cause"),
    [
        (SSL.Error([("SSL routines", "", "bad signature")]), None, "possession-not-proven"),
        (SSL.Error([("x", "", "no shared cipher")]), None, "tls-no-common-cipher"),
        (SSL.Error([("x", "", "ssl/tls alert bad certificate")]), b"hub.example", "hub-certificate-refused"),
        (SSL.Error([("x", "", "sslv3 alert bad certificate")]), b"other.example", "hub-name-not-in-certificate"),
        (SSL.Error([("x", "", "tlsv1 alert unknown ca")]), b"other.example", "hub-not-trusted"),
        (SSL.Error([("x", "", "something new")]), b"\xff\x00", "handshake-failed"),
        (SSL.SysCallError(-1, "Unexpected EOF"), None, "handshake-broken-off"),
        (ConnectionResetError(), None, "handshake-broken-off"),
        (TimeoutError("no TLS handshake within 60 s"), None, "handshake-timeout"),
    ],
)
async def test_the_cause(error: Exception, server_name: bytes | None, cause: str) -> None:
    ambient = VirtualAmbient()
    refusals = Refusals(ambient)
    HandshakeRefusals(HubDirectory(refusals, "hub", ["hub.example"]), ambient)(Transport(server_name), error)
    last = await refusals.last()
    assert last is not None
    assert (last.report["cause"], last.report["transport"], last.report["peer"]) == (cause, "tls", "10.0.0.1:5")
