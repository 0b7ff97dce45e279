"""Settings that the nodes of a test have in common."""

from __future__ import annotations

from collections.abc import Mapping

from muster.core.audit import Draft
from muster.core.bus import Bus, LocalBus
from muster.core.errors import PRECONDITION_FAILED, HubError
from muster.core.shared_settings import SharedSettings


class Rows:
    """Implements ``core.shared_settings.SharedRows`` in memory. ``failing`` is raised as long as it is set."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.failing: HubError | None = None
        self.drafts: list[Draft] = []

    async def get_setting(self, name: str) -> bytes | None:
        if self.failing is not None:
            raise self.failing
        return self.values.get(name)

    async def put_settings(
        self,
        values: Mapping[str, bytes],
        draft: Draft | None = None,
        *,
        expected: Mapping[str, bytes | None] | None = None,
    ) -> None:
        if self.failing is not None:
            raise self.failing
        if any(self.values.get(name) != value for name, value in (expected or {}).items()):
            raise HubError(PRECONDITION_FAILED)
        self.values.update(values)
        if draft is not None:
            self.drafts.append(draft)

    def on(self, bus: Bus) -> SharedSettings:
        """As a node has them."""
        return SharedSettings(self, bus)


def kept_alone() -> SharedSettings:
    """The settings of a node that is alone."""
    return Rows().on(LocalBus())
