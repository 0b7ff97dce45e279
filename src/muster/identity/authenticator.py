"""Authentication of devices, modules and services by shared access signature, with a verdict on each attempt."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from muster.core.ambient import Ambient, tracking_id
from muster.core.errors import (
    DEVICE_DISABLED,
    DEVICE_NOT_FOUND,
    DEVICE_UNAUTHORIZED,
    INVALID_PROTOCOL_VERSION,
    MODULE_NOT_FOUND,
    UNAUTHORIZED,
    ErrorRow,
)
from muster.core.limits import SAS_CLOCK_SKEW, SIGNATURE_PROBES
from muster.core.rate import RateLimit
from muster.identity import sas, token_scope
from muster.identity.contract import IdentityStore
from muster.identity.examination import (
    Credential,
    Examination,
    check_expiry,
    check_token,
    check_token_host,
    hosts_text,
    read_credential,
)
from muster.identity.hub import Hub, hub_name
from muster.identity.mistakes import missigned, misused_key, shown
from muster.identity.model import AuthenticationType, Identity, IdentityKey, Status
from muster.identity.policies import SharedAccessPolicy
from muster.identity.policy_checks import check_policy, holder, policy_holders
from muster.identity.proven import ProvenTokens
from muster.identity.refusals import Refusals
from muster.identity.sas import SasToken
from muster.identity.verdict import Right, Verdict

_SEARCHED = 1000
_SEARCHED_AT_ONCE = 50  # keys of one device are tried in some 25 microseconds
_UNREADABLE = "there is no well-formed token"
_NO_IDENTITY = "there is no such identity"
_ANOTHER_HUB = "it is another hub's token"
_X509 = (AuthenticationType.SELF_SIGNED, AuthenticationType.CERTIFICATE_AUTHORITY)


def _auth_method(scope_name: str) -> str:
    return f'{{"scope":"{scope_name}","type":"sas","issuer":"iothub","acceptingIpFilterRule":null}}'


AUTH_METHOD_DEVICE = _auth_method("device")
AUTH_METHOD_MODULE = _auth_method("module")
AUTH_METHOD_HUB = _auth_method("hub")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAttempt:
    """A device or module asks to be let in.

    ``transport`` is a short name (``mqtt``, ``mqtt-ws``, ``amqp``, ``https``); ``host`` what the client calls
    the hub, empty when it did not say; ``token`` what came where a SAS token belongs, ``None`` for nothing.
    ``api_version`` and ``client_id`` are ``None`` where the transport has none; over MQTT a missing
    api-version is a mistake.
    """

    transport: str
    peer: str
    host: str
    key: IdentityKey
    token: str | None = field(repr=False)
    api_version: str | None = None
    client_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
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


class Authenticator:
    """Judges attempts at one hub; what it refuses is kept in ``refusals``.

    Does not promise that the ground of a verdict still stands when it is used: who opens a session follows
    ``core.bus.IDENTITY_CHANGED``.
    """

    def __init__(self, hub: Hub, store: IdentityStore, ambient: Ambient, refusals: Refusals) -> None:
        self._hub = hub
        self._store = store
        self._ambient = ambient
        self._refusals = refusals
        self._skew = SAS_CLOCK_SKEW.under(hub.profile)
        rate = SIGNATURE_PROBES.under(hub.profile)
        self._proven = ProvenTokens()
        self._searches = RateLimit(rate, rate, ambient.monotonic)

    @property
    def hub(self) -> Hub:
        """The hub that is guarded."""
        return self._hub

    async def device(self, attempt: DeviceAttempt) -> Verdict:
        """Judge a device or module and its SAS token (device.md 6.1).

        The checks, in order: credential, host, registry, status, authentication, token, token-host, scope,
        policy, signature, right, expiry, client-id, api-version. The first to fail decides the error; the
        others are made where they still can be.
        """
        key = attempt.key
        credential = read_credential(attempt.token or "")
        device = identity = await self._store.get(self._hub.name, IdentityKey(key.device_id))
        if device is not None and key.module_id is not None:
            identity = await self._store.get(self._hub.name, key)
        exam = Examination()
        _check_credential(exam, credential, identity)
        _check_host(exam, self._hub, attempt)
        await self._check_registry(exam, key, device, identity)
        _check_authentication(exam, credential, identity)
        check_token(exam, credential, DEVICE_UNAUTHORIZED)
        now, token, policy = self._ambient.now(), credential.token, None
        if token is None:
            _skip_token_checks(exam)
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
        _check_connection(exam, attempt)
        if policy is not None:
            auth_method = AUTH_METHOD_HUB
        else:
            auth_method = AUTH_METHOD_DEVICE if key.module_id is None else AUTH_METHOD_MODULE
        return self._verdict(
            exam, attempt.transport, attempt.peer, now, token, principal=str(key), identity=identity,
            policy=policy, auth_method=auth_method,
        )  # fmt: skip

    def service(self, attempt: ServiceAttempt) -> Verdict:
        """Judge a service's SAS token, which must be a policy's (service.md 1.3, 4.2).

        The checks, in order: credential, token, token-host, scope, policy, signature, right, expiry, user.
        """
        credential = read_credential(attempt.token)
        exam = Examination()
        _check_credential(exam, credential, None, UNAUTHORIZED)
        check_token(exam, credential, UNAUTHORIZED)
        now, token, policy = self._ambient.now(), credential.token, None
        principal = ""
        if token is None:
            _skip_token_checks(exam)
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
            if attempt.user:
                _check_user(exam, self._hub, attempt.user, token)
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
    ) -> Verdict:
        checks = tuple(exam.checks)
        if exam.error is None and token is not None:
            return Verdict(
                tracking_id=tracking_id(self._ambient), at=now, transport=transport, peer=peer, principal=principal,
                checks=checks, identity=identity, policy="" if policy is None else policy.name,
                rights=Right.DEVICE_CONNECT if policy is None else policy.rights,
                expires_at=token.expiry + self._skew, auth_method=auth_method,
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
            exam.skipped("status", _NO_IDENTITY)
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
            exam.skipped("signature", _NO_IDENTITY)
            return
        keys = identity.authentication
        if keys.type is not AuthenticationType.SAS or (keys.primary_key is None and keys.secondary_key is None):
            exam.skipped("signature", "the identity has no symmetric keys")
            return
        match = sas.matching_key(token, keys.primary_key, keys.secondary_key)
        if match is not None:
            exam.passed("signature", "by a key of the identity", f"{match.slot} key")
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


def _skip_token_checks(exam: Examination) -> None:
    for name in ("token-host", "scope", "policy", "signature", "right", "expiry"):
        exam.skipped(name, _UNREADABLE)


def _check_credential(
    exam: Examination, credential: Credential, identity: Identity | None, error: ErrorRow = DEVICE_UNAUTHORIZED
) -> None:
    if credential.absent is None:
        seen = "a SAS token" if credential.malformed is None else "meant as a SAS token"
        exam.passed("credential", "a SAS token", seen)
        return
    cause, seen = credential.absent
    if cause == "no-token" and identity is not None and identity.authentication.type in _X509:
        exam.failed("credential", "certificate-required", error, expected="a client certificate", seen=seen)
    else:
        exam.failed("credential", cause, error, expected="a SAS token", seen=seen)


def _check_host(exam: Examination, hub: Hub, attempt: DeviceAttempt) -> None:
    """The host in the connection. Over MQTT it chooses the hub; elsewhere the token's ``sr`` does (design 5)."""
    if not attempt.host:
        exam.skipped("host", "the client named none")
    elif hub.knows(attempt.host):
        exam.passed("host", "one of the hub's names", "known")
    elif attempt.transport.startswith("mqtt"):
        exam.failed("host", "host-unknown", DEVICE_UNAUTHORIZED, expected=hosts_text(hub), seen=shown(attempt.host))
    else:
        exam.skipped("host", "not one of the hub's names; the token's sr decides")


def _check_authentication(exam: Examination, credential: Credential, identity: Identity | None) -> None:
    """Whether the identity takes this kind of credential. A policy's token stands in for any."""
    if identity is None:
        exam.skipped("authentication", _NO_IDENTITY)
        return
    kind = identity.authentication.type
    if credential.token is not None and credential.token.policy is not None:
        exam.skipped("authentication", "a policy's token needs no credential of the identity")
    elif kind is AuthenticationType.SAS:
        exam.passed("authentication", "sas", "sas")
    elif kind is AuthenticationType.NONE:
        exam.failed(
            "authentication", "authentication-none", DEVICE_UNAUTHORIZED,
            expected="an identity with keys or a certificate", seen="type none",
        )  # fmt: skip
    elif credential.absent is not None:
        exam.skipped("authentication", "there is no credential")
    else:
        exam.failed(
            "authentication", "token-for-x509-identity", DEVICE_UNAUTHORIZED,
            expected="a client certificate", seen=f"a SAS token; the identity's type is {kind}",
        )  # fmt: skip


def _check_connection(exam: Examination, attempt: DeviceAttempt) -> None:
    """MQTT's client id and api-version (device.md 3.1)."""
    if attempt.client_id is not None:
        if attempt.client_id == str(attempt.key):
            exam.passed("client-id", "the id in the user name", "the same")
        else:
            exam.failed(
                "client-id", "client-id-mismatch", DEVICE_UNAUTHORIZED,
                expected=shown(str(attempt.key)), seen=shown(attempt.client_id),
            )  # fmt: skip
    if attempt.api_version:
        exam.passed("api-version", "an api-version", "given")
    elif attempt.api_version is not None or attempt.transport.startswith("mqtt"):
        exam.failed(
            "api-version", "api-version-missing", INVALID_PROTOCOL_VERSION,
            expected="api-version=2021-04-12 or any other", seen="none",
        )  # fmt: skip


def _check_user(exam: Examination, hub: Hub, user: str, token: SasToken) -> None:
    """SASL PLAIN's user name: ``{policy}@sas.root.{hub name}``, the part after ``@`` in any case (service.md 3.1)."""
    policy, _, place = user.partition("@")
    root = place.lower().removeprefix("sas.root.")
    if policy == token.policy and place.lower().startswith("sas.root.") and root:
        # A client that knows the hub by its address cuts that at the first dot too.
        names = {hub.name} | {hub_name(host) for host in hub.hosts} | {host.partition(".")[0] for host in hub.hosts}
        if hub_name(root) in names:
            exam.passed("user", "the policy and the hub of the token", "the same")
            return
    expected = f"{shown(token.policy or '<policy>')}@sas.root.{hub.name}"
    exam.failed("user", "user-mismatch", UNAUTHORIZED, expected=expected, seen=shown(user))
