"""Kinds of SAS token that are switched off: each is refused by its name, and the others go on."""

from __future__ import annotations

import pytest

from muster.core.errors import DEVICE_UNAUTHORIZED, UNAUTHORIZED, HubError
from muster.core.redaction import redacted
from muster.identity.authenticator import Authenticator, DeviceAttempt, ServiceAttempt
from muster.identity.hub import Switches, make_hub
from muster.identity.model import Authentication, Identity, IdentityKey
from muster.identity.policies import LOCAL, development_key, development_policies, make_local_policy
from muster.identity.refusals import Refusals
from muster.identity.sas import decode_key, make
from muster.identity.verdict import Right, Verdict
from muster.testing.clock import VirtualAmbient

NOW = 1_800_000_000
HOST = "myhub.example"
DEVICE, MODULE = IdentityKey("dev"), IdentityKey("dev", "mod")


class Shelf:
    async def get(self, hub: str, key: IdentityKey) -> Identity:
        return Identity(
            key=key, generation_id="1", version=1, authentication=Authentication(primary_key=development_key(str(key)))
        )


class Bench:
    def __init__(self, switches: Switches) -> None:
        ambient = VirtualAmbient(NOW)
        self.local = make_local_policy(ambient)
        hub = make_hub([HOST], development_policies(), taken=lambda: switches, local=self.local)
        self.authenticator = Authenticator(hub, Shelf(), ambient, Refusals(ambient))  # type: ignore[arg-type]

    async def device(self, key: IdentityKey, policy: str | None = None) -> Verdict:
        name = f"{policy}/primary" if policy else str(key)
        resource = f"{HOST}/devices/dev" + ("" if key.module_id is None else "/modules/mod")
        token = make(resource, NOW + 60, decode_key(development_key(name)) or b"", policy)
        return await self.authenticator.device(
            DeviceAttempt(transport="amqp", peer="", host=HOST, key=key, token=token)
        )

    def service(self, name: str = "service", key: str = "") -> Verdict:
        secret = decode_key(key or development_key(f"{name}/primary")) or b""
        token = make(HOST, NOW + 60, secret, name)
        return self.authenticator.service(
            ServiceAttempt(
                transport="https", peer="", host=HOST, token=token, required=Right.SERVICE_CONNECT, resource=""
            )
        )


async def test_everything_is_taken_by_default() -> None:
    bench = Bench(Switches())
    verdict = await bench.device(DEVICE)
    assert verdict.allowed
    assert "switches" not in {check.name for check in verdict.checks}
    assert (await bench.device(MODULE)).allowed
    assert bench.service().allowed


async def test_without_local_auth_policies_are_refused_and_devices_go_on() -> None:
    bench = Bench(Switches(disable_local_auth=True))
    refused = bench.service()
    assert (refused.cause, refused.error) == ("local-auth-disabled", UNAUTHORIZED)
    assert (await bench.device(DEVICE, "device")).cause == "local-auth-disabled"
    assert (await bench.device(DEVICE)).allowed
    assert (await bench.device(MODULE)).allowed
    assert bench.service(LOCAL, bench.local.primary_key).allowed, "commands on the data directory go on"


async def test_without_sas_of_devices_modules_and_services_go_on() -> None:
    bench = Bench(Switches(disable_device_sas=True))
    refused = await bench.device(DEVICE)
    assert (refused.cause, refused.error) == ("device-sas-disabled", DEVICE_UNAUTHORIZED)
    assert (await bench.device(MODULE)).allowed
    assert (await bench.device(DEVICE, "device")).allowed
    assert bench.service().allowed


async def test_without_sas_of_modules_devices_go_on() -> None:
    bench = Bench(Switches(disable_module_sas=True))
    refused = await bench.device(MODULE)
    assert (refused.cause, refused.error) == ("module-sas-disabled", DEVICE_UNAUTHORIZED)
    assert (await bench.device(DEVICE)).allowed


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"id {development_key('x')} is bad", "id (hidden, it may hold a key) is bad"),
        ("HostName=h;SharedAccessKey=abc;x", "HostName=h;(hidden, it may hold a key);x"),
        ("a sr=x&sig=abc%2F&se=1", "a sr=x&(hidden, it may hold a key)&se=1"),
        ("ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1%2bf4CBgoM%3D", "(hidden, it may hold a key)"),
        ("The device id is empty, give 1 to 128 characters.", "The device id is empty, give 1 to 128 characters."),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    ],
)
def test_secrets_are_taken_out_of_sentences(text: str, told: str) -> None:
    assert redacted(text) == told
    assert HubError(UNAUTHORIZED, text).message == told
