"""What runs in a worker process: noting where its random streams stand.

The fetcher notes it when its ``fetch`` is looked up, so no frame of ours is on the
stack when a sample fails, and the traceback that a worker sends is the user's own.
Nothing can note where an iterable-style dataset has come to: of what it gave there is a
fingerprint, and a worker in the place of another goes the same way again (``way``).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import util
from typing import Any

from gpurescue.state.loaders import streams, way
from gpurescue.state.loaders.fingerprint import fingerprint
from gpurescue.state.loaders.ring import BEGINNING, Ring, Stand
from gpurescue.state.loaders.way import Way

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a worker begins: the next batch of an epoch that others had begun.

    Attributes:
        epoch: Number of the epoch.
        number: Batches of this worker that are done in it.
        stand: Where its streams stood then; None for how they are seeded.
        way: For a dataset whose items come in turn: ``stand`` is that of the beginning
            of the epoch, and this is what comes between.
    """

    epoch: int = 0
    number: int = 0
    stand: Stand | None = None
    way: Way | None = None


@dataclass(slots=True)
class Entrance:
    """The ``worker_init_fn`` of the workers of a run.

    Attributes:
        own: The user's, if there is one.
        ring: Where to note.
        starts: Where workers go on that take the place of others.
    """

    own: Callable[[int], None] | None
    ring: Ring
    starts: dict[int, Start] = field(default_factory=dict)

    def __call__(self, worker: int) -> None:
        """Called in each worker, before it makes its fetcher."""
        arrivals = self.ring.arrivals
        with arrivals.expected(worker):
            if self.own is not None:
                self.own(worker)
        kind = sys.modules["torch.utils.data"]._DatasetKind
        start = self.starts.get(worker, Start())
        noting = _Noting(self.ring, worker, start, kind.create_fetcher)
        kind.create_fetcher = staticmethod(noting.create_fetcher)
        util.Finalize(None, noting.note, exitpriority=100)


class _Noting:
    """Notes the streams of one worker."""

    def __init__(
        self, ring: Ring, worker: int, start: Start, create: Callable[..., Any]
    ) -> None:
        self._ring = ring
        self._worker = worker
        self._epoch = start.epoch - 1
        self._number = 0
        self._first: Start | None = start
        self._create = create
        self._streams: list[streams.Stream] = []
        self._given: int | None = None  # of the items; None where they have indices
        self._is_next_given = False

    def create_fetcher(
        self, kind: Any, dataset: Any, batched: bool, collate: Any, *more: Any
    ) -> Any:
        """In the place of torch's: called at the beginning of each epoch."""
        start, self._first = self._first, None
        arrivals = self._ring.arrivals
        with arrivals.expected(self._worker):
            self._tried(self._begin, start, dataset, collate)
            fetcher = self._create(kind, dataset, batched, collate, *more)
            self._tried(self._stand_in_front, fetcher)
            is_here = True
            if start is not None and start.way is not None:
                walker = way.Walker(self, fetcher, arrivals, self._worker)
                is_here = walker.go(start.way, start.number)
        arrivals.has_come(self._worker, is_here=is_here)
        return fetcher

    def _tried(self, step: Callable[..., None], *arguments: Any) -> None:
        try:
            step(*arguments)
        except Exception:  # noqa: BLE001 - the worker works as ever
            _log.warning("A worker's random streams are not noted.", exc_info=True)

    def _begin(self, start: Start | None, dataset: Any, collate: Any) -> None:
        self._epoch += 1
        self._number = 0
        self._given = None
        self._streams = streams.streams(dataset, collate)
        if start is not None:
            self._number = start.number if start.way is None else 0
            states = dict(start.stand or ())
            for stream in self._streams:
                if stream.name in states:
                    stream.write(states[stream.name])
        self._ring.note(self._worker, self._epoch, BEGINNING, self.stand())

    def _stand_in_front(self, fetcher: Any) -> None:
        fetcher.__class__ = _noting_class(type(fetcher))
        fetcher._gr_noting = self
        if hasattr(fetcher, "dataset_iter"):
            self._given = 0
            # Not a generator: no frame of ours is to be in the user's traceback.
            fetcher.dataset_iter = map(self._saw, fetcher.dataset_iter)

    def _saw(self, item: Any) -> Any:
        """One item of each batch is enough to know a dataset that went elsewhere."""
        if self._is_next_given:
            self._is_next_given = False
            self._given = fingerprint(item, self._given or 0)
        return item

    @property
    def number(self) -> int:
        """How many batches were asked for in this epoch."""
        return self._number

    def stand(self) -> Stand:
        """Where the streams stand."""
        stand = [(stream.name, stream.read()) for stream in self._streams]
        if self._given is not None:
            stand.append(("given", self._given.to_bytes(4, "little")))
        return stand

    def note(self) -> None:
        """Where the streams stand before the next batch."""
        if self._streams:
            self._ring.note(self._worker, self._epoch, self._number, self.stand())

    def next_batch(self) -> None:
        """A batch is about to be fetched."""
        self.note()
        self._number += 1
        self._is_next_given = self._given is not None


def _noting_class(kind: type) -> type:
    """The same class of fetchers, but looking up ``fetch`` is noted."""

    def fetch(self: Any) -> Any:
        self._gr_noting.next_batch()
        return kind.fetch.__get__(self)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"fetch": property(fetch)})
