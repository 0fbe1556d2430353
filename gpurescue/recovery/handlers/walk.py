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
from types import CodeType, FrameType

from gpurescue.recovery.handlers.abstract import Known, Value
from gpurescue.recovery.handlers.callers import cross
from gpurescue.recovery.handlers.execute import Machine, Transparent
from gpurescue.recovery.handlers.paths import Outcome, Undecided
from gpurescue.recovery.handlers.shapes import landing
from gpurescue.recovery.handlers.tables import listing

logger = logging.getLogger(__name__)

STRICT = False
"""Raise what fails inside a decision instead of answering MAYBE; for tests."""

_MOST_BRANCHES = 8


class Fate(enum.Enum):
    """What will become of an exception."""

    UNHANDLED = "unhandled"
    HANDLED = "handled"
    MAYBE = "maybe"


def _never(code: CodeType, target: int) -> bool:
    """No handlers but our own guards are transparent by themselves."""
    return False


def fate(
    exc: BaseException,
    frame: FrameType,
    base: FrameType | None,
    *,
    transparent: Transparent = _never,
) -> Fate:
    """Will somebody between ``frame`` and ``base`` handle ``exc``?

    Args:
        exc: What a guard in ``frame`` has just caught.
        frame: The live frame of that guard, which stands in its handler.
        base: The run's own first frame; it and what called it are not looked at.
            None to go to the top of the thread.
        transparent: Says of the handler at a byte offset of a code object that it
            re-raises whatever it catches.
    """
    try:
        return _Walk(base, transparent).follow(frame, Outcome(Known(exc)))
    except Undecided as reason:
        logger.debug("Undecided, so the exception passes: %s.", reason)
    except RecursionError:  # no room to decide, or to log; there is further up
        return Fate.MAYBE
    except Exception:
        if STRICT:
            raise
        logger.exception("A decision failed, so the exception passes.")
    return Fate.MAYBE


class _Walk:
    """One decision."""

    def __init__(self, base: FrameType | None, transparent: Transparent) -> None:
        self.base = base
        self.machine = Machine(transparent)
        self.branches = 0

    def follow(self, frame: FrameType, outcome: Outcome) -> Fate:
        """Go up from ``frame``, where ``outcome.raised`` is being raised."""
        inner: FrameType | None = frame
        while inner is not None and inner is not self.base:
            outcomes = self._leave(inner, outcome)
            outer = inner.f_back
            if outer is not None and outer is not self.base:
                outcomes = [
                    arriving
                    for leaving in outcomes
                    for arriving in _cross(outer, inner, leaving)
                ]
            if len(outcomes) != 1 or outcomes[0].raised is None:
                return self._combine(outer, outcomes)
            outcome, inner = outcomes[0], outer
        if inner is None and self.base is not None:
            raise Undecided("the base frame is not in this thread")
        return Fate.UNHANDLED

    def _leave(self, frame: FrameType, outcome: Outcome) -> list[Outcome]:
        """What leaves ``frame``; the usual case, nothing to execute, first."""
        code = listing(frame.f_code)
        if not code.rows:
            return [outcome]
        found = landing(code, frame.f_lasti)
        if found.entry is None and not found.effects:
            return [outcome]
        assert outcome.raised is not None
        return self.machine.throw(frame, frame.f_lasti, outcome.raised, outcome)

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


def _cross(outer: FrameType, inner: FrameType, outcome: Outcome) -> list[Outcome]:
    """Take an outcome of ``inner`` through the C code to ``outer``."""
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
