"""What an error is: a row of the catalogue, and the exception that carries one. The rows are in ``core.errors``."""

from __future__ import annotations

from typing import NamedTuple

from muster.core.redaction import redacted

CONNACK_PROTOCOL, CONNACK_IDENTIFIER, CONNACK_UNAVAILABLE, CONNACK_REFUSED = 1, 2, 3, 5


class ErrorRow(NamedTuple):
    """One error. ``mqtt`` is the CONNACK return code at connect; later MQTT can only close."""

    code: int
    name: str
    condition: str
    mqtt: int
    cause: str
    remedy: str

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.code // 1000


class HubError(Exception):
    """A refusal with its row of the catalogue.

    ``message`` is what the wire says beside the row's name: it names the offending field and never
    holds a secret: what looks like one is taken out of it here. ``tracking_id`` ties it to a kept verdict
    where there is one.
    """

    def __init__(self, row: ErrorRow, message: str = "", *, tracking_id: str = "") -> None:
        self.row = row
        self.message = redacted(message) if message else row.cause
        super().__init__(f"{row.name}: {self.message}")
        self.tracking_id = tracking_id
