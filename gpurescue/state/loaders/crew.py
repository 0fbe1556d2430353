"""The workers of a DataLoader's iterator: what it takes to start others in their place.

torch forgets the indices of a batch as soon as it has sent them to a worker, and an
iterator forgets its DataLoader. Both are kept here, and the workers note where their
random streams stand.
"""

from __future__ import annotations

import multiprocessing
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from gpurescue.state.loaders import streams
from gpurescue.state.loaders.ring import Ring, capacity_for
from gpurescue.state.loaders.worker import Entrance, Start

CREW = "_gr_crew"

_MOST_OUT_OF_ORDER = 1024
_SPARE_SLOTS = 3
_DERIVED = ("_auto_collation", "_index_sampler", "multiprocessing_context")
_MAY_BE_SET = ("collate_fn", "timeout", "worker_init_fn")


class Sent:
    """Stands in front of a sampler's iterator and remembers what it gave last."""

    def __init__(self, inner: Iterator[Any], first: int, num_kept: int) -> None:
        self.inner = inner
        self.num_given = first
        self._last: deque[Any] = deque(maxlen=num_kept)
        self._keep = self._last.append

    def __iter__(self) -> Sent:
        return self

    def __next__(self) -> Any:
        index = next(self.inner)
        self._keep(index)
        self.num_given += 1
        return index

    def __getitem__(self, task: int) -> Any:
        age = self.num_given - task
        if not 0 < age <= len(self._last):
            raise LookupError(task)
        return self._last[-age]


@dataclass(slots=True)
class Crew:
    """What is known of the workers of one iterator.

    Attributes:
        run: Whose workers they are: where no run watches they are left alone.
        options: What the DataLoader says; it is not kept alive itself.
        loader: The DataLoader, as long as it is.
        ring: Where the workers note their streams.
        epoch: Number of the epoch that the iterator is in.
        starts: Where the workers began, if in the place of others.
        base_seed: What the workers are seeded from while they are replaced.
    """

    run: object
    options: dict[str, Any]
    loader: weakref.ref[Any]
    ring: Ring
    epoch: int = -1
    starts: dict[int, Start] = field(default_factory=dict)
    base_seed: int | None = None

    @property
    def num_workers(self) -> int:
        """How many there are."""
        return int(self.options["num_workers"])

    @property
    def is_ordered(self) -> bool:
        """True if batches are given in the order in which they were sent for."""
        return bool(self.options.get("in_order", True))

    def remembering(self, indices: Iterator[Any], first: int = 0) -> Sent:
        """In front of a sampler's iterator."""
        num_kept = _num_slots(self.options)
        if not self.is_ordered:
            num_kept = max(num_kept, _MOST_OUT_OF_ORDER)
        return Sent(indices, first, num_kept)

    def take_over_settings(self) -> None:
        """What the user may have set on the DataLoader meanwhile."""
        loader = self.loader()
        if loader is not None:
            self.options |= {name: getattr(loader, name) for name in _MAY_BE_SET}

    def begin_at(self, starts: dict[int, Start]) -> None:
        """The next workers begin there."""
        self.starts, self.ring = starts, _new_ring(self.options)

    def stand_in(self) -> SimpleNamespace:
        """What the iterator takes for its DataLoader while its workers start."""
        entrance = Entrance(self.options["worker_init_fn"], self.ring, self.starts)
        return SimpleNamespace(**{**self.options, "worker_init_fn": entrance})


def hired(loader: Any, run: object) -> Crew:
    """A crew for a new iterator of ``loader``."""
    options = {name: getattr(loader, name) for name in _DERIVED} | vars(loader)
    options.pop("_iterator", None)
    return Crew(run, options, weakref.ref(loader), _new_ring(options))


def _new_ring(options: dict[str, Any]) -> Ring:
    found = streams.streams(options["dataset"], options["collate_fn"])
    stand = [(stream.name, stream.read()) for stream in found]
    context = options["multiprocessing_context"] or multiprocessing
    return Ring(
        context, options["num_workers"], _num_slots(options), capacity_for(stand)
    )


def _num_slots(options: dict[str, Any]) -> int:
    """Batches that can be on their way, and some to spare."""
    return int(options["prefetch_factor"] * options["num_workers"]) + _SPARE_SLOTS
