"""The state machine of a run: running -> suspended -> resumed, or ended.

A run lives in a daemon thread of its own, so that the cell that started it can end
while the run stays parked. Everything that may fail (plans, compiling an edit) is
done in the thread that asks, while the run is still parked: a mistake loses nothing.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import inspect
import itertools
import logging
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import CellType, CodeType, FrameType
from typing import Any

from gpurescue.errors import CannotResume, PatchRejected, RecoveryError, UsageError
from gpurescue.events import Bus, Event, JobEnded, JobResumed, JobSuspended
from gpurescue.recovery import (
    batches,
    continuation,
    frames,
    guards,
    handlers,
    own,
    plan,
)
from gpurescue.recovery.answers import Answers, Command, Unwinding
from gpurescue.recovery.continuation import Continuation, Leave, Live
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.recovery.loops import Clock
from gpurescue.recovery.plan import Action, Plan, Restart
from gpurescue.recovery.rounds import Marker
from gpurescue.recovery.suspension import Suspension
from gpurescue.recovery.switch import Switch
from gpurescue.recovery.thread import ThreadHandle, interrupted
from gpurescue.source.cells import Definition
from gpurescue.source.loops import LOOP
from gpurescue.source.tree import is_hidden

_log = logging.getLogger(__name__)
_numbers = itertools.count(1)
_NO_CELL = CellType()
_GIVE_UP = {Action.RAISE, Action.ABANDON}
_LOST = (
    "The device takes no more commands of this process ({}): restart the kernel, then "
    "%load_ext gpurescue and %restore go on from the newest checkpoint."
)


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

    Attributes:
        code: The statements, or what is left of them.
        namespace: The variables.
        clock: Counts the loops that it is in, if those were begun in another process.
    """

    code: CodeType
    namespace: dict[str, Any]
    clock: Clock = field(default_factory=Clock)


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
        self.clock = body.clock
        if self.hooks.journal is not None:
            self.clock.marker = Marker(self.hooks.journal, body.namespace)
            self.clock.marks_all = self.hooks.marks_all
        self.num_suspensions = 0
        self._changed = threading.Condition()
        self._command: tuple[Plan, Command] | None = None
        self._handle: ThreadHandle | None = None
        ask = self._ask if parks else None
        self._answers = Answers(self.hooks, self.redefinitions, self.clock, ask)
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
        handlers.available()  # asked now: torch's compiler changes how calls look
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
        return self._call(self._answers.arm_pause)

    def show(self, look: Callable[[FrameType], bool]) -> bool:
        """Have somebody see the run where a round begins; returns at once.

        It is a round of a loop that the clock does not count, and that the run is in.

        Args:
            look: Called in the run's thread with the frame of such a loop, until it
                says that it has seen enough, or for some seconds.

        Returns:
            False if the run cannot be reached.
        """
        return self.between_lines(lambda: self._answers.arm_look(look))

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
        self._call(self._answers.arm_edited)

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

    def _prepare(self, restart: Restart) -> tuple[Plan, Command]:
        held = self.suspension
        if self.state is not State.SUSPENDED or held is None:
            raise UsageError("No run is suspended; start one with %%resilient.")
        held.edited = set(self.redefinitions.log[held.num_redefinitions :])
        made = self._planned(held, restart)
        if made.asks:
            return made, None
        if made.target is None or made.frame is None:
            return made, Unwinding(error=held.error, plan=made)
        block, _ = continuation.split(made.frame.definition, made.frame.path)
        is_here = held.iterator is None and made.frame.index == 0
        if not is_here or block is not held.live.block:
            self._check_outer(made)
            added = held.new_names.get(made.frame.index, {})
            return made, Unwinding(error=held.error, plan=made, new_names=added)
        held.live.extra.update(held.new_names.get(0, {}))
        ready = self._answers.built(held.live, made.target)
        made.target.values.clear()  # tensors among them: the plan may be kept
        return made, ready

    def _planned(self, held: Suspension, restart: Restart) -> Plan:
        latest = self.redefinitions.latest
        if held.lost and restart.action not in _GIVE_UP:
            raise CannotResume(_LOST.format(held.lost))
        self._check_there(held, restart)
        if restart.action in {Action.ITERATION, Action.SKIP_BATCH}:
            return batches.make(held, restart, latest, self.body.namespace)
        return plan.make(held, restart, latest)

    def _check_there(self, held: Suspension, restart: Restart) -> None:
        """Refuse to go on in a function that an edit has taken out."""
        if restart.action in {Action.RETRY, Action.SKIP}:
            frame = plan.frame_at(held, restart.frame)
            if self.redefinitions.is_gone(frame.definition):
                raise PatchRejected(
                    f"{frame.name} is gone from what was saved or run last; put it "
                    f"back, or go on further out: %resume --frame {frame.index + 1}."
                )

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
            guards.enter(self._answers)
            with own.harmless("The run cannot be paused."):
                self._handle = ThreadHandle()
            self.hooks.on_start()
            self.hooks.on_wake()
            with own.harmless("The loops of the run are not counted."):
                self.clock.start()
            self._execute()
        except BaseException as error:  # noqa: BLE001 - carried to whoever waits
            self._end(error)
        else:
            self._end(None)
        finally:
            self._leave()

    def _leave(self) -> None:
        """The thread ends: nothing of the run stays behind in it."""
        guards.leave()
        with own.harmless("Optimizers are still watched."):
            if self.hooks.journal is not None:
                self.hooks.journal.rest()
        with own.harmless("The thread can still be reached."):
            if self._handle is not None:
                self._handle.close()

    def _execute(self) -> None:
        if self.body.code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(self._execute_async())
            return
        self._answers.base = sys._getframe()
        exec(self.body.code, self.body.namespace)
        names = self.body.namespace
        while (following := self._following(names)) is not None:
            following.run()

    async def _execute_async(self) -> None:
        self._answers.base = sys._getframe()
        names = self.body.namespace
        await eval(self.body.code, names)
        while (following := self._following(names)) is not None:
            await following.run()

    def _following(self, names: dict[str, Any]) -> Continuation | None:
        with own.handing_back(self._answers.origin):
            return continuation.take_following(names)

    def _end(self, error: BaseException | None) -> None:
        with own.harmless("The clock may go on."):
            self.clock.stop()
        with own.harmless("The library keeps what was put into it."):
            self.hooks.on_end()
        with own.harmless("Variables of ours stay in the notebook."):
            self._clean_up(self.body.namespace)
        unwinding, self._answers.unwinding = self._answers.unwinding, None
        self._answers.base = None
        state = State.FINISHED
        if error is not None:
            with own.harmless("A traceback shows frames of ours."):
                error = _presentable(error)
            state = State.FAILED
            if unwinding and unwinding.plan.restart.action is Action.ABANDON:
                state = State.ABANDONED
        self._publish(JobEnded(run=self.number, outcome=state.value))
        with self._changed:
            self.error = error if state is State.FAILED else None
            self.state = state
            self._changed.notify_all()

    def _clean_up(self, names: dict[str, Any]) -> None:
        for name in list(names):  # at once: other cells may be running
            if is_hidden(name) and name != LOOP:
                names.pop(name, None)

    def _ask(self, held: Suspension) -> tuple[Plan, Command]:
        """Park, and wait for what a person decides."""
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

    def _publish(self, event: Event) -> None:
        self.bus.publish(event)


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
