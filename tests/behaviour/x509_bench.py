"""Ways to stand before a hub with a client certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from muster.identity.changes import ANY, Draft
from muster.identity.keys import Credentials
from muster.identity.model import Authentication, AuthenticationType, IdentityKey, Status
from muster.testing.mqtt import MqttClient
from tests.behaviour.mqtt_hub import MqttHub
from tests.certificate_maker import Maker, Pair
from tests.certificate_zoo import Specimen

AUTHENTICATION = AuthenticationType.CERTIFICATE_AUTHORITY


class Bench:
    """Ways to stand before ``hub`` with a certificate."""

    def __init__(self, hub: MqttHub, directory: Path) -> None:
        self.hub, self.directory = hub, directory
        self.make = Maker(hub.ambient.now())

    async def register(self, key: IdentityKey, held: Authentication, *, enabled: bool = True) -> None:
        if key.module_id is not None:
            await self.hub.registry.create(Draft(key=IdentityKey(key.device_id)))
        credentials = Credentials(
            held.type, held.primary_key, held.secondary_key, held.primary_thumbprint, held.secondary_thumbprint
        )
        status = Status.ENABLED if enabled else Status.DISABLED
        await self.hub.registry.create(Draft(key=key, credentials=credentials, status=status))

    async def trust(self, name: str, pair: Pair, *, verified: bool = True) -> None:
        await self.hub.authorities.put(name, pair.pem, ANY, verified=verified)

    async def prepare(self, specimen: Specimen) -> None:
        for number, one in enumerate(specimen.authorities):
            await self.trust(f"ca{number}", one.pair, verified=one.verified)
            await self.hub.authorities.set_rules(f"ca{number}", one.rules)
            for der in one.lists:
                await self.hub.authorities.put_list(f"ca{number}", der)
        for name, held in specimen.others.items():
            await self.register(IdentityKey(name), held)
        if specimen.registered:
            await self.register(specimen.key, specimen.authentication, enabled=specimen.enabled)

    def context(self, leaf: Pair | None, *sent: Pair) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.hub.ca_file))
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        if leaf is not None:
            path = self.directory / "client.pem"
            path.write_bytes(b"".join(one.pem for one in (leaf, *sent)) + leaf.key_pem)
            context.load_cert_chain(path)
        return context

    async def connect(
        self, key: IdentityKey, leaf: Pair | None, *sent: Pair, token: str | None = None
    ) -> tuple[MqttClient, int]:
        client = await self.hub.open(self.context(leaf, *sent))
        name = str(key)
        _, code = await client.connect(name, f"localhost/{name}/?api-version=2021-04-12", token)
        return client, code

    async def chain(self) -> tuple[Pair, Pair, Pair]:
        """A verified root, an intermediate, and the certificate of the registered device ``dev``."""
        root = self.make.root()
        middle = self.make.intermediate("Middle", root)
        await self.trust("root", root)
        await self.register(IdentityKey("dev"), Authentication(AUTHENTICATION))
        return root, middle, self.make.issue("dev", middle)

    async def disable(self, key: IdentityKey) -> None:
        """Disable the device."""
        draft = Draft(key=key, credentials=Credentials(AUTHENTICATION), status=Status.DISABLED)
        await self.hub.registry.update(draft, ANY)
