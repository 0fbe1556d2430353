"""The state machine of a run: running -> suspended -> resumed, or ended.

A run lives in a daemon thread of its own, so that the cell that started it can end
while the run stays parked. Everything that may fail (plans, compiling an edit) is
done in the thread that asks, while the run is still parked: a mistake loses nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import gc
import inspect
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from gpurescue.errors import RecoveryError, UsageError
from gpurescue.events import Bus, Event, JobEnded, JobResumed, JobSuspended
from gpurescue.protocols import Journal, Rollback
from gpurescue.recovery import (
    batches,
    continuation,
    dead,
    frames,
    guards,
    handlers,
    plan,
    switch,
)
from gpurescue.recovery.continuation import Continuation, Leave, Live, Target
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.recovery.loops import Clock
from gpurescue.recovery.plan import Action, Plan, Restart
from gpurescue.recovery.rounds import Marker
from gpurescue.recovery.suspension import (
    Suspension,
    held_frames,
    suspend,
    suspend_iterator,
)
from gpurescue.recovery.switch import Switch
from gpurescue.recovery.thread import ThreadHandle, interrupted
from gpurescue.source import align, cells
from gpurescue.source.cells import Definition
from gpurescue.source.remainder import Path
from gpurescue.source.transform import LOOP
from gpurescue.source.tree import is_hidden

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)
_NO_CELL = CellType()


class State(enum.Enum):
    """Where a run stands."""

    NEW = "new"
    RUNNING = "running"
    SUSPENDED = "suspended"
    FINISHED = "finished"
    FAILED = "failed"
    ABANDONED = "abandoned"

    @property
    def is_over(self) -> bool:
        """True once nothing can change any more."""
        return self in {State.FINISHED, State.FAILED, State.ABANDONED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Body:
    """The statements of a ``%%resilient`` cell, compiled with guards in them.

    ``linecache`` must have the source under ``code.co_filename``.
    """

    code: CodeType
    namespace: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unwinding:
    """The exception is on its way out: to a frame that retries, or to the user."""

    error: BaseException
    plan: Plan
    new_names: dict[str, Any] = field(default_factory=dict)


_Command = Continuation | _Unwinding | None  # None: an iterator is asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pausing:
    """The signal that holds a run in front of a statement."""

    error: KeyboardInterrupt
    frame: FrameType
    path: Path


@dataclass(slots=True, kw_only=True)
class Hooks:
    """What the front adds to a run; each is called in the run's own thread.

    Attributes:
        on_start: Once, before the body: thread-local modes of the caller.
        on_wake: Before the body and after each suspension: whose output it is.
        on_failure: At an exception that suspends: what was left half done.
        memory: Bytes in use, by device; asked around an error for want of memory.
        journal: Reads what a round of a loop may change; None to mark no round.
        marks_all: True to mark every round, whatever it costs.
    """

    on_start: Callable[[], None] = lambda: None
    on_wake: Callable[[], None] = lambda: None
    on_failure: Callable[[BaseException, FrameType], Sequence[Rollback]] = (
        lambda error, frame: ()
    )
    memory: Callable[[], dict[str, int]] = dict
    journal: Journal | None = None
    marks_all: bool = False


class Run:
    """One resilient run.

    Args:
        body: What to run.
        redefinitions: What has been redefined; shared with whoever watches for it.
        bus: Gets ``JobSuspended``, ``JobResumed`` and ``JobEnded``.
        hooks: What the front adds.
        parks: False to raise the user's exception instead of waiting for a person.
    """

    def __init__(
        self,
        body: Body,
        *,
        redefinitions: Redefinitions | None = None,
        bus: Bus | None = None,
        hooks: Hooks | None = None,
        parks: bool = True,
    ) -> None:
        self.number = next(_numbers)
        self.body = body
        self.redefinitions = redefinitions or Redefinitions()
        self.bus = bus or Bus()
        self.hooks = hooks or Hooks()
        self.parks = parks
        self.state = State.NEW
        self.suspension: Suspension | None = None
        self.error: BaseException | None = None
        self.clock = Clock()
        if self.hooks.journal is not None:
            self.clock.marker = Marker(self.hooks.journal, body.namespace)
            self.clock.marks_all = self.hooks.marks_all
        self.num_suspensions = 0
        self._changed = threading.Condition()
        self._command: tuple[Plan, _Command] | None = None
        self._unwinding: _Unwinding | None = None
        self._pausing: _Pausing | None = None
        self._handle: ThreadHandle | None = None
        self._base: FrameType | None = None
        self._context = contextvars.copy_context()
        self._thread = threading.Thread(
            target=self._context.run,
            args=(self._main,),
            name=f"gpurescue-run-{self.number}",
            daemon=True,
        )
        self.redefinitions.subscribe(self._edited)

    # -- from any thread -------------------------------------------------------

    @property
    def thread_id(self) -> int | None:
        """``ident`` of the run's thread."""
        return self._thread.ident

    def start(self) -> None:
        """Begin; returns at once."""
        self.state = State.RUNNING
        self._thread.start()

    def wait(self, timeout: float | None = None) -> State:
        """Wait until the run is parked or over; the state then, or at the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self.state is not State.RUNNING, timeout)
            return self.state

    def pause(self) -> bool:
        """Hold the run in front of the next statement of the user's; returns at once.

        A call into a library is not broken off. False if the run cannot be reached.
        """
        return self._call(self._arm_pause)

    def between_lines(self, function: Callable[[], None]) -> bool:
        """Have a function called in the run's thread while no code of ours runs there.

        It is forgotten if the run is parked or over first. False if the run cannot be
        reached.
        """

        def there() -> None:
            if self.state is not State.RUNNING:
                return
            if frames.is_ours(interrupted(sys._getframe())):
                self._call(there)
            else:
                function()

        return self._call(there)

    def _edited(self, old: Definition, new: Definition) -> None:
        self._call(self._arm_edited)

    def _call(self, function: Callable[[], None]) -> bool:
        """Have a function called in the run's thread, if the run is running."""
        handle = self._handle
        if self.state is not State.RUNNING or handle is None:
            return False
        return handle.call(function)

    def plan(self, restart: Restart) -> Plan:
        """Work out a restart without doing it.

        Raises:
            CannotResume, PatchRejected, UsageError: With the reason; the run stays
                parked as it is.
        """
        made, _ = self._prepare(restart)
        return made

    def resume(self, restart: Restart) -> Plan:
        """Go on; returns at once, with what was decided.

        Raises:
            CannotResume, PatchRejected, UsageError: With the reason; the run stays
                parked as it is.
        """
        with self._changed:
            made, command = self._prepare(restart)
            if restart.body is not None and self.suspension is not None:
                body = self.suspension.frames[-1].definition
                self.redefinitions.replace(body, restart.body)
            self.state = State.RUNNING
            self._command = made, command
        self._publish(JobResumed(run=self.number, plan=str(made)))
        with self._changed:
            self._changed.notify_all()
        return made

    def _prepare(self, restart: Restart) -> tuple[Plan, _Command]:
        held = self.suspension
        if self.state is not State.SUSPENDED or held is None:
            raise UsageError("No run is suspended; start one with %%resilient.")
        held.edited = set(self.redefinitions.log[held.num_redefinitions :])
        made = self._planned(held, restart)
        if made.asks:
            return made, None
        if made.target is None or made.frame is None:
            return made, _Unwinding(error=held.error, plan=made)
        block, _ = continuation.split(made.frame.definition, made.frame.path)
        is_here = held.iterator is None and made.frame.index == 0
        if not is_here or block is not held.live.block:
            self._check_outer(made)
            added = held.new_names.get(made.frame.index, {})
            return made, _Unwinding(error=held.error, plan=made, new_names=added)
        held.live.extra.update(held.new_names.get(0, {}))
        ready = self._built(held.live, made.target)
        made.target.values.clear()  # tensors among them: the plan may be kept
        return made, ready

    def _planned(self, held: Suspension, restart: Restart) -> Plan:
        latest = self.redefinitions.latest
        if restart.action in {Action.ITERATION, Action.SKIP_BATCH}:
            return batches.make(held, restart, latest, self.body.namespace)
        return plan.make(held, restart, latest)

    def _check_outer(self, made: Plan) -> None:
        """Try the source of an outer frame now: later is too late to refuse."""
        if made.target is None or made.frame is None:
            return
        block, _ = continuation.split(made.frame.definition, made.frame.path)
        names = made.frame.frame.f_code
        holder = {n: _NO_CELL for n in (*names.co_cellvars, *names.co_freevars)}
        live = Live(
            frame=made.frame.frame,
            definition=made.frame.definition,
            block=block,
            cells=holder,
        )
        continuation.build(live, made.target)

    # -- in the run's thread ---------------------------------------------------

    def _main(self) -> None:
        try:
            guards.enter(self)
            self._handle = ThreadHandle()
            self.hooks.on_start()
            self.hooks.on_wake()
            self.clock.start()
            self._execute()
        except BaseException as error:  # noqa: BLE001 - carried to whoever waits
            self._end(error)
        else:
            self._end(None)
        finally:
            guards.leave()
            if self.hooks.journal is not None:
                self.hooks.journal.rest()
            if self._handle is not None:
                self._handle.close()

    def _execute(self) -> None:
        if self.body.code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(self._execute_async())
            return
        self._base = sys._getframe()
        exec(self.body.code, self.body.namespace)
        names = self.body.namespace
        while (following := continuation.take_following(names)) is not None:
            following.run()

    async def _execute_async(self) -> None:
        self._base = sys._getframe()
        names = self.body.namespace
        await eval(self.body.code, names)
        while (following := continuation.take_following(names)) is not None:
            await following.run()

    def _end(self, error: BaseException | None) -> None:
        self.clock.stop()
        names = self.body.namespace
        for name in list(names):  # at once: other cells may be running
            if is_hidden(name) and name != LOOP:
                names.pop(name, None)
        unwinding, self._unwinding = self._unwinding, None
        self._base = None
        state = State.FINISHED
        if error is not None:
            error = _presentable(error)
            state = State.FAILED
            if unwinding and unwinding.plan.restart.action is Action.ABANDON:
                state = State.ABANDONED
        self._publish(JobEnded(run=self.number, outcome=state.value))
        with self._changed:
            self.error = error if state is State.FAILED else None
            self.state = state
            self._changed.notify_all()

    def caught(
        self,
        frame: FrameType,
        block: int,
        holder: FunctionType | None,
        error: BaseException,
    ) -> Continuation | None:
        """A guard of this run caught ``error``: go on with the result, if any."""
        if isinstance(error, Leave):
            return self._go_behind(frame, block, holder, error)
        if isinstance(error, Switch):
            return self._switch(frame, block, holder, error)
        if self._unwinding is not None and self._is_unwinding(error):
            return self._arrive(frame, block, holder)
        if self._pausing is not None and error is self._pausing.error:
            return self._hold(frame, block, holder, self._pausing)
        if not isinstance(error, Exception):
            return None
        error.__traceback__ = frames.without_ours(error.__traceback__)
        if not self.parks or not self._is_unhandled(error, frame):
            return None
        live = self._live(frame, block, holder)
        if live is None:
            return None
        rollbacks = tuple(self.hooks.on_failure(error, live.frame))
        where = str(self.clock)
        held = self._let_go(
            error, lambda: suspend(error, live, self._base, where=where)
        )
        if held is None:
            return None
        held.rollbacks = rollbacks
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

    def _arm_pause(self) -> None:
        waiting = held_frames(sys._getframe(), self._base, None)
        found = [(held.frame, held.definition) for held in waiting]
        switch.arm_all(found, self._stopped_at)

    def _stopped_at(self, frame: FrameType, path: Path) -> KeyboardInterrupt:
        error = KeyboardInterrupt()
        self._pausing = _Pausing(error=error, frame=frame, path=path)
        return error

    def _hold(
        self,
        frame: FrameType,
        block: int,
        holder: FunctionType | None,
        pausing: _Pausing,
    ) -> Continuation | None:
        """A pause: held in front of a statement, with nothing failed."""
        self._pausing = None
        live = self._live(frame, block, holder)
        if pausing.frame is not frame or live is None:
            return None
        error = pausing.error
        error.__traceback__ = frames.without_ours(error.__traceback__)
        held = suspend(error, live, self._base, where=str(self.clock))
        if held is None:
            return None
        held.pause_before(pausing.path)
        return self._park(held)

    def _arm_edited(self) -> None:
        """Functions on the stack that were edited switch at their next statement."""
        switch.arm(self._edited_from(sys._getframe()))

    def _is_unhandled(self, error: Exception, frame: FrameType) -> bool:
        fate = handlers.fate(error, frame, self._base)
        return fate is handlers.Fate.UNHANDLED

    def _is_unwinding(self, error: BaseException) -> bool:
        """True if ``error`` is the one on its way out, or was raised from it."""
        if self._unwinding is None:
            return False
        chain: list[BaseException] = []
        link: BaseException | None = error
        while link is not None and link not in chain:
            chain.append(link)
            link = link.__cause__ or link.__context__
        if self._unwinding.error not in chain:
            self._unwinding = None  # somebody has swallowed it: this one is new
        return self._unwinding is not None

    def _live(
        self, frame: FrameType, block: int, holder: FunctionType | None
    ) -> Live | None:
        definition = cells.definition(frame.f_code)
        if definition is None:
            return None
        return Live(
            frame=frame,
            definition=definition,
            block=definition.layout.blocks[block],
            cells=frames.cells(holder),
        )

    def failed(self, frame: FrameType, error: BaseException) -> bool:
        """A library's iterator failed in ``frame``: True if it is asked again."""
        if not isinstance(error, Exception) or isinstance(error, StopIteration):
            return False
        if self._is_unwinding(error):
            return False
        error.__traceback__ = frames.without_ours(error.__traceback__)
        if not self.parks or not self._is_unhandled(error, frame):
            return False
        return self._hold_iterator(error, frame)

    def _hold_iterator(self, error: Exception, frame: FrameType) -> bool:
        """Wait; the run stays inside the iterator, and all that called it is alive."""
        rollbacks = tuple(self.hooks.on_failure(error, frame))
        own, shown = error.__traceback__, error
        while (held := self._held_by_iterator(shown, frame)) is not None:
            held.rollbacks = rollbacks
            made, command = self._wait_for_command(held)
            error.__traceback__ = own
            if isinstance(command, _Unwinding):
                self._unwinding = replace(command, error=error)
                return False
            try:
                _roll_back(made)
            except Exception as failure:  # noqa: BLE001
                # Such as workers that cannot be started: the user's to mend, too.
                shown = failure
                shown.__traceback__ = frames.without_ours(shown.__traceback__)
            else:
                self._arm_callers(frame)
                return True
        return False

    def _held_by_iterator(
        self, error: Exception, frame: FrameType
    ) -> Suspension | None:
        where = str(self.clock)
        return self._let_go(
            error, lambda: suspend_iterator(error, frame, self._base, where=where)
        )

    def _park(self, held: Suspension) -> Continuation | None:
        """Wait for a command; the exception goes on if it is to unwind."""
        made, command = self._wait_for_command(held)
        if isinstance(command, Continuation):
            _roll_back(made)
            continuation.release(command)
            return command
        self._unwinding = command
        return None

    def _wait_for_command(self, held: Suspension) -> tuple[Plan, _Command]:
        self.num_suspensions += 1
        name = "Paused" if held.is_paused else type(held.error).__name__
        self._publish(JobSuspended(run=self.number, error=name, where=held.where))
        held.num_redefinitions = len(self.redefinitions.log)
        with self._changed:
            self.suspension = held
            self.state = State.SUSPENDED
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._command is not None)
            assert self._command is not None
            given, self._command = self._command, None
            self.suspension = None
        self._wake()
        return given

    def _wake(self) -> None:
        try:
            self.hooks.on_wake()
        except Exception:  # noqa: BLE001 - the run must go on
            _log.exception("The front failed to take the run's output over.")

    def _arrive(
        self, frame: FrameType, block: int, holder: FunctionType | None
    ) -> Continuation | None:
        """The frame to go on from is reached: everything inside it has unwound."""
        if self._unwinding is None:
            return None
        made = self._unwinding.plan
        if made.frame is None or made.target is None:
            return None
        if made.frame.frame is not frame:
            return None
        live = self._live(frame, block, holder)
        wanted, _ = continuation.split(made.frame.definition, made.frame.path)
        if live is None or wanted is not live.block:
            return None
        live.extra.update(self._unwinding.new_names)
        _roll_back(made)
        ready = self._built(live, made.target)
        made.target.values.clear()  # tensors among them: the plan may be kept
        self._unwinding = None
        continuation.release(ready)
        return ready

    def _go_behind(
        self,
        frame: FrameType,
        block: int,
        holder: FunctionType | None,
        leaving: Leave,
    ) -> Continuation | None:
        """A block of this frame is done: go on behind its statement."""
        done = leaving.continuation
        live = self._live(frame, block, holder)
        if done.live.frame is not frame or live is None:
            return None
        live.extra.update(done.live.extra)
        target = plan.behind(live.definition, done.target.definition, done)
        ready = self._built(live, target)
        continuation.release(ready)
        return ready

    def _switch(
        self,
        frame: FrameType,
        block: int,
        holder: FunctionType | None,
        switching: Switch,
    ) -> Continuation | None:
        """A frame whose function was edited has come to its next statement."""
        live = self._live(frame, block, holder)
        if switching.frame is not frame or live is None:
            return None
        try:
            ready = self._switched(live, switching.path)
        except Exception as error:
            _log.warning("%s", error)
            if guards.STRICT and not isinstance(error, RecoveryError):
                raise
            target = plan.at(live.definition, live.definition, switching.path)
            ready = self._built(live, target)
        continuation.release(ready)
        return ready

    def _switched(self, live: Live, path: Path) -> Continuation:
        newest = self.redefinitions.latest(live.definition)
        new_path = switch.next_path(live.definition, newest, path)
        around = align.enclosing(live.definition.scope.body, newest.scope.body, path)
        return self._built(live, plan.at(live.definition, newest, new_path, around))

    def _built(self, live: Live, target: Target) -> Continuation:
        ready = continuation.build(live, target)
        ready.on_returned = self._arm_callers
        return ready

    def _arm_callers(self, frame: FrameType) -> None:
        """An inner call is done: edited functions around it may switch."""
        if frame.f_back is not None:
            switch.arm(self._edited_from(frame.f_back))

    def _edited_from(self, frame: FrameType) -> list[tuple[FrameType, Definition]]:
        return [
            (held.frame, held.definition)
            for held in held_frames(frame, self._base, None)
            if self.redefinitions.latest(held.definition) is not held.definition
        ]

    def _publish(self, event: Event) -> None:
        self.bus.publish(event)


def _roll_back(made: Plan) -> None:
    """What was half done is taken back: its call runs again."""
    for rollback in made.rollbacks:
        rollback.apply()


def _presentable(error: BaseException) -> BaseException:
    """The user's exception without our frames; never one of our own signals."""
    error.__traceback__ = frames.without_ours(error.__traceback__)
    if not isinstance(error, Leave | Switch):
        return error
    failed = RecoveryError(
        "The run could not be continued where it was held, because of a failure in "
        "gpurescue (see the log); restart it with %%resilient."
    )
    failed.__cause__ = error.__context__
    return failed
