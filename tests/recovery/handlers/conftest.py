"""A harness: guarded small programs, the verdict of each guard, and the truth.

A program is compiled with guards of the shape that the real transform writes. They
call a stub of ``gpurescue.recovery.guards`` that asks for the verdict, notes it and
lets the exception go on, always. Afterwards it is known what reached the top.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from gpurescue.recovery.handlers import Fate, fate, is_on_course, memory, walk

sys.path.insert(0, str(Path(__file__).parent))
GUARDS = "gpurescue.recovery.guards"
BODY = "body"  # a guard around the body of each function marked @guard
BLOCKS = "blocks"  # and one around each block in it
ALL = "all"  # both, in every function of the program


@dataclass
class Verdict:
    exc: BaseException
    fate: Fate
    function: str


@dataclass
class Run:
    """What happened to one program."""

    verdicts: list[Verdict] = field(default_factory=list)
    final: BaseException | None = None
    names: dict[str, Any] = field(default_factory=dict)
    differences: list[tuple[BaseException, Fate, Fate]] = field(default_factory=list)

    def reached_top(self, exc: BaseException) -> bool:
        """Also if it arrives wrapped in another, or as a group of its members."""
        reached = {id(found) for found in _chain(self.final, set())}
        if isinstance(exc, BaseExceptionGroup) and id(exc) not in reached:
            return all(self.reached_top(member) for member in exc.exceptions)
        return id(exc) in reached

    @property
    def first(self) -> Fate:
        return self.verdicts[0].fate

    def false_intercepts(self) -> list[Verdict]:
        return [
            verdict
            for verdict in self.verdicts
            if verdict.fate is Fate.UNHANDLED and not self.reached_top(verdict.exc)
        ]

    def misses(self) -> list[Verdict]:
        return [
            verdict
            for verdict in self.verdicts
            if verdict.fate is not Fate.UNHANDLED and self.reached_top(verdict.exc)
        ]


def _chain(exc: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if exc is None or id(exc) in seen:
        return
    seen.add(id(exc))
    yield exc
    yield from _chain(exc.__cause__, seen)
    yield from _chain(exc.__context__, seen)
    if isinstance(exc, BaseExceptionGroup):
        for member in exc.exceptions:
            yield from _chain(member, seen)


# --- guards ---


def _statements(source: str) -> list[ast.stmt]:
    return ast.parse(textwrap.dedent(source)).body


def _handler(index: int) -> list[ast.stmt]:
    return _statements(f"""
        __gr_k{index}__ = __import__("sys").modules.get("{GUARDS}")
        if __gr_k{index}__ is not None:
            __gr_k{index}__ = __gr_k{index}__.caught({index})
        if __gr_k{index}__ is None:
            raise
    """)


def _guarded(body: list[ast.stmt], index: int) -> ast.Try:
    clause = ast.ExceptHandler(type=None, name=None, body=_handler(index))
    return ast.Try(body=body, handlers=[clause], orelse=[], finalbody=[])


def _left(index: int) -> list[ast.stmt]:
    return _statements(f"""
        if __gr_k{index}__ is not None:
            try:
                __gr_k{index}__ = __gr_k{index}__.left(__gr_k{index}__.run())
            except:
                __import__("sys").modules.get("{GUARDS}").passed()
                raise
    """)


class _Guards(ast.NodeTransformer):
    """Puts guards into the functions marked ``@guard``, or into all."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.count = 0
        self.inside = False

    def visit_FunctionDef(self, node: Any) -> Any:
        names = [getattr(d, "id", None) for d in node.decorator_list]
        marked = "guard" in names
        if marked:
            del node.decorator_list[names.index("guard")]
        outside, self.inside = self.inside, marked or self.mode == ALL
        self.generic_visit(node)
        if self.inside:
            final = _statements(
                "return __gr_k0__.returned(__gr_k0__.run())"
                if not _is_generator(node)
                else "return"
            )
            node.body = [_guarded([*node.body, *_statements("return")], 0), *final]
        self.inside = outside
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def _visit_block(self, node: Any) -> Any:
        self.generic_visit(node)
        if not self.inside or self.mode == BODY:
            return node
        self.count += 1
        index = self.count
        for name in ("body", "finalbody", "orelse"):
            if getattr(node, name, None):
                setattr(
                    node, name, [_guarded(getattr(node, name), index), *_left(index)]
                )
        for handler in getattr(node, "handlers", ()):
            handler.body = [_guarded(handler.body, index), *_left(index)]
        first = _statements(f"__gr_k{index}__ = None")
        last = _statements(
            f"if __gr_k{index}__ is not None:\n    __gr_k{index}__.leave()"
        )
        return [*first, node, *last]

    visit_With = visit_AsyncWith = visit_Try = visit_TryStar = _visit_block

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        outside, self.inside = self.inside, False
        self.generic_visit(node)
        self.inside = outside
        return node


def _is_generator(node: ast.AST) -> bool:
    waiting = list(ast.iter_child_nodes(node))
    while waiting:
        child = waiting.pop()
        if isinstance(child, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            waiting += ast.iter_child_nodes(child)
    return False


def compile_guarded(source: str, mode: str, filename: str) -> Any:
    tree = _Guards(mode).visit(ast.parse(source))
    return compile(ast.fix_missing_locations(tree), filename, "exec")


# --- running ---


class _Stub(ModuleType):
    """Stands in for ``gpurescue.recovery.guards``."""

    def __init__(self) -> None:
        super().__init__(GUARDS)
        self.run = Run()
        self.base: FrameType | None = None
        self.judge = fate
        self.follows_courses = False

    def caught(self, index: int) -> None:
        exc = sys.exc_info()[1]
        frame = sys._getframe(1)
        if self.follows_courses and is_on_course(exc, frame):
            return
        found = self.judge(exc, frame, self.base)
        self.run.verdicts.append(Verdict(exc, found, frame.f_code.co_name))

    def passed(self) -> None:
        raise AssertionError("no run is ever resumed here")


@pytest.fixture(autouse=True)
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "STRICT", True)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> _Stub:
    stub = _Stub()
    monkeypatch.setitem(sys.modules, GUARDS, stub)
    return stub


@pytest.fixture
def comparing(stub: _Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for each verdict a second time, with nothing that is remembered."""

    def compared(
        error: BaseException, frame: FrameType, base: FrameType | None
    ) -> Fate:
        found = fate(error, frame, base)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "recall", lambda *_: None)
            fresh = fate(error, frame, base)
        # Where a recursion ends there may be no room to work it out anew.
        if fresh is not found and not isinstance(error, RecursionError):
            stub.run.differences.append((error, found, fresh))
        return found

    monkeypatch.setattr(stub, "judge", compared)


@pytest.fixture
def play(stub: _Stub) -> Callable[..., Run]:
    """Run a program's ``run()`` under a base frame of its own."""

    def drive(entry: Callable[[], object]) -> None:
        stub.base = sys._getframe()
        try:
            entry()
        except BaseException as exc:
            stub.run.final = exc
        finally:
            stub.base = None

    def start(
        source: str, mode: str = BODY, name: str = "<program>", times: int = 1
    ) -> Run:
        stub.run = Run()
        names: dict[str, Any] = {"__name__": "program"}
        program = ModuleType("program")
        program.__dict__.update(names)
        sys.modules["program"] = program
        try:
            code = compile_guarded(textwrap.dedent(source), mode, name)
            exec(code, program.__dict__)
            for _ in range(times):
                drive(program.run)
        finally:
            del sys.modules["program"]
        stub.run.names = dict(program.__dict__)
        return stub.run

    return start
