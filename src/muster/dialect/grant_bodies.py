"""JSON of roles and grants, and the file of roles, whose grants have the same members; no part of Azure's interface."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from typing import Any

from muster.access.custom_roles import make_role
from muster.access.grants import Grant, KeptRoles, PrincipalKind
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, FORMAT_ERROR, HubError
from muster.dialect.json_body import Members, kind_of

_KINDS = tuple(PrincipalKind)
_SCOPE = ("issuer", "hub", "devices")
_MEMBERS = {"role", *_KINDS, *_SCOPE}
_SHOWN = 80


def read_grant(value: Any, place: str = "The body", path: str = "") -> Grant:
    """``{"role", "subject" or "group" or "application", "issuer", "hub", "devices"}``, the last three where wanted.

    A member that is unknown or empty is refused: a scope that is misspelled would be one without bounds. ``place``
    names the object in errors, ``path`` goes before its members'. Raises ``HubError`` 400004, 400005.
    """
    members = Members.of(value, place, path)
    for name in value:
        if name not in _MEMBERS:
            raise HubError(
                ARGUMENT_INVALID,
                f"{path}{name[:_SHOWN]} is no member of a grant, it has {', '.join(sorted(_MEMBERS))}.",
            )
    given = [kind for kind in _KINDS if members.raw(kind) is not None]
    if len(given) != 1:
        raise HubError(ARGUMENT_NULL, f"{place} must have one of {', '.join(_KINDS)}: to whom is the role granted?")
    texts = {name: members.text(name) for name in _SCOPE}
    for name, text in texts.items():
        if text == "":
            raise HubError(ARGUMENT_INVALID, f"{path}{name} is empty, leave it out where it shall not matter.")
    (kind,) = given
    return Grant(
        role=members.needed_text("role"),
        kind=kind,
        principal=members.needed_text(kind),
        **{name: text for name, text in texts.items() if text is not None},
    )


def grant_members(grant: Grant) -> dict[str, str]:
    """What ``read_grant`` reads."""
    scope = {"issuer": grant.issuer, "hub": grant.hub, "devices": grant.devices}
    return {"role": grant.role, grant.kind: grant.principal, **{name: text for name, text in scope.items() if text}}


def read_roles_file(content: bytes) -> KeptRoles:
    """The roles and grants in a file, TOML or JSON (which begins with ``{``): ``roles``, for each name a list of
    actions, and ``grants``, a list of what ``read_grant`` reads.

    Raises ``HubError`` 400006 for what is neither, and as ``make_role`` and ``read_grant``.
    """
    document = _document(content)
    for name in document:
        if name not in {"roles", "grants"}:
            raise HubError(ARGUMENT_INVALID, f"{name[:_SHOWN]!r} is no part of it, it has roles and grants.")
    whole = Members.of(document, "The file")
    roles = whole.raw("roles") or {}
    if not isinstance(roles, dict):
        raise HubError(ARGUMENT_INVALID, f"roles must be a table of names and actions, it is {kind_of(roles)}.")
    named = Members.of(roles, "roles", "roles.")
    return KeptRoles(
        [make_role(name, named.texts(name)) for name in roles],
        [read_grant(one, f"grants[{at}]", f"grants[{at}].") for at, one in enumerate(whole.items("grants"))],
    )


def _document(content: bytes) -> Mapping[str, Any]:
    try:
        text = content.decode("utf-8-sig")
        if not text.lstrip().startswith("{"):
            return tomllib.loads(text)
        document = json.loads(text)
    except RecursionError:
        raise HubError(FORMAT_ERROR, "It is nested too deeply.") from None
    except ValueError as error:  # JSONDecodeError, TOMLDecodeError and UnicodeDecodeError are
        raise HubError(FORMAT_ERROR, f"It is neither TOML nor JSON: {error}.") from None
    assert isinstance(document, dict), "it began with a brace"
    return document
