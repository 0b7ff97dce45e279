"""A real OpenID Connect issuer (npm oidc-provider) in a process of its own, laid out as Entra ID is."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from azure.identity import ClientSecretCredential
from cryptography import x509

from tests.certificate_maker import Maker

NODE_HOME = Path(__file__).resolve().parents[1] / "node"
TENANT, SECRET = "contoso", "not a secret, all tests know it"


class OidcIssuer:
    """``clients`` are applications by their id, with the claims that their tokens bear (``{"roles": [...]}``).

    ``options`` make ``muster serve`` trust it. ``ca`` is the file with its authority.
    """

    def __init__(self, directory: Path, clients: Mapping[str, Mapping[str, Any]]) -> None:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        make, names = Maker(time.time()), x509.SubjectAlternativeName([x509.DNSName("localhost")])
        root = make.root()
        pair = make.issue("localhost", root, extensions=[(names, False)])
        self.ca, certificate, key = (directory / name for name in ("issuer-ca.pem", "issuer.pem", "issuer.key"))
        for file, content in ((self.ca, root.pem), (certificate, pair.pem), (key, pair.key_pem)):
            file.write_bytes(content)
        told = {name: {"secret": SECRET, "claims": claims} for name, claims in clients.items()}
        environment = {"CERT": str(certificate), "KEY": str(key), "TENANT": TENANT, "CLIENTS": json.dumps(told)}
        self._process = subprocess.Popen(
            ["node", "issuer.mjs"], cwd=NODE_HOME, env={**os.environ, **environment}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=(directory / "issuer.log").open("wb"), text=True,
        )  # fmt: skip
        self.url = str(self._hear()["issuer"])
        self.options = ("--oidc-issuer", self.url, "--oidc-ca", str(self.ca))

    def tell(self, **what: Any) -> dict[str, Any]:
        """See tests/node/issuer.mjs."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def credential(self, client: str) -> ClientSecretCredential:
        """What azure-identity makes for an application, with nothing kept of earlier tokens."""
        return ClientSecretCredential(
            TENANT, client, SECRET, authority=f"https://{urlsplit(self.url).netloc}", disable_instance_discovery=True,
            connection_verify=str(self.ca),
        )  # fmt: skip

    def token(self, client: str, audience: str = "https://iothubs.azure.net") -> str:
        """A fresh access token."""
        return str(self.credential(client).get_token(f"{audience}/.default").token)

    def stop(self) -> None:
        """It answers no more."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # oidc-provider has notices of its own
                return dict(json.loads(line))
        raise RuntimeError("the issuer has ended")
