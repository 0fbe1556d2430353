"""What must hold for every program: a fault anywhere, mended, leaves no trace."""

from __future__ import annotations

import asyncio
import enum
import inspect
import random
import re
import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import edits
import harness

from gpurescue.errors import CannotResume, PatchRejected
from gpurescue.recovery.engine import Body, Run, State
from gpurescue.recovery.plan import Action, Restart
from gpurescue.source import tree as trees

MAX_CALLS = 150
TIMEOUT = 20.0
PLAIN_TIMEOUT = 5.0
_HELD = "suspended by "


class TooLong(BaseException):
    """The program makes more calls than are looked at."""


Place = tuple[Any, int]  # a label, and which of the calls with it


class Injected(harness.Fault):
    """A fault at one place."""

    def __init__(self, place: Place) -> None:
        super().__init__(f"at {place}")
        self.place = place


@dataclass
class Probe:
    """``T``: notes what happens; the calls at these places fail once."""

    faults: set[Place] = field(default_factory=set)
    trace: list[Any] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    fired: list[Place] = field(default_factory=list)
    _counts: Counter[Any] = field(default_factory=Counter)

    @property
    def out(self) -> list[Any]:
        """The trace, as ``harness.Probe`` calls it."""
        return self.trace

    def __repr__(self) -> str:
        return "T"

    def __call__(self, value: Any = None, label: Any = None) -> Any:
        place = (label, self._counts[label])
        if place in self.faults:
            self.faults.discard(place)
            self.fired.append(place)
            raise Injected(place)
        if len(self.trace) >= MAX_CALLS:
            raise TooLong
        self._counts[label] += 1
        self.places.append(place)
        self.trace.append((label, repr(value)))
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one way of running a program ended."""

    trace: list[Any]
    error: str | None = None
    places: tuple[Place, ...] = ()
    suspended: tuple[Place, ...] = ()
    passed: tuple[Place, ...] = ()
    statements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What is wrong with an outcome, or why there is none."""

    problem: str = ""
    refusal: str = ""
    statements: tuple[str, ...] = ()


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """End what runs longer; programs made smaller may run for ever."""

    def stop(*_: object) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def plain(parts: Sequence[str], faults: Collection[Place] = ()) -> Outcome:
    """The program without gpurescue."""
    probe = Probe(set(faults))
    names: dict[str, Any] = {"__name__": "__main__", "T": probe}
    try:
        with _at_most(PLAIN_TIMEOUT):
            for source in parts:
                code = harness.plain_code(source)
                if code.co_flags & inspect.CO_COROUTINE:
                    asyncio.run(eval(code, names))
                else:
                    exec(code, names)
    except BaseException as error:
        return Outcome(trace=probe.trace, error=repr(error))
    return Outcome(trace=probe.trace, places=tuple(probe.places))


class Edit(enum.Enum):
    """What is done while the run is parked."""

    NOTHING = "nothing"
    OWN = "statements added to the failing cell, all lines moved"
    EVERY = "the same in every cell"


class RunsAgain(Exception):
    """What has its value would be run again, since what made it was edited.

    So would a function's definition, with its defaults.
    """


def guarded(
    parts: Sequence[str], faults: Collection[Place], edit: Edit, seed: int
) -> Outcome:
    """The program under a run that is mended and goes on after each fault."""
    probe = Probe(set(faults))
    book = harness.Notebook()
    book.names["T"] = probe
    for source in parts[:-1]:
        exec(harness.guarded_code(source, body=False), book.names)
    run = Run(
        Body(code=harness.guarded_code(parts[-1], body=True), namespace=book.names)
    )
    run.start()
    suspended: list[Place] = []
    statements: list[str] = []
    current = list(parts)
    while (state := run.wait(TIMEOUT)) is State.SUSPENDED:
        if run.suspension is None or not _faults(run.suspension.error):
            break
        suspended += _faults(run.suspension.error)
        statements.append(type(run.suspension.innermost.statement).__name__)
        try:
            restart = Restart()
            if edit is not Edit.NOTHING:
                restart = _edit(book, run, current, edit, seed)
                if any(map(_runs_again, run.plan(restart).notes)):
                    raise RunsAgain
            run.resume(restart)
        except BaseException:
            run.resume(Restart(action=Action.ABANDON))
            run.wait(TIMEOUT)
            raise
    if state is State.SUSPENDED:
        assert run.suspension is not None
        error = f"{_HELD}{run.suspension.error!r}"
        run.resume(Restart(action=Action.ABANDON))
        run.wait(TIMEOUT)
    elif state is State.RUNNING:
        error = "hangs"
    else:
        error = None if run.error is None else repr(run.error)
    passed = [place for place in probe.fired if place not in suspended]
    return Outcome(
        trace=probe.trace,
        error=error,
        suspended=tuple(suspended),
        passed=tuple(passed),
        statements=tuple(statements),
    )


def _runs_again(note: str) -> bool:
    return "what it uses was edited" in note or note.startswith("runs first")


def _faults(error: BaseException) -> list[Place]:
    """Where the faults of ``error`` were; several ``except*`` put theirs together."""
    if isinstance(error, BaseExceptionGroup):
        return [place for inner in error.exceptions for place in _faults(inner)]
    return [error.place] if isinstance(error, Injected) else []


def _edit(
    book: harness.Notebook, run: Run, current: list[str], edit: Edit, seed: int
) -> Restart:
    """Run cells again with statements added to them; never the first."""
    assert run.suspension is not None
    held = run.suspension.innermost
    body = None
    for i, source in enumerate(current[1:], 1):
        is_failing = source == held.definition.unit.source
        if edit is Edit.OWN and not is_failing:
            continue
        failing = trees.span(held.statement) if is_failing else None
        current[i] = edits.added(source, seed, failing)
        if i < len(current) - 1:
            book.redefine(run, current[i])
        else:
            body = book.new_body(current[i])
    return Restart(body=body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is done to a program.

    Attributes:
        faults: The calls that fail, each once.
        edit: What is done while the run is parked, each time.
        seed: Says which edits.
    """

    faults: frozenset[Place] = frozenset()
    edit: Edit = Edit.NOTHING
    seed: int = 0


def _ends_alike(error: str | None, wanted: str | None) -> bool:
    """True if a run has ended as the plain program does.

    What that ends with by itself, such as what comes of a fault that it has handled,
    holds the run. Of the StopIteration of a cell that awaits asyncio makes a
    RuntimeError or, on CPython 3.12, never ends.
    """
    texts = ("coroutine raised StopIteration", "StopIteration interacts", "TooLong()")
    is_asyncios = error == f"{_HELD}StopIteration()" and any(
        text in str(wanted) for text in texts
    )
    return error in {wanted, f"{_HELD}{wanted}"} or is_asyncios


def check(parts: Sequence[str], case: Case) -> Verdict:
    """Run a program with faults, mend each, and compare with the clean run."""
    try:
        found = guarded(parts, case.faults, case.edit, case.seed)
    except (CannotResume, PatchRejected) as refusal:
        return Verdict(refusal=_reason(str(refusal)))
    except RunsAgain:
        return Verdict(refusal="not compared: what made a value was edited")
    except Exception as error:
        return Verdict(problem=f"fails: {error!r}")
    wanted = plain(parts, found.passed)
    if not _ends_alike(found.error, wanted.error):
        text = f"ends with {found.error}, and not with {wanted.error}"
        return Verdict(problem=text, statements=found.statements)
    if found.trace != wanted.trace:
        return Verdict(problem=_difference(found.trace, wanted.trace))
    for place in found.suspended:
        if plain(parts, {place, *found.passed}).error is None:
            return Verdict(problem=f"stops at {place}, which the program handles")
    return Verdict(statements=found.statements)


def _difference(found: list[Any], wanted: list[Any]) -> str:
    place = next(
        (i for i, (a, b) in enumerate(zip(found, wanted, strict=False)) if a != b),
        min(len(found), len(wanted)),
    )
    return (
        f"differs at {place}: {found[place : place + 3]}, "
        f"and not {wanted[place : place + 3]}"
    )


def _reason(text: str) -> str:
    """The kind of a refusal: its text without names and numbers."""
    text = re.sub(r"`[^`]*`", "`...`", text)
    text = re.sub(r"\b(?:[a-z]+\d+|<\w+>)(?:\.[\w<>]+)*|\d+", "N", text)
    return text


def showing(case: Case, verdict: Verdict) -> Callable[[Sequence[str]], bool]:
    """Tells whether a program shows the same kind of problem, and ends by itself."""
    kind = verdict.problem.split(maxsplit=1)[0]

    def shows(parts: Sequence[str]) -> bool:
        if not case.faults <= set(places(parts)):
            return False
        problem = check(parts, case).problem
        if problem.split(maxsplit=1)[:1] != [kind]:
            return False
        return not case.faults or not check(parts, Case()).problem

    return shows


def draw(parts: Sequence[str], rng: random.Random) -> Case | None:
    """What to do to a program; None if the program is of no use."""
    found = places(parts)
    if not found:
        return None
    edit = rng.choice(list(Edit))
    is_twice = edit is Edit.NOTHING and rng.random() < 0.3
    faults = frozenset(rng.choice(found) for _ in range(2 if is_twice else 1))
    return Case(faults=faults, edit=edit, seed=rng.randrange(1000))


def places(parts: Sequence[str]) -> tuple[Place, ...]:
    """The calls of the clean program; none if the program is of no use."""
    return plain(parts).places
