"""Every specimen of the certificate zoo, judged: let in, or refused with its named cause."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from muster.core.bus import LocalBus
from muster.core.errors import DEVICE_DISABLED, DEVICE_NOT_FOUND, DEVICE_UNAUTHORIZED, UNAVAILABLE
from muster.identity.authenticator import Authenticator, DeviceAttempt
from muster.identity.authority_contract import Authority, AuthorityChange, KeptList
from muster.identity.certificate_causes import CERTIFICATE
from muster.identity.explain import explain, to_json
from muster.identity.hub import make_hub
from muster.identity.model import Authentication, Identity, IdentityKey, Status
from muster.identity.policies import development_policies
from muster.identity.refusals import Refusals
from muster.identity.revocation import read_list
from muster.identity.trust import Trust
from muster.identity.verdict import Outcome, Verdict
from muster.testing.clock import VirtualAmbient
from tests import certificate_zoo_bad
from tests.certificate_maker import Maker
from tests.certificate_zoo import ZOO, Specimen

NOW = 1_800_000_000


class Authorities:
    """Just enough of an ``AuthorityStore``: the authorities of one specimen."""

    def __init__(self, specimen: Specimen) -> None:
        self.specimen = specimen

    async def authorities(self, hub: str) -> Sequence[Authority]:
        return [
            Authority(
                name=f"ca{number}", certificate=one.pair.der, verified=one.verified, created=0, updated=0, version=1,
                rules=one.rules,
            )
            for number, one in enumerate(self.specimen.authorities)
        ]  # fmt: skip

    async def lists(self, hub: str) -> Sequence[KeptList]:
        return [
            KeptList(f"ca{number}", read_list(der).issuer, der)
            for number, one in enumerate(self.specimen.authorities)
            for der in one.lists
        ]

    async def edit_authority(
        self, hub: str, name: str, change: AuthorityChange, note: object = None
    ) -> Authority | None:
        raise NotImplementedError

    async def put_list(self, hub: str, kept: KeptList, draft: object = None) -> bool:
        raise NotImplementedError


class Identities:
    """The identity of one specimen, its device and the others."""

    def __init__(self, specimen: Specimen) -> None:
        status = Status.ENABLED if specimen.enabled else Status.DISABLED
        self.all: list[Identity] = [identity(IdentityKey(name), one) for name, one in specimen.others.items()]
        if specimen.registered:
            self.all.append(identity(specimen.key, specimen.authentication, status))
            if specimen.key.module_id is not None:
                self.all.append(identity(IdentityKey(specimen.key.device_id), Authentication()))

    async def get(self, hub: str, key: IdentityKey) -> Identity | None:
        return next((one for one in self.all if one.key == key), None)

    async def devices(self, hub: str, limit: int) -> Sequence[Identity]:
        return [one for one in self.all if one.module_id is None]

    async def modules(self, hub: str, device_id: str) -> Sequence[Identity]:
        return [one for one in self.all if one.module_id is not None]


def identity(key: IdentityKey, authentication: Authentication, status: Status = Status.ENABLED) -> Identity:
    return Identity(key=key, generation_id="1", version=1, authentication=authentication, status=status)


async def judged(specimen: Specimen, ambient: VirtualAmbient) -> Verdict:
    trust = Trust("myhub", Authorities(specimen), LocalBus(), ambient)
    await trust.load()
    hub = make_hub(["myhub.example"], development_policies())
    authenticator = Authenticator(hub, Identities(specimen), ambient, Refusals(ambient), trust=trust)  # type: ignore[arg-type]
    verdict = None
    for _ in range(2):  # the second time from what is remembered
        verdict = await authenticator.device(
            DeviceAttempt(
                transport="mqtt", peer="10.0.0.1:1", host="myhub.example", key=specimen.key,
                token="SharedAccessSignature sr=a&sig=b&se=1" if specimen.with_token else None,
                api_version="2021-04-12", client_id=str(specimen.key),
                certificates=() if specimen.leaf is None else [specimen.leaf.der, *(one.der for one in specimen.sent)],
            )
        )  # fmt: skip
    assert verdict is not None
    return verdict


@pytest.mark.parametrize("name", ZOO)
async def test_a_specimen_is_judged(name: str) -> None:
    cause, recipe = ZOO[name]
    specimen = recipe(Maker(NOW))
    verdict = await judged(specimen, VirtualAmbient(NOW))
    assert verdict.cause == cause, explain(to_json(verdict))
    if not cause:
        assert verdict.allowed
        assert verdict.expires_at is not None
        assert (verdict.proof is not None) == bool(specimen.authorities)
        assert '"type":"x509Certificate"' in verdict.auth_method
        assert all(check.outcome is not Outcome.FAILED for check in verdict.checks)
        return
    rows = {"device-disabled": DEVICE_DISABLED, "device-unknown": DEVICE_NOT_FOUND, "revocation-unknown": UNAVAILABLE}
    assert verdict.error == rows.get(cause, DEVICE_UNAUTHORIZED)
    report = explain(to_json(verdict))
    failed = [check for check in verdict.checks if check.outcome is Outcome.FAILED]
    assert failed[0].expected
    assert failed[0].seen
    assert failed[0].remedy in report


def test_every_named_mistake_with_a_certificate_has_a_specimen() -> None:
    """Besides those that are about time, responders and switches, which have tests of their own."""
    assert certificate_zoo_bad.expired.__name__ in ZOO
    elsewhere = {"local-auth-disabled", "device-sas-disabled", "module-sas-disabled", "chain-too-long"}
    assert {cause.name for cause in CERTIFICATE} - elsewhere <= {cause for cause, _ in ZOO.values()}
    assert len(ZOO) >= 75


async def test_what_is_remembered_ends_with_time() -> None:
    _, recipe = ZOO["leaf_and_intermediate"]
    specimen, ambient = recipe(Maker(NOW)), VirtualAmbient(NOW)
    trust = Trust("myhub", Authorities(specimen), LocalBus(), ambient)
    await trust.load()
    assert (await judged(specimen, ambient)).allowed
    ambient.advance(301 * 86400)
    assert (await judged(specimen, ambient)).cause == "certificate-expired"
    await asyncio.sleep(0)


AGREES_NOT = {
    # Rules of ours, not of RFC 5280: the identity and its registration, algorithms, revocation, purposes.
    "cn-mismatch", "cn-case", "cn-missing", "cn-without-module", "certificate-revoked", "revocation-unknown",
    "certificate-malformed", "device-disabled", "device-unknown", "extended-key-usage", "key-usage",
}  # fmt: skip


def questions_of_chains() -> list[str]:
    """Specimens on which the other implementation can have an opinion; some algorithms it does not take or look at."""
    names = []
    for name, (cause, recipe) in ZOO.items():
        specimen = recipe(Maker(NOW))
        anchored = specimen.leaf is not None and any(one.verified for one in specimen.authorities)
        if anchored and cause not in AGREES_NOT and name not in {"p521", "ed25519", "weak_leaf"}:
            names.append(name)
    return names


@pytest.mark.parametrize("name", questions_of_chains())
def test_cryptographys_own_verifier_is_of_the_same_opinion(name: str) -> None:
    """A second opinion on chains, by another implementation, without its rules for the web (clients.md section 5)."""
    cause, recipe = ZOO[name]
    specimen = recipe(Maker(NOW))
    assert specimen.leaf is not None
    roots = [one.pair.certificate for one in specimen.authorities if one.verified]
    skew = 86_400 if "within_the_skew" in name else 0
    moment = datetime.fromtimestamp(NOW + (-skew if name.startswith("ended") else skew), UTC)
    any_authority = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    verifier = (
        PolicyBuilder()
        .store(Store(roots))
        .time(moment)
        .extension_policies(ca_policy=any_authority, ee_policy=ExtensionPolicy.permit_all())
        .build_client_verifier()
    )
    try:
        known = [one.pair for one in specimen.authorities if not one.verified]
        verifier.verify(specimen.leaf.certificate, [one.certificate for one in (*specimen.sent, *known)])
    except VerificationError:
        agreed = False
    else:
        agreed = True
    assert agreed == (not cause), cause
