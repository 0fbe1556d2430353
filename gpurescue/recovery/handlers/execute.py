"""Executing a handler abstractly, with the real exception object.

Follows every way through the code that cannot be excluded. Names, attributes and
tests are worked out on the real objects as far as that runs no code of theirs
(``objects``); what is unknown branches both ways; calls are assumed to return, unless
the called function can be followed itself.
"""

from __future__ import annotations

import weakref
from types import FrameType, FunctionType, ModuleType
from typing import Any

from gpurescue.recovery.handlers import managers, memory, values
from gpurescue.recovery.handlers.abstract import (
    UNKNOWN,
    Known,
    Local,
    Place,
    Slot,
    Value,
)
from gpurescue.recovery.handlers.memory import LASTING, Question, Read
from gpurescue.recovery.handlers.objects import class_of
from gpurescue.recovery.handlers.paths import (
    NO_CONTINUATION,
    Effects,
    FrameScope,
    FunctionScope,
    Outcome,
    Path,
    Scope,
    Undecided,
    live_stack,
)
from gpurescue.recovery.handlers.shapes import landing
from gpurescue.recovery.handlers.steps import STEPS
from gpurescue.recovery.handlers.tables import Instruction, listing

_DECISION_STEPS = 2000
_CALL_STEPS = 600
_CALL_DEPTH = 3
_MOST_OUTCOMES = 16
_TRIES = 3


class _TooLong(Undecided):
    """A handler needs more steps than a decision may take."""


class Machine:
    """Executes frames and functions; one per decision, with one budget.

    Attributes:
        entered: The handlers of the live frame that were entered last.
        holds: Says whether the answer of that frame is good for another exception.
            None if nobody knows.
    """

    def __init__(self) -> None:
        self.steps_left = _DECISION_STEPS
        self.depth = 0
        self.entered: tuple[int, ...] = ()
        self.holds: memory.Holds | None = None

    def throw(
        self, frame: FrameType, offset: int, thrown: Value, before: Effects
    ) -> list[Outcome]:
        """What becomes of ``thrown``, raised at ``offset`` of a live frame.

        ``before``: what the code that ran on the way here may have changed.
        """
        code = listing(frame.f_code)
        found = landing(code, offset)
        if found.entry is None:
            self.entered, self.holds = (), memory.always
            dirty = before.dirty or found.effects
            return [Outcome(thrown, UNKNOWN, dirty, before.stored or found.stores)]
        question = Question(offset, id(class_of(thrown)), before.dirty, before.stored)
        answer = memory.recall(code, question, frame, thrown)
        if answer is not None:
            self.entered, self.holds = answer.entered, answer.holds
            return answer.outcomes_for(thrown)
        if code.tries.get(found.entry.target, 0) >= _TRIES:
            raise _TooLong("the handler was too long before")
        run = Run(self, FrameScope(frame), found.entry.target, thrown)
        path = Path(offset, live_stack(found.entry.depth))
        path.dirty = before.dirty or before.stored
        path.stored = before.stored
        run.throw(path, thrown, offset)
        given = self.steps_left
        try:
            outcomes = run.outcomes_of(path)
        except _TooLong:
            if given > _DECISION_STEPS // 2:  # else others have used most of it
                tries = code.tries.get(found.entry.target, 0)
                code.tries[found.entry.target] = tries + 1
            raise
        self.entered, self.holds = tuple(run.entered), None
        answer = memory.answered(run.reads, outcomes, thrown, self.entered)
        if answer is not None:
            self.holds = answer.holds
            memory.keep(code, question, answer)
        return outcomes

    def leave(self, leave: Value, thrown: Value, before: Effects) -> list[Outcome]:
        """Every result of an ``__exit__``."""
        return managers.leave(self, leave, thrown, before)

    def call(
        self,
        function: FunctionType,
        variables: dict[object, Value],
        before: Effects,
        *,
        own: bool = False,
    ) -> list[Outcome]:
        """Every way that a call of a Python function may end.

        ``own``: it looks at data of its own, as a context manager does, which only
        a store that was seen is taken to have changed.
        """
        if self.depth >= _CALL_DEPTH:
            raise Undecided("calls are nested too deeply")
        path = Path(0, [])
        path.variables = variables
        path.dirty = before.stored or (before.dirty and not own)
        kept, self.depth = self.steps_left, self.depth + 1
        self.steps_left = min(kept, _CALL_STEPS)
        given = self.steps_left
        try:
            return Run(self, FunctionScope(function), None).outcomes_of(path)
        finally:
            self.depth -= 1
            self.steps_left = kept - (given - self.steps_left)


class Run:
    """The abstract execution of one frame's code.

    Args:
        machine: For calls, and for the budget.
        scope: Where the code finds its names.
        handler: Offset of the handler that a live frame enters first. Such a run
            ends as soon as the exception is handled and forgotten. None for a call.
        thrown: The exception that the handler gets.

    Attributes:
        reads: What it has looked at, if all of that can be compared the next time.
    """

    def __init__(
        self,
        machine: Machine,
        scope: Scope,
        handler: int | None,
        thrown: Value = UNKNOWN,
    ) -> None:
        self.machine = machine
        self.scope = scope
        self.handler = handler
        self.thrown = thrown
        self.waiting: list[Path] = []
        self.outcomes: list[Outcome] = []
        self.seen: set[object] = set()
        self.entered: list[int] = []
        self.reads: list[Read] | None = [] if handler is not None else None

    def outcomes_of(self, path: Path) -> list[Outcome]:
        """Follow ``path`` and all that fork off it to their ends."""
        self.waiting.append(path)
        while self.waiting:
            self._follow(self.waiting.pop())
        return self.outcomes

    def _follow(self, path: Path) -> None:
        machine, at, decoded = self.machine, self.at, self.scope.listing.decoded
        while True:
            if machine.steps_left <= 0:
                raise _TooLong("the handler is too long")
            machine.steps_left -= 1
            if path.handled and self._tries_again(path):
                return
            step = decoded.get(path.offset) or at(path.offset)
            op, path.offset = step[0], step[3]
            perform = STEPS[op]
            if perform is None:
                raise Undecided(f"unknown instruction {step!r}")
            if op not in LASTING:
                self.reads = None
            if perform(self, path, step):
                return

    def _tries_again(self, path: Path) -> bool:
        """A retry: the exception is handled, and what raised it begins anew."""
        entry = landing(self.scope.listing, path.offset).entry
        if entry is None or entry.target != self.handler:
            return False
        self.finish(Outcome(None, dirty=path.dirty))
        return True

    def finish(self, outcome: Outcome) -> bool:
        """Note how a path ended."""
        if outcome not in self.outcomes:
            self.outcomes.append(outcome)
        if len(self.outcomes) > _MOST_OUTCOMES:
            raise Undecided("too many outcomes")
        return True

    def fork(self, path: Path, offset: int) -> None:
        """Leave a copy of ``path`` at ``offset`` for later."""
        other = path.fork()
        other.offset = offset
        if not self.is_known(other):
            self.waiting.append(other)

    def is_known(self, path: Path) -> bool:
        """Whether an equal path has been here."""
        signature = path.signature()
        if signature in self.seen:
            return True
        self.seen.add(signature)
        return False

    def throw(self, path: Path, thrown: Value, offset: int) -> bool:
        """Raise ``thrown`` at ``offset``; True if it leaves the frame."""
        if thrown is UNKNOWN:
            raise Undecided("an unknown exception is raised")
        found = landing(self.scope.listing, offset)
        path.dirty = path.dirty or found.effects
        path.stored = path.stored or found.stores
        if found.entry is None:
            return self.finish(Outcome(thrown, UNKNOWN, path.dirty, path.stored))
        self.entered.append(found.entry.target)
        path.unwind(found.entry.depth)
        if found.entry.lasti:
            path.stack.append(UNKNOWN)
        path.stack.append(thrown)
        path.offset = found.entry.target
        return False

    def resolve(self, value: Value) -> Value:
        """Read a slot or a local variable of the live frame."""
        if isinstance(value, Local):
            return self.read(value.index)
        if isinstance(value, Place):
            return self.read_place(value)
        if not isinstance(value, Slot):
            return value
        self.reads = None
        return self.scope.slot(value.index)

    def read(self, index: int) -> Value:
        """Read a local variable as it was when the exception was raised."""
        found = self.scope.fast(index)
        if found is not NO_CONTINUATION:
            self.note(memory.in_local, index, found)
        return found

    def read_cell(self, index: int) -> Value:
        """The same for a variable that lives in a cell."""
        found = self.scope.cell(index)
        self.note(memory.in_cell, index, found)
        return found

    def read_place(self, place: Place) -> Value:
        """The same for attributes of variables."""
        assert isinstance(self.scope, FrameScope)
        try:
            found = memory.find(self.scope.frame, place)
        except values.Unreadable:
            found = UNKNOWN
        self.note_read(memory.place_read(place, found))
        return found

    def can_wait(self) -> bool:
        """Whether something may be looked at later, when it is known what for."""
        return self.reads is not None and values.available()

    def note_attribute(self, owner: Value, name: str, found: Value) -> None:
        """An attribute was looked at, of a module or of the exception."""
        value = owner.value if isinstance(owner, Known) else None
        if owner is self.thrown:
            self.note(memory.in_thrown, name, found)
        elif type(value) is ModuleType:
            self.note(memory.in_module, (weakref.ref(value), name), found)
        elif type(value) is not str:  # whose methods are always the same
            self.reads = None

    def note(self, check: memory.Check, name: Any, found: Value) -> None:
        """Something was looked at; it is compared the next time, if it can be."""
        if self.reads is not None:
            self.note_read(memory.read_of(check, name, found))

    def note_read(self, read: Read | None) -> None:
        """The same, given how to compare it."""
        if read is None:
            self.reads = None
        elif self.reads is not None:
            self.reads.append(read)

    def at(self, offset: int) -> Instruction:
        """The instruction at ``offset``."""
        return self.scope.listing.at(offset)
