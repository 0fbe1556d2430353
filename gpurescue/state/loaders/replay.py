"""A DataLoader with workers over an iterable-style dataset that fails.

No worker can be sent to the middle of a dataset whose items come in turn. New ones
begin the epoch again, pass over what was given (``way``), and go on from there.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.state.again import Refused
from gpurescue.state.loaders.crew import Crew, Turns
from gpurescue.state.loaders.remake import remake
from gpurescue.state.loaders.ring import BEGINNING, Stand
from gpurescue.state.loaders.way import Way
from gpurescue.state.loaders.worker import Start

_PAUSE = 0.01  # seconds between looks at how far the workers are


def rollback(iterator: Any, crew: Crew, is_given: bool) -> Replay | Refused:
    """What to do about a failed batch.

    Args:
        iterator: The DataLoader's.
        crew: Its workers.
        is_given: True if the failure came out of a batch, and not of waiting for it.
    """
    if not crew.is_ordered:
        return Refused(
            "with in_order=False it is not known which items each worker has given"
        )
    turns = iterator._workers_status
    assert isinstance(turns, Turns)
    worker, number = turns.of(iterator._rcvd_idx - is_given)
    return Replay(iterator, crew, worker, number)


@dataclass(slots=True)
class Replay:
    """A ``Rollback``: new workers go the way of the old ones.

    Attributes:
        iterator: The DataLoader's.
        crew: Its workers.
        worker: Whose turn the failed batch was.
        number: How many this worker had given before.
    """

    iterator: Any
    crew: Crew
    worker: int
    number: int
    _starts: dict[int, Start] = field(default_factory=dict)
    _has_told: bool = False

    gives_again = True
    is_exact = True

    @property
    def note(self) -> str:
        """For the plan."""
        num, passed = self.crew.num_workers, self.iterator._num_yielded
        who = f"{num} new workers begin" if num > 1 else "a new worker begins"
        text = f"{who} the epoch of the dataset again"
        if passed:
            over = "pass" if num > 1 else "passes"
            given = f"{passed} batches" if passed > 1 else "batch"
            text += f", {over} over the {given} already given"
        return text + (", even if other ones come now" if self._has_told else "")

    def apply(self) -> None:
        """Go on with the batch that failed."""
        self._start_over(skips=False)

    def skip(self) -> None:
        """Go on with the batch behind it."""
        self._start_over(skips=True)

    def _start_over(self, *, skips: bool) -> None:
        iterator, crew = self.iterator, self.crew
        iterator._shutdown_workers()
        if not self._starts:  # what they have noted is known now
            self._starts = {w: self._start(w) for w in range(crew.num_workers)}
        starts = dict(self._starts)
        if skips:
            starts[self.worker] = _one_more(starts[self.worker])
        crew.take_over_settings()
        crew.begin_at(starts)
        first = self.number * crew.num_workers + self.worker + skips
        remake(iterator, crew, first, iter(iterator._index_sampler))
        self._wait()

    def _start(self, worker: int) -> Start:
        crew = self.crew
        number = self.number + (worker < self.worker)
        before = crew.starts.get(worker, Start())
        way = before.way if before.epoch == crew.epoch else None
        known = dict(way.known) if way is not None else {}
        if crew.ring.arrivals.is_here(worker):
            known |= crew.ring.of_epoch(worker, crew.epoch)
        return Start(
            crew.epoch,
            number,
            self._beginning(worker, before),
            Way(
                next(iter(self.iterator._index_sampler)),
                {at: stand for at, stand in known.items() if at <= number},
                way.skipped if way is not None else frozenset(),
            ),
        )

    def _beginning(self, worker: int, before: Start) -> Stand | None:
        """Where the streams stood when the epoch began; None for as they are seeded."""
        crew = self.crew
        stand = crew.ring.read(worker, crew.epoch, BEGINNING)
        if stand is None and before.epoch == crew.epoch:
            return before.stand
        if stand is None:
            raise CannotResume(
                f"worker {worker} was killed as it began an epoch, and where its "
                "random numbers stood is lost"
            )
        return stand

    def _wait(self) -> None:
        """Until all have come, or no more will."""
        crew = self.crew
        arrivals = crew.ring.arrivals
        self._wait_for_arrivals()
        lost = arrivals.elsewhere()
        if lost and not self._has_told:
            self._has_told = True
            self.iterator._shutdown_workers()
            raise CannotResume(
                f"worker {lost[0]} has begun the epoch again, and the dataset gave it "
                "other items than before: some of the data would be lost or come "
                "twice. %resume goes on with what comes now"
            )

    def _wait_for_arrivals(self) -> None:
        iterator, arrivals = self.iterator, self.crew.ring.arrivals
        seen: dict[int, int] = {}
        moved = time.monotonic()
        while coming := arrivals.on_the_way():
            if not all(iterator._workers[worker].is_alive() for worker in coming):
                return
            if coming != seen:
                seen, moved = coming, time.monotonic()
            elif 0 < iterator._timeout < time.monotonic() - moved:
                return
            time.sleep(_PAUSE)


def _one_more(start: Start) -> Start:
    """Pass over the batch behind, too."""
    way, number = start.way, start.number
    assert way is not None
    longer = Way(way.index, way.known, way.skipped | {number})
    return Start(start.epoch, number + 1, start.stand, longer)
