"""Data actions of a hub and the built-in roles that hold them, as Azure RBAC has them (service.md 1.5)."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import NamedTuple


class DataAction(StrEnum):
    """What one operation needs, below ``Microsoft.Devices/IotHubs/``."""

    DEVICES_READ = "devices/read"
    DEVICES_WRITE = "devices/write"
    DEVICES_DELETE = "devices/delete"
    TWINS_READ = "twins/read"
    TWINS_WRITE = "twins/write"
    JOBS_READ = "jobs/read"
    JOBS_WRITE = "jobs/write"
    JOBS_DELETE = "jobs/delete"
    C2D_SEND = "cloudToDeviceMessages/send/action"
    C2D_FEEDBACK = "cloudToDeviceMessages/feedback/action"
    C2D_PURGE = "cloudToDeviceMessages/queue/purge/action"
    METHODS_INVOKE = "directMethods/invoke/action"
    UPLOAD_NOTIFICATIONS = "fileUpload/notifications/action"
    STATISTICS_READ = "statistics/read"
    CONFIGURATIONS_READ = "configurations/read"
    CONFIGURATIONS_WRITE = "configurations/write"
    CONFIGURATIONS_DELETE = "configurations/delete"
    CONFIGURATIONS_APPLY = "configurations/applyToEdgeDevice/action"
    CONFIGURATIONS_TEST = "configurations/testQueries/action"


class Role(NamedTuple):
    """A built-in role. ``patterns`` match data actions; ``*`` stands for any text, blanks and slashes included."""

    name: str
    patterns: tuple[str, ...]

    @property
    def actions(self) -> frozenset[DataAction]:
        """All that the role allows."""
        return frozenset(one for one in DataAction if any(fnmatchcase(one, pattern) for pattern in self.patterns))


ROLES = (
    Role("IoT Hub Data Contributor", ("*",)),
    Role("IoT Hub Data Reader", ("*/read", "fileUpload/notifications/action")),
    Role("IoT Hub Registry Contributor", ("devices/*",)),
    Role("IoT Hub Twin Contributor", ("twins/*",)),
)
