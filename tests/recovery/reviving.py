"""Takes a program apart at tops of rounds, and goes on from each in a copy."""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import harness
from cloudpickle import cloudpickle

from gpurescue.errors import CannotResume
from gpurescue.recovery import generators, loops, points, revival, switch
from gpurescue.recovery.engine import Body, Run, State
from gpurescue.recovery.hands import Rounds
from gpurescue.recovery.loops import Clock
from gpurescue.recovery.points import Point
from gpurescue.recovery.suspension import held_frames
from gpurescue.source import cells, origins
from gpurescue.state import graph, rebuilding, reopening

STACK = "<stack>"
TIMEOUT = 20.0


@dataclass
class Taker:
    """A watcher that takes a copy of the program whenever it may be gone on from.

    Attributes:
        names: The program's variables.
        taken: Copies, as bytes.
        texts: The sources of each.
        refused: Why there is no copy of others.
    """

    names: dict[str, Any]
    taken: list[bytes] = field(default_factory=list)
    texts: list[dict[str, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    most: int = 1000

    def wants(self) -> bool:
        return True

    def look(self, frame: FrameType, num_rounds: int) -> float:
        if len(self.taken) >= self.most:
            return float("inf")
        try:
            found = points.points(frame)
            revival.check(found)
        except CannotResume as error:
            self.refused[str(error)] += 1
            return 0.0
        plain = {k: v for k, v in self.names.items() if not k.startswith("__")}
        roots = {**plain, STACK: found}
        texts: dict[str, str] = {}
        for point in found:
            unit = cells.unit(point.source)
            assert unit is not None
            texts[point.source] = unit.source
        program = graph.Program(
            namespace=self.names,
            generators=generators.reduced,
            origins=lambda code, module: origins.origin(code, module, texts),
        )
        made = graph.capture(roots, program=program)
        if made.lost:
            self.refused[f"lost: {made.lost}"] += 1
        else:
            self.taken.append(made.data)
            self.texts.append(texts)
        return 0.0


class Showing:
    """``T``, which has the next round of any loop shown to a taker.

    Args:
        probe: What ``T`` is by itself, and in copies.
        taker: Takes them.
    """

    def __init__(self, probe: Any, taker: Taker) -> None:
        self.run: Run | None = None
        self._probe = probe
        self._taker = taker

    def __reduce__(self) -> tuple[Any, ...]:
        return _itself, (self._probe,)

    def __repr__(self) -> str:
        return "T"

    def __call__(self, *given: Any) -> Any:
        if self.run is not None and threading.get_ident() == self.run.thread_id:
            held = held_frames(sys._getframe(), self.run._answers.base, None)
            waiting = [(h.frame, h.definition) for h in points.chain(held)]
            switch.arm_look(waiting, self._see)
        return self._probe(*given)

    def _see(self, frame: FrameType) -> bool:
        self._taker.look(frame, 0)
        return True


def _itself(probe: Any) -> Any:
    return probe


def rejoining(clock: Clock) -> Any:
    """What ``revival.revived`` asks for iterators."""

    def rejoin(rounds: Rounds) -> Any:
        return clock.rejoin(rounds) if rounds.count else rounds.iterator

    return rejoin


def revive(data: bytes, taker: Taker | None = None) -> tuple[dict[str, Any], Run]:
    """Go on from a copy; the variables and the run, which is over or parked."""
    names: dict[str, Any] = {
        "__name__": "__main__", "__gr_iter__": loops.loop_iterator
    }  # fmt: skip
    trackers = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID
    trackers.clear()  # as in a new process: no class is there yet
    parts = rebuilding.Parts(
        lambda number: None, [], lambda name: None, origins.code_of
    )
    parts = dataclasses.replace(parts, namespace=names, goes_on=True)
    found = rebuilding.rebuild(data, parts)
    reopening.go_on(parts.files)
    stack: tuple[Point, ...] = found.pop(STACK)
    names.update(found)
    clock = Clock()
    made = revival.revived(stack, rejoining(clock))
    names.update(made.values)
    run = Run(Body(code=made.code, namespace=names, clock=clock))
    if taker is not None:
        taker.names = names
        run.clock.watcher = taker
    del stack, found, made, parts  # nothing else may keep an iterator alive
    run.start()
    run.wait(TIMEOUT)
    return names, run


@dataclass
class Found:
    """What came of going on from every copy."""

    num_copies: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


def copies(
    source_cells: list[str], most: int, probe: Any
) -> list[tuple[bytes, dict[str, str]]]:
    """Copies of a program, and the sources of each; the last cell is the run's body."""
    book = harness.Notebook()
    book.names |= {"T": probe, "out": probe.out}
    for source in source_cells[:-1]:
        book.cell(source)
    taker = Taker(book.names, most=most)
    book.start(source_cells[-1], watcher=taker).wait(TIMEOUT)
    return list(zip(taker.taken, taker.texts, strict=True))


def sweep(
    source_cells: list[str],
    *,
    most: int = 1000,
    wanted: Any = None,
    probe: Any = None,
    shows: bool = False,
) -> Found:
    """Run a program, copy it at every top of a round, go on from each copy.

    And once more from a copy that is taken of each copy's own run.

    Args:
        source_cells: Its cells; the last one is the body of the run.
        most: Copies at most.
        wanted: The trace that it has by itself.
        probe: ``T``, if it is not a ``harness.Probe``; with its trace as ``out``.
        shows: True to copy it where a body begins that a loop runs, of any loop, and
            not only where one of the two outermost asks for an item.
    """
    wanted = harness.plain(source_cells) if wanted is None else wanted
    book = harness.Notebook()
    probe = book.names["T"] = probe or harness.Probe()
    out = book.names["out"] = probe.out
    for source in source_cells[:-1]:
        book.cell(source)
    taker = Taker(book.names, most=most)
    if shows:
        showing = book.names["T"] = Showing(probe, taker)
        run = showing.run = book.ready(source_cells[-1])
        run.start()
    else:
        run = book.start(source_cells[-1], watcher=taker)
    run.wait(TIMEOUT)
    found = Found(len(taker.taken), refused=taker.refused)
    if run.state is not State.FINISHED or out != wanted:
        found.wrong.append(f"the run itself: {run.state}, {out} not {wanted}")
    for index, data in enumerate(taker.taken):
        again = Taker({}, most=1)
        _compare(found, f"copy {index}", data, again, wanted)
        if again.taken:
            _compare(found, f"copy of copy {index}", again.taken[0], None, wanted)
    return found


def _compare(
    found: Found, title: str, data: bytes, taker: Taker | None, wanted: list[Any]
) -> None:
    try:
        names, run = revive(data, taker)
    except CannotResume as error:
        found.wrong.append(f"{title}: refused too late: {error}")
        return
    out = names["out"]
    if run.state is not State.FINISHED:
        reason = run.error or (run.suspension and run.suspension.error)
        found.wrong.append(f"{title}: {run.state}: {reason!r}; {out}")
    elif out != wanted:
        found.wrong.append(f"{title}: {out}, and not {wanted}")
