"""The runs of one notebook, and the commands that a person gives them.

Knows nothing of IPython: magics, functions and widgets all call these same methods.
Each checks everything before it changes anything; a mistake leaves the run parked.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpurescue.errors import RescueError, UsageError
from gpurescue.events import Bus, PatchApplied
from gpurescue.magics.scripts import Script
from gpurescue.protocols import DeviceRuntime
from gpurescue.recovery.engine import Body, Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.recovery.plan import Action, Plan, Restart
from gpurescue.recovery.suspension import Suspension
from gpurescue.source import foreign, names
from gpurescue.source.cells import Definition
from gpurescue.store.regular import Regular

_log = logging.getLogger(__name__)
_PATIENCE = 10.0

Bind = Callable[[], None]
Attach = Callable[["Job", "Options"], Callable[[], None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a run is to be started.

    Attributes:
        park: Wait for a person in any client.
        fresh: Abandon the parked run first.
        journal: Keep what ``--iteration`` needs of every round, whatever it costs.
        budget: Percent of the run's time that checkpoints may cost; None as configured.
        settings: Values of its arguments, by name, in the place of their defaults.
    """

    park: bool = False
    fresh: bool = False
    journal: bool = False
    budget: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A batch that was left out.

    Attributes:
        where: Reading of the loop clock, such as ``epoch 2, step 17``.
        error: What it had caused.
        batch: The variables of the loop, by name.
    """

    where: str
    error: BaseException
    batch: dict[str, Any]


@dataclass(slots=True, kw_only=True)
class Job:
    """A run, and what the front remembers about it.

    Attributes:
        run: The run.
        script: Newest version of its body.
        bind: Says whose output the run's is; called in the run's thread.
        patches: What has been redefined since it began, oldest first.
        num_settled: How many of them were there when it was parked last.
        is_attached: True while a cell waits for it.
        skipped: Batches that were left out.
        regular: Takes its checkpoints; None if nobody does.
        parent: The checkpoint that it has gone on from; None for none.
    """

    run: Run
    script: Script
    bind: Bind
    patches: list[PatchApplied] = field(default_factory=list)
    num_settled: int = 0
    is_attached: bool = False
    skipped: list[Skipped] = field(default_factory=list)
    regular: Regular | None = None
    parent: str | None = None

    @property
    def is_alive(self) -> bool:
        """True until the run is over."""
        return not self.run.state.is_over

    @property
    def is_parked(self) -> bool:
        """True while the run waits for a person."""
        return self.run.state is State.SUSPENDED

    @property
    def is_patched(self) -> bool:
        """True if something was redefined since the run was parked."""
        return len(self.patches) > self.num_settled


@dataclass(frozen=True, slots=True, kw_only=True)
class GoingOn:
    """What a run goes on from that was begun in another process.

    Attributes:
        checkpoint: Its id.
        body: What is left of the cell.
        on_start: Called in the run's thread, just before it goes on.
        edit: Redefines what was edited since, as soon as its frames are there.
        settings: Values of its arguments, by name, that it was started with.
    """

    checkpoint: str
    body: Body
    on_start: Callable[[], None]
    edit: Callable[[Redefinitions], None]
    settings: Mapping[str, Any] = field(default_factory=dict)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def both() -> None:
        first()
        second()

    return both


class Session:
    """The current run, and the ones before it.

    Args:
        namespace: Where cells run.
        runtime: Carries the device library's modes over to a run's thread.
        bus: Gets the events of all runs.

    Attributes:
        prepare: Called before a run begins; told what it redefines is the run's.
        attach: Called with the options of a run before it begins; what it gives is
            called once the run is over.
    """

    def __init__(
        self,
        namespace: dict[str, object],
        runtime: DeviceRuntime,
        bus: Bus | None = None,
    ) -> None:
        self.namespace = namespace
        self.runtime = runtime
        self.bus = bus or Bus()
        self.prepare: Callable[[Redefinitions], None] = lambda redefinitions: None
        self.attach: Attach = lambda job, options: lambda: None
        self.job: Job | None = None

    # -- looking -------------------------------------------------------------------

    @property
    def alive(self) -> Job | None:
        """The run that is running or parked, if there is one."""
        return self.job if self.job is not None and self.job.is_alive else None

    def parked(self) -> Job:
        """The run that waits for a person.

        Raises:
            UsageError: There is none.
        """
        job = self.alive
        if job is None:
            raise UsageError("No run is suspended; start one with %%resilient.")
        if not job.is_parked:
            raise UsageError(
                f"Run {job.run.number} is running; interrupt its cell, or wait."
            )
        return job

    def check_outside(self) -> None:
        """Ask before any command that waits for a run.

        Raises:
            UsageError: The run itself asks: it would wait for itself.
        """
        job = self.alive
        if job is not None and job.run.thread_id == threading.get_ident():
            raise UsageError(
                f"Run {job.run.number} cannot start or resume a run from inside its "
                "own cell; take the command out of it."
            )

    def suspension(self) -> Suspension:
        """What the parked run stands at.

        Raises:
            UsageError: No run is parked.
        """
        found = self.parked().run.suspension
        if found is None:
            raise UsageError("The run has just gone on; wait for its cell.")
        return found

    def note_cell(self, tree: ast.Module) -> None:
        """Note which variables a cell may change while a run is parked."""
        job = self.alive
        held = job.run.suspension if job is not None else None
        if held is not None:
            held.changed |= names.changed(tree.body)

    # -- starting --------------------------------------------------------------------

    def start(
        self,
        script: Script,
        bind: Bind,
        options: Options,
        *,
        parks: bool,
        again: GoingOn | None = None,
    ) -> Job:
        """Begin a run; the one before it must be over.

        Args:
            script: Its body.
            bind: Says whose output the run's is.
            options: How it is to be started.
            parks: False to raise the user's exception instead of waiting.
            again: What it goes on from, if it was begun in another process.

        Raises:
            UsageError: An option makes no sense; nothing has begun.
        """
        ends = contextlib.ExitStack()
        hooks = Hooks(
            on_start=self.runtime.capture_modes(),
            on_failure=self.runtime.rollbacks,
            lost=self.runtime.lost,
            memory=self.runtime.memory,
            journal=self.runtime.journal(keeps_parameters=options.journal),
            marks_all=options.journal,
            on_end=ends.close,
        )
        redefinitions = Redefinitions()
        body = Body(code=script.code, namespace=self.namespace)
        if again is not None:
            body, hooks.on_start = again.body, _both(hooks.on_start, again.on_start)
        run = Run(
            body,
            redefinitions=redefinitions,
            bus=self.bus,
            hooks=hooks,
            parks=parks,
        )
        job = Job(run=run, script=script, bind=bind)
        if again is not None:
            job.parent = again.checkpoint
            options = dataclasses.replace(options, settings=again.settings)
        hooks.on_wake = lambda: job.bind()
        redefinitions.subscribe(lambda old, new: self._patched(job, old, new))
        ends.callback(self.attach(job, options))
        ends.callback(self.runtime.watch(foreign.held))
        self.prepare(redefinitions)
        if again is not None:
            body.clock.on_first = functools.partial(again.edit, redefinitions)
        self.job = job
        run.start()
        return job

    def _patched(self, job: Job, old: Definition, new: Definition) -> None:
        patch = PatchApplied(
            run=job.run.number, name=new.qualname, before=old.source, after=new.source
        )
        job.patches.append(patch)
        self.bus.publish(patch)

    def check_startable(self, cell: tuple[str, str] | None) -> Job | None:
        """Ask before a second ``%%resilient``: None if nothing is in the way.

        Returns:
            The parked run, if ``cell`` is the one that it was started from.

        Raises:
            UsageError: Another run is alive.
        """
        job = self.alive
        if job is None:
            return None
        job = self.parked()
        if cell is not None and cell == job.script.text.cell:
            return job
        clock = str(job.run.clock)
        where = f" at {clock}" if clock else ""
        hint = "" if cell else ", or with %%resume and the new body if this is an edit"
        raise UsageError(
            f"Run {job.run.number} is still parked{where}; go on with %resume{hint}, "
            "or give it up with %resume --abandon or %%resilient --fresh."
        )

    def check_changed(self, job: Job, script: Script) -> None:
        """Ask before running the parked run's own cell again.

        Raises:
            UsageError: Nothing was changed since the crash.
        """
        same = script.text.source.strip() == job.script.text.source.strip()
        if same and not job.is_patched:
            raise UsageError(
                f"Run {job.run.number} is still parked and nothing was changed since; "
                "go on with %resume, or start over with %%resilient --fresh."
            )

    # -- going on --------------------------------------------------------------------

    def plan(self, restart: Restart, script: Script | None = None) -> Plan:
        """Work out a restart without doing it."""
        job = self.parked()
        if script is None:
            return job.run.plan(restart)
        with _Edit(job, script) as edit:
            made = job.run.plan(edit.applied_to(restart))
            edit.take_back()
        return made

    def resume(
        self, restart: Restart, bind: Bind, script: Script | None = None
    ) -> Plan:
        """Go on; returns at once, with what was decided.

        Args:
            restart: What the user asked for.
            bind: Says whose output the run's is from now on.
            script: New version of the body, if it was edited.

        Raises:
            CannotResume, PatchRejected, UsageError: With the reason; the run stays
                parked as it is.
        """
        job = self.parked()
        before, job.bind = job.bind, bind
        held = job.run.suspension
        try:
            made = self._go_on(job, restart, script)
        except BaseException:
            job.bind = before
            raise
        if made.aside and held is not None:
            error, batch = held.error.with_traceback(None), dict(made.aside)
            made.aside.clear()  # kept there, and not in the plan as well
            job.skipped.append(Skipped(where=held.where, error=error, batch=batch))
        return made

    def _go_on(self, job: Job, restart: Restart, script: Script | None) -> Plan:
        if script is None:
            return job.run.resume(restart)
        with _Edit(job, script) as edit:
            made = job.run.resume(edit.applied_to(restart))
            job.script = dataclasses.replace(
                script,
                text=dataclasses.replace(script.text, cell=job.script.text.cell),
            )
        return made

    def abandon(self) -> None:
        """Give the parked run up, and wait until it has unwound."""
        job = self.alive
        if job is None:
            return
        self.parked().run.resume(Restart(action=Action.ABANDON))
        if not job.run.wait(_PATIENCE).is_over:
            raise UsageError(
                f"Run {job.run.number} has not ended within {_PATIENCE:.0f} s; its "
                "`finally` blocks are still running."
            )


class _Edit:
    """A new body in the place of the old one; taken back if it is refused."""

    def __init__(self, job: Job, script: Script) -> None:
        self.job = job
        self.script = script

    def __enter__(self) -> _Edit:
        self.num_patches = len(self.job.patches)
        self.job.run.redefinitions.supersede(self.job.script.code, self.script.code)
        return self

    def applied_to(self, restart: Restart) -> Restart:
        return dataclasses.replace(restart, body=self.script.definition)

    def take_back(self) -> None:
        self.job.run.redefinitions.supersede(self.script.code, self.job.script.code)
        del self.job.patches[self.num_patches :]

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, RescueError):
            self.take_back()
