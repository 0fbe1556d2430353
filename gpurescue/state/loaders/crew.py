"""The workers of a DataLoader's iterator: what it takes to start others in their place.

torch forgets the indices of a batch as soon as it has sent them to a worker, and an
iterator forgets its DataLoader. Both are kept here, and the workers note where their
random streams stand.
"""

from __future__ import annotations

import itertools
import multiprocessing
import sys
import weakref
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from gpurescue.state.loaders import drawn, streams
from gpurescue.state.loaders.drawn import Beginning, Drawn
from gpurescue.state.loaders.ring import BEGINNING, Ring, capacity_for
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


class Turns(list[bool]):
    """Which workers have work left; remembers when one has come to its end.

    In the place of ``_workers_status``. From that follows whose turn a batch was.
    """

    def __init__(self, iterator: Any) -> None:
        super().__init__(iterator._workers_status)
        self._iterator = weakref.ref(iterator)
        self._ends: dict[int, int] = {}

    def __setitem__(self, worker: Any, has_work: Any) -> None:
        iterator = self._iterator()
        if not has_work and iterator is not None:
            self._ends.setdefault(worker, iterator._send_idx)
        super().__setitem__(worker, has_work)

    def of(self, task: int) -> tuple[int, int]:
        """Which worker had to do it, and how many it had done before."""
        num_done = [0] * len(self)
        in_turn = itertools.cycle(range(len(self)))
        for at in range(task):
            num_done[self._next(in_turn, at)] += 1
        worker = self._next(in_turn, task)
        return worker, num_done[worker]

    def _next(self, in_turn: Iterator[int], task: int) -> int:
        return next(w for w in in_turn if self._ends.get(w, task + 1) > task)


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
        drawn: How far the sampler has come in the epoch; None where it says nothing.
    """

    run: object
    options: dict[str, Any]
    loader: weakref.ref[Any]
    ring: Ring
    epoch: int = -1
    starts: dict[int, Start] = field(default_factory=dict)
    base_seed: int | None = None
    drawn: Drawn | None = None

    @property
    def num_workers(self) -> int:
        """How many there are."""
        return int(self.options["num_workers"])

    @property
    def is_ordered(self) -> bool:
        """True if batches are given in the order in which they were sent for."""
        return bool(self.options.get("in_order", True))

    @property
    def has_indices(self) -> bool:
        """True if an item can be asked for again; others come in turn."""
        kind = sys.modules["torch.utils.data"]._DatasetKind
        return bool(self.options["_dataset_kind"] == kind.Map)

    def remembering(self, indices: Iterator[Any], first: int = 0) -> Sent:
        """In front of a sampler's iterator."""
        num_kept = _num_slots(self.options)
        if not self.is_ordered:
            num_kept = max(num_kept, _MOST_OUT_OF_ORDER)
        return Sent(indices, first, num_kept)

    def beginning(self, iterator: Any) -> Beginning:
        """Where the sampler is going to begin an epoch."""
        generator = self.options["generator"]
        return drawn.beginning(iterator._index_sampler, generator)

    def begin_epoch(self, iterator: Any, beginning: Beginning | None) -> None:
        """What its sampler gives is remembered from now on."""
        self.epoch += 1
        self.drawn = None
        if self.has_indices:
            inner = iterator._sampler_iter
            if beginning is not None:
                inner = self.drawn = Drawn(inner, beginning)
            iterator._sampler_iter = self.remembering(inner)

    def take_turns(self, iterator: Any) -> None:
        """Where there is no index to remember: whose turn it is."""
        if not self.has_indices:
            iterator._workers_status = Turns(iterator)

    def start(self, worker: int, first: int) -> Start | None:
        """How a worker begins in the place of another; None if that is not known.

        Args:
            worker: Its number.
            first: The batch that all begin with, in the order of the epoch.
        """
        number = (first - worker + self.num_workers - 1) // self.num_workers
        stand = self.ring.read(worker, self.epoch, number)
        if stand is None and not number:
            stand = self.ring.read(worker, self.epoch, BEGINNING)
        if stand is None and self.ring.is_still(worker):
            stand = self.ring.last(worker)
        before = self.starts.get(worker, Start())
        if stand is None and (before.epoch, before.number) == (self.epoch, number):
            return before
        return Start(self.epoch, number, stand) if stand is not None else None

    def take_over_settings(self) -> None:
        """What the user may have set on the DataLoader meanwhile."""
        loader = self.loader()
        if loader is not None:
            self.options |= {name: getattr(loader, name) for name in _MAY_BE_SET}

    def begin_at(self, starts: dict[int, Start]) -> None:
        """The next workers begin there."""
        self.starts, self.ring = starts, new_ring(self.options)

    def stand_in(self) -> SimpleNamespace:
        """What the iterator takes for its DataLoader while its workers start."""
        entrance = Entrance(self.options["worker_init_fn"], self.ring, self.starts)
        return SimpleNamespace(**{**self.options, "worker_init_fn": entrance})


def hired(loader: Any, run: object) -> Crew | None:
    """A crew for a new iterator of ``loader``; None if it cannot be replaced."""
    pipe = getattr(sys.modules["torch.utils.data"], "IterDataPipe", ())
    if isinstance(loader.dataset, pipe):
        return None  # its workers are seeded by the iterator, once more
    options = {name: getattr(loader, name) for name in _DERIVED} | vars(loader)
    options.pop("_iterator", None)
    return Crew(run, options, weakref.ref(loader), new_ring(options))


def new_ring(options: dict[str, Any]) -> Ring:
    """Where workers with these options note their streams."""
    found = streams.streams(options["dataset"], options["collate_fn"])
    stand = [(stream.name, stream.read()) for stream in found]
    context = options["multiprocessing_context"] or multiprocessing
    return Ring(
        context, options["num_workers"], _num_slots(options), capacity_for(stand)
    )


def _num_slots(options: dict[str, Any]) -> int:
    """Batches that can be on their way, and some to spare."""
    return int(options["prefetch_factor"] * options["num_workers"]) + _SPARE_SLOTS
