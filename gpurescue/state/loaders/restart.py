"""A DataLoader with workers that fails: new workers for the batches not yet given.

A worker sends its exception and goes on with the code that it was started with. So
after a fix all are replaced: the new ones have the new code, begin with the batch that
failed, and draw the random numbers that the old ones drew for it. The iterator stays
the same object, which the user's loop holds.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

from gpurescue.state.again import Refused
from gpurescue.state.dead import names_of
from gpurescue.state.loaders import replay
from gpurescue.state.loaders.crew import CREW, Crew, Sent, Turns
from gpurescue.state.loaders.remake import remake
from gpurescue.state.loaders.worker import Start


def rollback(
    frame: FrameType, inner: dict[CodeType, FrameType]
) -> Replacement | replay.Replay | Refused:
    """What to do about a failed ``_next_data``.

    Args:
        frame: Its dead frame.
        inner: The dead frames of what it had called, by their code.
    """
    names = names_of(frame)
    iterator = names["self"]
    kind, crew = type(iterator), vars(iterator).get(CREW)
    sent, turns = iterator._sampler_iter, iterator._workers_status
    if isinstance(crew, Crew) and isinstance(turns, Turns):
        return replay.rollback(iterator, crew, kind._process_data.__code__ in inner)
    if not isinstance(crew, Crew) or not isinstance(sent, Sent):
        return Refused(_why_not(iterator))
    if kind._try_put_index.__code__ in inner:
        return Refused(
            "the sampler, which says what comes next, has ended with the failure"
        )
    failed = []
    if kind._process_data.__code__ in inner:
        # In order it is the last one given, which may have been there for a while.
        failed = [iterator._rcvd_idx - 1 if crew.is_ordered else names["idx"]]
    tasks = _tasks(iterator, crew, failed)
    if not tasks or sent.num_given != iterator._send_idx:
        return Refused("which batches the workers had begun is not known")
    try:
        indices = [sent[task] for task in tasks]
    except LookupError:
        return Refused("the indices of the batch are not known any more")
    return Replacement(iterator, crew, tuple(tasks), indices, sent.inner)


def _why_not(iterator: Any) -> str:
    if getattr(iterator, "_shared_seed", None) is not None:
        return "workers over a DataPipe cannot be replaced"
    return "the workers of the DataLoader were started before the run began"


def _tasks(iterator: Any, crew: Crew, failed: list[int]) -> Sequence[int] | None:
    """Numbers of the batches that were sent for and not given yet; the failed first."""
    waiting = iterator._task_info
    if not crew.is_ordered:
        return [*failed, *sorted(waiting)]
    first = failed[0] if failed else iterator._rcvd_idx
    in_turn = (info[0] == t % crew.num_workers for t, info in waiting.items())
    return range(first, iterator._send_idx) if all(in_turn) else None


@dataclass(slots=True)
class Replacement:
    """A ``Rollback``: new workers in the place of the old ones."""

    iterator: Any
    crew: Crew
    tasks: tuple[int, ...]
    indices: list[Any]
    rest: Iterator[Any]

    gives_again = True

    @property
    def is_exact(self) -> bool:
        """True if each new worker can draw the random numbers of the old one."""
        return not self._lost()

    @property
    def note(self) -> str:
        """For the plan."""
        lost = self._lost()
        if lost:
            return (
                f"worker {lost[0]} was killed, and where its random numbers stood is "
                "lost"
            )
        num = self.crew.num_workers
        who = f"{num} new workers fetch" if num > 1 else "a new worker fetches"
        behind = len(self.tasks) - 1
        more = f" and the {behind} behind it" if behind else ""
        return f"{who} the same batch{more} again"

    def apply(self) -> None:
        """Start over with the batch that failed."""
        self._start_over(0)

    def skip(self) -> None:
        """Start over with the batch behind it."""
        self._start_over(1)

    def _lost(self) -> list[int]:
        workers = self.iterator._workers
        return [
            number
            for number, start in self._starts(0).items()
            if start is None and not workers[number].is_alive()
        ]

    def _starts(self, num_skipped: int) -> dict[int, Start | None]:
        """Where each worker begins; None where that is not known, or not yet."""
        first = self._first + num_skipped
        return {
            worker: self._start(worker, first)
            for worker in range(self.crew.num_workers)
        }

    @property
    def _first(self) -> int:
        """Number of the failed batch; those out of order get the last numbers."""
        if self.crew.is_ordered:
            return self.tasks[0]
        return int(self.iterator._send_idx) - len(self.tasks)

    def _start(self, worker: int, first: int) -> Start | None:
        crew = self.crew
        if not crew.is_ordered:  # then nothing says which worker draws for a batch
            return Start(crew.epoch, 0, crew.ring.last(worker))
        return crew.start(worker, first)

    def _start_over(self, num_skipped: int) -> None:
        # Each worker notes where it stands when it ends.
        self.iterator._shutdown_workers()
        starts = self._starts(num_skipped)
        indices = itertools.chain(self.indices[num_skipped:], self.rest)
        first = self._first + num_skipped
        crew = self.crew
        crew.take_over_settings()
        crew.begin_at({w: start or Start() for w, start in starts.items()})
        remake(self.iterator, crew, first, crew.remembering(indices, first))
