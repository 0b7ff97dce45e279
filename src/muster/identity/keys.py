"""Credentials as the registry keeps them: symmetric keys made and checked, thumbprints checked, kinds settled."""

from __future__ import annotations

import base64
import binascii
import re

from muster.core.ambient import Ambient
from muster.core.errors import ARGUMENT_INVALID, ARGUMENT_NULL, HubError
from muster.core.values import value
from muster.identity.certificates import thumbprint_digits
from muster.identity.model import Authentication, AuthenticationType

KEY_BYTES = 32
"""Length of a generated key (cs CryptoKeyGenerator.cs)."""
SHORTEST_KEY, LONGEST_KEY = 16, 64
"""Bytes that a given key may have once decoded (service.md 2.4)."""

_LONGEST_THUMBPRINT = 256
_THUMBPRINT = re.compile(r"(?:[0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})")


@value(frozen=True, slots=True)
class Credentials:
    """The credentials a caller asks for. ``None`` or empty leaves the choice to the hub (``settle``)."""

    type: AuthenticationType | None = None
    primary_key: str | None = None
    secondary_key: str | None = None
    primary_thumbprint: str | None = None
    secondary_thumbprint: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(type={self.type!r})"


ANY_CREDENTIALS = Credentials()
"""Asks for nothing: the choice is the hub's."""


def needs_spare(asked: Credentials) -> bool:
    """Whether ``settle`` may want one of its spare keys for ``asked``."""
    given = asked.primary_key and asked.secondary_key
    return asked.type in (None, AuthenticationType.SAS) and not given


def generate_key(ambient: Ambient) -> str:
    """A fresh symmetric key: base64 of 32 random bytes."""
    return base64.b64encode(ambient.random_bytes(KEY_BYTES)).decode()


def check_symmetric_key(what: str, value: str) -> None:
    """Refuse (400004) a ``value`` that is not base64 of 16 to 64 bytes; ``what`` names it. Never shows it."""
    try:
        size = len(base64.b64decode(value, validate=True))
    except (binascii.Error, ValueError):
        raise HubError(
            ARGUMENT_INVALID, f"The {what} is not base64, give base64 of {SHORTEST_KEY} to {LONGEST_KEY} bytes."
        ) from None
    if not SHORTEST_KEY <= size <= LONGEST_KEY:
        raise HubError(
            ARGUMENT_INVALID,
            f"The {what} decodes to {size} bytes, give base64 of {SHORTEST_KEY} to {LONGEST_KEY} bytes.",
        )


def check_thumbprint(what: str, value: str) -> str:
    """The thumbprint's digits in upper case, however it is written (device.md 6.2); 400004 when they are not 40 (SHA-1)
    or 64 (SHA-256) hex digits."""
    digits = thumbprint_digits(value[:_LONGEST_THUMBPRINT])
    if not _THUMBPRINT.fullmatch(digits):
        raise HubError(
            ARGUMENT_INVALID,
            f"The {what} is not a thumbprint, give 40 (SHA-1) or 64 (SHA-256) hex digits.",
        )
    return digits


def settle(asked: Credentials, present: Authentication | None, spare: tuple[str, str]) -> Authentication:
    """What an identity's authentication becomes when ``asked`` is written over ``present`` (``None``: a new one).

    - No type: that of the thumbprints or keys given, else the present one, else ``sas``.
    - ``sas``: a key not given stays as it is; where there is none, one of ``spare`` is taken (service.md 2.4).
      That null keeps a key on update is our choice; the service's is not known, and losing keys hurts more.
    - ``selfSigned``: at least one thumbprint; when both are left out the present ones stay, otherwise one
      that is left out is dropped, so that a certificate can be withdrawn.
    - Credentials of another kind than the type are dropped.

    Raises ``HubError`` 400004 or 400005 naming what is wrong.
    """
    kind = asked.type or _kind_of(asked, present)
    if kind is AuthenticationType.SAS:
        return _settle_keys(asked, present, spare)
    if kind is AuthenticationType.SELF_SIGNED:
        return _settle_thumbprints(asked, present)
    return Authentication(kind)


def _kind_of(asked: Credentials, present: Authentication | None) -> AuthenticationType:
    if asked.primary_thumbprint or asked.secondary_thumbprint:
        return AuthenticationType.SELF_SIGNED
    if asked.primary_key or asked.secondary_key or present is None:
        return AuthenticationType.SAS
    return present.type


def _settle_keys(asked: Credentials, present: Authentication | None, spare: tuple[str, str]) -> Authentication:
    kept = present or Authentication()
    if asked.primary_key:
        check_symmetric_key("primary key", asked.primary_key)
    if asked.secondary_key:
        check_symmetric_key("secondary key", asked.secondary_key)
    return Authentication(
        AuthenticationType.SAS,
        primary_key=asked.primary_key or kept.primary_key or spare[0],
        secondary_key=asked.secondary_key or kept.secondary_key or spare[1],
    )


def _settle_thumbprints(asked: Credentials, present: Authentication | None) -> Authentication:
    primary, secondary = asked.primary_thumbprint, asked.secondary_thumbprint
    if not primary and not secondary:
        if present is not None and present.type is AuthenticationType.SELF_SIGNED:
            return present
        raise HubError(ARGUMENT_NULL, "The primary thumbprint is missing, authentication of type selfSigned needs it.")
    return Authentication(
        AuthenticationType.SELF_SIGNED,
        primary_thumbprint=check_thumbprint("primary thumbprint", primary) if primary else None,
        secondary_thumbprint=check_thumbprint("secondary thumbprint", secondary) if secondary else None,
    )
