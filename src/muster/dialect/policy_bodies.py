"""JSON of shared access policies, spelled as Azure's resource manager has them
(``SharedAccessSignatureAuthorizationRule``)."""

from __future__ import annotations

from typing import Any

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.dialect.json_body import Members
from muster.identity.kept_policies import PolicyDraft, Rotation
from muster.identity.policies import SharedAccessPolicy, rights_from, rights_text
from muster.identity.verdict import Right

_POLICIES = "authorizationPolicies"


def read_policy(body: Members, grantable: Right) -> PolicyDraft:
    """``rights`` (``EnrollmentRead, EnrollmentWrite``), and keys where they are not to be made or kept.

    Raises ``HubError`` 400004, 400005.
    """
    text = body.needed_text("rights")
    try:
        rights = rights_from(text)
    except ValueError as error:
        raise HubError(ARGUMENT_INVALID, f"rights has {error}, give some of {rights_text(grantable)}.") from None
    return PolicyDraft(rights, body.text("primaryKey") or None, body.text("secondaryKey") or None)


def read_policies(properties: Members, grantable: Right) -> dict[str, PolicyDraft] | None:
    """``authorizationPolicies`` by name, ``None`` when not given. A key that is an empty text is to be made anew.

    Raises ``HubError`` 400004, 400005.
    """
    if properties.raw(_POLICIES) is None:
        return None
    found = {}
    for at, item in enumerate(properties.items(_POLICIES)):
        place = f"properties.{_POLICIES}[{at}]"
        one = Members.of(item, place, f"{place}.")
        rights = read_policy(one, grantable).rights
        found[one.needed_text("keyName")] = PolicyDraft(rights, one.text("primaryKey"), one.text("secondaryKey"))
    return found


def read_rotation(body: Members) -> Rotation:
    """``key``: ``primary`` or ``secondary``, to be made anew, or ``swap``. Raises ``HubError`` 400004, 400005."""
    text = body.needed_text("key")
    try:
        return Rotation(text.lower())
    except ValueError:
        raise HubError(ARGUMENT_INVALID, f"key must be {', '.join(Rotation)}; one of them.") from None


def policy_body(policy: SharedAccessPolicy, *, with_keys: bool = False) -> dict[str, Any]:
    """A policy as it is told."""
    keys = {"primaryKey": policy.primary_key, "secondaryKey": policy.secondary_key} if with_keys else {}
    return {"keyName": policy.name, **keys, "rights": rights_text(policy.rights)}
