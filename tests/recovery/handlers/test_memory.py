"""Answers that are used again, and exceptions that are known again on their way."""

from __future__ import annotations

import gc
import sys
import textwrap
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpurescue.recovery import guards
from gpurescue.recovery.handlers import Fate, course, execute

_HANDLER = """
import contextlib, json
json.gone = KeyError
class Names:
    strict, late, mode = False, False, "a"
    def check(self): return self.strict
class Swallow:
    def __enter__(self): return self
    def __exit__(self, *args): return True
def caught_if(holder):
    def inner(strict):
        if strict: holder.strict = True
        try:
            f(Mine)
        except Mine:
            if holder.strict: raise
    return inner
inner_of = caught_if(Names())
names, other = Names(), Names()
names.next = other
strict, seen = False, []
class Mine(Exception): code = 1
class Base(Exception): pass
class Other(Exception): pass
class Sub(Base): pass
@contextlib.contextmanager
def ignoring(kind, really=True):
    if not really:
        yield
    try:
        yield
    except kind:
        pass
def caught_by(kind):
    def inner(error):
        nonlocal kind
        if error is None: kind = OSError
        try:
            f(Mine)
        except kind:
            pass
    return inner
inner = caught_by(Mine)
caught = Mine
@guard
def f(error): raise error
def helper(): return 1
def handle(error=Mine, limit=0, text="", kinds=(Mine, OSError), kind=Mine, of=names):
    try:
        f(error)
    except caught as e:
        {body}
def hold(manager):
    with manager:
        f(Mine)
def run():
    for _ in range(20):
        try:
            handle()
            handle(Mine("good"))
            inner(1)
            inner_of(False)
            hold(contextlib.suppress(Mine))
            hold(ignoring(Mine))
            hold(contextlib.nullcontext())
        except Exception: pass
    {change}
    {last}
"""
# What a warm handler does at last, after a change of what it depends on.
_CHANGES = {
    "the class": ("pass", "", "handle(KeyError)"),
    "the name of the class": ("pass", "globals()['caught'] = OSError", "handle()"),
    "a global": ("if strict: raise", "globals()['strict'] = True", "handle()"),
    "a local": ("if limit: raise", "", "handle(limit=1)"),
    "the type of a local": ("if limit is False: raise", "", "handle(limit=False)"),
    "a string": ("if text == 'a': raise", "", "handle(text='a')"),
    "a method of a text": (
        "if names.mode.upper() == 'B': raise",
        "names.mode = 'b'",
        "handle()",
    ),
    "an attribute of a local": ("if of.strict: raise", "", "handle(of=other)"),
    "an attribute of an attribute": (
        "if names.next.strict: raise",
        "other.strict = True",
        "handle()",
    ),
    "an object in between": (
        "if names.next.strict: raise",
        "other.strict = True; names.next = other",
        "handle()",
    ),
    "what a method is": (
        "names.check()",
        "def fail(self): raise OSError\n    names.old, Names.check = Names.check, fail",
        "handle()",
    ),
    "what a method does": (
        "names.check()",
        "def fail(self): raise OSError\n    Names.check.__code__ = fail.__code__",
        "handle()",
    ),
    "a property in place of an attribute": (
        "if names.late: raise",
        "Names.late = property(lambda self: True)",
        "handle()",
    ),
    "an attribute of what a cell holds": ("pass", "", "inner_of(True)"),
    "a tuple in a local": (
        "try: f(error)\n        except kinds: pass",
        "",
        "handle(kinds=(OSError,))",
    ),
    "a class in a local": (
        "try: f(error)\n        except kind: pass",
        "",
        "handle(kind=OSError)",
    ),
    "a cell": ("pass", "", "inner(None)"),
    "what a class inherits from": (
        "try: f(Sub)\n        except Base: pass",
        "Sub.__bases__ = (Other,)",
        "handle()",
    ),
    "the text": ("if 'bad' in str(e): raise", "", "handle(Mine('bad'))"),
    "the text in lower case": (
        "if str(e).lower() == 'bad': raise",
        "",
        "handle(Mine('Bad'))",
    ),
    "an attribute of the exception": (
        "if e.code == 2: raise",
        "Mine.code = 2",
        "handle()",
    ),
    "an attribute": ("if names.strict: raise", "names.strict = True", "handle()"),
    "a module": (
        "try: raise json.gone()\n        except KeyError: pass",
        "json.gone = OSError",
        "handle()",
    ),
    "a function": (
        "helper()",
        "def other(): raise OSError\n    helper.__code__ = other.__code__",
        "handle()",
    ),
    "the length of a list": ("if seen: raise", "seen.append(1)", "handle()"),
    "a manager": ("pass", "", "hold(contextlib.suppress(Mine))"),
    "an exit": ("pass", "", "hold(Swallow())"),
    "what a manager suppresses": ("pass", "", "hold(contextlib.suppress(OSError))"),
    "what a generator handles": ("pass", "", "hold(ignoring(OSError))"),
    "where a generator waits": ("pass", "", "hold(ignoring(Mine, False))"),
}


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize("mode", ["body", "all"])
def test_an_answer_is_not_used_when_something_has_changed(
    change: str, mode: str, play: Callable[..., Any], comparing: None
) -> None:
    body, statement, last = _CHANGES[change]
    source = _HANDLER.format(body=body, change=statement, last=last)
    run = play(source, mode)
    assert not run.false_intercepts(), run.final
    assert not run.differences


def test_a_warm_answer_executes_nothing(
    play: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes, names, numbers in local variables and harmless managers are compared."""
    executed: list[str] = []
    real = execute.Run.outcomes_of

    def noted(self: Any, path: Any) -> Any:
        executed.append(self.scope.code.co_name)
        return real(self, path)

    monkeypatch.setattr(execute.Run, "outcomes_of", noted)
    run = play("""
import contextlib, threading
lock = threading.Lock()
@guard
def f(): raise KeyError
@contextlib.contextmanager
def timed():
    try:
        yield
    finally:
        pass
def handle(attempt):
    try:
        with lock, contextlib.suppress(OSError), timed():
            f()
    except (OSError, ValueError):
        pass
    except LookupError as e:
        if attempt > 3: raise ValueError("too many") from e
        return attempt
def run():
    for i in range(60): handle(i % 3)
""")
    assert {verdict.fate for verdict in run.verdicts} == {Fate.HANDLED}
    assert len(executed) == 3


def test_answers_keep_nothing_of_the_program_alive(play: Callable[..., Any]) -> None:
    run = play("""
import weakref
class Big: pass
class Mine(Exception): pass
refs = []
big = Big()
@guard
def f():
    error = Mine()
    error.big = Big()
    refs.append(weakref.ref(error.big))
    raise error
def handle(value):
    try: f()
    except Mine as e: return value, big
def run():
    global big
    for _ in range(3):
        value = Big()
        refs.append(weakref.ref(value))
        handle(value)
    refs.append(weakref.ref(big))
    del big, value
""")
    refs: list[weakref.ref[Any]] = run.names["refs"]
    run.verdicts.clear()
    gc.collect()
    assert len(refs) == 7
    assert all(ref() is None for ref in refs)


_STATE = {
    "strict": ["False", "True", "0", "None"],
    "mode": ["'a'", "'b'", "b'a'", "1.5", "[]", "[1]"],
    "kind": ["Mine", "Sub", "OSError", "(Mine, OSError)", "(KeyError,)", "()"],
    "names.flag": ["True", "False"],
    "names.mode": ["'a'", "'b'", "['a']"],
    "names.kinds": ["Mine", "Sub", "(Mine, OSError)"],
    "names.sub": ["Names()", "Names(True)", "names"],
    "names.sub.flag": ["True", "False"],
    "Names.check": ["lambda self: self.flag", "lambda self: not self.flag"],
    "Names.late": ["property(lambda self: True)", "True", "False"],
    "Mine.code": ["1", "2"],
    "helper": ["calm", "angry"],
}
_TESTS = [
    "strict", "not strict", "mode == 'a'", "strict is None", "limit > 1", "limit",
    "isinstance(e, kind)", "type(e) is Mine", "'x' in str(e)", "names.flag",
    "e.args == ('x',)", "getattr(e, 'code', 0) == 2", "helper()", "isinstance(e, own)",
    "str(e).startswith('y')", "len(str(e)) > 1", "limit is strict", "mode in 'ab'",
    "names.mode.upper() == 'A'", "isinstance(e, names.kinds)", "names.sub.flag",
    "obj.flag", "obj.mode.startswith('a')", "obj.sub.mode == 'a'", "names.check()",
    "obj.late", "len(obj.mode) == 1", "obj is names", "obj.seen", "inner.flag",
    "inner == 1", "e.errno == 2" , "inner is None",
]  # fmt: skip
_ENDS = [
    "raise", "pass", "return", "raise KeyError from e", "print(e, limit, end='')",
    "raise own", "helper()", "e = None", "limit = 0", "store()",
    "log.append(e)", "obj.seen.append(e)", "obj.sub.note()", "raise obj.kinds",
    "with obj.manager(): raise",
    "obj.note(); names.flag and 1 / 0", "obj.note(e)", "obj.flag = True",
    "if obj.note() or obj.flag: raise",
    "names.seen.clear()", "with contextlib.suppress(Mine): raise",
    "with contextlib.nullcontext(): raise",
]  # fmt: skip
_ERRORS = (
    "Mine('x')", "Mine('y')", "Sub('x')", "OSError(1, 'x')", "OSError(2, 'x')",
)  # fmt: skip
_LOCALS = ("0, Mine", "2, Mine", "True, OSError", "'x', (Mine, Sub)", "log, Sub")
_INNER = ("1", "None", "names", "Names(True)")
_OBJECTS = ("names", "Names(True)", "Names()", "Mine")
_BLOCKS = [
    "f(error)", "with contextlib.suppress(own): f(error)",
    "with ignoring(own): f(error)",
    "with nested(limit, own): f(error)", "with lock, nested(given, Mine): f(error)",
    "with ignoring(OSError), ignoring(own): f(error)", "with changing(): f(error)",
]  # fmt: skip
_SHAPE = """
import contextlib, io, sys, threading
lock = threading.Lock()
@contextlib.contextmanager
def ignoring(kinds):
    try:
        yield
    except kinds:
        if strict: raise
@contextlib.contextmanager
def nested(limit, own):
    with ignoring(own):
        if limit: yield
        else:
            try: yield
            except OSError: raise KeyError
            finally: print(end="")
@contextlib.contextmanager
def changing():
    try: yield
    except Mine as e: names.flag = e.args == ("x",)
    except OSError: store(); raise
class Mine(Exception): code = 1
class Sub(Mine): pass
class Names:
    late = False
    def __init__(self, flag=False):
        self.flag, self.mode, self.kinds, self.seen = flag, "a", Mine, []
        self.sub = self
    def check(self): return self.flag
    def note(self, *given): self.seen.append(given)
    def manager(self): return contextlib.suppress(self.kinds)
def calm(): return False
def angry(): raise OSError("no")
def store():
    global strict
    strict = True
names, log, strict, mode, kind, helper = Names(), [], False, "a", Mine, calm
@guard
def f(error):
    raise error
def make():
    inner = None
    def handle(error, limit, own, given, obj):
        nonlocal inner
        inner = given
        try:
{block}
        {clause}
{handler}
    return handle
handle = make()
{steps}
numbers = iter(range(100))
def run():
    step = globals().get(f"step_{{next(numbers)}}")
    if step is not None: step()
"""
_MOST_CALLS = 8


@st.composite
def _programs(draw: st.DrawFn) -> str:
    """A handler, and calls of it between which what it may look at is changed."""
    ends = st.one_of(st.just("raise"), st.sampled_from(_ENDS))
    pairs = st.tuples(st.sampled_from(_TESTS), ends)
    tests = draw(st.lists(pairs, min_size=1, max_size=2))
    lines = [line for test, end in tests for line in (f"if {test}:", f"    {end}")]
    looked_at = tuple(n for n in _STATE if any(n in test for test, _ in tests))
    block = draw(st.sampled_from(_BLOCKS))
    clause = draw(st.sampled_from(["Exception", "kind", "own", "(own, KeyError)"]))
    # Few of each: most calls differ in one thing, and that is what may go wrong.
    few = {
        pool: draw(st.lists(st.sampled_from(pool), min_size=1, max_size=2))
        for pool in (looked_at or tuple(_STATE), _ERRORS, _LOCALS, _INNER, _OBJECTS)
    }
    calls: list[str] = []
    for _ in range(draw(st.integers(2, _MOST_CALLS))):
        name, *given = (draw(st.sampled_from(chosen)) for chosen in few.values())
        value = draw(st.sampled_from(_STATE[name]))
        is_global = name.isidentifier()
        change = f"globals()['{name}'] = {value}" if is_global else f"{name} = {value}"
        call = f"handle({', '.join(given)})"
        calls += [f"{change}\nreturn {call}", f"return {call}"]
    return _SHAPE.format(
        block=textwrap.indent(block, 12 * " "),
        clause=f"except {clause} as e:",
        handler=textwrap.indent("\n".join(lines), 12 * " "),
        steps="\n".join(
            f"def step_{number}():\n" + textwrap.indent(call, 4 * " ")
            for number, call in enumerate(calls)
        ),
    )


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(source=_programs(), mode=st.sampled_from(["body", "blocks", "all"]))
def test_a_warm_verdict_is_the_cold_one_whatever_changes(
    source: str, mode: str, play: Callable[..., Any], comparing: None
) -> None:
    run = play(source, mode, times=2 * _MOST_CALLS)
    assert run.verdicts
    assert not run.differences


# --- courses ---

_FRAMES = """
@guard
def f(): raise ValueError
@guard
def a(): f()
@guard
def b(): a()
"""


def _judged(run: Any) -> list[str]:
    return [verdict.function for verdict in run.verdicts]


def test_only_the_first_guard_judges(play: Callable[..., Any], stub: Any) -> None:
    stub.follows_courses = True
    run = play(f"""
{_FRAMES}
def run():
    for _ in range(3):
        try: b()
        except ValueError: pass
""")
    assert _judged(run) == ["f"] * 3


def test_who_hands_it_on_after_all_is_noticed(
    play: Callable[..., Any], stub: Any
) -> None:
    """A verdict that proves wrong holds no further than to where it was expected."""
    stub.follows_courses = True
    run = play(f"""
{_FRAMES}
def odd():
    try: b()
    except ValueError as e: exec("raise e")
@guard
def outer(): odd()
def run(): outer()
""")
    assert _judged(run) == ["f", "outer"]
    assert run.verdicts[0].fate is Fate.HANDLED  # what exec does is not looked into
    assert run.verdicts[1].fate is Fate.UNHANDLED


def test_an_exception_that_is_kept_is_judged_again(
    play: Callable[..., Any], stub: Any
) -> None:
    stub.follows_courses = True
    run = play(f"""
{_FRAMES}
kept = []
@guard
def again(): raise kept[0]
@guard
def outer():
    try: b()
    except ValueError as e: kept.append(e)
    again()
def run(): outer()
""")
    fates = [verdict.fate for verdict in run.verdicts]
    assert _judged(run) == ["f", "again", "outer"]
    assert fates == [Fate.HANDLED, Fate.UNHANDLED, Fate.UNHANDLED]
    assert run.verdicts[-1].fate is Fate.UNHANDLED


@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_last_of_many_attempts_is_held(
    count: int, play: Callable[..., Any], stub: Any
) -> None:
    """Each exception, frame and traceback has the id of the one before."""
    stub.follows_courses = True
    run = play(f"""
@guard
def f(): raise ValueError
@guard
def g(): raise ValueError
@guard
def outer():
    for i in range({count}):
        try:
            (f, g)[i % 2]()
        except ValueError:
            if i == {count} - 1: raise
def run(): outer()
""", "all")  # fmt: skip
    assert len({id(verdict.exc) for verdict in run.verdicts}) == count
    fates = [verdict.fate for verdict in run.verdicts if verdict.function in "fg"]
    assert fates == [Fate.HANDLED] * (count - 1) + [Fate.UNHANDLED]


def test_an_exception_that_is_stored_is_judged_again_where_it_is_raised(
    play: Callable[..., Any], stub: Any
) -> None:
    """Its way has ended in the task; where it is raised again, nobody takes it."""
    stub.follows_courses = True
    run = play("""
import asyncio
@guard
async def f(): raise ValueError
@guard
def outer(): asyncio.run(f())
def run(): outer()
""")
    assert _judged(run) == ["f", "outer"]
    assert run.verdicts[-1].fate is Fate.UNHANDLED


def test_a_course_keeps_no_exception_alive(play: Callable[..., Any]) -> None:
    run = play("""
import weakref
class Mine(Exception): pass
refs = []
@guard
def f():
    error = Mine()
    refs.append(weakref.ref(error))
    raise error
def run():
    try: f()
    except Mine: pass
""")
    run.verdicts.clear()
    gc.collect()
    assert run.names["refs"][0]() is None


def test_courses_are_forgotten_with_the_run() -> None:
    course.note(ValueError(), sys._getframe(), sys._getframe())
    assert course._courses
    guards.leave()
    assert not course._courses
