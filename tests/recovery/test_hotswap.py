"""Redefinitions while a run is alive."""

from __future__ import annotations

import pickle
import sys
import types
from typing import Any

import harness
import pytest

from gpurescue.errors import PatchRejected
from gpurescue.recovery.engine import State
from gpurescue.recovery.hotswap import Redefinitions
from gpurescue.recovery.plan import Restart
from gpurescue.source import cells

BASE = """
class Base:
    def name(self):
        return "base"
class Point(Base):
    limit = 1
    def __init__(self, x):
        self.x = x
    def name(self):
        return super().name() + " point"
    @staticmethod
    def unit():
        return 1
    @classmethod
    def make(cls):
        return cls(0)
    @property
    def double(self):
        return self.x * 2
    def old(self):
        return "old"
"""


@pytest.fixture
def book() -> harness.Notebook:
    return harness.Notebook()


def redefine(book: harness.Notebook, source: str) -> Redefinitions:
    redefinitions = Redefinitions()
    run = types.SimpleNamespace(redefinitions=redefinitions)
    book.redefine(run, source)  # type: ignore[arg-type]
    return redefinitions


def test_live_instances_see_the_new_class(book: harness.Notebook) -> None:
    book.cell(BASE)
    kind, point = book.names["Point"], book.names["Point"](3)
    bound, unit, make = point.name, kind.unit, kind.make
    edited = (
        BASE.replace('" point"', '" new point"')
        .replace("return 1", "return 2")
        .replace("self.x * 2", "self.x * 3")
        .replace("cls(0)", "cls(9)")
        .replace("limit = 1", "limit = 5\n    extra = 6")
        .replace("def old(self)", "def new(self)")
    )
    redefine(book, edited)
    assert book.names["Point"] is kind
    assert isinstance(point, book.names["Point"])
    assert (bound(), unit(), make().x) == ("base new point", 2, 9)
    assert (point.double, point.limit, point.extra) == (9, 5, 6)
    assert point.new() == "old"
    assert not hasattr(point, "old")
    assert type(make()) is kind


def test_pickling_keeps_working(
    book: harness.Notebook, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("notebook_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    book.names["__name__"] = module.__name__
    book.cell(BASE)
    point = book.names["Point"](3)
    redefine(book, BASE.replace("limit = 1", "limit = 2"))
    vars(module).update(book.names)
    assert pickle.loads(pickle.dumps(point)).x == 3


def test_functions_change_wherever_they_are_registered(book: harness.Notebook) -> None:
    book.cell("def f(x, k=1):\n    'old'\n    return x + k\n")
    old = book.names["f"]
    registry: list[Any] = [old]
    redefine(book, "def f(x, k=10):\n    'new'\n    return x * k\n")
    assert book.names["f"] is old
    assert registry[0](2) == 20
    assert old.__doc__ == "new"


def test_a_decorated_function_changes_under_its_decorator(
    book: harness.Notebook,
) -> None:
    source = """
import functools
def twice(f):
    @functools.wraps(f)
    def call(*args):
        return 2 * f(*args)
    return call
@twice
def f(x):
    return x + 1
"""
    book.cell(source)
    old = book.names["f"]
    redefine(book, source.replace("x + 1", "x + 5"))
    assert old(1) == 12
    assert book.names["f"](1) == 12


def test_closures_that_exist_get_the_new_code(book: harness.Notebook) -> None:
    source = "def make(k):\n    def inner(x):\n        return x + k\n    return inner\n"
    book.cell(source)
    inner = book.names["make"](5)
    redefine(book, source.replace("x + k", "x * k"))
    assert inner(3) == 15


def test_a_closure_keeps_its_cells_when_others_are_wanted(
    book: harness.Notebook,
) -> None:
    source = "def make(a, b):\n    def inner():\n        return a\n    return inner\n"
    book.cell(source)
    inner = book.names["make"](1, 2)
    redefine(book, source.replace("return a", "return b"))
    assert (inner(), book.names["make"](1, 2)()) == (1, 2)


def test_a_method_that_was_taken_out_for_a_moment(book: harness.Notebook) -> None:
    source = "class Net:\n    def f(self):\n        return 1\n    size = 1\n"
    book.cell(source)
    f = book.names["Net"].f
    definition = cells.definition(f.__code__)
    assert definition is not None
    redefinitions = redefine(book, source.replace("def f", "def g"))
    assert redefinitions.is_gone(definition)
    run = types.SimpleNamespace(redefinitions=redefinitions)
    book.redefine(run, source.replace("return 1", "return 2"))  # type: ignore[arg-type]
    assert not redefinitions.is_gone(definition)
    assert "return 2" in redefinitions.latest(definition).source
    assert f(None) == 2


def test_lambdas_are_not_mixed_up(book: harness.Notebook) -> None:
    source = "def f():\n    return [lambda: 1, lambda: 2]\n"
    book.cell(source)
    first, second = book.names["f"]()
    redefine(book, source.replace("[", "[lambda: 0, "))
    assert (first(), second()) == (1, 2)
    assert [g() for g in book.names["f"]()] == [0, 1, 2]


def test_a_function_made_by_a_continuation_changes_too(book: harness.Notebook) -> None:
    source = (
        "def make():\n    missing\n    def inner():\n        return 'old'\n"
        "    return inner\n"
    )
    book.cell(source)
    run = book.start("inner = make()\n")
    assert run.wait(30) is State.SUSPENDED
    book.names["missing"] = True
    run.resume(Restart())
    assert run.wait(30) is State.FINISHED, run.error
    redefine(book, source.replace("old", "new"))
    assert book.names["inner"]() == "new"


def test_a_class_that_does_not_fit_is_refused(book: harness.Notebook) -> None:
    book.cell("class A:\n    def f(self):\n        return 1\n")
    a = book.names["A"]()
    with pytest.raises(PatchRejected, match="They keep the old one"):
        redefine(book, "class A(int):\n    def f(self):\n        return 2\n")
    assert a.f() == 1


def test_an_edit_taken_back_is_the_newest(book: harness.Notebook) -> None:
    first, second = "def f():\n    return 1\n", "def f():\n    return 2\n"
    book.cell(first)
    f = book.names["f"]
    redefinitions = redefine(book, second)
    run = types.SimpleNamespace(redefinitions=redefinitions)
    book.redefine(run, first)  # type: ignore[arg-type]
    assert f() == 1


def test_every_kind_of_member_changes(book: harness.Notebook) -> None:
    source = """
import functools
class Outer:
    class Inner:
        def method(self):
            return "old"
    @property
    def value(self):
        return self._value
    @value.setter
    def value(self, x):
        self._value = ("old", x)
    @functools.cached_property
    def cached(self):
        return "old"
"""
    book.cell(source)
    outer, inner = book.names["Outer"](), book.names["Outer"].Inner()
    redefine(book, source.replace("old", "new"))
    outer.value = 1
    assert (inner.method(), outer.value, outer.cached) == ("new", ("new", 1), "new")
    assert type(inner) is book.names["Outer"].Inner


@pytest.mark.parametrize("value", ["", " 2", " -1", " (1, 'two')", " None"])
def test_an_edited_caller_whose_next_statement_returns_a_constant(value):
    # No guard covers that statement: the caller keeps its code, and its call is done.
    book = harness.Notebook()
    book.cell("def inner():\n    missing\n")
    book.cell(f"def outer():\n    inner()\n    return{value}\n")
    run = book.start("found = outer()\n")
    assert run.wait(30) is State.SUSPENDED
    book.names["missing"] = 1
    book.redefine(run, f"def outer():\n    inner()\n    pass\n    return{value}\n")
    run.resume(Restart())
    assert run.wait(30) is State.FINISHED, run.error
    assert repr(book.names["found"]) == (value.strip() or "None")


def test_an_edited_body_whose_next_statement_has_a_constant_test():
    # The compiler leaves nothing of it that a guard would cover, and the except*
    # around it took the signal for an exception: the rest of the body was left out.
    book = harness.Notebook()
    book.names["out"] = out = []
    book.cell("def inner():\n    missing\n")
    body = "try:\n    inner()\n    if 6 % 2:\n        raise 1\n{0}except* KeyError:\n"
    body += "    pass\nout.append('end')\n"
    run = book.start(body.format(""))
    assert run.wait(30) is State.SUSPENDED
    book.names["missing"] = 1
    run.resume(Restart(body=book.new_body(body.format("    pass\n"))))
    assert run.wait(30) is State.FINISHED, run.error
    assert out == ["end"]
