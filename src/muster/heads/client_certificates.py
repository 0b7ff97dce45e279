"""The certificates that a client sent in its TLS handshake, for attempts that come without a token."""

from __future__ import annotations

from typing import Any


def client_certificates(transport: Any) -> tuple[bytes, ...]:
    """DER, the client's own first, then what it sent besides; empty when it sent none or there is no TLS.

    That the client has the private key was proven by the handshake; whether the certificate is any good was not
    looked at.
    """
    found: tuple[bytes, ...] = transport.get_extra_info("peer_certificates") or ()
    return found


def tls_credential(transport: Any, *, without: bytes | str | None) -> dict[str, Any]:
    """``certificates`` and ``tls_version`` of a ``DeviceAttempt``; none when ``without``, a token, came."""
    found = () if without else client_certificates(transport)
    return {"certificates": found, "tls_version": transport.get_extra_info("tls_version", "")} if found else {}
