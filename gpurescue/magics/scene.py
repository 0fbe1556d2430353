"""A run as it is written down: all that it consists of at the top of a round."""

from __future__ import annotations

import contextlib
import importlib
import math
import platform
import sys
from collections.abc import Callable, Container, Mapping, Set
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.magics import imported
from gpurescue.magics.scripts import Script
from gpurescue.recovery import generators, points, revival, suspension
from gpurescue.source import cells, origins
from gpurescue.source import tree as trees
from gpurescue.source import versions as marks
from gpurescue.source.modules import Modules
from gpurescue.state import belongings, modes, written
from gpurescue.state.capture import (
    STACK,
    STAYS,
    State,
    used_codes,
    variables_of,
)
from gpurescue.state.graph import Program
from gpurescue.state.iterators import Loop
from gpurescue.state.surroundings import Surroundings
from gpurescue.store.catalog import METRICS, WHERE

CELL, MODES, LOGGERS = "<cell>", "<modes>", "<loggers>"  # variables that no user has
FOLDER, SETTINGS = "<folder>", "<settings>"
VERSIONS, MODULES, LOGGED = "versions", "modules", "logged"  # notes


@dataclass(slots=True, kw_only=True)
class Scene:
    """A run, to be written down when it stands at the top of a round.

    Attributes:
        script: Gives the newest version of its body.
        namespace: The variables of the notebook.
        hidden: Names of the notebook that are its shell's.
        modules: The user's modules.
        where: Reads its clock.
        surroundings: Of the process.
        metric: The variable by which checkpoints are the best; None for none.
        before: Called first.
        logged: Says how many values it has logged.
        settle: Waits until those are written down.
        settings: Values of its arguments, by name, that it was started with.
    """

    script: Callable[[], Script]
    namespace: dict[str, Any]
    hidden: Container[str]
    modules: Modules
    where: Callable[[], str]
    surroundings: Surroundings
    metric: str | None = None
    before: Callable[[], None] = lambda: None
    logged: Callable[[], int] = int
    settle: Callable[[], None] = lambda: None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, frame: FrameType, anyway: bool) -> State | None:
        """What it consists of, with ``frame`` at the top of a round of its loop.

        Args:
            frame: The innermost one of the user's.
            anyway: True to take it without its frames where it could not go on from;
                else there is nothing to be had there.
        """
        stack, why = _stack(frame)
        if stack is None and not anyway:
            return None
        self.before()
        script = self.script()
        variables = variables_of_run(script.code, self.namespace, frame)
        made = own_names(self.namespace, self.hidden)
        others = made.keys() - variables.keys()
        modules = imported.modules_of(self.modules)
        variables = made | variables | belongings.variables_of(modules)
        notes = {
            WHERE: self.where() or f"line {frame.f_lineno}",
            METRICS: _metrics(self.metric, variables),
            VERSIONS: versions(),
            MODULES: list(modules),
            LOGGED: self.logged(),
        }
        own = {CELL: script.recipe, MODES: modes.read()}
        variables |= own | {LOGGERS: self.surroundings.loggers.read()}
        variables[SETTINGS] = dict(self.settings)
        variables[FOLDER] = written.read(self.surroundings.began)
        if stack is None:
            notes[STAYS] = why
        else:
            variables[STACK] = stack
        sources = sources_of_run(script.code, self.namespace, frame, self.modules)
        return State(
            variables=variables,
            notes=notes,
            sources=sources,
            surroundings=self.surroundings.read(),
            program=self._program(sources, others),
            is_whole=stack is not None,
            is_urgent=anyway,
            settle=self.settle,
        )

    def _program(self, sources: dict[str, str], others: Set[str]) -> Program:
        """What its objects are of; the sources of their code are added to those."""
        return Program(
            namespace=self.namespace,
            origins=lambda code, module: origins.origin(code, module, sources),
            generators=generators.reduced,
            others=others,
        )


def own_names(
    namespace: Mapping[str, Any], hidden: Container[str] = ()
) -> dict[str, Any]:
    """The variables of a notebook that its user has made, and not its shell."""
    return {
        name: value
        for name, value in list(namespace.items())
        if not name.startswith("_") and name not in hidden
    }


def _stack(frame: FrameType) -> tuple[tuple[points.Point, ...] | None, str]:
    """The frames of a run, or why it could not go on from there."""
    try:
        found = points.points(frame)
        revival.check(found)
    except CannotResume as error:
        return None, str(error)
    return found, ""


def _metrics(name: str | None, variables: Mapping[str, Any]) -> dict[str, float]:
    """What checkpoints are the best by, as it is now; empty if it is no number."""
    if name is None:
        return {}
    found = [v for n, v in variables.items() if n.rpartition(".")[2] == name]
    numbers = [x for x in map(_number, found) if x is not None]
    return {name: numbers[-1]} if numbers else {}


def _number(value: Any) -> float | None:
    """A number, or a tensor or array of one, if it is finite."""
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found if math.isfinite(found) and not isinstance(value, str) else None


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


def versions(*, load: bool = False) -> dict[str, str]:
    """Those that a checkpoint depends on.

    Args:
        load: Import torch if nobody has.
    """
    if load:
        with contextlib.suppress(ImportError):
            importlib.import_module("torch")
    torch = sys.modules.get("torch")
    found = {"python": platform.python_version()}
    return found if torch is None else {**found, "torch": str(torch.__version__)}
