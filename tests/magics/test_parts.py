"""Parts of the front that need no run."""

from __future__ import annotations

import ast
import functools
from types import SimpleNamespace
from typing import Any

import pytest

import gpurescue
from gpurescue.errors import UsageError
from gpurescue.magics import progress, rendering, scripts, shell
from gpurescue.magics.awaiting import AwaitMagics
from gpurescue.recovery import carrying
from gpurescue.recovery.loops import Reading


def reading(name: str, count: int, total: int | None, seconds: float = 10) -> Reading:
    return Reading(name=name, count=count, total=total, seconds=seconds)


def test_public_face_is_sorted_and_complete():
    assert gpurescue.__all__ == sorted(gpurescue.__all__)
    assert dir(gpurescue) == gpurescue.__all__
    for name in gpurescue.__all__:
        assert getattr(gpurescue, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = gpurescue.nonsense


def test_without_the_extension_functions_say_so():
    with pytest.raises(UsageError, match="is not loaded; type %load_ext gpurescue"):
        gpurescue.resume()


@pytest.mark.parametrize(
    ("readings", "done"),
    [
        ((), 0.0),
        ((reading("step", 5, 10),), 0.4),
        ((reading("epoch", 2, 4), reading("step", 6, 10)), 0.375),
        ((reading("step", 5, None),), None),
        ((reading("epoch", 1, 0),), None),
    ],
)
def test_fraction(readings, done):
    found = progress.fraction(readings)
    assert found == done if done is None else found == pytest.approx(done)


def test_progress_line_says_what_is_left():
    readings = (reading("epoch", 2, 4, 90), reading("step", 1, 10))
    assert progress.as_text(readings, "") == "epoch 2/4, step 1/10 | 25 % | 4:30 left"
    assert progress.as_text(readings, "suspended") == "epoch 2/4, step 1/10 | suspended"
    assert "<progress" in progress.as_html(readings, "done")
    assert "<progress" not in progress.as_html((reading("step", 3, None),), "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3723, "1:02:03")]
)
def test_duration(seconds, text):
    assert progress.duration(seconds) == text


@pytest.mark.parametrize(
    ("raw", "body", "above"),
    [
        ("%%resilient\na\nb", "a\nb\n", 1),
        ("%%time\n%%resilient\na\n", "a\n", 2),
        ("\n\n%%resilient\na\n", "a\n", 3),
        ("a\n", "a\n", 0),
        ("get_ipython().run_cell_magic('resilient', '', 'a')", "a\n", 0),
        ("x = 1\nf('a')\n", "a\n", 0),
    ],
)
def test_lines_above_the_body(raw, body, above):
    assert shell.lines_above(raw, body) == above


def test_blank_lines_that_ipython_drops():
    assert shell.num_blank("\n  \nx\n\n") == 2
    assert shell.num_blank("x") == 0


@pytest.mark.parametrize(
    ("source", "is_quiet"),
    [
        ("x;", True),
        ("x;  # why\n\n", True),
        ("x", False),
        ("';'", False),
        ("x = (", False),
        ("f'{x};'", False),
    ],
)
def test_semicolon_at_the_end(source, is_quiet):
    assert scripts.ends_in_semicolon(source) is is_quiet


@pytest.mark.parametrize(
    ("source", "interactivity", "shown"),
    [
        ("a\nb", "last_expr", [1]),
        ("a\nb", "all", [0, 1]),
        ("a\nb", "none", []),
        ("a\nb;", "last_expr", []),
        ("a\nb = 1", "last_expr", []),
        ("", "last_expr", []),
    ],
)
def test_what_a_body_displays(source, interactivity, shown):
    assert scripts.displayed(ast.parse(source).body, source, interactivity) == shown


def rewritten(source: str, *, caller: str = "do_execute", kernel: bool = True) -> str:
    """What the input transformer makes of a transformed cell."""
    ip = SimpleNamespace(autoawait=True)
    transformer = AwaitMagics(SimpleNamespace(is_kernel=kernel, ip=ip))  # type: ignore
    names: dict[str, Any] = {"transformer": transformer}
    text = f"def transform_cell(x): return transformer(x)\ndef {caller}(x):\n"
    exec(text + "    return transform_cell(x)", names)
    return "".join(names[caller](source.splitlines(keepends=True)))


LINE = "get_ipython().run_line_magic('resume', '')\n"
CELL = "get_ipython().run_cell_magic('resilient', '--park', 'x = 1\\n')\n"


def test_cells_that_wait_are_awaited():
    assert rewritten(CELL) == (
        "await get_ipython().magics_manager.registry['ResilientMagics']"
        ".awaited('--park', 'x = 1\\n')\n"
    )
    assert rewritten("x = 1\n" + LINE).startswith("x = 1\nawait get_ipython()")
    assert "    await " in rewritten("if x:\n    " + LINE)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    " + LINE,
        "x = " + LINE,
        f"text = '''\n{LINE}'''\n",
        "lambda: " + LINE,
        "get_ipython().run_line_magic('frames', '')\n",
        LINE + "x = (\n",
    ],
)
def test_cells_that_cannot_be_awaited_are_left_alone(source):
    assert rewritten(source) == source


def test_nothing_is_awaited_elsewhere():
    assert rewritten(CELL, caller="run_cell_magic") == CELL
    assert rewritten(CELL, kernel=False) == CELL


def decorate(function):
    def wrapper(*args):
        return function(*args)

    return wrapper


def test_function_under_decorators_is_found():
    names: dict[str, Any] = {}
    exec("def target(): ...", names)
    target = names["target"]
    for wrapped in (
        target,
        decorate(target),
        functools.lru_cache(target),
        functools.partial(target),
        decorate(decorate(functools.wraps(target)(decorate(target)))),
        staticmethod(target),
    ):
        assert carrying.defined(wrapped, "target") is target
    assert carrying.defined(target, "other") is None
    assert carrying.defined(3, "target") is None


def test_errors_in_one_line():
    assert rendering.error_line(ValueError("a\nb")) == "ValueError: a"
    assert rendering.error_line(KeyError()) == "KeyError"
    assert len(rendering.error_line(ValueError("x" * 1000))) < 230

    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert rendering.error_line(Bad()) == "Bad"
