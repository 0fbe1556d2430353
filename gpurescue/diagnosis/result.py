"""What is said about one value, and what may be spent on finding it out."""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_ELEMENTS = 1_000_000


class Kind(enum.Enum):
    """What sort of value a summary is about."""

    ATOM = "atom"
    TEXT = "text"
    CONTAINER = "container"
    TENSOR = "tensor"
    ARRAY = "array"
    TABLE = "table"
    MODEL = "model"
    OPTIMIZER = "optimizer"
    LOADER = "loader"
    DEFINITION = "definition"
    OBJECT = "object"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One value in one line.

    Attributes:
        kind: What sort of value it is.
        text: What it is.
        warning: What looks wrong about it, such as ``3 NaN``.
    """

    kind: Kind
    text: str
    warning: str = ""

    def __str__(self) -> str:
        return f"{self.text}, {self.warning}" if self.warning else self.text


@dataclass(slots=True)
class Budget:
    """How many elements of arrays may still be read for statistics."""

    elements: int = 4 * MAX_ELEMENTS

    def take(self, count: int) -> bool:
        """Spend ``count`` elements; False if one array, or all, would be too much."""
        if count > min(MAX_ELEMENTS, self.elements):
            return False
        self.elements -= count
        return True


def cut(text: str, limit: int) -> str:
    """``text``, cut to ``limit`` characters with a mark where it was cut."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
