"""The test suites of libraries under an active run: is what they handle left alone?

    python tests/recovery/handlers/libraries.py [--seconds N] [LIBRARY ...]

All modules of a library and of its tests are compiled with guards, as cells are, and
its suite runs in the thread of a real run. Each exception that a guard catches is
judged, and goes on whatever the verdict, so that it shows who was right. It is judged
against the test as the outermost frame, where most is handled (``pytest.raises``), and
once more against a random function in between, which it leaves as often as not.

    handled, unhandled, maybe
                  verdicts: of the first guard that catches an exception, and of those
                  behind the frame that the first has taken to handle it
    false         judged unhandled, and did not leave the test, or the function
    left          exceptions that did leave the random function
    missed        of them, those judged handled (also where a handler failed by itself)
    unsure        of them, those judged maybe
    differ        tests that fail with guards and do not without
    median_us, p99_us, max_ms
                  CPU time of one verdict; a garbage collection may fall into it

Test files are taken in a random but fixed order until the time is out: seconds of CPU,
once the library is imported. ``test`` is CPython's own suite. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import collections
import importlib.machinery
import importlib.util
import inspect
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

import pytest  # noqa: E402

from gpurescue.recovery import guards, handlers, loops  # noqa: E402
from gpurescue.recovery.answers import Answers  # noqa: E402
from gpurescue.recovery.engine import Body, Run  # noqa: E402
from gpurescue.recovery.handlers import Fate, fate, is_on_course, walk  # noqa: E402
from gpurescue.source import cells  # noqa: E402
from gpurescue.source.loops import LOOP  # noqa: E402
from gpurescue.source.transform import GUARDS  # noqa: E402

LIBRARIES = ("networkx", "pandas", "sklearn", "numpy", "scipy", "sympy", "test")
# Of CPython's suite, what is about exceptions and callbacks and stays in its process.
CPYTHON = (
    "abc asyncgen bisect bool builtin call class collections configparser contextlib "
    "contextlib_async copy coroutines csv dataclasses decimal defaultdict deque descr "
    "descrtut dict dictviews dynamicclassattribute enum enumerate except_star "
    "exception_group exception_hierarchy exception_variations exceptions "
    "finalization fractions format fstring funcattrs functools generator_stop "
    "generators genericalias genexps getopt graphlib grammar heapq index int "
    "isinstance iter iterlen itertools json keywordonlyarg list listcomps logging "
    "mailbox memoryview metaclass named_expressions numeric_tower operator "
    "ordered_dict patma pickle pickletools property pyclbr queue raise range re "
    "reprlib richcmp sched scope set setcomps shelve shlex slice sort statistics "
    "string struct subclassinit super tempfile textwrap timeit tuple typechecks types "
    "typing unary unpack unpack_ex urlparse userdict userlist userstring weakref "
    "weakset with xml_etree yield_from zipfile"
).split()
_BODY = "begin()\nfor file in files:\n    drive(file)\n"
_MOST_FRAMES = 40
_EACH = 16  # exceptions that seem to be the same, as new ones get old ids
_NO_FUNCTION = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


# --- guards in every module ---


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module as a cell is compiled."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = importlib.util.decode_source(self.get_data(path))
        try:
            return cells.compile_unit(ast.parse(source, path), path)
        except RecursionError:  # an expression that is too long to be walked
            return self.source_to_code(self.get_data(path), path)


class _Finder:
    """Finds the modules of one package."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != self.package:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.origin, str):
            if spec.origin.endswith(".py"):
                spec.loader = _Loader(name, spec.origin)
        return spec


# --- judging ---


@dataclass
class Tally:
    """What happened to one library."""

    tests: int = 0
    failed: list[str] = field(default_factory=list)
    seen: collections.Counter[str] = field(default_factory=collections.Counter)
    false: list[str] = field(default_factory=list)
    missed: collections.Counter[str] = field(default_factory=collections.Counter)
    unsure: collections.Counter[str] = field(default_factory=collections.Counter)
    times: list[float] = field(default_factory=list)

    def row(self, name: str) -> dict[str, Any]:
        """The line of the table."""
        times = sorted(self.times) or [0.0]
        return {
            "library": name,
            "tests": self.tests,
            **{kind.value: self.seen[kind.value] for kind in Fate},
            "false": len(self.false),
            "left": self.seen["left"],
            "missed": self.missed.total(),
            "unsure": self.unsure.total(),
            "differ": len(self.failed),
            "median_us": round(1e6 * statistics.median(times), 1),
            "p99_us": round(1e6 * times[int(0.99 * (len(times) - 1))], 1),
            "max_ms": round(1e3 * times[-1], 2),
        }


@dataclass
class _Waiting:
    """A verdict whose truth is not known yet; what is judged handled is not kept."""

    kind: type
    fate: Fate
    where: str
    kept: tuple[BaseException, FrameType] | None


class Judge(Answers):
    """The answers of a run that judges, and lets everything go on."""

    def __init__(self, run: Run) -> None:
        super().__init__(run.hooks, run.redefinitions, run.clock, None)
        self.tally = Tally()
        self._random = random.Random(0)
        self._latest = 0
        self._certain: list[tuple[BaseException, str]] = []
        self._waiting: dict[tuple[int, int], _Waiting] = {}

    def _is_mine(self, error: Exception, frame: FrameType) -> bool:
        start = time.thread_time()
        found = fate(error, frame, self.base)
        self.tally.times.append(time.thread_time() - start)
        self.tally.seen[found.value] += 1
        if found is Fate.UNHANDLED:
            self._certain.append((error, _place(frame)))
        if id(error) != self._latest or not self._random.randrange(_EACH):
            self._latest = id(error)
            self._sample(error, frame)
        return False

    def _sample(self, error: Exception, frame: FrameType) -> None:
        """Ask whether ``error`` will leave some function in between."""
        functions = [f for f in _callers(frame, self.base) if _is_guarded(f)][1:]
        if not functions:
            return
        chosen = self._random.choice(functions)
        found = fate(error, frame, chosen.f_back)
        where = f"{_place(frame)}, to leave {_place(chosen)}"
        kept = (error, chosen) if found is Fate.UNHANDLED else None
        waiting = _Waiting(type(error), found, where, kept)
        self._waiting[id(chosen), id(error)] = waiting

    def passes(self, error: BaseException, frame: FrameType) -> bool:
        """In place of ``is_on_course``, since it is asked by every guard first."""
        if sys._getframe(1).f_code.co_name == "_caught_last":
            self._leaves(frame, error)
        return is_on_course(error, frame)

    def _leaves(self, frame: FrameType, error: BaseException) -> None:
        """``error`` leaves the function that runs in ``frame``."""
        for link in _links(error, {}).values():
            waiting = self._waiting.get((id(frame), id(link)))
            if waiting is None or waiting.kind is not type(link):
                continue
            del self._waiting[id(frame), id(link)]
            self.tally.seen["left"] += 1
            if waiting.fate is Fate.HANDLED:
                self.tally.missed[waiting.where] += 1
            elif waiting.fate is Fate.MAYBE:
                self.tally.unsure[waiting.where] += 1

    @contextmanager
    def window(self, base: FrameType, label: str) -> Iterator[None]:
        """What happens inside does so above ``base``."""
        outer, self.base = self.base, base
        kept, self._certain = self._certain, []
        final: BaseException | None = None
        try:
            yield
        except BaseException as error:
            final = error
            raise
        finally:
            self._settle(final, label)
            self.base, self._certain = outer, kept

    def _settle(self, final: BaseException | None, label: str) -> None:
        reached = _links(final, {})
        wrong = [(e, w) for e, w in self._certain if id(e) not in reached]
        for waiting in self._waiting.values():
            if waiting.kept is not None:
                wrong.append((waiting.kept[0], waiting.where))
        self._waiting.clear()
        self.tally.false += [f"{label}: {e!r:.200} in {where}" for e, where in wrong]


def _callers(frame: FrameType, base: FrameType | None) -> list[FrameType]:
    found: list[FrameType] = []
    outer: FrameType | None = frame
    while outer is not None and outer is not base and len(found) < _MOST_FRAMES:
        found.append(outer)
        outer = outer.f_back
    return found


def _is_guarded(frame: FrameType) -> bool:
    code = frame.f_code
    is_function = code.co_name.isidentifier() and not code.co_flags & _NO_FUNCTION
    return is_function and GUARDS in code.co_consts


def _place(frame: FrameType) -> str:
    code = frame.f_code
    file = code.co_filename.rpartition("site-packages/")[2]
    return f"{file}:{frame.f_lineno} {code.co_name}"


def _links(
    error: BaseException | None, seen: dict[int, BaseException]
) -> dict[int, BaseException]:
    """What left: as it is, in a group, or as what was raised from it."""
    if error is None or id(error) in seen:
        return seen
    seen[id(error)] = error
    _links(error.__cause__, seen)
    _links(error.__context__, seen)
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            _links(member, seen)
    return seen


class _Plugin:
    """Counts, and stops in time."""

    def __init__(self, tally: Tally, seconds: float) -> None:
        self.tally = tally
        self.until = time.process_time() + seconds

    @property
    def is_over(self) -> bool:
        return time.process_time() > self.until

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.is_over:
            pytest.exit("The time is out.")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.tally.tests += report.when == "call"
        if report.failed:
            self.tally.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tally.failed.append(report.nodeid)


class _Bases(_Plugin):
    """Puts the base of the run right below each test."""

    def __init__(self, judge: Judge, seconds: float) -> None:
        super().__init__(judge.tally, seconds)
        self.judge = judge

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool:
        names = pyfuncitem._fixtureinfo.argnames
        arguments = {name: pyfuncitem.funcargs[name] for name in names}
        with self.judge.window(sys._getframe(), pyfuncitem.nodeid):
            pyfuncitem.obj(**arguments)
        return True


def _put_bases_below_test_methods(judge: Judge) -> None:
    """The same for unittest, which catches what a test raises."""
    for cls in (unittest.TestCase, unittest.IsolatedAsyncioTestCase):
        call = cls.__dict__["_callTestMethod"]

        def based(self: Any, method: Any, call: Any = call) -> Any:
            with judge.window(sys._getframe(), self.id()):
                return call(self, method)

        setattr(cls, "_callTestMethod", based)  # noqa: B010 - mypy takes it amiss


# --- one library, in a process of its own ---


def test_files(package: str) -> list[str]:
    """The test files of a library, in a random but fixed order."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{package} is not installed.")
    folder = Path(spec.origin).parent
    files = [str(path) for path in sorted(folder.rglob("test_*.py"))]
    if package == "test":
        files = [f"{folder}/test_{name}.py" for name in CPYTHON]
        files = [file for file in files if Path(file).exists()]
    random.Random(0).shuffle(files)
    return files


def _options(file: str) -> list[str]:
    return [
        "-q", "-c", os.devnull, "--assert=plain", "-p", "no:cacheprovider", "-p",
        "no:faulthandler", "-p", "no:xdist", "--rootdir", str(Path(file).parent),
        "--no-header", "--disable-warnings", "--capture=no", file,
    ]  # fmt: skip


def judged(package: str, files: Sequence[str], seconds: float) -> Tally:
    """Run a suite until the time is out."""
    sys.meta_path.insert(0, _Finder(package))
    setattr(builtins, LOOP, loops.loop_iterator)
    code = cells.compile_unit(ast.parse(_BODY), "<body>", guard_body=True)
    names: dict[str, Any] = {"files": files, "__name__": "__main__"}
    run = Run(Body(code=code, namespace=names))
    run._answers = judge = Judge(run)
    handlers.is_on_course = judge.passes
    _put_bases_below_test_methods(judge)
    plugins: list[_Bases] = []

    def begin() -> None:
        importlib.import_module(package)
        plugins.append(_Bases(judge, seconds))

    def drive(file: str) -> None:
        if not plugins[0].is_over:
            pytest.main(_options(file), plugins=plugins)

    names |= {"begin": begin, "drive": drive}
    run.start()
    run.wait()
    if run.error is not None:
        raise run.error
    return judge.tally


def plain(files: Sequence[str]) -> Tally:
    """Run test files as they are."""
    tally = Tally()
    for file in files:
        pytest.main(_options(file), plugins=[_Plugin(tally, float("inf"))])
    return tally


# --- all of them ---


def _inside(name: str, seconds: float, files: Sequence[str]) -> dict[str, Any]:
    """The result of one library, by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        result = f"{folder}/result"
        command = [sys.executable, __file__, name, "--seconds", str(seconds)]
        done = subprocess.run(
            [*command, "--into", result, "--files", *files],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=folder,
        )  # fmt: skip
        if not Path(result).exists():
            raise SystemExit(f"{name}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
        found: dict[str, Any] = json.loads(Path(result).read_text())
    return found


def measure(name: str, seconds: float, files: Sequence[str] = ()) -> dict[str, Any]:
    """Run one library; tests that fail without guards, too, do not count."""
    chosen = list(files) or test_files(name)
    found = _inside(name, seconds, chosen)
    failed = {test.partition("::")[0] for test in found["failed"]}
    again = [file for file in chosen if Path(file).name in failed or not all(failed)]
    if again:
        fails_anyway = _inside(name, 0, again)["failed"]
        found["failed"] = [t for t in found["failed"] if t not in fails_anyway]
        found["row"]["differ"] = len(found["failed"])
    return found


def _show(row: dict[str, Any], *, head: bool) -> None:
    for line in (row, row.values()) if head else (row.values(),):
        print("".join(f"{cell!s:>11}" for cell in line), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("libraries", nargs="*", default=LIBRARIES)
    parser.add_argument("--seconds", type=float, default=60, help="for each library")
    parser.add_argument("--files", nargs="*", default=(), help="test files to run")
    parser.add_argument("--into", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.into:
        walk.STRICT = guards.STRICT = True
        (name,), seconds = given.libraries, given.seconds
        found = judged(name, given.files, seconds) if seconds else plain(given.files)
        result = {"row": found.row(name), **vars(found), "times": []}
        Path(given.into).write_text(json.dumps(result))
        sys.stdout.flush()
        os._exit(0)  # whatever threads the suite has left behind
    rows = []
    for name in given.libraries:
        found_inside = measure(name, given.seconds, given.files)
        _show(found_inside["row"], head=not rows)
        rows.append(found_inside["row"])
        for line in [*found_inside["false"], *found_inside["failed"]]:
            print(f"    {line}")
        for kind in ("missed", "unsure"):
            counted = collections.Counter(found_inside[kind]).most_common(5)
            for where, count in counted:
                print(f"    {kind} {count}: {where}")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
