"""Roles that the operator defines beside the built-in ones: a name, and patterns of data actions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from muster.access.roles import ALLOWED, Action, DataAction, ManagementAction, ProvisioningAction, StreamAction
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.grant_limits import ROLE_NAME_CHARACTERS, ROLE_PATTERNS

PREFIXES: Mapping[type[Action], str] = {
    DataAction: "Microsoft.Devices/IotHubs/",
    StreamAction: "Microsoft.EventHub/namespaces/",
    ProvisioningAction: "Microsoft.Devices/provisioningServices/",
    ManagementAction: "",
}
"""What stands before the actions of each kind in Azure's spelling."""
_DATA_KINDS = (DataAction, StreamAction, ProvisioningAction)
_PATTERN = re.compile(r"[A-Za-z0-9./*]+")
_LONGEST_PATTERN, _SHOWN = 128, 80
_BUILT_IN = {name.lower() for name in ALLOWED}


def full_name(action: Action) -> str:
    """The action in Azure's spelling: ``Microsoft.Devices/IotHubs/twins/read``."""
    return PREFIXES[type(action)] + action


@dataclass(frozen=True, slots=True)
class CustomRole:
    """A role of the operator. ``patterns`` are as ``make_role`` takes them, ``actions`` all that they allow."""

    name: str
    patterns: tuple[str, ...]
    actions: frozenset[Action]


def make_role(name: str, patterns: Sequence[str]) -> CustomRole:
    """The role ``name`` with the actions that ``patterns`` name.

    A pattern is an action, in Azure's spelling (``Microsoft.Devices/IotHubs/twins/read``) or, for those of a hub, what
    comes behind that prefix (``twins/read``); ``*`` stands for any text. Management is left to the built-in roles, so
    that nobody becomes owner by a star. Raises ``HubError``: 400005 without any, 400004 for a name or a pattern that
    cannot be, also for a pattern that no action fits: it would allow nothing, and somebody meant something by it.
    """
    check_role_name(name)
    if name.lower() in _BUILT_IN:
        raise HubError(ARGUMENT_INVALID, f"role {name} is a built-in one, give yours another name.")
    if not patterns:
        raise HubError(ARGUMENT_NULL, f"actions of the role {name} are missing, give one at least, such as twins/read.")
    if len(patterns) > ROLE_PATTERNS.open:
        raise HubError(ARGUMENT_INVALID, f"actions of the role {name} are {len(patterns)}, give {ROLE_PATTERNS.open}.")
    for pattern in patterns:
        if not _matching(pattern):
            raise HubError(
                ARGUMENT_INVALID,
                f"actions names {pattern[:_SHOWN]!r}, which no data action fits, see those there are: muster role list "
                "--actions",
            )
    return kept_role(name, patterns)


def kept_role(name: str, patterns: Iterable[str]) -> CustomRole:
    """As ``make_role``, of what was found good when it was made."""
    kept = tuple(patterns)
    return CustomRole(name, kept, frozenset(one for pattern in kept for one in _matching(pattern)))


def check_role_name(name: str) -> None:
    """Raise ``HubError`` 400004 unless ``name`` may be a role's."""
    most = ROLE_NAME_CHARACTERS.open
    if not name or len(name) > most or not name.isprintable() or name != name.strip():
        raise HubError(
            ARGUMENT_INVALID, f"role {name[:_SHOWN]!r} is no name, give one to {most} characters, none of them control."
        )


def _matching(pattern: str) -> list[Action]:
    whole = pattern if pattern.lower().startswith("microsoft.") else PREFIXES[DataAction] + pattern
    if len(pattern) > _LONGEST_PATTERN or not _PATTERN.fullmatch(pattern):
        return []
    return [one for kind in _DATA_KINDS for one in kind if fnmatchcase(full_name(one).lower(), whole.lower())]
