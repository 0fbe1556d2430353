"""The user's modules while a run is alive: what is saved is carried into it.

Looked at before a run begins, before each cell while it is alive, and about twice a
second while a cell waits for it.
"""

from __future__ import annotations

import ast
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from gpurescue.errors import RecoveryError, RescueError
from gpurescue.events import PatchApplied
from gpurescue.magics import autoreload
from gpurescue.magics.session import Job, Session
from gpurescue.magics.shell import Shell
from gpurescue.recovery import edits
from gpurescue.recovery.edits import Edit, Outcome
from gpurescue.recovery.engine import State
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.source import cells
from gpurescue.source.modules import Modules, Stamp

_log = logging.getLogger(__name__)
_PERIOD = 0.5


class Files:
    """Edits of the user's modules.

    Args:
        shell: Where the user is told.
        session: Knows the run that is alive.
        modules: The modules that are loaded.

    Attributes:
        is_carrying: True while functions are redefined by an edit of a file.
    """

    def __init__(self, shell: Shell, session: Session, modules: Modules) -> None:
        self.modules = modules
        self.is_carrying = False
        self._shell = shell
        self._session = session
        self._looked = 0.0
        self._seen: dict[str, Stamp] = {}
        self._told = ""
        self._waiting: object = None

    def label(self, filename: str) -> str:
        """What to call a version of a file; empty for what is no version of one."""
        unit = cells.unit(filename)
        if unit is None or not unit.is_file:
            return ""
        label = self.modules.folders.label(unit.path)
        is_newest = any(loaded.version.unit is unit for loaded in self.modules)
        return label if is_newest else f"{label} before the edit"

    # -- when to look ----------------------------------------------------------------

    def begin(self, redefinitions: Redefinitions) -> None:
        """Before a run: it begins in what the files say."""
        for loaded in self.modules:
            loaded.replaced.clear()
        self._forgive(lambda: self._put_in_force(self._read(), redefinitions))
        open_ones = edits.saved(self.modules)
        for loaded in self.modules:
            if loaded not in open_ones:
                edits.heal(loaded)

    def check(self) -> None:
        """Before a command that goes on.

        Raises:
            RecoveryError: What was saved cannot be carried; the run stays as it is.
        """
        job = self._session.alive
        if job is None:
            return
        try:
            self._carry(job)
            edits.check(self.modules)
        except RescueError:
            raise
        except Exception as error:
            _log.exception("Saved files could not be carried into the run.")
            raise RecoveryError(
                "What was saved could not be taken up, because of a failure in "
                "gpurescue (see the log); importlib.reload its module, or put the file "
                "back as it was."
            ) from error

    def problem(self) -> str:
        """Why what was saved is not in force; empty if it is."""
        try:
            self.check()
        except RescueError as error:
            return str(error)
        return ""

    def look(self) -> None:
        """Before any cell: a mistake is told by the command that it stops."""
        with contextlib.suppress(RescueError):
            self.check()

    def poll(self) -> None:
        """While a cell waits; often."""
        now = time.monotonic()
        if now - self._looked < _PERIOD:
            return
        self._looked, before = now, self._seen
        self._seen = edits.stamps(self.modules)
        # What is still being written looks different the next time.
        if self._seen and self._seen == before:
            self._forgive(self.check)

    def _forgive(self, act: Callable[[], object]) -> None:
        """Say what was wrong, once, and go on."""
        try:
            act()
        except RescueError as error:
            if str(error) != self._told:
                self._shell.say(str(error))
            self._told = str(error)
        except Exception:  # noqa: BLE001 - the run goes on in what is loaded
            _log.exception("Saved files could not be carried into the run.")

    # -- what is done then -----------------------------------------------------------

    def _carry(self, job: Job) -> None:
        """Carry what was saved: all of it, or nothing if some cannot be parsed."""
        ready = self._read()
        redefinitions = job.run.redefinitions
        reloaded = [loaded for loaded in self.modules if loaded.replaced]

        def act() -> None:
            for loaded in reloaded:
                edits.settle(loaded, redefinitions)
            for outcome in self._put_in_force(ready, redefinitions):
                _note(job, outcome)

        if (ready or reloaded) and not self._leave_to_thread(job, act):
            act()

    def _leave_to_thread(self, job: Job, act: Callable[[], None]) -> bool:
        """While the run is running its own thread has to do it, between two lines."""
        ticket = self._waiting = object()

        def later() -> None:
            if self._waiting is ticket:
                self._forgive(act)

        return job.run.state is State.RUNNING and job.run.between_lines(later)

    def _read(self) -> list[Edit]:
        changed = edits.saved(self.modules)
        found = [edits.read(self.modules, loaded) for loaded in changed]
        return [edit for edit in found if edit is not None]

    def _put_in_force(
        self, ready: Sequence[Edit], redefinitions: Redefinitions
    ) -> list[Outcome]:
        loaded = [names for names in (m.names for m in self.modules) if names]
        spaces = [self._session.namespace, *loaded]
        outcomes = []
        for edit in ready:
            self.is_carrying = True
            try:
                outcomes.append(edits.carry(edit, redefinitions, spaces))
            finally:
                self.is_carrying = False
            autoreload.tell(self._shell.ip, edit.loaded)
            if text := str(outcomes[-1]):
                self._shell.say(text)
        return outcomes


def _note(job: Job, outcome: Outcome) -> None:
    """Variables count as patches, as functions do."""
    held = job.run.suspension
    for change in outcome.assigned:
        if held is not None:
            held.changed |= set(change.names)
        patch = PatchApplied(
            run=job.run.number,
            name=f"{', '.join(change.names)} ({outcome.label})",
            before=ast.unparse(change.before) if change.before else "",
            after=ast.unparse(change.node),
        )
        job.patches.append(patch)
