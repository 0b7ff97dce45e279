"""What a query may name: the fields of a twin and of a job, in any case, as the answers spell them."""

from __future__ import annotations

from typing import Final

from muster.twins.query.lexer import shown
from muster.twins.query.syntax import Source, Steps

TAGS: Final = "tags"
PROPERTIES: Final = "properties"
DESIRED: Final = "desired"
REPORTED: Final = "reported"

_TWIN = (
    "deviceId", "moduleId", "etag", "deviceEtag", "status", "statusReason", "statusUpdateTime", "connectionState",
    "lastActivityTime", "cloudToDeviceMessageCount", "authenticationType", "x509Thumbprint", "modelId", "version",
    TAGS, PROPERTIES, "capabilities", "deviceScope", "parentScopes", "configurations",
    # fields of the identity that no twin shows: tools name them, and they are undefined here as they are there
    "connectionStateUpdatedTime", "statusUpdatedTime", "generationId", "managedBy", "authentication",
)  # fmt: skip
_JOB = (
    "deviceId", "moduleId", "jobId", "jobType", "status", "startTimeUtc", "endTimeUtc", "createdDateTimeUtc",
    "lastUpdatedDateTimeUtc", "outcome", "error",
)  # fmt: skip
_BELOW = {
    PROPERTIES: (DESIRED, REPORTED),
    "capabilities": ("iotEdge",),
    "x509Thumbprint": ("primaryThumbprint", "secondaryThumbprint"),
}
"""Members that fields of ours have; they ignore case like the fields. All other members are the user's, and do not."""

_FIELDS = {source: {name.lower(): name for name in _TWIN} for source in Source}
_FIELDS[Source.JOBS] = {name.lower(): name for name in _JOB}


class UnknownFieldError(Exception):
    """A path that leads nowhere; the text says what there is instead."""


def resolve(steps: Steps, source: Source, alias: str | None) -> tuple[str, Steps]:
    """The field that ``steps`` begin with, by its canonical name, and the steps below it.

    The source's name (``devices.``, ``devices.modules.``) or its ``alias`` may go before. Raises
    ``UnknownFieldError``.
    """
    name, *rest = _without_prefix(steps, source, alias)
    field = _FIELDS[source].get(str(name).lower())
    if field is None:
        raise UnknownFieldError(_advice(shown(str(name)), source))
    if rest and field in _BELOW:
        known = {member.lower(): member for member in _BELOW[field]}
        member = known.get(str(rest[0]).lower())
        if member is not None:
            rest[0] = member
        elif field == PROPERTIES:
            raise UnknownFieldError(f"properties holds desired and reported, not '{shown(str(rest[0]))}'")
    return field, tuple(rest)


def _without_prefix(steps: Steps, source: Source, alias: str | None) -> Steps:
    if alias is not None and len(steps) > 1 and steps[0] == alias:
        return steps[1:]
    for prefix in (("devices", "modules"), ("devices", "jobs"), ("devices",)):
        head = tuple(str(step).lower() for step in steps[: len(prefix)])
        if head == prefix and ".".join(prefix) in {source, Source.DEVICES} and len(steps) > len(prefix):
            return steps[len(prefix) :]
    return steps


def _advice(name: str, source: Source) -> str:
    names = ", ".join(sorted(set(_FIELDS[source].values()), key=str.lower))
    if source is Source.JOBS:
        return f"a job has no field '{name}'; it has {names}"
    if name.lower() in {DESIRED, REPORTED}:
        return f"there is no field '{name}', write properties.{name.lower()}"
    return (
        f"there is no field '{name}'; write tags.{name}, properties.desired.{name} or properties.reported.{name}, "
        f"or one of {names}"
    )
