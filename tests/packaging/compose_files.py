"""Compose files as Compose reads them: with values in the place of variables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


class UnsetVariableError(Exception):
    """``${NAME:?why}`` of a variable that is not there; its text is why."""


def interpolated(path: Path, variables: Mapping[str, str]) -> str:
    """The text of a compose file. Raises ``UnsetVariableError``."""

    def value(found: re.Match[str]) -> str:
        name, kind, text = found.groups()
        if variables.get(name):
            return variables[name]
        if kind == "?":
            raise UnsetVariableError(f"{name}: {text}")
        return text or ""

    return _VARIABLE.sub(value, path.read_text())


def services_of(path: Path, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Each service with what it inherits."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(path, variables))["services"]
    return services
