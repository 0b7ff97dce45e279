"""Indexes on properties of twins that the operator has named, as far as they are the same in all databases.

A database keeps them in step with every write, within the write's own transaction; a hub that starts with other
properties makes and drops them first.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from muster.core.errors import ARGUMENT_INVALID, HubError
from muster.core.query_limits import QUERY_INDEXES
from muster.stores.sql.query_dialect import Dialect
from muster.stores.sql.query_operands import Bindings, can_be, place_of
from muster.twins.query.parser import parse_path
from muster.twins.query.syntax import Path, Scalar

PREFIX = "twin_property_"
"""What the names of all these indexes begin with."""


class PropertyIndexes(ABC):
    """The indexed properties, by the names of their indexes."""

    dialect: ClassVar[Dialect]

    def __init__(self, properties: Sequence[str]) -> None:
        """``properties`` as queries name them: ``tags.building``, ``properties.reported.firmware.version``.

        Raises ``HubError`` 400004 for what is no path of tags, desired or reported properties, or too many.
        """
        if len(properties) > QUERY_INDEXES.open:
            raise HubError(
                ARGUMENT_INVALID, f"{len(properties)} properties are to be indexed, {QUERY_INDEXES.open} are allowed."
            )
        self.paths = {self.name_of(path): path for path in map(_path, properties)}

    def __contains__(self, path: Path) -> bool:
        return self.name_of(path) in self.paths

    @staticmethod
    def name_of(path: Path) -> str:
        """The name of the index on ``path``."""
        steps = json.dumps([path.field, *path.steps], ensure_ascii=False)
        return PREFIX + hashlib.sha256(steps.encode()).hexdigest()[:16]

    @abstractmethod
    def search(self, path: Path, values: Sequence[Scalar], bindings: Bindings) -> str:
        """A condition that the index on ``path`` answers, true at least where ``path`` is one of ``values``."""


def _path(text: str) -> Path:
    try:
        path = parse_path(text)
        place = place_of(path)
    except HubError:
        place = None
    if place is None or not can_be(place[1]):
        raise HubError(
            ARGUMENT_INVALID,
            f"{text} cannot be indexed, name a property: tags.<name>, properties.desired.<name> or "
            "properties.reported.<name>.",
        )
    return path
