"""The checks around a credential: what kind it is, which hub it was sent to, what the protocol asks besides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from muster.core.errors import DEVICE_UNAUTHORIZED, INVALID_PROTOCOL_VERSION, UNAUTHORIZED, ErrorRow
from muster.identity.examination import Credential, Examination, hosts_text
from muster.identity.hub import Hub, hub_name
from muster.identity.mistakes import shown
from muster.identity.model import AuthenticationType, Identity, IdentityKey
from muster.identity.sas import SasToken
from muster.identity.token_ground import switched_off

if TYPE_CHECKING:
    from muster.identity.authenticator import DeviceAttempt

UNREADABLE = "there is no well-formed token"
NO_IDENTITY = "there is no such identity"
_X509 = (AuthenticationType.SELF_SIGNED, AuthenticationType.CERTIFICATE_AUTHORITY)


def skip_token_checks(exam: Examination) -> None:
    """Say that nothing of a token can be checked."""
    for name in ("token-host", "scope", "policy", "signature", "right", "expiry"):
        exam.skipped(name, UNREADABLE)


def check_credential(
    exam: Examination, credential: Credential, identity: Identity | None, error: ErrorRow = DEVICE_UNAUTHORIZED
) -> None:
    """Whether something came that is meant as a SAS token."""
    if credential.absent is None:
        seen = "a SAS token" if credential.malformed is None else "meant as a SAS token"
        exam.passed("credential", "a SAS token", seen)
        return
    cause, seen = credential.absent
    if cause == "no-token" and identity is not None and identity.authentication.type in _X509:
        exam.failed("credential", "certificate-required", error, expected="a client certificate", seen=seen)
    else:
        exam.failed("credential", cause, error, expected="a SAS token", seen=seen)


def check_host(exam: Examination, hub: Hub, attempt: DeviceAttempt) -> None:
    """The host in the connection. Over MQTT it chooses the hub; elsewhere the token's ``sr`` does (design 5)."""
    if not attempt.host:
        exam.skipped("host", "the client named none")
    elif hub.knows(attempt.host):
        exam.passed("host", "one of the hub's names", "known")
    elif attempt.transport.startswith("mqtt"):
        exam.failed("host", "host-unknown", DEVICE_UNAUTHORIZED, expected=hosts_text(hub), seen=shown(attempt.host))
    else:
        exam.skipped("host", "not one of the hub's names; the token's sr decides")


def check_authentication(exam: Examination, credential: Credential, identity: Identity | None) -> None:
    """Whether the identity takes this kind of credential. A policy's token stands in for any."""
    if identity is None:
        exam.skipped("authentication", NO_IDENTITY)
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


def check_connection(exam: Examination, hub: Hub, attempt: DeviceAttempt) -> None:
    """MQTT's client id and api-version (device.md 3.1); the hub in the user name of AMQP's SASL PLAIN (4.1)."""
    if attempt.user_hub is not None:
        expected = f"{shown(str(attempt.key))}@sas.{hub.name}"
        _check_user_hub(exam, hub, attempt.user_hub, DEVICE_UNAUTHORIZED, expected=expected, seen=attempt.user_hub)
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


def check_target(exam: Examination, target: IdentityKey, device: Identity | None, other: Identity | None) -> None:
    """Whether a module of ``device`` may call methods of ``target``, which is ``other`` or a module of it.

    Those of its own device it may, and below an edge device those of the devices that name it as their parent: whom
    the edge hub lets it call (device.md 5.5). All others are the business of services.
    """
    if device is None:
        exam.skipped("target", NO_IDENTITY)
    elif target.device_id == device.device_id:
        exam.passed("target", "the module's own device", "its own device")
    elif other is not None and device.iot_edge and device.device_scope in other.parent_scopes:
        exam.passed("target", "a device below the module's edge device", "a device below it")
    else:
        exam.failed(
            "target", "method-target", DEVICE_UNAUTHORIZED,
            expected=f"{device.device_id!r}, or a device below it", seen=shown(target.device_id),
        )  # fmt: skip


def check_user(exam: Examination, hub: Hub, user: str, token: SasToken) -> None:
    """SASL PLAIN's user name: ``{policy}@sas.root.{hub name}``, the part after ``@`` in any case (service.md 3.1)."""
    policy, _, place = user.partition("@")
    root = place.lower().removeprefix("sas.root.")
    named = root if policy == token.policy and place.lower().startswith("sas.root.") else ""
    expected = f"{shown(token.policy or '<policy>')}@sas.root.{hub.name}"
    _check_user_hub(exam, hub, named, UNAUTHORIZED, expected=expected, seen=user)


def _check_user_hub(exam: Examination, hub: Hub, named: str, error: ErrorRow, *, expected: str, seen: str) -> None:
    """Whether a user name calls the hub ``named``. A client that knows it by its address cuts that at the first dot."""
    names = {hub.name} | {hub_name(host) for host in hub.hosts} | {host.partition(".")[0] for host in hub.hosts}
    if named and hub_name(named) in names:
        exam.passed("user", "who and which hub the token is for", "the same")
        return
    exam.failed("user", "user-mismatch", error, expected=expected, seen=shown(seen))


def check_switches(
    exam: Examination, hub: Hub, token: SasToken, error: ErrorRow, key: IdentityKey | None = None
) -> None:
    """Whether the hub still takes tokens of this kind; nothing is recorded where it takes all."""
    if not any(hub.switches):
        return
    cause = switched_off(hub, token.policy or "", module=key is not None and key.module_id is not None)
    if cause:
        exam.failed("switches", cause, error, expected="another kind of credential", seen="a SAS token")
    else:
        exam.passed("switches", "a kind of credential that is not switched off", "a SAS token")
