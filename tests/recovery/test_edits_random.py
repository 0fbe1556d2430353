"""Random edits of a module: what is there behaves as if it were imported anew."""

from __future__ import annotations

import inspect
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from beside import Folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpurescue.recovery import loops
from gpurescue.recovery.hotswap import Redefinitions

pytestmark = pytest.mark.thorough

HEAD = """\
import functools
def twice(f):
    @functools.wraps(f)
    def call(*args):
        return f(*args), f(*args)
    return call
class Boxed:
    def __init__(self, f): self.f = f
    def __call__(self, *args): return [self.f(*args)]
"""
OURS = {"functools", "twice", "Boxed"}
number = st.integers(0, 9)
heads = st.sampled_from(["", "@twice\n", "@functools.cache\n", "@Boxed\n"])
bodies = st.sampled_from(
    [
        "return x + {n}",
        "return [x, {n}, K]",
        "return (lambda y: y * {n} + x)(2)",
        "return [i for i in range({n})]",
        "yield x\n    yield {n}",
        "def inner(z):\n        return z + x + {n}\n    return inner(1)",
        "for i in range({n}):\n        x += i\n    return x",
        "try:\n        return 1 // ({n} - 3)\n    except Exception:\n        return K",
        "'Documentation {n}'",
    ]
)


@st.composite
def functions(draw: st.DrawFn) -> str:
    default, body = draw(number), draw(bodies).format(n=draw(number))
    return (
        f"{draw(heads)}def {draw(st.sampled_from('fgh'))}(x={default}):\n    {body}\n"
    )


members = st.sampled_from(
    [
        "    def {m}(self):\n        return {n}, self.size\n",
        "    def {m}(self, a={n}):\n        return a\n",
        "    @staticmethod\n    def {m}():\n        return {n}\n",
        "    @classmethod\n    def {m}(cls):\n        return cls.__name__, {n}\n",
        "    @property\n    def {m}(self):\n        return {n}\n",
        "    def {m}(self):\n        return super().__repr__()[:1], self.size, {n}\n",
        "    {m} = {n}\n",
        "    {m} = [{n}]\n",
    ]
)


@st.composite
def classes(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from("PQ"))
    found = f"class {name}:\n    size = {draw(number)}\n"
    for member in draw(st.lists(st.sampled_from("stuv"), max_size=3, unique=True)):
        found += draw(members).format(m=member, n=draw(number))
    return found


others = st.sampled_from(
    [
        "A = {n}\n",
        "B = 'text{n}'\n",
        "C = {{'a': {n}}}\n",
        "D = lambda x: x + {n}\n",
        "import math as E\n",
        "if {n} > 4:\n    def late(x):\n        return x, {n}\n",
        "# only a comment {n}\n",
        "\n",
    ]
)
statements = st.one_of(
    functions(),
    functions(),
    classes(),
    st.builds(lambda text, n: text.format(n=n), others, number),
)


@st.composite
def sources(draw: st.DrawFn) -> str:
    parts = draw(st.lists(statements, max_size=6))
    # Of two, which one has run is not in the source.
    parts = [
        p
        for i, p in enumerate(parts)
        if "late" not in p or "late" not in str(parts[:i])
    ]
    return HEAD + f"K = {draw(number)}\n" + "".join(parts)


def seen(value: Any) -> Any:
    """What a caller sees of a value."""
    if isinstance(value, list | tuple) or inspect.isgenerator(value):
        return [seen(item) for item in value]
    return value


def called(function: Any) -> Any:
    found = []
    for arguments in ((), (5,)):
        try:
            found.append(seen(function(*arguments)))
        except TypeError as error:
            found.append(type(error))
    return found


def behaviour(names: dict[str, Any], wanted: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in wanted:
        value = names[name]
        if isinstance(value, type):
            found[name] = of_instance(value())
        else:
            found[name] = called(value) if callable(value) else value
            if not hasattr(value, "__wrapped__"):  # a wrapper has a copy, and keeps it
                found[f"{name}.__doc__"] = getattr(value, "__doc__", None)
    return found


def of_instance(value: Any) -> dict[str, Any]:
    names = sorted(n for n in dir(type(value)) if not n.startswith("__"))
    found = {n: getattr(value, n) for n in names}
    return {n: called(v) if callable(v) else v for n, v in found.items()}


def imported_anew(path: Path) -> dict[str, Any]:
    module = types.ModuleType("user_random")
    exec(compile(path.read_text(), str(path), "exec", dont_inherit=True), vars(module))
    return vars(module)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("builtins.__gr_iter__", loops.loop_iterator, raising=False)
    with Folder(tmp_path) as opened:
        yield opened


@settings(
    max_examples=2000 if os.environ.get("GPURESCUE_LONG") else 100,
    derandomize=not os.environ.get("GPURESCUE_LONG"),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(versions=st.lists(sources(), min_size=2, max_size=4))
def test_an_edit_leads_to_what_an_import_leads_to(folder, versions):
    sys.modules.pop("user_random", None)
    folder.write("user_random.py", versions[0])
    module = folder.load("user_random")
    redefinitions = Redefinitions()
    for source in versions[1:]:
        path = folder.write("user_random.py", source)
        before = {n: v for n, v in vars(module).items() if n in "PQ"}
        instances = {n: v() for n, v in before.items()}
        outcomes = folder.carry(redefinitions)
        assert all(not o.left and not o.refused for o in outcomes), source
        expected = imported_anew(path)
        wanted = [n for n in expected if not n.startswith("__") and n not in OURS]
        assert behaviour(vars(module), wanted) == behaviour(expected, wanted), source
        for name in set(instances) & set(expected):
            assert vars(module)[name] is before[name]
            assert of_instance(instances[name]) == of_instance(expected[name]())
