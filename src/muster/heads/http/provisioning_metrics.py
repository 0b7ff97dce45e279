"""The counts of the provisioning service as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from muster.heads.http.meters import family
from muster.provisioning.timeline import Timeline

_FAMILIES = (
    ("attestationAttempts", "muster_attestation_attempts_total", "Devices that asked to be registered, by verdict."),
    ("registrationAttempts", "muster_registration_attempts_total", "Assignments that came to an end, by outcome."),
    ("deviceAssignments", "muster_device_assignments_total", "Devices assigned, by hub."),
)
_LABELS = {"protocol": "protocol", "status": "status", "iotHubName": "hub"}


def provisioning_families(timeline: Timeline) -> Iterator[str]:
    """The lines for ``/metrics``."""
    counts: Mapping[str, Sequence[Mapping[str, Any]]] = timeline.counts()
    for name, metric, help_ in _FAMILIES:
        yield from family(metric, "counter", help_, [(_labels(row), row["count"]) for row in counts[name]])


def _labels(row: Mapping[str, Any]) -> str:
    pairs = [f'{label}="{row[name]}"' for name, label in _LABELS.items() if name in row]
    return f"{{{','.join(pairs)}}}"
