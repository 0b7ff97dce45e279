"""Why a TLS handshake failed, kept as a refusal so that `muster why` explains it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from OpenSSL import SSL

from muster.core.ambient import Ambient
from muster.core.certificate_limits import HANDSHAKES_EXPLAINED
from muster.core.errors import UNAUTHORIZED
from muster.core.limits import CONNECT_WAIT
from muster.core.rate import RateLimit
from muster.heads.hubs import HubDirectory, server_name
from muster.heads.tls import describe_peer
from muster.identity.breaches import breach
from muster.identity.mistakes import shown
from muster.identity.refusals import Refusals

_BURST = 20
_BY_REASON = {
    "unsupported protocol": ("tls-version", "TLS 1.2 or 1.3"),
    "version too low": ("tls-version", "TLS 1.2 or 1.3"),
    "wrong version number": ("tls-not-spoken", "a TLS client hello"),
    "http request": ("tls-not-spoken", "a TLS client hello"),
    "https proxy request": ("tls-not-spoken", "a TLS client hello"),
    "packet length too long": ("tls-not-spoken", "a TLS client hello"),
    "record layer failure": ("tls-not-spoken", "a TLS client hello"),
    "alert unknown ca": ("hub-not-trusted", "a client that trusts the hub's CA"),
    "alert bad certificate": ("hub-certificate-refused", "a client that takes the hub's certificate"),
    "alert certificate unknown": ("hub-certificate-refused", "a client that takes the hub's certificate"),
    "alert certificate expired": ("hub-certificate-refused", "a client that takes the hub's certificate"),
    "alert unsupported certificate": ("hub-certificate-refused", "a client that takes the hub's certificate"),
    "no shared cipher": ("tls-no-common-cipher", "a cipher that both have"),
    "no suitable key share": ("tls-no-common-cipher", "a curve that both have"),
    "no shared groups": ("tls-no-common-cipher", "a curve that both have"),
    "bad signature": ("possession-not-proven", "a signature by the certificate's key"),
    "wrong signature type": ("possession-not-proven", "a signature by the certificate's key"),
    "ee key too small": ("possession-not-proven", "a certificate with a key that TLS takes"),
    "no suitable signature algorithm": ("possession-not-proven", "a certificate with a key that TLS takes"),
    "no shared signature algorithms": ("possession-not-proven", "a certificate with a key that TLS takes"),
}
"""What OpenSSL's reason ends in, the cause, and what was expected."""


class HandshakeRefusals:
    """Keeps failed handshakes, bounded and so many a second, with the refusals of the hub that the client named.

    ``covers`` says for which names the hub's certificate is; ``None``: for all names of ``hubs``.
    """

    def __init__(
        self, hubs: HubDirectory[Refusals], ambient: Ambient, covers: Callable[[str], bool] | None = None
    ) -> None:
        self._hubs = hubs
        self._covers = covers or hubs.knows
        self._ambient = ambient
        self._rate = RateLimit(HANDSHAKES_EXPLAINED.open, _BURST, ambient.monotonic)

    def __call__(self, transport: Any, error: Exception) -> None:
        """The handshake of ``transport`` failed with ``error``."""
        if not self._rate.take():
            return
        host = server_name(transport)
        cause, expected, seen = self._explained(error, host)
        verdict = breach(
            self._ambient, cause, UNAUTHORIZED, transport="tls", peer=describe_peer(transport), expected=expected,
            seen=seen,
        )  # fmt: skip
        self._hubs.find(host).add(verdict)

    def _explained(self, error: Exception, name: str) -> tuple[str, str, str]:
        if isinstance(error, TimeoutError):
            return "handshake-timeout", f"a TLS handshake within {CONNECT_WAIT.open} s", str(error)
        reasons = reasons_of(error)
        if not reasons:
            return "handshake-broken-off", "a complete TLS handshake", "the connection was closed"
        seen = shown("; ".join(reasons))
        for reason in reasons:
            for ending, (cause, expected) in _BY_REASON.items():
                if reason.endswith(ending):
                    if cause == "hub-certificate-refused" and name and not self._covers(name):
                        return "hub-name-not-in-certificate", "one of the hub's names", f"{shown(name)}; {seen}"
                    return cause, expected, seen
        return "handshake-failed", "a complete TLS handshake", seen


def reasons_of(error: Exception) -> list[str]:
    """OpenSSL's words for ``error``; none when the client just went away."""
    if isinstance(error, SSL.SysCallError | OSError):
        return []
    if isinstance(error, SSL.Error) and error.args and error.args[0]:
        return [str(entry[-1]).lower() for entry in error.args[0]]
    return [type(error).__name__]
