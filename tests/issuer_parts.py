"""An issuer that tests hold in their hands: its keys, tokens and documents, and how often it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from muster.core.fetching import Fetched, Request

HUBS = "https://iothubs.azure.net"


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """The private key that is called ``name`` in this run."""
    return rsa.generate_private_key(65537, 2048)


class TestIssuer:
    """``keys`` are those that it publishes, by key id; ``down`` makes every fetch fail."""

    __test__ = False

    def __init__(self, now: Callable[[], float], url: str = "https://issuer.test/tenant") -> None:
        self.url, self._now = url, now
        self.keys = ["k1"]
        self.down = False
        self.about: dict[str, Any] = {"issuer": url, "jwks_uri": f"{url}/keys"}
        self.fetches: list[str] = []
        self.more_keys: list[Any] = []

    async def fetch(self, request: Request, most: int, seconds: float) -> Fetched:
        """See ``core.fetching.Fetch``."""
        self.fetches.append(request.url)
        if self.down:
            raise ConnectionRefusedError("nobody is there")
        if request.url == f"{self.url}/.well-known/openid-configuration":
            return Fetched(json.dumps(self.about).encode())
        if request.url == f"{self.url}/keys":
            return Fetched(json.dumps({"keys": [*self.more_keys, *map(self.jwk, self.keys)]}).encode())
        raise OSError("the answer was 404")

    @property
    def rounds(self) -> int:
        """How often its configuration was asked for."""
        return sum(url.endswith("openid-configuration") for url in self.fetches)

    @staticmethod
    def jwk(kid: str) -> dict[str, Any]:
        """The public key ``kid`` as it is published."""
        return {**json.loads(RSAAlgorithm.to_jwk(rsa_key(kid).public_key())), "kid": kid, "use": "sig"}

    def token(
        self, kid: str = "k1", signed_with: str = "", headers: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token for an hour, by the key ``kid``; a claim that is ``None`` is left out."""
        now = self._now()
        said = {"iss": self.url, "aud": HUBS, "sub": "alice", "exp": now + 3600, "nbf": now} | claims
        payload = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(payload, rsa_key(signed_with or kid), "RS256", headers or {"kid": kid})
