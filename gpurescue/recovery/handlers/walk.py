"""Will somebody up the live stack handle this exception?

The walk starts in the guard's own frame, where the guard stands in its handler, and
goes up to the run's base frame. In each frame the covering handler is executed
abstractly, with the real exception; between two frames the C code is judged. Wrong
towards "handled" costs inner frames only: the next outer guard decides again. Wrong
towards "unhandled" stops a healthy program. So doubt is MAYBE, and lets it pass.
"""

from __future__ import annotations

import enum
import logging
from types import FrameType

from gpurescue.recovery.handlers import course, values
from gpurescue.recovery.handlers.abstract import Known, Value
from gpurescue.recovery.handlers.callers import GENERATORS, cross
from gpurescue.recovery.handlers.execute import Machine
from gpurescue.recovery.handlers.paths import Outcome, Undecided
from gpurescue.recovery.handlers.shapes import landing
from gpurescue.recovery.handlers.tables import clear_places, listing

logger = logging.getLogger(__name__)

STRICT = False
"""Raise what fails inside a decision instead of answering MAYBE; for tests."""

_MOST_BRANCHES = 8


class Fate(enum.Enum):
    """What will become of an exception."""

    UNHANDLED = "unhandled"
    HANDLED = "handled"
    MAYBE = "maybe"


def fate(exc: BaseException, frame: FrameType, base: FrameType | None) -> Fate:
    """Will somebody between ``frame`` and ``base`` handle ``exc``?

    Args:
        exc: What a guard in ``frame`` has just caught.
        frame: The live frame of that guard, which stands in its handler.
        base: The run's own first frame; it and what called it are not looked at.
            None to go to the top of the thread.
    """
    try:
        return _decide(exc, frame, base)
    except RecursionError:  # no room to decide, or to log; there is further up
        pass
    except Exception:
        if STRICT:
            raise
        logger.exception("A decision failed, so the exception passes.")
    course.forget()
    return Fate.MAYBE


def _decide(exc: BaseException, frame: FrameType, base: FrameType | None) -> Fate:
    walk = _Walk(frame, base)
    try:
        found = walk.follow(frame, Outcome(Known(exc)))
    except Undecided as reason:
        logger.debug("Undecided, so the exception passes: %s.", reason)
        found = Fate.MAYBE
    if found is Fate.UNHANDLED:
        course.forget()
    else:
        course.note(exc, frame, *walk.decided(found))
    return found


class _Walk:
    """One decision.

    Attributes:
        at: The frame that is looked at.
        stop: The frame that ``exc`` does not leave as it is, and the handlers in it.
        touched: The first frame in which code runs that may change what counts.
    """

    def __init__(self, frame: FrameType, base: FrameType | None) -> None:
        self.base = base
        self.at = frame
        self.machine = Machine()
        self.branches = 0
        self.stop: tuple[FrameType, tuple[int, ...]] | None = None
        self.touched: tuple[FrameType, tuple[int, ...]] | None = None

    def decided(self, found: Fate) -> tuple[FrameType, tuple[int, ...]]:
        """The frame up to which the same decision would be made again.

        And the handlers in it, if it is certain that the exception gets to them.
        """
        if found is Fate.HANDLED:
            return self.stop or (self.at, ())
        return (self.touched or self.stop or (self.at, ()))[0], ()

    def follow(self, frame: FrameType, outcome: Outcome) -> Fate:
        """Go up from ``frame``, where ``outcome.raised`` is being raised."""
        inner: FrameType | None = frame
        while inner is not None and inner is not self.base:
            inner = self._skip(inner)
            self.at = inner
            outcomes = self._leave(inner, outcome)
            if len(outcomes) == 1 and outcomes[0].raised is None:
                return Fate.HANDLED
            outer = inner.f_back
            if outer is not None and outer is not self.base:
                outcomes = self._cross(outer, inner, outcomes)
            if len(outcomes) != 1 or outcomes[0].raised is None:
                return self._combine(outer, outcomes)
            outcome, inner = outcomes[0], outer
        if inner is None and self.base is not None:
            raise Undecided("the base frame is not in this thread")
        return Fate.UNHANDLED

    def _skip(self, frame: FrameType) -> FrameType:
        """The next frame out that has to be looked at: most have no handler."""
        is_from_c, base = values.called_from_c, self.base
        if not values.available():
            return frame
        while frame.f_lasti in clear_places(frame.f_code):
            outer = frame.f_back
            if outer is None or outer is base or is_from_c(frame):
                break
            frame = outer
        return frame

    def _leave(self, frame: FrameType, outcome: Outcome) -> list[Outcome]:
        """What leaves ``frame``; the usual case, nothing to execute, first."""
        code = listing(frame.f_code)
        found = landing(code, frame.f_lasti)
        if found.entry is None and not found.effects:
            if not frame.f_code.co_flags & GENERATORS:
                code.clear.add(frame.f_lasti)
            return [outcome]
        assert outcome.raised is not None
        outcomes = self.machine.throw(frame, frame.f_lasti, outcome.raised, outcome)
        self._mark(frame, outcome, outcomes)
        return outcomes

    def _mark(self, frame: FrameType, before: Outcome, after: list[Outcome]) -> None:
        """Note where the exception ends, and where its way is not clear any more."""
        if self.stop is not None:
            return
        place = frame, self.machine.entered
        if self.touched is None and any(way.dirty or way.stored for way in after):
            self.touched = place
        if len(after) != 1 or after[0].raised != before.raised:
            self.stop = place

    def _cross(
        self, outer: FrameType, inner: FrameType, outcomes: list[Outcome]
    ) -> list[Outcome]:
        """Take what leaves ``inner`` through the C code between it and ``outer``."""
        if not inner.f_code.co_flags & GENERATORS:
            if values.available() and not values.called_from_c(inner):
                return outcomes
        self.at = outer
        arriving = [
            way for leaving in outcomes for way in _crossed(outer, inner, leaving)
        ]
        if self.stop is None and arriving != outcomes:
            self.stop = outer, ()
        return arriving

    def _combine(self, outer: FrameType | None, outcomes: list[Outcome]) -> Fate:
        """Several ways, or none: agree, or doubt."""
        self.branches += len(outcomes)
        if self.branches > _MOST_BRANCHES:
            raise Undecided("too many ways")
        fates = {self._fate_of(outer, outcome) for outcome in outcomes}
        if not fates:
            return Fate.HANDLED
        return fates.pop() if len(fates) == 1 else Fate.MAYBE

    def _fate_of(self, outer: FrameType | None, outcome: Outcome) -> Fate:
        if outcome.raised is None:
            return Fate.HANDLED
        if outer is None:
            return Fate.UNHANDLED
        return self.follow(outer, outcome)


def _crossed(outer: FrameType, inner: FrameType, outcome: Outcome) -> list[Outcome]:
    """Take one outcome of ``inner`` through the C code to ``outer``."""
    if outcome.raised is None:
        return [outcome]
    arriving: list[Value] = cross(outer, inner, outcome.raised)
    if len(arriving) == 1 and arriving[0] is outcome.raised:
        return [outcome]
    if not arriving:
        return [Outcome(None, dirty=outcome.dirty)]
    return [
        Outcome(raised, outcome.value, outcome.dirty, outcome.stored)
        for raised in arriving
    ]
