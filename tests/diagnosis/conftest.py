"""Suspended runs without a kernel, and golden files."""

import ast
import contextlib
import enum
import itertools
import linecache
import os
import time
from pathlib import Path

import pytest

from gpurescue.recovery import handlers, loops
from gpurescue.recovery.engine import Body, Run, State
from gpurescue.recovery.plan import Action, Restart
from gpurescue.source import cells

GOLDEN = Path(__file__).parents[1] / "golden"
_numbers = itertools.count()


class _Fate(enum.Enum):
    UNHANDLED = 1


class Notebook:
    """Cells with functions, then a resilient one that crashes."""

    def __init__(self):
        self.names = {"__name__": "__main__", "__gr_iter__": loops.loop_iterator}
        self.runs = []

    def cell(self, source):
        name = _keep(source)
        exec(cells.compile_unit(ast.parse(source), name), self.names)
        return name

    def crash(self, source):
        """Run a resilient cell that crashes; its suspension."""
        name = _keep(source)
        code = cells.compile_unit(ast.parse(source), name, guard_body=True)
        run = Run(Body(code=code, namespace=self.names))
        self.runs.append(run)
        run.start()
        assert run.wait(20) is State.SUSPENDED, run.error
        return run.suspension

    def close(self):
        for run in self.runs:
            if run.state is State.SUSPENDED:
                run.resume(Restart(action=Action.ABANDON))
                run.wait(20)


def _keep(source):
    name = f"<diagnosed cell {next(_numbers)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    return name


@pytest.fixture
def notebook(monkeypatch):
    fate = getattr(handlers, "Fate", _Fate)
    monkeypatch.setattr(handlers, "Fate", fate, raising=False)
    monkeypatch.setattr(
        handlers, "fate", lambda *_: handlers.Fate.UNHANDLED, raising=False
    )
    opened = Notebook()
    yield opened
    opened.close()


@pytest.fixture
def golden():
    """Compare with a stored file; GPURESCUE_FIX=1 rewrites it."""

    def compare(name, found):
        path = GOLDEN / name
        if os.environ.get("GPURESCUE_FIX") == "1":
            path.parent.mkdir(exist_ok=True)
            path.write_text(found, encoding="utf-8", newline="\n")
        assert found == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture
def timed():
    """Fail if the block takes longer than so many seconds of its thread's time."""

    @contextlib.contextmanager
    def limit(seconds):
        start = time.thread_time()
        yield
        assert time.thread_time() - start < seconds

    return limit
