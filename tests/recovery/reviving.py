"""Takes a program apart at every top of a round, and goes on from each in a copy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import harness
from cloudpickle import cloudpickle

from gpurescue.errors import CannotResume
from gpurescue.recovery import generators, loops, points, revival
from gpurescue.recovery.engine import Body, Run, State
from gpurescue.recovery.hands import Rounds
from gpurescue.recovery.loops import Clock
from gpurescue.recovery.points import Point
from gpurescue.state import graph

STACK = "<stack>"
TIMEOUT = 20.0


@dataclass
class Taker:
    """A watcher that takes a copy of the program whenever it may be gone on from.

    Attributes:
        names: The program's variables.
        taken: Copies, as bytes.
        refused: Why there is no copy of others.
    """

    names: dict[str, Any]
    taken: list[bytes] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    most: int = 1000

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
        program = graph.Program(namespace=self.names, generators=generators.reduced)
        made = graph.capture(roots, program=program)
        if made.lost:
            self.refused[f"lost: {made.lost}"] += 1
        else:
            self.taken.append(made.data)
        return 0.0


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
    parts = graph.Parts(lambda number: None, [], lambda name: None, namespace=names)
    found = graph.rebuild(data, parts)
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


def sweep(
    cells: list[str], *, most: int = 1000, wanted: Any = None, probe: Any = None
) -> Found:
    """Run a program, copy it at every top of a round, go on from each copy.

    And once more from a copy that is taken of each copy's own run.

    Args:
        cells: Its cells; the last one is the body of the run.
        most: Copies at most.
        wanted: The trace that it has by itself.
        probe: ``T``, if it is not a ``harness.Probe``; with its trace as ``out``.
    """
    wanted = harness.plain(cells) if wanted is None else wanted
    book = harness.Notebook()
    probe = book.names["T"] = probe or harness.Probe()
    out = book.names["out"] = probe.out
    for source in cells[:-1]:
        book.cell(source)
    taker = Taker(book.names, most=most)
    run = book.start(cells[-1], watcher=taker)
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
