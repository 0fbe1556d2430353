"""The store of checkpoints beside a notebook, and who fills it."""

from __future__ import annotations

import math
import platform
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from traitlets import Bool, Float, Unicode
from traitlets.config import Configurable

from gpurescue.errors import UsageError
from gpurescue.magics.shell import Shell
from gpurescue.recovery import suspension
from gpurescue.source import cells
from gpurescue.source import tree as trees
from gpurescue.source import versions as marks
from gpurescue.source.modules import Modules
from gpurescue.state.capture import used_codes, variables_of
from gpurescue.state.iterators import Loop
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

    checkpoints = Bool(False, help="take checkpoints of runs that say no --budget").tag(
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
    best = Unicode(
        "",
        help="a variable by which the best checkpoint of a run is kept, such as "
        "'min val_loss' or 'max accuracy'",
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

    def regular(
        self,
        variables: Callable[[FrameType], dict[str, Any]],
        notes: Callable[[dict[str, Any]], dict[str, Any]],
        sources: Callable[[FrameType], dict[str, str]],
        budget: float | None = None,
    ) -> Regular | None:
        """What takes checkpoints of a run that is about to begin; None for none.

        Args:
            variables: What the run consists of.
            notes: Plain facts about it, given those.
            sources: Texts of its code, by the name of each.
            budget: Percent of its time that they may cost; as configured, if None.

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
        path, run = self.path, secrets.token_hex(8)
        keeping = Keeping(rules=_rules(self.settings.best))

        def opened(report: Reported) -> Checkpointer:
            store = Store(path, key=key(create=True), create=True)
            return Checkpointer(store, run, keeping=keeping, on_done=report)

        found = Regular(
            opened, settings, variables=variables, notes=notes, sources=sources
        )
        found.on_problem = lambda why: self.shell.say(f"No checkpoints: {why}")
        return found

    def metrics(self, variables: Mapping[str, Any]) -> dict[str, float]:
        """What checkpoints are the best by, as it is now; empty if it is no number."""
        name = _rules(self.settings.best).metric
        if name is None:
            return {}
        found = [v for n, v in variables.items() if n.rpartition(".")[2] == name]
        numbers = [x for x in map(_number, found) if x is not None]
        return {name: numbers[-1]} if numbers else {}

    def variables(
        self, code: Callable[[], Any], namespace: dict[str, Any]
    ) -> Callable[[FrameType], dict[str, Any]]:
        """What a run of a cell with this code consists of, standing in a frame."""

        def of_frame(frame: FrameType) -> dict[str, Any]:
            if self.restored is not None:  # nothing unchecked may be kept as good
                self.restored.wait()
                self.restored = None
            return variables_of_run(code(), namespace, frame)

        return of_frame


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


def _number(value: Any) -> float | None:
    """A number, or a tensor or array of one, if it is finite."""
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if math.isfinite(found) and not isinstance(value, str) else None


def ended(regular: Regular | None) -> None:
    """A run is over: finish its last checkpoint, and keep nobody waiting for it.

    Not a daemon: a kernel that is shut down, or a notebook that was executed, ends
    when it is done.
    """
    if regular is not None and regular.has_begun:
        name = "gpurescue-last-checkpoint"
        threading.Thread(target=regular.close, name=name).start()


def variables_of_run(
    code: Any, namespace: dict[str, Any], frame: FrameType
) -> dict[str, Any]:
    """What a run of a cell with this code consists of, standing in a frame."""
    frames = [
        (held.function, held.variables | {n: Loop(*x) for n, x in held.loops.items()})
        for held in suspension.standing(frame)
    ]
    found = variables_of(code, namespace, frames)
    return {name: x for name, x in found.items() if not trees.is_hidden(name)}


def sources_of_run(
    code: Any, namespace: dict[str, Any], frame: FrameType, modules: Modules
) -> dict[str, str]:
    """Texts of the cells and modules that a run of this code is made of.

    A function that was redefined while it runs is there in both versions.
    """
    running = [held.code for held in suspension.standing(frame)]
    codes = [*used_codes(code, namespace), *running]
    names = dict.fromkeys(marks.source_name(found) for found in codes)
    units = [cells.unit(name) for name in names]
    units += [loaded.version.unit for loaded in modules]
    return {unit.filename: unit.source for unit in units if unit is not None}


def versions() -> dict[str, str]:
    """Those that a checkpoint depends on."""
    torch = sys.modules.get("torch")
    found = {"python": platform.python_version()}
    return found if torch is None else {**found, "torch": str(torch.__version__)}
