"""Whether a token's ``sr`` covers what is asked for, by whole path segments (device.md 6.1, service.md 1.3)."""

from __future__ import annotations

from muster.core.errors import DEVICE_UNAUTHORIZED, UNAUTHORIZED
from muster.core.limits import Profile
from muster.identity import sas
from muster.identity.examination import Examination
from muster.identity.hub import Hub
from muster.identity.mistakes import shown
from muster.identity.model import IdentityKey
from muster.identity.sas import Resource, SasToken

_ABOUT_DEVICES = (("twins",), ("digitaltwins",))
_OF_ALL_DEVICES = (("devices", "query"), ("devices", "keys", "regenerate"))
"""Operations below ``devices`` whose next segment is nobody's id."""


def check_device(exam: Examination, hub: Hub, key: IdentityKey, token: SasToken) -> None:
    """A device's or module's token: for that identity, or for what is above it.

    A token for the device also serves its modules, as far as the scope goes; the key decides then.
    """
    wanted = _path(key)
    found = _covering(hub, token, wanted)
    if found is not None and (token.policy is not None or len(found.path) >= 2):
        exam.passed("scope", "covers the identity", "covers it")
        return
    cause = "policy-name-missing" if found is not None else _device_mistake(hub, key, token, wanted)
    exam.failed(
        "scope", cause, DEVICE_UNAUTHORIZED,
        expected=f"sr={hub.host}/{shown('/'.join(_spelled(key)))}", seen=f"sr={shown(token.resource)}",
    )  # fmt: skip


def check_service(exam: Examination, hub: Hub, resource: str, token: SasToken) -> None:
    """A service's token: for the hub, or for something that ``resource`` (a path below the host) is part of.

    In the ``open`` profile a token for ``devices/<id>`` also covers that device's twin, methods and digital twin, whose
    paths do not begin so; Azure compares paths alone.
    """
    wanted = _resource(resource)
    found = _covering(hub, token, wanted)
    about = _covering(hub, token, ("devices", *wanted[1:])) if wanted[:1] in _ABOUT_DEVICES and wanted[1:] else None
    if found is None and hub.profile is Profile.OPEN:
        found = about
    if found is not None and token.policy is not None:
        exam.passed("scope", "covers the resource", "covers it")
        return
    if token.policy is None:
        devices = any(reading.path[:1] == ("devices",) for reading in token.readings)
        cause = "device-token-on-service" if devices else "policy-name-missing"
    elif about is not None:
        cause = "policy-token-for-device"
    else:
        cause = "scope-encoded-too-often" if _covers_decoded(hub, token, wanted) else "scope-too-narrow"
    expected = f"sr={hub.host} and skn" if token.policy is None else f"sr={hub.host}"
    exam.failed("scope", cause, UNAUTHORIZED, expected=expected, seen=f"sr={shown(token.resource)}")


def _resource(path: str) -> tuple[str, ...]:
    """What ``path`` is part of. An operation on all devices is not one on the device that is called like it."""
    segments = tuple(segment for segment in path.lower().split("/") if segment)
    return segments[:1] if segments in _OF_ALL_DEVICES else segments


def whole_hub(hub: Hub, token: SasToken) -> bool:
    """Whether ``token`` is for the hub as a whole."""
    return _covering(hub, token, ()) is not None


def _spelled(key: IdentityKey) -> tuple[str, ...]:
    device = ("devices", key.device_id)
    return device if key.module_id is None else (*device, "modules", key.module_id)


def _path(key: IdentityKey) -> tuple[str, ...]:
    """In lower case: the docs ask for a lower-case URI, so ids are compared so (device.md 6.1)."""
    return tuple(segment.lower() for segment in _spelled(key))


def _covering(hub: Hub, token: SasToken, wanted: tuple[str, ...]) -> Resource | None:
    for reading in token.readings:
        if reading.covers(wanted) and hub.knows(reading.host):
            return reading
    return None


def _covers_decoded(hub: Hub, token: SasToken, wanted: tuple[str, ...]) -> bool:
    return any(one.covers(wanted) and hub.knows(one.host) for one in sas.further_readings(token.resource))


def _device_mistake(hub: Hub, key: IdentityKey, token: SasToken, wanted: tuple[str, ...]) -> str:
    if _covers_decoded(hub, token, wanted):
        return "scope-encoded-too-often"
    path = next(reading.path for reading in token.readings if hub.knows(reading.host))
    if path[0] == wanted[1]:
        return "scope-without-devices"
    if path[0] != "devices":
        return "scope-too-narrow"
    if path[1] != wanted[1]:
        return "device-mismatch"
    if path[2] == "modules" and key.module_id is None:
        return "module-token-for-device"
    return "module-mismatch" if path[2] == "modules" and path[3:4] != wanted[3:4] else "scope-too-narrow"
