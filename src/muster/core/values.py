"""``value``: ``dataclass`` for what is made with every connect and then only read.

To the type checker it is ``dataclass`` itself, so ``frozen=True`` is held to there. At run time nothing is frozen: a
frozen dataclass sets each field through ``object.__setattr__`` and takes twice as long to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

__all__ = ["value"]

if TYPE_CHECKING:
    from dataclasses import dataclass as value
else:

    def value(*, frozen: Literal[True], **options: Any) -> Any:
        """See the module. Compared and hashed by its fields."""
        return dataclass(unsafe_hash=frozen, **options)
