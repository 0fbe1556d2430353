"""The way of a worker through an epoch that another worker had begun.

The items of an iterable-style dataset come in turn, and none can be asked for by index.
So a new worker begins the epoch again, with the random streams of its beginning, and
passes over the batches that were given. If the dataset gives the same for the same
streams it is then where the old one was; what that one noted says if it is so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from gpurescue.state.loaders.arrivals import Arrivals
from gpurescue.state.loaders.ring import Stand


@dataclass(frozen=True, slots=True)
class Way:
    """Batches to pass over.

    Attributes:
        index: What the fetcher is asked for each of them with.
        known: What the worker before had noted, by number of the batch.
        skipped: Numbers of batches that are left out: they are not collated.
    """

    index: Any
    known: dict[int, Stand]
    skipped: frozenset[int] = frozenset()


class Noting(Protocol):
    """What is noted of a worker."""

    @property
    def number(self) -> int:
        """How many batches were asked for."""
        ...

    def stand(self) -> Stand:
        """Where it is."""
        ...


@dataclass(frozen=True, slots=True)
class Walker:
    """Passes over batches."""

    noting: Noting
    fetcher: Any
    arrivals: Arrivals
    worker: int

    def go(self, way: Way, number: int) -> bool:
        """Pass over ``number`` batches; True if it is there where it should be."""
        is_same = True
        for passed in range(number):
            self.arrivals.is_at(self.worker, passed)
            is_same &= self._is_on(way)
            try:
                self._pass(way.index, collates=passed not in way.skipped)
            except StopIteration:
                break
        at = self.noting.number
        return is_same and self._is_on(way) and max(way.known, default=at) <= at

    def _is_on(self, way: Way) -> bool:
        stand = self.noting.stand()
        return way.known.get(self.noting.number, stand) == stand

    def _pass(self, index: Any, *, collates: bool) -> None:
        fetcher, collate = self.fetcher, self.fetcher.collate_fn
        if not collates:
            fetcher.collate_fn = id
        try:
            fetcher.fetch(index)
        finally:
            fetcher.collate_fn = collate
