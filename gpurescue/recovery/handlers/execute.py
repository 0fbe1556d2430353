"""Executing a handler abstractly, with the real exception object.

Follows every way through the code that cannot be excluded. Names, attributes and
tests are worked out on the real objects as far as that runs no code of theirs
(``objects``); what is unknown branches both ways; calls are assumed to return, unless
the called function can be followed itself.
"""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType, FunctionType

from gpurescue.recovery.handlers import managers
from gpurescue.recovery.handlers.abstract import UNKNOWN, Slot, Value
from gpurescue.recovery.handlers.paths import (
    Effects,
    FrameScope,
    FunctionScope,
    Outcome,
    Path,
    Scope,
    Undecided,
    live_stack,
)
from gpurescue.recovery.handlers.shapes import Landing, landing
from gpurescue.recovery.handlers.steps import STEPS
from gpurescue.recovery.handlers.tables import Instruction

_DECISION_STEPS = 4000
_CALL_STEPS = 600
_CALL_DEPTH = 3
_MOST_OUTCOMES = 16


Transparent = Callable[[CodeType, int], bool]


class Machine:
    """Executes frames and functions; one per decision, with one budget."""

    def __init__(self, transparent: Transparent) -> None:
        self.transparent = transparent
        self.steps_left = _DECISION_STEPS
        self.depth = 0

    def landing(self, scope: Scope, offset: int) -> Landing:
        """Where an exception raised at ``offset`` lands in the code of ``scope``."""
        found = landing(scope.listing, offset)
        while found.entry and self.transparent(scope.code, found.entry.target):
            found = landing(scope.listing, found.entry.target)
        return found

    def throw(
        self, frame: FrameType, offset: int, thrown: Value, before: Effects
    ) -> list[Outcome]:
        """What becomes of ``thrown``, raised at ``offset`` of a live frame.

        ``before``: what the code that ran on the way here may have changed.
        """
        scope = FrameScope(frame)
        found = self.landing(scope, offset)
        if found.entry is None:
            dirty = before.dirty or found.effects
            return [Outcome(thrown, UNKNOWN, dirty, before.stored or found.stores)]
        run = Run(self, scope, found.entry.target)
        path = Path(offset, live_stack(found.entry.depth))
        path.dirty = before.dirty or before.stored
        path.stored = before.stored
        run.throw(path, thrown, offset)
        return run.outcomes_of(path)

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
    """

    def __init__(self, machine: Machine, scope: Scope, handler: int | None) -> None:
        self.machine = machine
        self.scope = scope
        self.handler = handler
        self.waiting: list[Path] = []
        self.outcomes: list[Outcome] = []
        self.seen: set[object] = set()

    def outcomes_of(self, path: Path) -> list[Outcome]:
        """Follow ``path`` and all that fork off it to their ends."""
        self.waiting.append(path)
        while self.waiting:
            self._follow(self.waiting.pop())
        return self.outcomes

    def _follow(self, path: Path) -> None:
        machine, at = self.machine, self.scope.listing.at
        while True:
            machine.steps_left -= 1
            if machine.steps_left < 0:
                raise Undecided("the handler is too long")
            if path.handled and self._tries_again(path):
                return
            step = at(path.offset)
            perform = STEPS[step.op]
            if perform is None:
                raise Undecided(f"unknown instruction {step!r}")
            path.offset = step.after
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
        found = self.machine.landing(self.scope, offset)
        path.dirty = path.dirty or found.effects
        path.stored = path.stored or found.stores
        if found.entry is None:
            return self.finish(Outcome(thrown, UNKNOWN, path.dirty, path.stored))
        path.unwind(found.entry.depth)
        if found.entry.lasti:
            path.stack.append(UNKNOWN)
        path.stack.append(thrown)
        path.offset = found.entry.target
        return False

    def resolve(self, value: Value) -> Value:
        """Read a slot of the live frame."""
        return self.scope.slot(value.index) if isinstance(value, Slot) else value

    def at(self, offset: int) -> Instruction:
        """The instruction at ``offset``."""
        return self.scope.listing.at(offset)
