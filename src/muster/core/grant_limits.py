"""Limits of roles that are granted and defined by the operator; part of ``core.limits.ALL``."""

from __future__ import annotations

from muster.core.limit import Limit

GRANTS = Limit(
    "role grants",
    1000,
    1000,
    "grants",
    "own choice; the cloud has 4,000 role assignments in a subscription",
    "By command, and as many again in the file of roles. All are in memory; groups need few.",
)
CUSTOM_ROLES = Limit(
    "roles defined by the operator",
    100,
    100,
    "roles",
    "own choice; the cloud has 5,000 in a tenant",
    "By command, and as many again in the file of roles.",
)
ROLE_PATTERNS = Limit(
    "actions of a role",
    64,
    64,
    "patterns",
    "own choice",
    "There are fewer data actions than that.",
)
ROLE_NAME_CHARACTERS = Limit(
    "length of a role's name",
    128,
    128,
    "characters",
    "docs role-based-access-control/custom-roles",
    "As in the cloud.",
)
PRINCIPAL_CHARACTERS = Limit(
    "length of a principal or an issuer in a grant",
    256,
    256,
    "characters",
    "own choice",
    "Longer texts in a token's claims count for nothing.",
)
CONDITION_CHARACTERS = Limit(
    "condition on devices in a grant",
    1024,
    1024,
    "characters",
    "own choice",
    "It is tried on the device at each call that is about one.",
)
ROLES_FILE_BYTES = Limit(
    "file of roles",
    1_048_576,
    1_048_576,
    "bytes",
    "own choice",
    "A thousand grants fit.",
)
ALL: tuple[Limit, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Limit))
