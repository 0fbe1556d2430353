"""What runs in a worker process: noting where its random streams stand.

The fetcher notes it when its ``fetch`` is looked up, so no frame of ours is on the
stack when a sample fails, and the traceback that a worker sends is the user's own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import util
from typing import Any

from gpurescue.state.loaders import streams
from gpurescue.state.loaders.ring import Ring, Stand

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a worker begins: the next batch of an epoch that others had begun.

    Attributes:
        epoch: Number of the epoch.
        number: Batches of this worker that are done in it.
        stand: Where its streams stood then; None for how they are seeded.
    """

    epoch: int = 0
    number: int = 0
    stand: Stand | None = None


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
        self._number = start.number
        self._first: Start | None = start
        self._create = create
        self._streams: list[streams.Stream] = []

    def create_fetcher(
        self, kind: Any, dataset: Any, batched: bool, collate: Any, *more: Any
    ) -> Any:
        """In the place of torch's: called at the beginning of each epoch."""
        fetcher = self._create(kind, dataset, batched, collate, *more)
        try:
            self._begin(fetcher, dataset, collate)
        except Exception:  # noqa: BLE001 - the worker works as ever
            _log.warning("A worker's random streams are not noted.", exc_info=True)
        return fetcher

    def _begin(self, fetcher: Any, dataset: Any, collate: Any) -> None:
        self._epoch += 1
        self._number = 0
        self._streams = streams.streams(dataset, collate)
        if self._first is not None:
            self._go_on_from(self._first)
            self._first = None
        fetcher.__class__ = _noting_class(type(fetcher))
        fetcher._gr_noting = self

    def _go_on_from(self, start: Start) -> None:
        self._number = start.number
        states = dict(start.stand or ())
        for stream in self._streams:
            if stream.name in states:
                stream.write(states[stream.name])

    def note(self) -> None:
        """Where the streams stand before the next batch."""
        if self._streams:
            stand = [(stream.name, stream.read()) for stream in self._streams]
            self._ring.note(self._worker, self._epoch, self._number, stand)

    def next_batch(self) -> None:
        """A batch is about to be fetched."""
        self.note()
        self._number += 1


def _noting_class(kind: type) -> type:
    """The same class of fetchers, but looking up ``fetch`` is noted."""

    def fetch(self: Any) -> Any:
        self._gr_noting.next_batch()
        return kind.fetch.__get__(self)  # type: ignore[attr-defined]

    return type(kind.__name__, (kind,), {"fetch": property(fetch)})
