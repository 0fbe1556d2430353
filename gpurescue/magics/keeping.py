"""The store of checkpoints beside a notebook, and who fills it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from traitlets import Bool, Float, Unicode
from traitlets.config import Configurable

from gpurescue.errors import UsageError
from gpurescue.magics.scene import Scene
from gpurescue.magics.shell import Shell
from gpurescue.store.checkpointer import Checkpointer, Keeping
from gpurescue.store.keys import key
from gpurescue.store.policy import Settings
from gpurescue.store.regular import Regular, Reported
from gpurescue.store.restore import Restored
from gpurescue.store.retention import Rules
from gpurescue.store.store import Store

FOLDER = ".gpurescue"


class GpuRescue(Configurable):
    """Settings of gpurescue: ``%config GpuRescue``."""

    checkpoints = Bool(True, help="take checkpoints of runs that say no --budget").tag(
        config=True
    )
    budget = Float(
        1.0, help="percent of a run's time that its checkpoints may cost"
    ).tag(config=True)
    seconds_between = Float(
        10.0, help="seconds from one checkpoint to the next, at least"
    ).tag(config=True)
    hours_between_failures = Float(
        None, allow_none=True, help="how often runs here fail or are preempted"
    ).tag(config=True)
    grace = Float(
        3.5, help="seconds to save a run in before its kernel is shut down"
    ).tag(config=True)
    best = Unicode(
        "",
        help="a variable by which the best checkpoint of a run is kept, such as "
        "'min val_loss' or 'max accuracy'",
    ).tag(config=True)
    records = Bool(
        True, help="record versions, arguments and logged values of all runs"
    ).tag(config=True)
    folder = Unicode(
        "", help=f"where checkpoints are; {FOLDER} beside the notebook if empty"
    ).tag(config=True)


class Keeper:
    """Opens the notebook's store, and has runs fill it.

    Args:
        shell: Says where the notebook is.
        settings: What the user wants.

    Attributes:
        restored: What was put back last, perhaps not all of it read and checked yet.
    """

    def __init__(self, shell: Shell, settings: GpuRescue) -> None:
        self.shell = shell
        self.settings = settings
        self.restored: Restored | None = None

    @property
    def path(self) -> Path:
        """Where the store is, or will be."""
        beside = Path(self.shell.folders()[-1]) / FOLDER
        return Path(self.settings.folder) if self.settings.folder else beside

    def store(self, *, create: bool = False) -> Store:
        """The store.

        Raises:
            Refused: There is none, or not one of ours.
        """
        return Store(self.path, key=key(create=create), create=create)

    def trust(self, id: str) -> None:
        """Sign a checkpoint that somebody else has written."""
        Store(self.path, key=key(create=True)).trust(id)

    def regular(
        self,
        scene: Scene,
        run: str,
        budget: float | None = None,
        parent: str | None = None,
    ) -> Regular | None:
        """What takes checkpoints of a run that is about to begin; None for none.

        Args:
            scene: The run, as it is written down.
            run: Its id.
            budget: Percent of its time that they may cost; as configured, if None.
            parent: The checkpoint that the run goes on from.

        Raises:
            UsageError: The budget, or another setting, makes no sense.
        """
        percent = self.settings.budget if budget is None else budget
        if percent == 0 or (budget is None and not self.settings.checkpoints):
            return None
        hours = self.settings.hours_between_failures
        settings = Settings(
            budget=percent / 100,
            min_interval=self.settings.seconds_between,
            mtbf=None if hours is None else hours * 3600,
        )
        path = self.path
        rules = _rules(self.settings.best)
        keeping = Keeping(parent=parent, rules=rules, where=scene.where)
        scene.metric, scene.before = keeping.rules.metric, self._checked

        def opened(report: Reported) -> Checkpointer:
            store = Store(path, key=key(create=True), create=True)
            return Checkpointer(store, run, keeping=keeping, on_done=report)

        found = Regular(opened, settings, scene)
        found.on_problem = lambda why: self.shell.say(f"No checkpoints: {why}")
        return found

    def _checked(self) -> None:
        """Nothing unchecked may be kept as good."""
        if self.restored is not None:
            self.restored.wait()
            self.restored = None


def _rules(best: str) -> Rules:
    """Which checkpoints stay, given the setting.

    Raises:
        UsageError: It does not say what is best.
    """
    if not best.strip():
        return Rules()
    way, _, name = best.strip().partition(" ")
    if way not in {"min", "max"} or not name.strip().isidentifier():
        raise UsageError(
            f"GpuRescue.best is {best!r}: say 'min' or 'max', and the name of a "
            "variable, such as 'min val_loss'."
        )
    return Rules(metric=name.strip(), is_better_high=way == "max")


def ended(regular: Regular, state: Callable[[], str]) -> None:
    """A run is over: finish its last checkpoint, and keep nobody waiting for it.

    Args:
        regular: Takes the run's checkpoints.
        state: Says how the run has ended, once it has.

    Not a daemon: a kernel that is shut down, or a notebook that was executed, ends
    when it is done.
    """
    if regular.has_begun:
        name = "gpurescue-last-checkpoint"
        threading.Thread(target=lambda: regular.close(state()), name=name).start()
