"""A run as it is written down: all that it consists of at the top of a round."""

from __future__ import annotations

import math
import platform
import sys
from collections.abc import Callable, Container, Mapping
from types import FrameType
from typing import Any

from gpurescue.errors import CannotResume
from gpurescue.magics.scripts import Script
from gpurescue.recovery import generators, points, revival, suspension
from gpurescue.source import cells
from gpurescue.source import tree as trees
from gpurescue.source import versions as marks
from gpurescue.source.modules import Modules
from gpurescue.state import modes
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

CELL, MODES, PLACE = "<cell>", "<modes>", "<place>"  # variables that no user has
VERSIONS = "versions"  # a note


class Scene:
    """A run, to be written down when it stands at the top of a round.

    Args:
        script: Gives the newest version of its body.
        namespace: The variables of the notebook.
        modules: The user's modules.
        where: Reads its clock.
        surroundings: Of the process.
        hidden: Names of the notebook that are its shell's.

    Attributes:
        metric: The variable by which checkpoints are the best; None for none.
        before: Called first.
    """

    def __init__(
        self,
        script: Callable[[], Script],
        namespace: dict[str, Any],
        modules: Modules,
        where: Callable[[], str],
        surroundings: Surroundings,
        hidden: Container[str] = (),
    ) -> None:
        self.metric: str | None = None
        self.before: Callable[[], None] = lambda: None
        self._script = script
        self._namespace = namespace
        self._modules = modules
        self._where = where
        self._surroundings = surroundings
        self._hidden = hidden

    def __call__(self, frame: FrameType) -> State:
        """What it consists of, with ``frame`` at the top of a round of its loop."""
        self.before()
        script = self._script()
        variables = variables_of_run(script.code, self._namespace, frame)
        variables = own_names(self._namespace, self._hidden) | variables
        notes = {
            WHERE: self._where(),
            METRICS: _metrics(self.metric, variables),
            VERSIONS: versions(),
        }
        variables |= {
            CELL: script.recipe,
            MODES: modes.read(),
            PLACE: self._surroundings.read(),
        }
        try:
            variables[STACK] = _stack(frame)
        except CannotResume as error:
            notes[STAYS] = str(error)
        return State(
            variables=variables,
            notes=notes,
            sources=sources_of_run(script.code, self._namespace, frame, self._modules),
            program=Program(namespace=self._namespace, generators=generators.reduced),
            is_whole=STACK in variables,
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


def _stack(frame: FrameType) -> tuple[points.Point, ...]:
    found = points.points(frame)
    revival.check(found)
    return found


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


def versions() -> dict[str, str]:
    """Those that a checkpoint depends on."""
    torch = sys.modules.get("torch")
    found = {"python": platform.python_version()}
    return found if torch is None else {**found, "torch": str(torch.__version__)}
