"""The checks of a token that names a shared access policy: it exists, its key signed, it grants the right."""

from __future__ import annotations

from collections.abc import Iterable

from muster.core.errors import ErrorRow
from muster.identity import sas
from muster.identity.examination import Examination
from muster.identity.hub import Hub
from muster.identity.mistakes import KeyHolder, missigned, misused_key, shown
from muster.identity.model import Identity
from muster.identity.policies import SharedAccessPolicy, rights_text
from muster.identity.sas import KeyReading, SasToken
from muster.identity.token_ground import of_policy
from muster.identity.verdict import Right


def holder(cause: str, identity: Identity) -> KeyHolder:
    """``identity`` as somebody whose keys may have signed by mistake."""
    kind = "the device" if identity.module_id is None else "the module"
    keys = identity.authentication
    return KeyHolder(cause, f"{kind} {identity.key}", keys.primary_key, keys.secondary_key)


def policy_holders(cause: str, policies: Iterable[SharedAccessPolicy]) -> list[KeyHolder]:
    """``policies`` likewise."""
    return [KeyHolder(cause, f"the policy {p.name}", p.primary_key, p.secondary_key) for p in policies]


def check_policy(
    exam: Examination,
    hub: Hub,
    token: SasToken,
    required: Right,
    error: ErrorRow,
    *,
    identity: Identity | None = None,
    text_key: bool = False,
) -> SharedAccessPolicy | None:
    """Check policy, right and signature of a token with ``skn``.

    Args:
        exam: collects the checks ``policy``, ``right`` and ``signature``.
        hub: whose policies count.
        token: one with a policy.
        required: the rights needed.
        error: the row for a refusal.
        identity: the device or module that connects with it, to recognise its own key under a policy's name.
        text_key: accept the key's text as the signing bytes too.

    Returns:
        The policy that the token names, ``None`` when there is none.
    """
    assert token.policy is not None
    own = () if identity is None else (holder("policy-name-on-device-key", identity),)
    policy = hub.policy(token.policy)
    if policy is None:
        cause = "policy-name-on-device-key" if misused_key(token, own) else "policy-unknown"
        exam.failed("policy", cause, error, expected=", ".join(hub.policies), seen=shown(token.policy))
        exam.skipped("right", "there is no such policy")
        exam.skipped("signature", "there is no such policy")
        return None
    exam.passed("policy", "a shared access policy of the hub", policy.name)
    _check_signature(exam, hub, token, policy, own, error=error, text_key=text_key)
    if required in policy.rights:
        exam.passed("right", rights_text(required), rights_text(policy.rights))
    else:
        exam.failed(
            "right", "policy-lacks-right", error,
            expected=rights_text(required), seen=f"{policy.name} grants {rights_text(policy.rights)}",
        )  # fmt: skip
    return policy


def _check_signature(
    exam: Examination,
    hub: Hub,
    token: SasToken,
    policy: SharedAccessPolicy,
    own: Iterable[KeyHolder],
    *,
    error: ErrorRow,
    text_key: bool,
) -> None:
    match = sas.matching_key(token, policy.primary_key, policy.secondary_key, text_key=text_key)
    if match is not None:
        reading = "" if match.reading is KeyReading.DECODED else ", used as text"
        exam.passed("signature", "by a key of the policy", f"{match.slot} key{reading}")
        exam.ground = of_policy(policy, policy.primary_key if match.slot == "primary" else policy.secondary_key)
        return
    others = [other for other in hub.policies.values() if other is not policy]
    cause, seen = (
        misused_key(token, own)
        or missigned(token, policy.primary_key, policy.secondary_key)
        or misused_key(token, policy_holders("key-of-other-policy", others))
        or ("wrong-key", "by no key that is known here")
    )
    exam.failed("signature", cause, error, expected=f"by a key of the policy {policy.name}", seen=seen)
