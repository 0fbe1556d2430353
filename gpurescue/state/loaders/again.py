"""The two answers to a DataLoader that failed: the same again, or why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Again:
    """A ``Rollback``: the iterator, asked again, gives the same batch."""

    note: str
    _apply: Callable[[], None]
    gives_again: bool = True
    is_exact: bool = True

    def apply(self) -> None:
        """Put back what the failed attempt had drawn."""
        self._apply()


@dataclass(frozen=True, slots=True)
class Refused:
    """A ``Rollback`` that there is not: the batch is lost."""

    note: str
    gives_again: bool = False
    is_exact: bool = False

    def apply(self) -> None:
        """Nothing: it is refused."""
