"""Authentication of devices and modules by shared access signature or certificate, and of services by signature, with
a verdict on each attempt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import field

from muster.core.ambient import Ambient, tracking_id
from muster.core.bus import LocalBus
from muster.core.certificate_limits import CHAIN_CERTIFICATES
from muster.core.errors import (
    DEVICE_DISABLED,
    DEVICE_NOT_FOUND,
    DEVICE_UNAUTHORIZED,
    MODULE_NOT_FOUND,
    UNAUTHORIZED,
)
from muster.core.limits import SAS_CLOCK_SKEW, SIGNATURE_PROBES
from muster.core.rate import RateLimit
from muster.core.values import value
from muster.identity import certificate_checks, sas, token_scope
from muster.identity.attempt_checks import (
    NO_IDENTITY,
    check_authentication,
    check_connection,
    check_credential,
    check_host,
    check_switches,
    check_target,
    check_user,
    skip_token_checks,
)
from muster.identity.bearer_gate import BearerGate
from muster.identity.certificate_checks import Believed, Unsettled
from muster.identity.certificates import Certificate
from muster.identity.contract import IdentityStore
from muster.identity.examination import Examination, check_expiry, check_token, check_token_host, read_credential
from muster.identity.hub import Hub
from muster.identity.mistakes import missigned, misused_key, shown
from muster.identity.model import AuthenticationType, Identity, IdentityKey, Status
from muster.identity.policies import SharedAccessPolicy
from muster.identity.policy_checks import check_policy, holder, policy_holders
from muster.identity.proven import ProvenTokens
from muster.identity.refusals import Refusals
from muster.identity.sas import SasToken
from muster.identity.token_ground import OWN
from muster.identity.trust import ChainProof, Trust
from muster.identity.verdict import Right, Verdict

_SEARCHED = 1000
_SEARCHED_AT_ONCE = 50  # keys of one device are tried in some 25 microseconds
_ANOTHER_HUB = "it is another hub's token"


def _auth_method(scope_name: str, kind: str = "sas", issuer: str = "iothub") -> str:
    return f'{{"scope":"{scope_name}","type":"{kind}","issuer":"{issuer}","acceptingIpFilterRule":null}}'


AUTH_METHOD_DEVICE = _auth_method("device")
AUTH_METHOD_MODULE = _auth_method("module")
AUTH_METHOD_HUB = _auth_method("hub")
_BY_CERTIFICATE = {
    module: _auth_method("module" if module else "device", "x509Certificate", "external") for module in (False, True)
}


@value(frozen=True, slots=True, kw_only=True)
class DeviceAttempt:
    """A device or module asks to be let in.

    ``transport`` is a short name (``mqtt``, ``mqtt-ws``, ``amqp``, ``https``); ``host`` what the client calls
    the hub, empty when it did not say; ``token`` what came where a SAS token belongs, ``None`` for nothing.
    ``certificates`` (DER, the client's own first) are what it sent in a TLS handshake that proved that it has the
    key; they count only when no token came. ``tls_version`` is that of the handshake (``TLSv1.3``).
    ``target`` is whose methods it wants to call, ``None`` where it speaks for itself only.
    ``api_version`` and ``client_id`` are ``None`` where the transport has none; over MQTT a missing
    api-version is a mistake. ``user_hub`` is what SASL PLAIN's user name calls the hub, ``None`` without one.
    """

    transport: str
    peer: str
    host: str
    key: IdentityKey
    token: str | None = field(repr=False)
    api_version: str | None = None
    client_id: str | None = None
    certificates: Sequence[bytes] = field(default=(), repr=False)
    tls_version: str = ""
    target: IdentityKey | None = None
    user_hub: str | None = None


@value(frozen=True, slots=True, kw_only=True)
class ServiceAttempt:
    """A service asks to do something that needs ``required`` on ``resource``.

    ``resource`` is a path below the host (``devices/dev1``, ``myhub/consumergroups/$Default``), or empty for
    the hub as a whole. ``text_key``: the key's text may have signed, as Event Hubs clients do (service.md
    4.2). ``user`` is the user name of SASL PLAIN as it came, empty otherwise.
    """

    transport: str
    peer: str
    host: str
    token: str = field(repr=False)
    required: Right
    resource: str
    text_key: bool = False
    user: str = ""


Ask = Callable[[ChainProof, tuple[int, Certificate]], Awaitable[object]]


class Authenticator:
    """Judges attempts at one hub; what it refuses is kept in ``refusals``.

    Does not promise that the ground of a verdict still stands when it is used: who opens a session follows
    ``core.bus.IDENTITY_CHANGED``.
    """

    def __init__(
        self,
        hub: Hub,
        store: IdentityStore,
        ambient: Ambient,
        refusals: Refusals,
        *,
        trust: Trust | None = None,
        ask: Ask | None = None,
        bearer: BearerGate | None = None,
    ) -> None:
        """``trust`` is what client certificates are judged by, ``ask`` asks a responder about one of them; ``bearer``
        judges services' bearer tokens, ``None`` where none count."""
        self.bearer = bearer
        self._trust = trust or Trust(hub.name, None, LocalBus(), ambient)
        self._ask = ask
        self._hub = hub
        self._store = store
        self._ambient = ambient
        self._refusals = refusals
        self._skew = SAS_CLOCK_SKEW.under(hub.profile)
        rate = SIGNATURE_PROBES.under(hub.profile)
        self._proven = ProvenTokens()
        self.policies_used: dict[str, float] = {}
        """When a token of each policy was last examined and found good, by the policy's name."""
        self._searches = RateLimit(rate, rate, ambient.monotonic)

    @property
    def hub(self) -> Hub:
        """The hub that is guarded."""
        return self._hub

    async def device(self, attempt: DeviceAttempt) -> Verdict:
        """Judge a device or module and its SAS token (device.md 6.1), or its certificate if there is no token (6.2).

        The checks of a token, in order: credential, host, registry, status, authentication, token, token-host, scope,
        policy, signature, right, expiry, client-id, api-version; those of a certificate: credential, tls, host,
        registry, status, authentication, certificate, possession, thumbprint or chain with its rules and the common
        name, validity, revocation, client-id, api-version. The first to fail decides the error; the others are made
        where they still can be.
        """
        if attempt.certificates and not attempt.token:
            return await self._by_certificate(attempt)
        key = attempt.key
        credential = read_credential(attempt.token or "")
        device, identity = await self._look_up(key)
        exam = Examination()
        check_credential(exam, credential, identity)
        check_host(exam, self._hub, attempt)
        await self._check_registry(exam, key, device, identity)
        check_authentication(exam, credential, identity)
        check_token(exam, credential, DEVICE_UNAUTHORIZED)
        now, token, policy = self._ambient.now(), credential.token, None
        if token is None:
            skip_token_checks(exam)
        else:
            if check_token_host(exam, self._hub, token, DEVICE_UNAUTHORIZED):
                token_scope.check_device(exam, self._hub, key, token)
            else:
                exam.skipped("scope", _ANOTHER_HUB)
            if token.policy is None:
                await self._check_device_key(exam, key, token, device, identity)
            else:
                policy = check_policy(
                    exam, self._hub, token, Right.DEVICE_CONNECT, DEVICE_UNAUTHORIZED, identity=identity
                )
            check_expiry(exam, token, now, DEVICE_UNAUTHORIZED, self._skew)
            check_switches(exam, self._hub, token, DEVICE_UNAUTHORIZED, key)
        check_connection(exam, self._hub, attempt)
        await self._check_target(exam, attempt, device)
        if policy is not None:
            auth_method = AUTH_METHOD_HUB
        else:
            auth_method = AUTH_METHOD_DEVICE if key.module_id is None else AUTH_METHOD_MODULE
        return self._verdict(
            exam, attempt.transport, attempt.peer, now, token, principal=str(key), identity=identity,
            policy=policy, auth_method=auth_method,
        )  # fmt: skip

    async def _check_target(self, exam: Examination, attempt: DeviceAttempt, device: Identity | None) -> None:
        if attempt.target is not None:
            other = await self._store.get(self._hub.name, IdentityKey(attempt.target.device_id))
            check_target(exam, attempt.target, device, other)

    async def _look_up(self, key: IdentityKey) -> tuple[Identity | None, Identity | None]:
        """The device, and the identity itself; for a device they are the same."""
        device = identity = await self._store.get(self._hub.name, IdentityKey(key.device_id))
        if device is not None and key.module_id is not None:
            identity = await self._store.get(self._hub.name, key)
        return device, identity

    async def _by_certificate(self, attempt: DeviceAttempt) -> Verdict:
        """Judge a device or module and its client certificate; when a responder has to be asked first, judge anew."""
        for questions in range(CHAIN_CERTIFICATES.open, -1, -1):
            exam, key = Examination(), attempt.key
            device, identity = await self._look_up(key)
            exam.passed("credential", "a client certificate", "a client certificate")
            exam.passed("tls", "TLS 1.2 or 1.3", attempt.tls_version)
            check_host(exam, self._hub, attempt)
            await self._check_registry(exam, key, device, identity)
            believed = None
            try:
                if certificate_checks.check_kind(exam, identity) and identity is not None:
                    believed = await self._believe(exam, attempt, identity)
            except Unsettled as question:
                if self._ask is not None and questions:
                    await self._ask(question.proof, question.link)
                    continue
                authority = self._trust.rules_of(question.proof)
                certificate_checks.unknown(
                    exam, question.seen, fail_closed=authority is None or authority.rules.fail_closed
                )
                believed = question.believed
            check_connection(exam, self._hub, attempt)
            await self._check_target(exam, attempt, device)
            break
        return self._verdict(
            exam, attempt.transport, attempt.peer, self._ambient.now(), None, principal=str(key), identity=identity,
            policy=None, auth_method=_BY_CERTIFICATE[key.module_id is not None], believed=believed,
        )  # fmt: skip

    async def _believe(self, exam: Examination, attempt: DeviceAttempt, identity: Identity) -> Believed | None:
        """Whether the certificates are those of ``identity``, and until when."""
        trust, sent = self._trust, attempt.certificates
        chain = certificate_checks.read(exam, sent, trust.reading(sent))
        if not chain:
            return None
        now, leaf = self._ambient.now(), chain[0]
        if identity.authentication.type is AuthenticationType.SELF_SIGNED:
            thumbprint = await self._check_thumbprint(exam, chain, identity)
            until = certificate_checks.check_leaf_alone(exam, leaf, now)
            if exam.error is None:
                trust.believed(sent, chain)
            return Believed(until, thumbprint=thumbprint)
        found = certificate_checks.check_chain(exam, trust, chain)
        certificate_checks.check_common_name(exam, leaf, attempt.key)
        until = certificate_checks.check_validity(exam, chain[:1] if found is None else found.path, now)
        if found is None:
            exam.skipped("revocation", "there is no chain")
            return None
        trust.believed(sent, chain)
        proof = trust.proof_of(found)
        certificate_checks.check_revocation(exam, trust, proof, until)
        return Believed(until, proof)

    async def _check_thumbprint(self, exam: Examination, chain: Sequence[Certificate], identity: Identity) -> str:
        """The registered thumbprint that is the leaf's, empty for none."""
        held = identity.authentication
        slot = certificate_checks.matching_thumbprint(chain[0], held)
        if slot:
            exam.passed("thumbprint", "a thumbprint of the identity", f"{slot} thumbprint")
            return (held.primary_thumbprint if slot == "primary" else held.secondary_thumbprint) or ""
        found = certificate_checks.wrong_thumbprint(chain, held)
        if found is None and exam.error is None:
            async for others in self._others(identity.key):
                found = certificate_checks.owner_of(chain[0], others)
                if found is not None:
                    break
        cause, seen = found or ("thumbprint-unknown", f"SHA-1 {chain[0].sha1}, SHA-256 {chain[0].sha256}")
        exam.failed("thumbprint", cause, DEVICE_UNAUTHORIZED, expected="a thumbprint of the identity", seen=seen)
        return ""

    async def _others(self, key: IdentityKey) -> AsyncIterator[Sequence[Identity]]:
        """The other identities that a refusal looks among: modules of the same device and devices, a part at a time."""
        if not self._searches.take():
            return
        found = [*await self._store.modules(self._hub.name, key.device_id)]
        found += await self._store.devices(self._hub.name, _SEARCHED)
        others = [one for one in found if one.key != key]
        for at in range(0, len(others), _SEARCHED_AT_ONCE):
            yield others[at : at + _SEARCHED_AT_ONCE]
            await asyncio.sleep(0)

    def service(self, attempt: ServiceAttempt) -> Verdict:
        """Judge a service's SAS token, which must be a policy's (service.md 1.3, 4.2).

        The checks, in order: credential, token, token-host, scope, policy, signature, right, expiry, user.
        """
        credential = read_credential(attempt.token)
        exam = Examination()
        check_credential(exam, credential, None, UNAUTHORIZED)
        check_token(exam, credential, UNAUTHORIZED)
        now, token, policy = self._ambient.now(), credential.token, None
        principal = ""
        if token is None:
            skip_token_checks(exam)
        else:
            if check_token_host(exam, self._hub, token, UNAUTHORIZED):
                token_scope.check_service(exam, self._hub, attempt.resource, token)
            else:
                exam.skipped("scope", _ANOTHER_HUB)
            if token.policy is None:
                for name in ("policy", "signature", "right"):
                    exam.skipped(name, "the token names no policy")
            else:
                principal = f"{token.policy} (policy)"
                policy = check_policy(exam, self._hub, token, attempt.required, UNAUTHORIZED, text_key=attempt.text_key)
            check_expiry(exam, token, now, UNAUTHORIZED, self._skew)
            check_switches(exam, self._hub, token, UNAUTHORIZED)
            if attempt.user:
                check_user(exam, self._hub, attempt.user, token)
        verdict = self._verdict(
            exam, attempt.transport, attempt.peer, now, token, principal=principal, policy=policy,
            auth_method=AUTH_METHOD_HUB,
        )  # fmt: skip
        if token is not None and verdict.allowed and not attempt.text_key and token_scope.whole_hub(self._hub, token):
            self._proven.keep(attempt.token, verdict)
        return verdict

    def proven(self, token: str, required: Right) -> str | None:
        """Who calls with ``token``, when ``service`` has allowed it ``required`` on the whole hub before and would
        again; else ``None``. A tenth of the work."""
        return self._proven.principal(token, required, self._ambient.now())

    def policies_changed(self) -> None:
        """Examine every token anew: what policies grant is not what it was."""
        self._proven.clear()

    def _verdict(
        self,
        exam: Examination,
        transport: str,
        peer: str,
        now: float,
        token: SasToken | None,
        *,
        principal: str,
        policy: SharedAccessPolicy | None,
        auth_method: str,
        identity: Identity | None = None,
        believed: Believed | None = None,
    ) -> Verdict:
        checks = tuple(exam.checks)
        if exam.error is None and policy is not None:
            self.policies_used[policy.name] = now
        if exam.error is None and (token is not None or believed is not None):
            return Verdict(
                tracking_id=tracking_id(self._ambient), at=now, transport=transport, peer=peer, principal=principal,
                checks=checks, identity=identity, policy="" if policy is None else policy.name,
                rights=Right.DEVICE_CONNECT if policy is None else policy.rights,
                expires_at=token.expiry + self._skew if token is not None else believed and believed.until,
                auth_method=auth_method, proof=believed and believed.proof, ground=exam.ground,
                by_certificate=believed is not None, thumbprint="" if believed is None else believed.thumbprint,
            )  # fmt: skip
        verdict = Verdict(
            tracking_id=tracking_id(self._ambient), at=now, transport=transport, peer=peer,
            principal=shown(principal) if principal else "", checks=checks, cause=exam.cause, error=exam.error,
            policy="" if policy is None else policy.name,
        )  # fmt: skip
        self._refusals.add(verdict)
        return verdict

    # --- what needs the store

    async def _check_registry(
        self, exam: Examination, key: IdentityKey, device: Identity | None, identity: Identity | None
    ) -> None:
        if device is None:
            cause, seen = await self._unknown(key)
            exam.failed("registry", cause, DEVICE_NOT_FOUND, expected="a registered device", seen=seen)
            exam.skipped("status", NO_IDENTITY)
            return
        if identity is None:
            exam.failed(
                "registry", "module-unknown", MODULE_NOT_FOUND,
                expected=f"a module of {key.device_id!r}", seen=f"no module {shown(key.module_id or '')!r}",
            )  # fmt: skip
        else:
            exam.passed("registry", "a registered identity", "registered")
        if device.status is Status.DISABLED:
            reason = f" ({shown(device.status_reason)})" if device.status_reason else ""
            exam.failed("status", "device-disabled", DEVICE_DISABLED, expected="enabled", seen=f"disabled{reason}")
        else:
            exam.passed("status", "enabled", "enabled")

    async def _unknown(self, key: IdentityKey) -> tuple[str, str]:
        if key.device_id in self._hub.policies:
            return "policy-as-device", "the name of a shared access policy"
        if self._searches.take():
            for other in await self._store.devices(self._hub.name, _SEARCHED):
                if other.device_id.lower() == key.device_id.lower():
                    return "device-id-case", f"{key.device_id!r}; registered is {other.device_id!r}"
        return "device-unknown", f"no device {shown(key.device_id)!r}"

    async def _check_device_key(
        self, exam: Examination, key: IdentityKey, token: SasToken, device: Identity | None, identity: Identity | None
    ) -> None:
        """The signature of a token without ``skn``: by one of the identity's own keys."""
        exam.skipped("policy", "the token names none")
        if identity is None:
            exam.skipped("signature", NO_IDENTITY)
            return
        keys = identity.authentication
        if keys.type is not AuthenticationType.SAS or (keys.primary_key is None and keys.secondary_key is None):
            exam.skipped("signature", "the identity has no symmetric keys")
            return
        match = sas.matching_key(token, keys.primary_key, keys.secondary_key)
        if match is not None:
            exam.passed("signature", "by a key of the identity", f"{match.slot} key")
            exam.ground = OWN[key.module_id is not None]
            return
        if not any(key is not None and sas.decode_key(key) for key in (keys.primary_key, keys.secondary_key)):
            cause, seen = "key-not-base64", "keys that are not base64"
        elif exam.error is None:
            cause, seen = missigned(token, keys.primary_key, keys.secondary_key) or await self._owner(
                key, token, device
            )
        else:
            cause, seen = "wrong-key", "by another key"
        exam.failed("signature", cause, DEVICE_UNAUTHORIZED, expected="by a key of the identity", seen=seen)

    async def _owner(self, key: IdentityKey, token: SasToken, device: Identity | None) -> tuple[str, str]:
        """Whose key signed a token that this identity's keys did not: the cause and a description."""
        holders = policy_holders("key-of-policy", self._hub.policies.values())
        if key.module_id is not None and device is not None:
            holders.append(holder("key-of-device", device))
        found = misused_key(token, holders)
        if found is not None:
            return found
        if not self._searches.take():
            return "wrong-key", "by another key"
        modules = await self._store.modules(self._hub.name, key.device_id) if key.module_id is None else ()
        devices = await self._store.devices(self._hub.name, _SEARCHED)
        others = [holder("key-of-module", module) for module in modules]
        others += [holder("key-of-other-device", other) for other in devices if other.device_id != key.device_id]
        for part in (others[at : at + _SEARCHED_AT_ONCE] for at in range(0, len(others), _SEARCHED_AT_ONCE)):
            found = misused_key(token, part)
            if found is not None:
                return found
            await asyncio.sleep(0)
        whose = "that is known here" if len(devices) < _SEARCHED else f"of the first {_SEARCHED} devices"
        return "wrong-key", f"by no key {whose}"
