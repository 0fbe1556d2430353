"""The walk itself: its bounds, its manners, and what it does when it fails."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from gpurescue.recovery import handlers
from gpurescue.recovery.handlers import Fate, execute, fate, values, walk


def _ask(base: FrameType | None) -> Fate:
    """The verdict for the exception that the caller is handling."""
    exc = sys.exc_info()[1]
    assert exc is not None
    return fate(exc, sys._getframe(1), base)


def test_public_names() -> None:
    expected = "Fate available depth_at fate forget guarding_block is_on_course"
    assert handlers.__all__ == expected.split()
    assert all(hasattr(handlers, name) for name in handlers.__all__)


def test_base_bounds_the_walk() -> None:
    found: list[Fate] = []

    def crash(base: FrameType) -> None:
        try:
            raise ValueError
        except ValueError:
            found.append(_ask(base))

    def start() -> None:
        crash(sys._getframe())

    try:  # above the base: would handle it, is not looked at
        start()
    except ValueError:
        pass
    assert found == [Fate.UNHANDLED]


def test_base_itself_is_not_looked_at() -> None:
    try:
        try:
            raise ValueError
        except ValueError:
            assert _ask(sys._getframe()) is Fate.UNHANDLED
    except ValueError:
        pass


def test_without_base_to_the_top() -> None:
    found: list[Fate] = []

    def crash() -> None:
        try:
            raise SystemError
        except SystemError:
            found.append(_ask(None))

    def handle() -> None:
        try:
            crash()
        except SystemError:
            pass

    handle()
    assert found == [Fate.HANDLED]


def test_base_of_another_thread_passes() -> None:
    base = sys._getframe()
    found: list[Fate] = []

    def crash() -> None:
        try:
            raise SystemError
        except SystemError:
            found.append(_ask(base))

    old, threading.excepthook = threading.excepthook, lambda args: None
    try:
        thread = threading.Thread(target=crash)
        thread.start()
        thread.join()
    finally:
        threading.excepthook = old
    assert found[0] is not Fate.UNHANDLED


def _failing(*args: Any) -> Any:
    raise ZeroDivisionError("a bug of ours")


def _handled_by_caller() -> Fate:
    found: list[Fate] = []

    def crash(base: FrameType) -> None:
        try:
            raise ValueError
        except ValueError:
            found.append(_ask(base))
            raise

    def handle(base: FrameType) -> None:
        try:
            crash(base)
        except KeyError:
            pass

    with contextlib.suppress(ValueError):
        handle(sys._getframe())
    return found[0]


def test_failure_inside_is_maybe_and_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(walk, "STRICT", False)
    monkeypatch.setattr(execute.Run, "throw", _failing)
    with caplog.at_level(logging.ERROR):
        assert _handled_by_caller() is Fate.MAYBE
    assert "a bug of ours" in caplog.text
    assert {record.name for record in caplog.records} == {walk.__name__}


def test_failure_inside_is_raised_under_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute.Run, "throw", _failing)
    with pytest.raises(ZeroDivisionError):
        _handled_by_caller()


def test_long_handlers_are_doubt(play: Callable[..., Any]) -> None:
    lines = "\n        ".join(f"a{i} = a{i} + 1" for i in range(2000))
    run = play(f"""
@guard
def f():
    raise ValueError
def run():
    try:
        f()
    except ValueError:
        {lines}
        raise
""")
    assert run.first is Fate.MAYBE


def test_endless_branches_are_doubt(play: Callable[..., Any]) -> None:
    tests = "\n        ".join(f"if unknown({i}): x = {i}" for i in range(200))
    run = play(f"""
import random
def unknown(i):
    return random.random() > 2
@guard
def f():
    raise ValueError
def run():
    try:
        f()
    except ValueError as e:
        x = None
        {tests}
        if x: return
        raise
""")
    assert run.first is Fate.MAYBE


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreter whose frames cannot be read."""
    monkeypatch.setattr(values, "_works", False)
    monkeypatch.setattr(values, "_is_known_build", lambda: False)


def test_without_value_stack_handlers_are_decided(
    unreadable: None, play: Callable[..., Any]
) -> None:
    source = """
@guard
def f():
    raise ValueError("x")
def run(strict={}):
    try:
        f()
    except ValueError as e:
        if strict:
            raise
"""
    assert play(source.format(True)).first is Fate.UNHANDLED
    assert play(source.format(False)).first is Fate.HANDLED


def test_without_value_stack_managers_are_doubt(
    unreadable: None, play: Callable[..., Any]
) -> None:
    run = play("""
import threading
@guard
def f():
    raise ValueError("x")
def run():
    with threading.Lock():
        f()
""")
    assert run.first is Fate.MAYBE


def test_nothing_of_the_program_runs_while_deciding(play: Callable[..., Any]) -> None:
    """Properties, __eq__, __hash__, __getattr__ and metaclasses stay asleep."""
    run = play("""
calls = []
def noted(name):
    def method(self, *args):
        import sys
        frame = sys._getframe()
        while frame is not None:
            if "/gpurescue/recovery/handlers/" in frame.f_code.co_filename:
                calls.append((name, frame.f_code.co_name, frame.f_lineno))
            frame = frame.f_back
        if name == "__hash__": return 1
        if name in ("__eq__", "__bool__", "__instancecheck__"): return True
        if name == "__str__": return ""
        if name == "__len__": return 1
        return None
    return method
class Meta(type):
    __eq__ = noted("__eq__")
    __hash__ = noted("__hash__")
    __instancecheck__ = noted("__instancecheck__")
    __getattr__ = noted("__getattr__")
    __subclasscheck__ = noted("__subclasscheck__")
class Spy(Exception, metaclass=Meta):
    __eq__ = noted("__eq__")
    __hash__ = noted("__hash__")
    __str__ = noted("__str__")
    __len__ = noted("__len__")
    __getattr__ = noted("__getattr__")
    prop = property(noted("prop"))
    @property
    def __class__(self):
        noted("__class__")(self)
        return Spy
class Holder:
    def __init__(self): self.spy = Spy()
    def __getattr__(self, name): noted("__getattr__")(self)
    __bool__ = noted("__bool__")
@guard
def f():
    raise Spy
def run():
    spy, holder = Spy(), Holder()
    try:
        f()
    except KeyError:
        pass
    except (OSError, Spy) as e:
        if e == spy or e.prop or e in [spy] or str(e) or {e: 1} or len(e):
            if isinstance(e, Spy) or hasattr(e, "nothing") or holder or holder.x:
                if type(e) == Spy or e.__class__ or spy or getattr(e, "x", 1):
                    raise
""")
    assert run.verdicts
    assert not run.false_intercepts()
    assert run.names["calls"] == []


def test_locals_of_walked_frames_are_not_kept_alive(play: Callable[..., Any]) -> None:
    """Reading f_locals before 3.13 would keep every local until the frame ends."""
    run = play("""
import weakref
class Big: pass
refs = []
@guard
def f():
    raise ValueError("x")
def g():
    big = Big()
    refs.append(weakref.ref(big))
    try:
        f()
    except ValueError as e:
        if e.args == (big,):
            raise
    del big
    assert refs[0]() is None
def run():
    g()
""")
    assert run.final is None


@contextlib.contextmanager
def _traced(trace: Callable[..., Any]) -> Iterator[None]:
    old = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(old)


_PROGRAMS = {
    Fate.HANDLED: """
import contextlib
class A:
    def __call__(self, x): return f()
@guard
def f():
    raise ValueError("x")
def run():
    with contextlib.suppress(KeyError, ValueError):
        for x in map(A(), [1]): pass
""",
    Fate.UNHANDLED: """
import contextlib, threading
class A:
    def __getitem__(self, x): return f()
@guard
def f():
    raise ValueError("x")
def run():
    with contextlib.suppress(KeyError), threading.Lock():
        for x in (0, 1): A()[x]
""",
}


@pytest.mark.parametrize("expected", _PROGRAMS)
@pytest.mark.parametrize("opcodes", [False, True])
def test_same_under_a_debugger(
    expected: Fate, opcodes: bool, play: Callable[..., Any]
) -> None:
    def trace(frame: FrameType, event: str, arg: object) -> Any:
        frame.f_trace_opcodes = opcodes
        return trace

    with _traced(trace):
        run = play(_PROGRAMS[expected])
    assert run.first is expected


@pytest.mark.parametrize("expected", _PROGRAMS)
def test_same_under_a_profiler(expected: Fate, play: Callable[..., Any]) -> None:
    old = sys.getprofile()
    sys.setprofile(lambda *args: None)
    try:
        run = play(_PROGRAMS[expected])
    finally:
        sys.setprofile(old)
    assert run.first is expected


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in 3.12")
@pytest.mark.parametrize("expected", _PROGRAMS)
def test_same_under_monitoring(expected: Fate, play: Callable[..., Any]) -> None:
    monitoring = sys.monitoring  # type: ignore[attr-defined]
    events = monitoring.events
    tool = monitoring.DEBUGGER_ID
    monitoring.use_tool_id(tool, "test")
    wanted = (
        events.LINE | events.INSTRUCTION | events.CALL | events.JUMP | events.BRANCH
    )
    monitoring.set_events(tool, wanted)
    try:
        run = play(_PROGRAMS[expected])
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    assert run.first is expected


@pytest.mark.parametrize("expected", _PROGRAMS)
def test_same_when_specialised(expected: Fate, play: Callable[..., Any]) -> None:
    """Warm bytecode is specialised; f_lasti then points into other places."""
    warm = (
        _PROGRAMS[expected]
        + """
cold = run
switch = [False]
real_f = f
def f():
    if switch[0]: return real_f()
def run():
    for _ in range(100): cold()
    switch[0] = True
    cold()
"""
    )
    assert play(warm).first is expected
