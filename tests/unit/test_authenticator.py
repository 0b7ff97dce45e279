"""Who is let in, and for everybody else the named mistake, the error row, and that no secret shows."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

import pytest

from muster.core.errors import (
    DEVICE_DISABLED,
    DEVICE_NOT_FOUND,
    DEVICE_UNAUTHORIZED,
    INVALID_PROTOCOL_VERSION,
    MODULE_NOT_FOUND,
    UNAUTHORIZED,
    ErrorRow,
)
from muster.core.limits import SAS_CLOCK_SKEW, Profile
from muster.identity.authenticator import Authenticator, DeviceAttempt, ServiceAttempt
from muster.identity.causes import ALL, BY_NAME
from muster.identity.explain import explain, to_json
from muster.identity.hub import make_hub
from muster.identity.model import Authentication, AuthenticationType, Identity, IdentityKey, Status
from muster.identity.policies import development_key, development_policies
from muster.identity.refusals import Refusals
from muster.identity.verdict import Outcome, Right, Verdict
from muster.testing.clock import VirtualAmbient

NOW = 1_800_000_000
SKEW = SAS_CLOCK_SKEW.open
HOST = "myhub.example"
KEYS = {name: development_key(name) for name in ("dev1", "dev1/b", "dev2", "dev1/mod1", "off", "iothubowner/primary")}


class Shelf:
    """The identities of these tests, by key: just enough of ``IdentityStore`` to be looked up in."""

    def __init__(self, identities: Sequence[Identity]) -> None:
        self.identities = {identity.key: identity for identity in identities}
        self.listings = 0

    async def get(self, hub: str, key: IdentityKey) -> Identity | None:
        assert hub == "myhub"
        return self.identities.get(key)

    async def devices(self, hub: str, limit: int) -> Sequence[Identity]:
        self.listings += 1
        return [identity for identity in self.identities.values() if identity.module_id is None][:limit]

    async def modules(self, hub: str, device_id: str) -> Sequence[Identity]:
        return [one for one in self.identities.values() if one.module_id is not None and one.device_id == device_id]


def identity(device_id: str, module_id: str | None = None, *, primary: str = "", **more: object) -> Identity:
    key = IdentityKey(device_id, module_id)
    authentication = Authentication(
        primary_key=primary or development_key(str(key)), secondary_key=development_key(f"{key}/b")
    )
    return Identity(**{"key": key, "generation_id": "1", "version": 1, "authentication": authentication, **more})  # type: ignore[arg-type]


@dataclass
class Bench:
    """A hub with a few identities, and ways to knock at it."""

    ambient: VirtualAmbient = field(default_factory=lambda: VirtualAmbient(NOW))
    shelf: Shelf = field(
        default_factory=lambda: Shelf(
            [
                identity("dev1"),
                identity("dev2"),
                identity("dev1", "mod1"),
                identity("off", status=Status.DISABLED, status_reason="stolen"),
                identity("cert", authentication=Authentication(AuthenticationType.SELF_SIGNED)),
                identity("ca", authentication=Authentication(AuthenticationType.CERTIFICATE_AUTHORITY)),
                identity("none", authentication=Authentication(AuthenticationType.NONE)),
                identity("bad", authentication=Authentication(primary_key="not base64!", secondary_key="neither")),
            ]
        )
    )

    profile: Profile = Profile.OPEN

    def __post_init__(self) -> None:
        self.refusals = Refusals(self.ambient)
        hub = make_hub([HOST, "alias.example", "10.0.0.7"], development_policies(), self.profile)
        self.authenticator = Authenticator(hub, self.shelf, self.ambient, self.refusals)  # type: ignore[arg-type]

    async def device(self, device_id: str, token: str | None, module_id: str | None = None, **more: object) -> Verdict:
        key = IdentityKey(device_id, module_id)
        attempt = {"host": HOST, "api_version": "2021-04-12", "client_id": str(key), "transport": "mqtt", **more}
        return await self.authenticator.device(DeviceAttempt(peer="10.9.9.9:1", key=key, token=token, **attempt))  # type: ignore[arg-type]

    def service(self, token: str, required: Right = Right.SERVICE_CONNECT, **more: object) -> Verdict:
        attempt = {"resource": "", "host": HOST, **more}
        return self.authenticator.service(
            ServiceAttempt(transport="https", peer="10.9.9.9:1", token=token, required=required, **attempt)  # type: ignore[arg-type]
        )


@pytest.fixture
def bench() -> Bench:
    return Bench()


def policy_key(name: str, slot: str = "primary") -> str:
    return development_key(f"{name}/{slot}")


def mac(key: bytes, text: str) -> str:
    return quote(base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()), safe="")


def tok(
    sr: str = f"{HOST}%2Fdevices%2Fdev1",
    key: str = KEYS["dev1"],
    *,
    se: object = NOW + 3600,
    skn: str = "",
    over: Callable[[str, object], str] = lambda sr, se: f"{sr}\n{se}",
    raw_key: bytes | None = None,
) -> str:
    """A token, made independently of the code under test; ``over`` says what is signed."""
    signature = mac(base64.b64decode(key) if raw_key is None else raw_key, over(sr, se))
    return f"SharedAccessSignature sr={sr}&sig={signature}&se={se}" + (f"&skn={skn}" if skn else "")


def owner(sr: str) -> str:
    return tok(sr, policy_key("iothubowner"), skn="iothubowner")


def service(sr: str) -> str:
    return tok(sr, policy_key("service"), skn="service")


def thrice(path: str) -> str:
    return quote(quote(path, safe=""), safe="")


SERVICE = service(HOST)


# --- let in


@pytest.mark.parametrize(
    "token",
    [
        tok(),
        tok(key=KEYS["dev1/b"]),
        tok(f"{HOST}/devices/dev1"),
        tok(f"{HOST}%2fdevices%2fdev1"),
        tok("MyHub.Example%3A8883%2Fdevices%2Fdev1"),
        tok("alias.example%2Fdevices%2Fdev1"),
        tok("localhost%3A443%2Fdevices%2Fdev1"),
        tok("127.0.0.1%2Fdevices%2Fdev1"),
        tok("%5B%3A%3A1%5D%2Fdevices%2Fdev1"),
        tok(f"{HOST}%2Fdevices%2FDEV1"),
        tok(f"{HOST}%2Fdevices%2Fdev1%2Fapi-version%3D2016-11-14"),
        tok(se=NOW - SKEW),
        tok(se=f"{NOW - SKEW}.5"),
        tok(se=10**14),
        tok(f"{HOST}", policy_key("device"), skn="device"),
        tok(f"{HOST}%2Fdevices", policy_key("iothubowner", "secondary"), skn="iothubowner"),
        tok(f"{HOST}%2Fdevices%2Fdev1", policy_key("device"), skn="device"),
    ],
)
async def test_a_device_with_a_good_token_is_let_in(bench: Bench, token: str) -> None:
    verdict = await bench.device("dev1", token)
    assert verdict.allowed, explain(to_json(verdict))
    assert verdict.identity is bench.shelf.identities[IdentityKey("dev1")]
    assert not [check for check in verdict.checks if check.outcome is Outcome.FAILED]
    assert verdict.expires_at == float(token.partition("&se=")[2].partition("&")[0]) + SKEW
    assert json.loads(verdict.auth_method)["scope"] == ("hub" if verdict.policy else "device")
    assert not bench.refusals.counts()


async def test_a_module_is_let_in_with_its_own_key_or_a_policy(bench: Bench) -> None:
    own = tok(f"{HOST}%2Fdevices%2Fdev1%2Fmodules%2Fmod1", KEYS["dev1/mod1"])
    above = tok(f"{HOST}%2Fdevices%2Fdev1", KEYS["dev1/mod1"])
    for token in (own, above, tok(HOST, policy_key("device"), skn="device")):
        verdict = await bench.device("dev1", token, "mod1")
        assert verdict.allowed, explain(to_json(verdict))
    assert (await bench.device("dev1", own, "mod1")).auth_method == (
        '{"scope":"module","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}'
    )


async def test_the_verdict_says_which_key_signed(bench: Bench) -> None:
    for key, slot in ((KEYS["dev1"], "primary key"), (KEYS["dev1/b"], "secondary key")):
        checks = {check.name: check for check in (await bench.device("dev1", tok(key=key))).checks}
        assert checks["signature"].seen == slot


async def test_an_x509_device_may_be_represented_by_a_policy(bench: Bench) -> None:
    assert (await bench.device("cert", tok(HOST, policy_key("device"), skn="device"))).allowed


async def test_other_transports_need_no_api_version_and_may_name_another_host(bench: Bench) -> None:
    verdict = await bench.device("dev1", tok(), host="gateway", api_version=None, client_id=None, transport="amqp")
    assert verdict.allowed


@pytest.mark.parametrize(
    ("token", "required", "more"),
    [
        (SERVICE, Right.SERVICE_CONNECT, {}),
        (tok(HOST, policy_key("service", "secondary"), skn="service"), Right.SERVICE_CONNECT, {}),
        (owner(f"{HOST}%3A8443"), Right.REGISTRY_WRITE, {}),
        (tok(HOST, policy_key("registryRead"), skn="registryRead"), Right.REGISTRY_READ, {"resource": "devices/dev1"}),
        (owner(f"{HOST}%2Fdevices"), Right.REGISTRY_READ, {"resource": "/devices/dev1"}),
        (
            tok(f"sb%3A%2F%2F{HOST}%2FMyHub", skn="service", raw_key=policy_key("service").encode()),
            Right.SERVICE_CONNECT,
            {"resource": "myhub/consumergroups/$default", "text_key": True},
        ),
        (SERVICE, Right.SERVICE_CONNECT, {"text_key": True}),
        (SERVICE, Right.SERVICE_CONNECT, {"user": "service@sas.root.myhub"}),
        (SERVICE, Right.SERVICE_CONNECT, {"user": "service@SAS.root.MYHUB"}),
        (SERVICE, Right.SERVICE_CONNECT, {"user": "service@sas.root.localhost:8443"}),
        (tok("10.0.0.7", policy_key("service"), skn="service"), Right.SERVICE_CONNECT, {"user": "service@sas.root.10"}),
    ],
)  # fmt: skip
def test_a_service_with_a_good_token_is_let_in(
    bench: Bench, token: str, required: Right, more: dict[str, object]
) -> None:
    verdict = bench.service(token, required, **more)
    assert verdict.allowed, explain(to_json(verdict))
    assert required in verdict.rights
    assert verdict.policy in verdict.principal


# --- refused: the table

OWN = KEYS["dev1"]
LOWER_HEX = f"{HOST}%2fdevices%2fdev1"
RAW = f"{HOST}/devices/dev1"
ENCODED = f"{HOST}%2Fdevices%2Fdev1"
MIXED = "MyHub.example%2Fdevices%2Fdev1"
MODULE = f"{ENCODED}%2Fmodules%2Fmod1"
D = DEVICE_UNAUTHORIZED
Refused = tuple[str, str | None, dict[str, object], str, ErrorRow]

DEVICE_TABLE: list[Refused] = [
    # device, token, more, cause, error
    ("dev1", None, {}, "no-token", D),
    ("dev1", "", {}, "no-token", D),
    ("dev1", f"HostName={HOST};DeviceId=dev1;SharedAccessKey={OWN}", {}, "connection-string-as-token", D),
    ("dev1", OWN, {}, "key-as-token", D),
    ("dev1", OWN.rstrip("="), {}, "key-as-token", D),
    ("dev1", "Bearer eyJhbGciOi", {}, "bearer-token", D),
    ("dev1", "hunter2", {}, "token-malformed", D),
    ("dev1", tok().removeprefix("SharedAccessSignature "), {}, "token-scheme-missing", D),
    ("dev1", f"{tok()}\n", {}, "token-whitespace", D),
    ("dev1", f'"{tok()}"', {}, "token-whitespace", D),
    ("dev1", tok().replace("&se", " &se"), {}, "token-whitespace", D),
    ("dev1", quote(tok(), safe=""), {}, "token-encoded", D),
    ("dev1", tok() + "&x=" + "a" * 5000, {}, "token-too-long", D),
    ("dev1", tok().partition("&se")[0], {}, "token-field-missing", D),
    ("dev1", f"{tok()}&se=1", {}, "token-field-twice", D),
    ("dev1", tok(se="2030-01-01T00:00:00Z"), {}, "expiry-not-seconds", D),
    ("dev1", "SharedAccessSignature sr=x&sig=*&se=1", {}, "signature-not-base64", D),
    ("dev1", tok().replace("%3D&", "%253D&"), {}, "signature-encoded-twice", D),
    ("dev1", f"SharedAccessSignature sr={ENCODED}&sig={'a1' * 32}&se=1", {}, "signature-in-hex", D),
    ("dev1", f"SharedAccessSignature sr={ENCODED}&sig=AAAA&se=1", {}, "signature-length", D),
    ("dev1", tok(), {"host": "other.example"}, "host-unknown", D),
    ("dev1", tok("other.example%2Fdevices%2Fdev1"), {}, "token-for-another-hub", D),
    ("nobody", tok(f"{HOST}%2Fdevices%2Fnobody"), {}, "device-unknown", DEVICE_NOT_FOUND),
    ("DEV1", tok(f"{HOST}%2Fdevices%2FDEV1"), {}, "device-id-case", DEVICE_NOT_FOUND),
    ("iothubowner", tok(HOST, policy_key("iothubowner"), skn="iothubowner"), {}, "policy-as-device", DEVICE_NOT_FOUND),
    ("dev1/nomod", tok(f"{ENCODED}%2Fmodules%2Fnomod"), {}, "module-unknown", MODULE_NOT_FOUND),
    ("nobody/mod1", tok(f"{HOST}%2Fdevices%2Fnobody"), {}, "device-unknown", DEVICE_NOT_FOUND),
    ("off", tok(f"{HOST}%2Fdevices%2Foff", KEYS["off"]), {}, "device-disabled", DEVICE_DISABLED),
    ("off", tok(HOST, policy_key("device"), skn="device"), {}, "device-disabled", DEVICE_DISABLED),
    ("cert", None, {}, "certificate-required", D),
    ("cert", tok(f"{HOST}%2Fdevices%2Fcert"), {}, "token-for-x509-identity", D),
    ("ca", tok(f"{HOST}%2Fdevices%2Fca"), {}, "token-for-x509-identity", D),
    ("none", tok(f"{HOST}%2Fdevices%2Fnone"), {}, "authentication-none", D),
    ("bad", tok(f"{HOST}%2Fdevices%2Fbad"), {}, "key-not-base64", D),
    ("dev1", tok(f"{HOST}%2Fdevices%2Fdev2", KEYS["dev2"]), {}, "device-mismatch", D),
    ("dev1", tok(f"{HOST}%2Fdevices%2Fdev1x"), {}, "device-mismatch", D),
    ("dev1", tok(MODULE, KEYS["dev1/mod1"]), {}, "module-token-for-device", D),
    ("dev1/mod1", tok(f"{ENCODED}%2Fmodules%2Fmod2", KEYS["dev1/mod1"]), {}, "module-mismatch", D),
    ("dev1/mod1", tok(f"{MODULE}%2Fx", KEYS["dev1/mod1"]), {}, "scope-too-narrow", D),
    ("dev1", tok(f"{ENCODED}%2Fmessages%2Fevents"), {}, "scope-too-narrow", D),
    ("dev1", tok(f"{HOST}%2Fthings%2Fdev1"), {}, "scope-too-narrow", D),
    ("dev1", tok(f"{HOST}%2Fdev1"), {}, "scope-without-devices", D),
    ("dev1", tok(quote(ENCODED, safe="")), {}, "scope-encoded-too-often", D),
    ("dev1", tok(f"{HOST}/{thrice('devices/dev1')}"), {}, "scope-encoded-too-often", D),
    ("dev1", tok(HOST), {}, "policy-name-missing", D),
    ("dev1", tok(HOST, policy_key("device")), {}, "policy-name-missing", D),
    ("dev1", tok(skn="dev1"), {}, "policy-name-on-device-key", D),
    ("dev1", tok(skn="iothubowner"), {}, "policy-name-on-device-key", D),
    ("dev1", tok(HOST, policy_key("device"), skn="nopolicy"), {}, "policy-unknown", D),
    ("dev1", SERVICE, {}, "policy-lacks-right", D),
    ("dev1", tok(HOST, policy_key("service"), skn="device"), {}, "key-of-other-policy", D),
    ("dev1", tok(key=policy_key("iothubowner")), {}, "key-of-policy", D),
    ("dev1", tok(key=KEYS["dev2"]), {}, "key-of-other-device", D),
    ("dev1", tok(key=KEYS["dev1/mod1"]), {}, "key-of-module", D),
    ("dev1/mod1", tok(MODULE), {}, "key-of-device", D),
    ("dev1", tok(key=development_key("stranger")), {}, "wrong-key", D),
    ("dev1", tok(HOST, development_key("stranger"), skn="device"), {}, "wrong-key", D),
    ("dev1", tok(raw_key=OWN.encode()), {}, "key-used-as-text", D),
    ("dev1", tok(raw_key=OWN.rstrip("=").encode()), {}, "key-used-as-text", D),
    ("dev1", tok(over=lambda _, se: f"{RAW}\n{se}"), {}, "signed-over-decoded-resource", D),
    ("dev1", tok(RAW, over=lambda _, se: f"{ENCODED}\n{se}"), {}, "signed-over-encoded-resource", D),
    ("dev1", tok(RAW, over=lambda _, se: f"{LOWER_HEX}\n{se}"), {}, "signed-over-encoded-resource", D),
    ("dev1", tok(MIXED, over=lambda sr, se: f"{sr.lower()}\n{se}"), {}, "signed-over-lower-case-resource", D),
    ("dev1", tok(over=lambda sr, se: f"{sr}{se}"), {}, "signed-without-line-feed", D),
    ("dev1", tok(over=lambda sr, se: f"{sr}\\n{se}"), {}, "signed-without-line-feed", D),
    ("dev1", tok(over=lambda sr, se: f"{sr}\r\n{se}"), {}, "signed-without-line-feed", D),
    ("dev1", tok(se=NOW - SKEW - 1), {}, "token-expired", D),
    ("dev1", tok(se=3600), {}, "device-clock-not-set", D),
    ("dev1", tok(), {"client_id": "dev2"}, "client-id-mismatch", D),
    ("dev1", tok(), {"client_id": ""}, "client-id-mismatch", D),
    ("dev1", tok(), {"api_version": None}, "api-version-missing", INVALID_PROTOCOL_VERSION),
    ("dev1", tok(), {"api_version": "", "transport": "https"}, "api-version-missing", INVALID_PROTOCOL_VERSION),
    ("dev1/mod1", tok(MODULE, KEYS["dev1/mod1"]), {"target": IdentityKey("dev2")}, "method-target", D),
]  # fmt: skip

SERVICE_TABLE: list[tuple[str, dict[str, object], str]] = [
    ("", {}, "no-token"),
    (f"HostName={HOST};SharedAccessKeyName=s;SharedAccessKey={OWN}", {}, "connection-string-as-token"),
    (policy_key("service"), {}, "key-as-token"),
    ("Bearer eyJhbGciOi", {}, "bearer-token"),
    (tok("other.example", policy_key("service"), skn="service"), {}, "token-for-another-hub"),
    (tok(), {}, "device-token-on-service"),
    (tok(HOST, policy_key("service")), {}, "policy-name-missing"),
    (tok(HOST, policy_key("service"), skn="Service"), {}, "policy-unknown"),
    (tok(HOST, policy_key("registryRead"), skn="registryRead"), {}, "policy-lacks-right"),
    (tok(HOST, policy_key("iothubowner"), skn="service"), {}, "key-of-other-policy"),
    (tok(HOST, development_key("stranger"), skn="service"), {}, "wrong-key"),
    (tok(HOST, skn="service", raw_key=policy_key("service").encode()), {}, "key-used-as-text"),
    (service(f"{HOST}%2Fdevices%2Fdev2"), {"resource": "devices/dev1"}, "scope-too-narrow"),
    (tok(f"{HOST}%2Fdevices", policy_key("service"), skn="service"), {"resource": ""}, "scope-too-narrow"),
    (service(f"{HOST}/{thrice('devices/d')}"), {"resource": "devices/d"}, "scope-encoded-too-often"),
    (tok(HOST, policy_key("service"), skn="service", se=NOW - 900), {}, "token-expired"),
    (SERVICE, {"user": "iothubowner@sas.root.myhub"}, "user-mismatch"),
    (SERVICE, {"user": "service@sas.root.other"}, "user-mismatch"),
    (SERVICE, {"user": "service"}, "user-mismatch"),
]  # fmt: skip


def assert_refused(bench: Bench, verdict: Verdict, cause: str, error: ErrorRow) -> None:
    failed = [check for check in verdict.checks if check.outcome is Outcome.FAILED]
    assert (verdict.cause, verdict.error) == (cause, error), explain(to_json(verdict))
    assert not verdict.allowed
    assert verdict.identity is None
    assert verdict.rights is Right.NONE
    assert failed[0].remedy == BY_NAME[cause].remedy
    assert failed[0].expected
    assert failed[0].seen
    assert bench.refusals.counts() == {cause: 1}
    text = repr(verdict) + explain(to_json(verdict)) + json.dumps(to_json(verdict))
    assert BY_NAME[cause].headline in text
    for secret in (*(identity_keys(bench)), *(policy_key(name) for name in ("service", "iothubowner", "device"))):
        assert secret not in text
        assert quote(secret, safe="") not in text


def identity_keys(bench: Bench) -> list[str]:
    all_keys = [one.authentication for one in bench.shelf.identities.values()]
    return [key for keys in all_keys for key in (keys.primary_key, keys.secondary_key) if key is not None]


@pytest.mark.parametrize("row", DEVICE_TABLE, ids=lambda row: f"{row[0]}-{row[3]}")
async def test_a_device_is_refused_with_the_named_mistake(bench: Bench, row: Refused) -> None:
    device, token, more, cause, error = row
    device_id, _, module_id = device.partition("/")
    verdict = await bench.device(device_id, token, module_id or None, **more)
    assert_refused(bench, verdict, cause, error)
    assert verdict.principal == device
    if token:
        assert token not in repr(verdict)
        assert token not in explain(to_json(verdict))


@pytest.mark.parametrize(("token", "more", "cause"), SERVICE_TABLE)
def test_a_service_is_refused_with_the_named_mistake(
    bench: Bench, token: str, more: dict[str, object], cause: str
) -> None:
    assert_refused(bench, bench.service(token, **more), cause, UNAUTHORIZED)


def test_every_named_mistake_is_shown_by_a_row() -> None:
    shown = {row[3] for row in DEVICE_TABLE} | {row[2] for row in SERVICE_TABLE}
    shown.add("policy-token-for-device")  # in the azure profile alone, see below
    assert shown == {cause.name for cause in ALL}


async def test_the_first_failure_decides_and_the_rest_is_still_recorded(bench: Bench) -> None:
    token = tok("other.example%2Fdevices%2Foff", se=NOW - 1000)
    verdict = await bench.device("off", token, client_id="x", api_version="")
    failed = [check.name for check in verdict.checks if check.outcome is Outcome.FAILED]
    assert failed == ["status", "token-host", "signature", "expiry", "client-id", "api-version"]
    assert (verdict.cause, verdict.error) == ("device-disabled", DEVICE_DISABLED)
    expiry = next(check for check in verdict.checks if check.name == "expiry")
    assert "expired 1000 s ago" in expiry.seen


async def test_a_flood_of_wrong_keys_buys_few_searches(bench: Bench) -> None:
    causes = [(await bench.device("dev1", tok(key=KEYS["dev2"]))).cause for _ in range(100)]
    assert causes[0] == "key-of-other-device"
    assert causes[-1] == "wrong-key"
    assert bench.shelf.listings <= 5
    bench.ambient.advance(1)
    assert (await bench.device("dev1", tok(key=KEYS["dev2"]))).cause == "key-of-other-device"


async def test_whose_key_signed_is_found_among_hundreds(bench: Bench) -> None:
    for number in range(900):
        other = identity(f"sensor-{number}")
        bench.shelf.identities[other.key] = other
    verdict = await bench.device("dev1", tok(key=development_key("sensor-899")))
    assert verdict.cause == "key-of-other-device"
    assert any("the primary key of the device sensor-899" in check.seen for check in verdict.checks)


async def test_a_search_that_was_not_complete_says_so(bench: Bench) -> None:
    for number in range(1000):
        other = identity(f"sensor-{number}")
        bench.shelf.identities[other.key] = other
    stranger = tok(key=development_key("stranger"))
    told = [next(check.seen for check in (await bench.device("dev1", stranger)).checks if check.name == "signature")
            for _ in range(3)]  # fmt: skip
    assert told == ["by no key of the first 1000 devices"] * 2 + ["by another key"]


async def test_a_key_given_in_the_wrong_place_does_not_show(bench: Bench) -> None:
    places = [
        await bench.device(OWN, tok()),
        await bench.device("dev1", tok(OWN)),
        await bench.device("dev1", tok(skn=quote(OWN))),
        await bench.device("dev1", tok(), client_id=OWN),
        await bench.device("dev1", tok(), host=OWN),
        await bench.device("dev1", tok(), module_id=OWN),
        bench.service(tok(skn=OWN), user=OWN),
    ]
    for verdict in places:
        assert not verdict.allowed
        assert OWN not in repr(verdict) + explain(to_json(verdict))


LONG_TEXTS = ("a", "aB3/", "%61", "%2541", "HostName ", "=", "/", "&sr=", "a=", "\u212a")


@pytest.mark.parametrize("piece", LONG_TEXTS)
async def test_long_texts_are_refused_in_no_time_and_bounded_space(bench: Bench, piece: str) -> None:
    text = piece * (60_000 // len(piece))
    started = time.process_time()
    verdicts = [
        await bench.device(text, tok()),
        await bench.device("dev1", text),
        await bench.device("dev1", f"SharedAccessSignature {text}"),
        await bench.device("dev1", tok(sr=text[:3900])),
        await bench.device("dev1", tok(skn=text[:3900])),
        await bench.device("dev1", tok(), client_id=text),
        await bench.device("dev1", tok(), host=text),
        await bench.device("dev1", tok(), module_id=text),
        bench.service(text, user=text),
        bench.service(SERVICE, user=text),
        bench.service(tok(sr=text[:3900], skn="service"), resource=text),
    ]
    assert time.process_time() - started < 2, "linear takes milliseconds, quadratic minutes"
    for verdict in verdicts:
        assert not verdict.allowed
        assert len(json.dumps(to_json(verdict))) < 12_000


def test_attempts_do_not_show_their_token() -> None:
    device = DeviceAttempt(transport="mqtt", peer="", host="", key=IdentityKey("d"), token=OWN)
    service = ServiceAttempt(transport="https", peer="", host="", token=OWN, required=Right.NONE, resource="")
    assert OWN not in repr(device) + repr(service)


async def test_the_text_of_a_verdict_leads_with_what_a_newcomer_needs(bench: Bench) -> None:
    verdict = await bench.device("dev1", tok(se=NOW - 1000))
    lines = explain(to_json(verdict)).splitlines()
    assert lines[0] == "dev1 was refused: The token has expired."
    assert lines[1].startswith("What to do: Make a new token")
    assert any(line.strip().startswith("✗ expiry") for line in lines)
    assert any(line.strip().startswith("✓ signature") and "primary key" in line for line in lines)
    assert "  answered  MQTT CONNACK 5 (401003 IotHubUnauthorized)" in lines
    assert verdict.tracking_id in explain(to_json(verdict))
