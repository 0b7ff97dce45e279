"""What all resources have in common in the shape of Azure's resource manager: ids, errors, lists, durations, and how a
body that is sent differs from the resource as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from muster.core.error import HubError

PROVIDER = "Microsoft.Devices"
HUBS, SERVICES = "IotHubs", "provisioningServices"

_DURATION = re.compile(r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.IGNORECASE)
_UNITS = (604_800, 86_400, 3600, 60, 1)


def resource_id(subscription: str, group: str, kind: str, name: str) -> str:
    """The id of a resource of this provider."""
    return f"/subscriptions/{subscription}/resourceGroups/{group}/providers/{PROVIDER}/{kind}/{name}"


def arm_error_body(error: HubError, tracking_id: str) -> dict[str, Any]:
    """A refusal in both shapes that clients read: the resource manager's ``error``, and beside it the members of this
    provider's ``ErrorDetails``."""
    status = HTTPStatus(error.row.status).phrase.replace(" ", "")
    return {
        "error": {"code": error.row.name, "message": f"{error.message} ({error.row.status} {status})"},
        "code": str(error.row.code),
        "httpStatusCode": status,
        "message": error.message,
        "details": f"Tracking ID:{tracking_id}",
    }


def list_body(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All of a list: there is never a next page."""
    return {"value": list(values)}


def duration_text(seconds: float) -> str:
    """A time span as ISO 8601 has it: ``PT1H30M``, ``P7D``."""
    left, texts = int(seconds), []
    for letter, size in (("D", 86_400), ("H", 3600), ("M", 60), ("S", 1)):
        count, left = divmod(left, size)
        texts.append(f"{count}{letter}" if count else "")
    days, clock = texts[0], "".join(texts[1:])
    return f"P{days}{'T' if clock or not days else ''}{clock or ('' if days else '0S')}"


def duration_seconds(text: str) -> float | None:
    """The seconds of a time span in ISO 8601, ``None`` when it is none."""
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()):
        return None
    return sum(float(count) * unit for count, unit in zip(found.groups(), _UNITS, strict=True) if count)


def differences(given: Any, present: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The members of ``given``, each by its path (``properties.comments``), that are not as they are in ``present``.

    What is absent, or empty in both, is no difference, and neither is another spelling of the same time span.
    """
    if isinstance(given, dict):
        for name, value in given.items():
            there = present.get(name) if isinstance(present, Mapping) else None
            yield from differences(value, there, f"{path}.{name}" if path else name)
    elif given is not None and given != present and (given or present) and not _same_span(given, present):
        yield path, given


def _same_span(given: Any, present: Any) -> bool:
    if not isinstance(given, str) or not isinstance(present, str):
        return False
    span = duration_seconds(given)
    return span is not None and span == duration_seconds(present)
