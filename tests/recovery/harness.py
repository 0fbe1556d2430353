"""Runs sample programs with and without guards, with faults put in.

A sample is Python in cells, divided by ``# %%`` lines; the last cell is the body of
the run. ``T(n)`` notes n in the trace and returns n; at the chosen call it raises
instead, once. ``out`` is the trace; a sample may append to it.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import gc
import inspect
import itertools
import linecache
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

from gpurescue.protocols import Watcher
from gpurescue.recovery import carrying, loops
from gpurescue.recovery.engine import Body, Run, State
from gpurescue.recovery.hooks import Hooks
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.recovery.plan import Action, Restart
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

    def start(
        self, source: str, *, watcher: Watcher | None = None, **options: Any
    ) -> Run:
        """Start a ``%%resilient`` cell."""
        run = self.ready(source, watcher=watcher, **options)
        run.start()
        return run

    def ready(
        self, source: str, *, watcher: Watcher | None = None, **options: Any
    ) -> Run:
        """A ``%%resilient`` cell that has not started."""
        name = keep(source)
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST, True)
        code = cells.compile_unit(tree, name, flags=flags, guard_body=True)
        run = Run(Body(code=code, namespace=self.names), **options)
        run.clock.watcher = watcher
        return run

    def redefine(self, run: Run, source: str) -> None:
        """Run a plain cell while ``run`` is alive: an edit."""
        code = cells.compile_unit(ast.parse(source), keep(source))
        exec(code, self.names, _Carried(self.names, run.redefinitions))

    def new_body(self, source: str) -> cells.Definition:
        """A new version of the run's body, for ``Restart(body=...)``."""
        unit = cells.unit(keep(source))
        assert unit is not None
        return unit.definitions[0]


@dataclass
class _Carried:
    """The variables of a cell that runs again: what it defines is carried over."""

    names: dict[str, Any]
    redefinitions: Redefinitions

    def __getitem__(self, name: str) -> Any:
        return self.names[name]

    def __setitem__(self, name: str, value: Any) -> None:
        old = self.names.get(name)
        if old is not None and old is not value and callable(value):
            value = carrying.carried(self.redefinitions, name, old, value)
        self.names[name] = value

    def __delitem__(self, name: str) -> None:
        del self.names[name]


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


def plain(source_cells: list[str], fail_at: int | None = None) -> list[Any]:
    """The trace of a sample without gpurescue.

    With a fault it must be one that the sample handles.
    """
    probe = Probe(fail_at)
    names: dict[str, Any] = {"__name__": "__main__", "T": probe, "out": probe.out}
    for source in source_cells:
        code = plain_code(source)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, names))
        else:
            exec(code, names)
    return probe.out


def guarded(
    source_cells: list[str],
    fail_at: int | None,
    edit: Callable[[Notebook, Run], Restart] = lambda book, run: Restart(),
) -> tuple[list[Any], Run, Probe]:
    """The trace with guards, a fault at one call of ``T``, and a plain retry.

    Args:
        source_cells: The sample.
        fail_at: Which call of ``T`` fails.
        edit: What is done while the run is parked, and how it goes on.
    """
    probe = Probe(fail_at)
    book = Notebook()
    book.names |= {"T": probe, "out": probe.out}
    *before, body = source_cells
    for source in before:
        exec(guarded_code(source, body=False), book.names)
    run = Run(Body(code=guarded_code(body, body=True), namespace=book.names))
    run.start()
    while run.wait(30) is State.SUSPENDED:
        try:
            run.resume(edit(book, run))
        except BaseException:
            run.resume(Restart(action=Action.ABANDON))
            run.wait(30)
            raise
    return probe.out, run, probe


def hooks(**given: Any) -> Hooks:
    """Hooks of which only some do anything."""
    return Hooks(**given)


FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


@functools.lru_cache(maxsize=512)
def plain_code(source: str) -> CodeType:
    """A cell as it is, compiled once."""
    return compile(source, "<plain>", "exec", FLAGS, dont_inherit=True)


@functools.lru_cache(maxsize=512)
def guarded_code(source: str, *, body: bool) -> CodeType:
    """A cell, compiled once however often it is run."""
    name = keep(source)
    tree = compile(source, name, "exec", FLAGS | ast.PyCF_ONLY_AST, True)
    flags = FLAGS if body else 0
    return cells.compile_unit(tree, name, flags=flags, guard_body=body)


def forget() -> None:
    """Let go of all cells that were run: their runs are over."""
    guarded_code.cache_clear()
    plain_code.cache_clear()
    for name in [name for name in linecache.cache if name.startswith("<cell ")]:
        del linecache.cache[name]
        cells._units.pop(name, None)
    gc.collect()
