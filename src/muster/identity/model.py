"""Device and module identities: what the registry holds."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from muster.core.values import value

NEVER = 0.0
"""A moment that has not come; printed ``0001-01-01T00:00:00Z``."""


class IdentityKey(NamedTuple):
    """Names an identity within a hub. ``module_id`` is ``None`` for a device."""

    device_id: str
    module_id: str | None = None

    def __str__(self) -> str:
        return self.device_id if self.module_id is None else f"{self.device_id}/{self.module_id}"


def key_of(text: str) -> IdentityKey:
    """What ``str`` has made of a key."""
    device_id, _, module_id = text.partition("/")
    return IdentityKey(device_id, module_id or None)


class Status(StrEnum):
    """Whether the identity may connect."""

    ENABLED = "enabled"
    DISABLED = "disabled"


class AuthenticationType(StrEnum):
    """Which kind of credential the identity takes (cs shared/src AuthenticationType)."""

    SAS = "sas"
    SELF_SIGNED = "selfSigned"
    CERTIFICATE_AUTHORITY = "certificateAuthority"
    NONE = "none"


@value(frozen=True, slots=True)
class Authentication:
    """How the identity proves itself. Keys are base64 text, thumbprints upper-case hex; ``None`` when unused."""

    type: AuthenticationType = AuthenticationType.SAS
    primary_key: str | None = None
    secondary_key: str | None = None
    primary_thumbprint: str | None = None
    secondary_thumbprint: str | None = None

    def __repr__(self) -> str:
        return f"Authentication(type={self.type!r})"


@value(frozen=True, slots=True, kw_only=True)
class Identity:
    """One registered device or module.

    ``version`` begins at random, grows by one with each write, and is what the ETag is made from: an ETag from
    before an id was deleted and made again does not match. ``generation_id`` (decimal digits) changes then too.
    Times are seconds since 1970. A module has no status of its own: ``status`` is always enabled there, and the
    device's counts.
    """

    key: IdentityKey
    generation_id: str
    version: int
    authentication: Authentication
    status: Status = Status.ENABLED
    status_reason: str | None = None
    status_updated: float = NEVER
    iot_edge: bool = False
    device_scope: str | None = None
    parent_scopes: tuple[str, ...] = ()
    managed_by: str | None = None

    @property
    def device_id(self) -> str:
        """The device's id; for a module, that of the device it belongs to."""
        return self.key.device_id

    @property
    def module_id(self) -> str | None:
        """The module's id, ``None`` for a device."""
        return self.key.module_id
