"""Shared access policies: a name, two keys, and the rights they grant (service.md 1.1)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from muster.core.ambient import Ambient
from muster.identity.verdict import Right

KEY_BYTES = 32
OWNER, SERVICE = "iothubowner", "service"
LOCAL = "muster-local"
"""The policy of commands on the hub's own data directory where ``disableLocalAuth`` keeps all others out: made anew
at each start, its key stands in ``run.json`` only, and only then."""
PROVISIONING_OWNER = "provisioningserviceowner"
"""The built-in policy of a provisioning service; it has no rights at a hub (provisioning.md section 7)."""
PROVISIONING_RIGHTS = (
    Right.SERVICE_CONFIG
    | Right.ENROLLMENT_READ
    | Right.ENROLLMENT_WRITE
    | Right.DEVICE_CONNECT
    | Right.REGISTRATION_READ
    | Right.REGISTRATION_WRITE
)
"""What that policy grants there: everything (provisioning.md 7.1)."""

BUILT_IN: Mapping[str, Right] = {
    OWNER: Right.REGISTRY_READ | Right.REGISTRY_WRITE | Right.SERVICE_CONNECT | Right.DEVICE_CONNECT,
    SERVICE: Right.SERVICE_CONNECT,
    "device": Right.DEVICE_CONNECT,
    "registryRead": Right.REGISTRY_READ,
    "registryReadWrite": Right.REGISTRY_READ | Right.REGISTRY_WRITE,
}
"""The five policies of a new hub and what they grant."""

_RIGHT_NAMES = {
    Right.REGISTRY_READ: "RegistryRead",
    Right.REGISTRY_WRITE: "RegistryWrite",
    Right.SERVICE_CONNECT: "ServiceConnect",
    Right.DEVICE_CONNECT: "DeviceConnect",
    Right.SERVICE_CONFIG: "ServiceConfig",
    Right.ENROLLMENT_READ: "EnrollmentRead",
    Right.ENROLLMENT_WRITE: "EnrollmentWrite",
    Right.REGISTRATION_READ: "RegistrationStatusRead",
    Right.REGISTRATION_WRITE: "RegistrationStatusWrite",
}


RIGHTS_AT_PROVISIONING = tuple(name for right, name in _RIGHT_NAMES.items() if right in PROVISIONING_RIGHTS)
"""The names of the rights that there are at a provisioning service."""
RIGHTS_AT_HUBS = tuple(name for right, name in _RIGHT_NAMES.items() if right in BUILT_IN[OWNER])
"""And at a hub."""


@dataclass(frozen=True, slots=True)
class SharedAccessPolicy:
    """A policy. Keys are base64 text; either signs."""

    name: str
    rights: Right
    primary_key: str = field(repr=False)
    secondary_key: str = field(repr=False)


def make_policies(ambient: Ambient) -> tuple[SharedAccessPolicy, ...]:
    """The built-in policies with fresh random keys."""
    return tuple(_random(name, rights, ambient) for name, rights in BUILT_IN.items())


def make_local_policy(ambient: Ambient, secret: bytes = b"") -> SharedAccessPolicy:
    """``LOCAL``, which may do all, with fresh random keys, or with those of all who have the same ``secret``."""
    if not secret:
        return _random(LOCAL, BUILT_IN[OWNER], ambient)
    keys = (_text(hashlib.blake2b(which, key=secret, digest_size=32).digest()) for which in (b"primary", b"secondary"))
    return SharedAccessPolicy(LOCAL, BUILT_IN[OWNER], *keys)


def make_provisioning_policy(ambient: Ambient) -> SharedAccessPolicy:
    """The provisioning service's owner with fresh random keys."""
    return _random(PROVISIONING_OWNER, PROVISIONING_RIGHTS, ambient)


def development_policies(hub: str = "") -> tuple[SharedAccessPolicy, ...]:
    """The built-in policies with keys that anyone can know, the same on every machine.

    For ``muster serve --ephemeral``: connection strings can then stand in code and documentation. They
    protect nothing. ``hub`` is the name of one besides the first, whose keys are others.
    """
    return tuple(_well_known(name, rights, f"{hub}/" if hub else "") for name, rights in BUILT_IN.items())


def development_provisioning_policy() -> SharedAccessPolicy:
    """The provisioning service's owner with keys that anyone can know."""
    return _well_known(PROVISIONING_OWNER, PROVISIONING_RIGHTS)


def development_key(name: str) -> str:
    """A well-known key: base64 of SHA-256 of ``muster development key: {name}``. Public by design."""
    return _text(hashlib.sha256(f"muster development key: {name}".encode()).digest())


def rights_text(rights: Right) -> str:
    """Rights as Azure writes them: ``RegistryRead, RegistryWrite`` (service.md 1.1); ``none`` for none."""
    return ", ".join(name for right, name in _RIGHT_NAMES.items() if right in rights) or "none"


def rights_from(text: str) -> Right:
    """``rights_text`` read again, in any case. Raises ``ValueError`` that names the first word that is no right."""
    known, rights = {name.lower(): right for right, name in _RIGHT_NAMES.items()}, Right.NONE
    for word in text.split(","):
        if word.strip():
            right = known.get(word.strip().lower())
            if right is None:
                raise ValueError(f"{word.strip()[:40]!r}, which is no right")
            rights |= right
    return rights


def _random(name: str, rights: Right, ambient: Ambient) -> SharedAccessPolicy:
    keys = [_text(ambient.random_bytes(KEY_BYTES)) for _ in range(2)]
    return SharedAccessPolicy(name, rights, *keys)


def _well_known(name: str, rights: Right, prefix: str = "") -> SharedAccessPolicy:
    keys = [development_key(f"{prefix}{name}/{slot}") for slot in ("primary", "secondary")]
    return SharedAccessPolicy(name, rights, *keys)


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()
