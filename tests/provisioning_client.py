"""A device and a service of the provisioning service over HTTPS, which say exactly what they are told to."""

from __future__ import annotations

import http.client
import json
import ssl
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from muster.identity.sas import decode_key, make
from muster.provisioning.attestation.symmetric_key import derive
from muster.testing.hub import HubUser
from tests.certificate_maker import Pair

API = "api-version=2021-10-01"
PATIENCE = 30.0


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: Any


class Provisioning:
    """The provisioning service that is reached at a hub."""

    def __init__(self, hub: HubUser) -> None:
        self.hub = hub
        self.scope: str = hub.facts["DPS_ID_SCOPE"]
        parts = dict(part.split("=", 1) for part in hub.facts["DPS_CONNECTION_STRING"].split(";"))
        self.key, self.policy = parts["SharedAccessKey"], parts["SharedAccessKeyName"]

    # --- as a service

    def service_token(self, resource: str = "") -> str:
        return self.hub.token(resource, self.key, self.policy)

    def call(
        self, method: str, path: str, body: Any = None, *, query: str = API, chain: Sequence[Pair] = (), **headers: str
    ) -> Answer:
        """One call; as the service's owner unless ``Authorization`` says otherwise. Empty headers are not sent."""
        given = {"Authorization": self.service_token(), "Content-Type": "application/json; charset=utf-8"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        port, context = self.hub.port("https"), self.context(chain)
        connection = http.client.HTTPSConnection(self.hub.address, port, context=context, timeout=PATIENCE)
        try:
            separator = "&" if "?" in path else "?"
            content = None if body is None else json.dumps(body)
            sent = {name: value for name, value in given.items() if value}
            connection.request(method, f"{path}{separator}{query}", content, sent)
            answer = connection.getresponse()
            text = answer.read()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, told, json.loads(text) if text else None)
        finally:
            connection.close()

    def context(self, chain: Sequence[Pair]) -> ssl.SSLContext:
        """Trusts the hub, and shows the first of ``chain`` with the rest."""
        context = self.hub.trust()
        if chain:
            with tempfile.TemporaryDirectory() as directory:
                certificate, key = Path(directory, "c.pem"), Path(directory, "k.pem")
                certificate.write_bytes(b"".join(one.pem for one in chain))
                key.write_bytes(chain[0].key_pem)
                context.load_cert_chain(certificate, key)
        return context

    def enroll(self, name: str, attestation: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Enroll one device; the enrollment, keys included."""
        body = {"registrationId": name, "attestation": attestation or {"type": "symmetricKey"}, **more}
        answer = self.call("PUT", f"/enrollments/{quote(name, safe='')}", body)
        assert answer.status == 200, answer
        made: dict[str, Any] = answer.body
        return made

    def group(self, name: str, attestation: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """Make a group; the enrollment group, keys included."""
        body = {"enrollmentGroupId": name, "attestation": attestation or {"type": "symmetricKey"}, **more}
        answer = self.call("PUT", f"/enrollmentGroups/{quote(name, safe='')}", body)
        assert answer.status == 200, answer
        made: dict[str, Any] = answer.body
        return made

    # --- as a device

    def token(self, name: str, key: str, *, resource: str | None = None, seconds: float = 3600) -> str:
        """A device's token, signed with ``key`` (base64)."""
        secret = decode_key(key)
        assert secret is not None
        target = f"{self.scope}/registrations/{name}" if resource is None else resource
        return make(target, int(time.time() + seconds), secret, "registration")

    def derived_token(self, name: str, group: Mapping[str, Any], slot: str = "primaryKey") -> str:
        return self.token(name, derive(group["attestation"]["symmetricKey"][slot], name))

    def register(
        self, name: str, token: str = "", *, body: Any = None, chain: Sequence[Pair] = (), query: str = API,
        scope: str | None = None,
    ) -> Answer:  # fmt: skip
        """The answer to one register call."""
        path = f"/{self.scope if scope is None else scope}/registrations/{quote(name, safe='')}/register"
        content = {"registrationId": name} if body is None else body
        return self.call("PUT", path, content, query=query, chain=chain, Authorization=token)

    def provision(self, name: str, token: str = "", **more: Any) -> dict[str, Any]:
        """Register and poll to the end; the registration's state."""
        begun = self.register(name, token, **more)
        assert begun.status == 202, begun
        assert begun.body["status"] == "assigning"
        return self.poll(name, begun.body["operationId"], token, chain=more.get("chain", ()))

    def poll(self, name: str, operation: str, token: str = "", chain: Sequence[Pair] = ()) -> dict[str, Any]:
        """Poll an operation to its end; the registration's state."""
        path = f"/{self.scope}/registrations/{quote(name, safe='')}/operations/{operation}"
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.call("GET", path, {}, chain=chain, Authorization=token)
            assert answer.status in (200, 202), answer
            if answer.status == 200:
                state: dict[str, Any] = answer.body["registrationState"]
                return state
            assert time.monotonic() < deadline, answer
            time.sleep(0.05)

    def log(self, name: str, count: int) -> list[Any]:
        """The newest entries of a device, as soon as there are so many: an end is told right after it is on disk."""
        deadline = time.monotonic() + PATIENCE
        while True:
            answer = self.call("GET", f"/$muster/provisioning/log?registration={quote(name, safe='')}")
            entries: list[Any] = answer.body["entries"]
            if len(entries) >= count:
                return entries
            assert time.monotonic() < deadline, entries
            time.sleep(0.02)

    def why(self, name: str) -> str:
        """The cause of the newest refusal of a device."""
        _, found = self.hub.request("GET", f"/$muster/why?device={quote(name, safe='')}")
        return str(found["refusals"][0]["cause"]) if found["refusals"] else ""
