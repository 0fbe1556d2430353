"""Commands as a cell gives them: begin or go on, wait, and say what came of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from gpurescue.events import Event, JobResumed, PatchApplied
from gpurescue.magics import keeping, kept, rendering, scripts
from gpurescue.magics.files import Files
from gpurescue.magics.keeping import Keeper
from gpurescue.magics.panels import Panels
from gpurescue.magics.recording import Recording
from gpurescue.magics.scene import Scene
from gpurescue.magics.scripts import Script
from gpurescue.magics.session import GoingOn, Job, Options, Session
from gpurescue.magics.shell import Shell
from gpurescue.magics.waiting import Waiter
from gpurescue.recovery import own
from gpurescue.recovery.engine import State
from gpurescue.recovery.plan import Action, Plan, Restart
from gpurescue.recovery.visits import Visits
from gpurescue.source.modules import Modules
from gpurescue.state.surroundings import Surroundings

_GIVE_UP = {Action.RAISE, Action.ABANDON}
_PATIENCE = 10.0
_HANDOVER = 0.0005
_TAKEN = "Taken as an edit of the parked run: {} (%%resilient --fresh starts over)"


class Front:
    """Joins a session to a shell; one method for each command."""

    def __init__(
        self, shell: Shell, session: Session, modules: Modules, keeper: Keeper
    ) -> None:
        self.shell = shell
        self.session = session
        self.modules = modules
        self.files = Files(shell, session, modules)
        session.prepare = self.files.begin
        self.keeper = keeper
        self.surroundings = Surroundings()
        session.attach = self._attach
        self.panels = Panels(shell, self.label)
        self._parked: rendering.Parked | None = None
        self._line = "{}"
        self.close = session.bus.subscribe(self._happened)

    def label(self, filename: str) -> str:
        """What a person calls a source: ``Cell In[4]``, or the path of a file."""
        return self.files.label(filename) or self.shell.label(filename)

    def begin(self, body: str, options: Options) -> Waiter:
        """``%%resilient``: start a run, or take the cell as an edit of its own."""
        self.session.check_outside()
        if options.fresh and self.session.alive is not None:
            return self._start_over(body, options)
        job = self.session.check_startable(self.shell.cell())
        if job is not None:
            return self._take_as_edit(job, body)
        return self._start(self._compile(body), options)

    def _start_over(self, body: str, options: Options) -> Waiter:
        job = self.session.parked()
        try:
            script = self._compile(body)  # first: a typo must not cost the parked run
        except Exception:
            self.panels.show(job)  # running the cell again has cleared it
            raise
        self._line = "{}"
        self.session.abandon()
        self.panels.close("abandoned")
        return self._start(script, options)

    def _start(self, script: Script, options: Options) -> Waiter:
        started = self.session.start(
            script,
            self.shell.output(),
            options,
            parks=options.park or self.shell.can_ask(),
        )
        return self._waiter(started)

    def go_on_from(self, script: Script, options: Options, again: GoingOn) -> Waiter:
        """``%restore``: start what is left of a run of another process."""
        started = self.session.start(
            script,
            self.shell.output(),
            options,
            parks=options.park or self.shell.can_ask(),
            again=again,
        )
        return self._waiter(started)

    def _attach(self, job: Job, options: Options) -> Callable[[], None]:
        """Have a run recorded, and checkpoints of it taken."""
        clock, id = job.run.clock, secrets.token_hex(8)
        recording = Recording(self.keeper, self.modules, job, id)
        with own.harmless("The run is not recorded."):
            recording.start(options.settings)
        scene = Scene(
            script=lambda: job.script,
            namespace=self.session.namespace,
            hidden=self.shell.hidden,
            modules=self.modules,
            where=clock.__str__,
            surroundings=self.surroundings,
            logged=recording.num_logged,
            settle=recording.settle,
            settings=options.settings,
        )
        job.regular = regular = self.keeper.regular(
            scene, id, options.budget, job.parent
        )
        if regular is None:
            return recording.ended
        visits = Visits(job.run, regular)
        visits.start()

        def ended() -> None:
            visits.close()
            recording.ended()
            keeping.ended(regular, lambda: job.run.wait(_PATIENCE).value)

        return ended

    def _take_as_edit(self, job: Job, body: str) -> Waiter:
        try:
            self.files.check()
            script = self._compile(body)
            self.session.check_changed(job, script)
            return self._resume(Restart(), script, _TAKEN)
        except Exception:
            self.panels.show(job)  # running the cell again has cleared it
            raise

    def go_on(self, restart: Restart, body: str | None = None) -> Waiter:
        """``%resume`` and ``%%resume``."""
        self.session.check_outside()
        job = self.session.alive
        if job is not None and job.run.state is State.RUNNING and not job.is_attached:
            return self._waiter(job)
        self.session.parked()
        if restart.action not in _GIVE_UP:
            self.files.check()
        script = self._compile(body) if body is not None else None
        return self._resume(restart, script, "{}")

    def _resume(self, restart: Restart, script: Script | None, line: str) -> Waiter:
        self._line = line
        made = self.session.resume(restart, self.shell.output(), script)
        job = self.session.job
        assert job is not None
        # The user's code first: hand the interpreter over at once, and close the
        # panel while it runs.
        time.sleep(_HANDOVER)
        return self._waiter(job, first=lambda: self.panels.close(str(made)))

    def _happened(self, event: Event) -> None:
        """Just before a run goes on: its output must come after the plan."""
        if isinstance(event, JobResumed):
            self._let_go()
            self.shell.say(self._line.format(event.plan))
        job = self.session.job
        if isinstance(event, JobResumed) and job is not None and job.regular:
            job.regular.want()  # who is killed now must not meet the mended bug again
        is_running = job is not None and job.run.state is State.RUNNING
        is_told = self.files.is_carrying  # all of a file's functions in one line
        if isinstance(event, PatchApplied) and is_running and not is_told:
            name = "the cell" if event.name == "<module>" else event.name
            self.shell.say(f"The run takes up the new {name} at its next statement.")

    def plan(self, restart: Restart, body: str | None = None) -> Plan:
        """``%resume --dry-run``: work out a restart without doing it."""
        self.session.parked()
        self.files.check()
        script = self._compile(body) if body is not None else None
        return self.session.plan(restart, script)

    def settle(self, job: Job) -> None:
        """Say what came of the wait.

        Raises:
            Suspended: The run is parked.
            BaseException: The user's own, if the run failed with it.
        """
        state, held = job.run.state, job.run.suspension
        if state is State.SUSPENDED and held is not None:
            job.num_settled = len(job.patches)
            self._parked = rendering.Parked(self.shell.ip, held)
            self.panels.show(job)
            if held.lost:
                self.shell.say(kept.secured(self, job))
            raise self._parked.error(rendering.suspended_line(held))
        if state is State.ABANDONED:
            where = f" at {job.run.clock}" if str(job.run.clock) else ""
            self.shell.say(f"Run {job.run.number} was abandoned{where}.")
        error, job.run.error = job.run.error, None  # it holds all frames
        if error is not None:
            raise rendering.as_in_a_cell(self.shell.ip, error)

    def _let_go(self) -> None:
        """Nothing of ours may keep the frames of a run that goes on."""
        if self._parked is not None:
            self._parked.take_back()
            self._parked = None

    def _waiter(self, job: Job, first: Callable[[], None] = lambda: None) -> Waiter:
        return Waiter(self.shell, job, first=first, meanwhile=self.files.poll)

    def _compile(self, body: str) -> Script:
        return scripts.compile_script(
            self.shell.keep(body),
            flags=self.shell.flags,
            interactivity=self.shell.interactivity,
        )
