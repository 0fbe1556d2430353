"""What a run answers to its guards, in its own thread.

A guard that has caught something asks: is it for me, and how do I go on? It may be the
user's exception, which holds the run until a person has decided; or that exception on
its way out to a frame that retries; or a signal of ours, which only this run sends.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import FrameType, FunctionType
from typing import Any

from gpurescue.errors import RecoveryError
from gpurescue.recovery import (
    continuation,
    dead,
    frames,
    handlers,
    own,
    plan,
    points,
    switch,
)
from gpurescue.recovery.continuation import Continuation, Leave, Live, Target
from gpurescue.recovery.hands import Hand, hand_of
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.recovery.loops import Clock
from gpurescue.recovery.plan import Plan
from gpurescue.recovery.rounds import ForLoop
from gpurescue.recovery.suspension import (
    Suspension,
    held_frames,
    suspend,
    suspend_iterator,
)
from gpurescue.recovery.switch import Switch
from gpurescue.source import align, cells
from gpurescue.source import tree as trees
from gpurescue.source.cells import Definition
from gpurescue.source.locate import Site
from gpurescue.source.remainder import Path

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unwinding:
    """The exception is on its way out: to a frame that retries, or to the user."""

    error: BaseException
    plan: Plan
    new_names: dict[str, Any] = field(default_factory=dict)


Command = Continuation | Unwinding | None  # None: an iterator is asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pausing:
    """The signal that holds a run in front of a statement."""

    error: KeyboardInterrupt
    frame: FrameType
    path: Path


@dataclass(frozen=True, slots=True)
class _Guard:
    """Who asks: a guard in a live frame."""

    frame: FrameType
    block: int
    holder: FunctionType | None

    def live(self) -> Live | None:
        """What it guards; None if the source is gone."""
        definition = cells.definition(self.frame.f_code)
        if definition is None:
            return None
        return Live(
            frame=self.frame,
            definition=definition,
            block=definition.layout.blocks[self.block],
            cells=frames.cells(self.holder),
        )


class Answers:
    """The answers of one run.

    Args:
        hooks: What the front adds.
        redefinitions: What has been redefined.
        clock: How far the run has come.
        ask: Parks the run until a person has decided.
    """

    def __init__(
        self,
        hooks: Hooks,
        redefinitions: Redefinitions,
        clock: Clock,
        ask: Callable[[Suspension], tuple[Plan, Command]] | None,
    ) -> None:
        self.hooks = hooks
        self.redefinitions = redefinitions
        self.clock = clock
        self.ask = ask
        self.base: FrameType | None = None
        self.unwinding: Unwinding | None = None
        self.origin: BaseException | None = None  # of the newest continuation
        self._pausing: _Pausing | None = None

    def caught(
        self,
        frame: FrameType,
        block: int,
        holder: FunctionType | None,
        error: BaseException,
    ) -> Continuation | None:
        """A guard of this run caught ``error``: go on with the result, if any."""
        guard = _Guard(frame, block, holder)
        if isinstance(error, Leave):
            return self._go_behind(guard, error)
        if isinstance(error, Switch):
            return self._switch(guard, error)
        if self.unwinding is not None and self._is_unwinding(error):
            return self._arrive(guard, self.unwinding)
        if self._pausing is not None and error is self._pausing.error:
            return self._hold(guard, self._pausing)
        if not isinstance(error, Exception):
            return None
        error.__traceback__ = frames.without_ours(error.__traceback__)
        live = guard.live() if self._is_mine(error, frame) else None
        return None if live is None else self._suspend(error, live)

    def _is_mine(self, error: Exception, frame: FrameType) -> bool:
        """True if the run is held: a person can decide, and nobody else handles it."""
        if self.ask is None:
            return False
        return handlers.fate(error, frame, self.base) is handlers.Fate.UNHANDLED

    def _suspend(self, error: Exception, live: Live) -> Continuation | None:
        rollbacks = tuple(self.hooks.on_failure(error, live.frame))
        where = str(self.clock)
        held = self._let_go(error, lambda: suspend(error, live, self.base, where=where))
        if held is None:  # nobody handles it, and a guard further out may hold it
            own.sent_back(error, live.definition.qualname)
            return None
        held.rollbacks = rollbacks
        with own.harmless("It is not known whether the device is lost."):
            held.lost = self.hooks.lost(error)
        if not held.unwound:
            held.unwound = _left_unseen(error)
        return self._park(held)

    def _let_go(
        self, error: Exception, describe: Callable[[], Suspension | None]
    ) -> Suspension | None:
        """Describe the run, and free what the failed call holds."""
        if not dead.is_out_of_memory(error):
            return describe()
        before = self.hooks.memory()
        held = describe()
        gc.collect()
        if held is not None:
            after = self.hooks.memory()
            held.freed = {name: used - after[name] for name, used in before.items()}
        return held

    def arm_pause(self) -> None:
        """Hold the run at the next statement; called in its thread."""
        waiting = held_frames(sys._getframe(), self.base, None)
        found = [(held.frame, held.definition) for held in waiting]
        switch.arm_all(found, self._stopped_at)

    def arm_look(self, look: Callable[[FrameType], bool]) -> None:
        """Show the run in a loop that is not counted; called in its thread."""
        found = points.chain(held_frames(sys._getframe(), self.base, None))
        waiting = [(h.frame, h.definition) for h in found if points.is_uncounted(h)]
        switch.arm_look(waiting, look)

    def _stopped_at(self, frame: FrameType, path: Path) -> KeyboardInterrupt:
        error = KeyboardInterrupt()
        self._pausing = _Pausing(error=error, frame=frame, path=path)
        return error

    def _hold(self, guard: _Guard, pausing: _Pausing) -> Continuation | None:
        """A pause: held in front of a statement, with nothing failed."""
        self._pausing = None
        live, error = guard.live(), pausing.error
        if pausing.frame is not guard.frame or live is None:
            return None
        error.__traceback__ = frames.without_ours(error.__traceback__)
        held = suspend(error, live, self.base, where=str(self.clock))
        if held is None:
            return None
        held.pause_before(pausing.path)
        return self._park(held)

    def arm_edited(self) -> None:
        """Functions on the stack that were edited switch at their next statement."""
        switch.arm(self._edited_from(sys._getframe()))

    def _is_unwinding(self, error: BaseException) -> bool:
        """True if ``error`` is the one on its way out, or was raised from it."""
        if self.unwinding is None:
            return False
        chain: list[BaseException] = []
        link: BaseException | None = error
        while link is not None and link not in chain:
            chain.append(link)
            link = link.__cause__ or link.__context__
        if self.unwinding.error not in chain:
            self.unwinding = None  # somebody has swallowed it: this one is new
        return self.unwinding is not None

    def failed(self, frame: FrameType, error: BaseException) -> bool:
        """A library's iterator failed in ``frame``: True if it is asked again."""
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            return False
        if self._is_unwinding(error):
            return False
        error.__traceback__ = frames.without_ours(error.__traceback__)
        return self._is_mine(error, frame) and self._hold_iterator(error, frame)

    def _hold_iterator(self, error: Exception, frame: FrameType) -> bool:
        """Wait; the run stays inside the iterator, and all that called it is alive."""
        rollbacks = tuple(self.hooks.on_failure(error, frame))
        entry, shown = error.__traceback__, error
        while (held := self._held_by_iterator(shown, frame)) is not None:
            held.rollbacks = rollbacks
            with own.harmless("It is not known whether the device is lost."):
                held.lost = self.hooks.lost(error)
            made, command = self._asked(held)
            error.__traceback__ = entry
            if isinstance(command, Unwinding):
                self.unwinding = replace(command, error=error)
                return False
            try:
                roll_back(made)
            except Exception as failure:  # noqa: BLE001
                # Such as workers that cannot be started: the user's to mend, too.
                shown = failure
                shown.__traceback__ = frames.without_ours(shown.__traceback__)
            else:
                error.__traceback__ = None  # its frames are alive, and go on
                self._arm_callers(frame)
                return True
        return False

    def _held_by_iterator(
        self, error: Exception, frame: FrameType
    ) -> Suspension | None:
        where = str(self.clock)
        return self._let_go(
            error, lambda: suspend_iterator(error, frame, self.base, where=where)
        )

    def _park(self, held: Suspension) -> Continuation | None:
        """Wait for a command; the exception goes on if it is to unwind."""
        hand = _asked_for(held)
        made, command = self._asked(held)
        if hand is not None:
            hand.take_back()  # its iterator has raised: the round will begin once more
        self.origin = held.error
        own.nothing_sent_back()
        if isinstance(command, Continuation):
            command.origin = held.error
            roll_back(made)
            continuation.release(command)
            return command
        self.unwinding = command
        return None

    def _asked(self, held: Suspension) -> tuple[Plan, Command]:
        assert self.ask is not None
        return self.ask(held)

    def _arrive(self, guard: _Guard, unwinding: Unwinding) -> Continuation | None:
        """The frame to go on from is reached: everything inside it has unwound."""
        made = unwinding.plan
        if made.frame is None or made.target is None:
            return None
        live = guard.live() if made.frame.frame is guard.frame else None
        wanted, _ = continuation.split(made.frame.definition, made.frame.path)
        if live is None or wanted is not live.block:
            return None
        live.extra.update(unwinding.new_names)
        roll_back(made)
        ready = self.built(live, made.target)
        made.target.values.clear()  # tensors among them: the plan may be kept
        self.unwinding = None
        continuation.release(ready)
        return ready

    def _go_behind(self, guard: _Guard, leaving: Leave) -> Continuation | None:
        """A block of this frame is done: go on behind its statement."""
        done, live = leaving.continuation, guard.live()
        if done.live.frame is not guard.frame or live is None:
            return None
        live.extra.update(done.live.extra)
        target = plan.behind(live.definition, done.target.definition, done)
        ready = self.built(live, target)
        continuation.release(ready)
        return ready

    def _switch(self, guard: _Guard, switching: Switch) -> Continuation | None:
        """A frame whose function was edited has come to its next statement."""
        live = guard.live()
        if switching.frame is not guard.frame or live is None:
            return None
        try:
            ready = self._switched(live, switching.path)
        except Exception as error:
            if self.origin is not None and not isinstance(error, RecoveryError):
                raise
            _log.warning("%s", error)
            target = plan.at(live.definition, live.definition, switching.path)
            ready = self.built(live, target)
        continuation.release(ready)
        return ready

    def _switched(self, live: Live, path: Path) -> Continuation:
        newest = self.redefinitions.latest(live.definition)
        new_path = switch.next_path(live.definition, newest, path)
        around = align.enclosing(live.definition.scope.body, newest.scope.body, path)
        return self.built(live, plan.at(live.definition, newest, new_path, around))

    def built(self, live: Live, target: Target) -> Continuation:
        """The continuation, after which edited callers switch."""
        ready = continuation.build(live, target)
        ready.on_returned = self._arm_callers
        ready.origin = self.origin
        return ready

    def _arm_callers(self, frame: FrameType) -> None:
        """An inner call is done: edited functions around it may switch."""
        if frame.f_back is not None:
            switch.arm(self._edited_from(frame.f_back))

    def _edited_from(self, frame: FrameType) -> list[tuple[FrameType, Definition]]:
        return [
            (held.frame, held.definition)
            for held in held_frames(frame, self.base, None)
            if self.redefinitions.latest(held.definition) is not held.definition
        ]


def _left_unseen(error: Exception) -> tuple[str, ...]:
    """What the exception has left without a trace in its traceback."""
    sent = own.last_sent_back()
    if sent is None or all(sent[0] is not e for e in (error, *dead.behind(error))):
        return ()
    return (sent[1],)


def _asked_for(held: Suspension) -> Hand | None:
    """The hand of the loop that was asking for its next item."""
    frame = held.frames[0]
    if frame.site is not Site.NEXT or not isinstance(frame.statement, ForLoop):
        return None
    name = trees.iterator_name(frame.statement)
    return hand_of(frames.hidden(frame.frame, name))


def roll_back(made: Plan) -> None:
    """What was half done is taken back: its call runs again."""
    for rollback in made.rollbacks:
        rollback.apply()
