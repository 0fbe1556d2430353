"""The two answers to a library call that failed: it can run again, or why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Again:
    """A ``Rollback``: the call runs again as if it had never begun."""

    note: str
    _apply: Callable[[], None]
    gives_again: bool = True
    is_exact: bool = True

    def apply(self) -> None:
        """Put back what the failed attempt had drawn or changed."""
        self._apply()


@dataclass(frozen=True, slots=True)
class Refused:
    """A ``Rollback`` that there is not: what was half done is lost."""

    note: str
    gives_again: bool = False
    is_exact: bool = False

    def apply(self) -> None:
        """Nothing: it is refused."""
