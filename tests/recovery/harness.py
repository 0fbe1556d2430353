"""Runs sample programs with and without guards, with faults put in.

A sample is Python in cells, divided by ``# %%`` lines; the last cell is the body of
the run. ``T(n)`` notes n in the trace and returns n; at the chosen call it raises
instead, once. ``out`` is the trace; a sample may append to it.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import itertools
import linecache
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpurescue.recovery import loops
from gpurescue.recovery.engine import Body, Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.plan import Restart
from gpurescue.source import cells

SAMPLES = Path(__file__).parents[1] / "samples"
_numbers = itertools.count()


class Fault(Exception):
    """The planted bug."""


@dataclass
class Notebook:
    """A namespace in which cells are run as the front would run them."""

    names: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names |= {"__name__": "__main__", "__gr_iter__": loops.loop_iterator}

    def cell(self, source: str) -> None:
        """Run a plain cell: functions are guarded, statements are not."""
        name = keep(source)
        exec(cells.compile_unit(ast.parse(source), name), self.names)

    def start(self, source: str, **options: Any) -> Run:
        """Start a ``%%resilient`` cell."""
        name = keep(source)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, True)
        code = cells.compile_unit(tree, name, flags=flags, guard_body=True)
        run = Run(Body(code=code, namespace=self.names), **options)
        run.start()
        return run

    def redefine(self, run: Run, source: str) -> None:
        """Run a plain cell while ``run`` is alive: an edit."""
        before = dict(self.names)
        self.cell(source)
        for name, value in list(self.names.items()):
            old = before.get(name, value)
            if old is not value and callable(value):
                self.names[name] = run.redefinitions.redefined(old, value)

    def new_body(self, source: str) -> cells.Definition:
        """A new version of the run's body, for ``Restart(body=...)``."""
        unit = cells.unit(keep(source))
        assert unit is not None
        return unit.definitions[0]


def keep(source: str) -> str:
    """Put source where guarded code finds it; the file name."""
    name = f"<cell {next(_numbers)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    return name


@dataclass
class Probe:
    """``T``: the trace, and the call that fails."""

    fail_at: int | None = None
    out: list[Any] = field(default_factory=list)
    num_calls: int = 0

    def __call__(self, value: Any = None) -> Any:
        self.num_calls += 1
        if self.num_calls == self.fail_at:
            raise Fault(f"call {self.num_calls}")
        self.out.append(value)
        return value


def load(name: str) -> list[str]:
    """The cells of a sample."""
    text = (SAMPLES / f"{name}.py").read_text()
    parts = text.split("# %%\n")
    return [part for part in parts if part.strip()]


def plain(source_cells: list[str]) -> list[Any]:
    """The trace of a sample without gpurescue."""
    probe = Probe()
    names: dict[str, Any] = {"__name__": "__main__", "T": probe, "out": probe.out}
    for source in source_cells:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(source, "<plain>", "exec", flags, dont_inherit=True)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
    return probe.out


def guarded(
    source_cells: list[str], fail_at: int | None
) -> tuple[list[Any], Run, Probe]:
    """The trace with guards, a fault at one call of ``T``, and a plain retry."""
    probe = Probe(fail_at)
    book = Notebook()
    book.names |= {"T": probe, "out": probe.out}
    *before, body = source_cells
    for source in before:
        book.cell(source)
    run = book.start(body)
    while run.wait(10) is State.SUSPENDED:
        run.resume(Restart())
    return probe.out, run, probe


def hooks(**given: Any) -> Hooks:
    """Hooks of which only some do anything."""
    return Hooks(**given)
