"""Guards leave no mark on what a user or a tool can see."""

from __future__ import annotations

import ast
import inspect
import linecache
import textwrap
import traceback
import warnings
from types import CodeType
from typing import Any

import harness
import pytest

from gpurescue.recovery import loops
from gpurescue.source import cells

SOURCES = {path.stem: path.read_text() for path in sorted(harness.SAMPLES.glob("*.py"))}
SOURCES["own source"] = textwrap.dedent(inspect.getsource(cells))
SOURCES["library"] = textwrap.dedent(inspect.getsource(inspect))


def lines(code: CodeType) -> list[int]:
    """Every line that ``code`` and the functions in it can stop on, in order."""
    found = [line for _, _, line in code.co_lines() if line]
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and constant.co_name != "<lambda>":
            found += lines(constant)
    return found


def compiled(source: str, *, guarded: bool) -> CodeType:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    tree = compile(source, "<cell>", "exec", flags | ast.PyCF_ONLY_AST, True)
    if guarded:
        return cells.compile_unit(tree, "<cell>", flags=flags)
    return compile(tree, "<cell>", "exec", flags, True)


@pytest.mark.parametrize("name", SOURCES)
def test_no_line_is_added_or_lost(name: str) -> None:
    plain = set(lines(compiled(SOURCES[name], guarded=False)))
    assert set(lines(compiled(SOURCES[name], guarded=True))) == plain


def run_cell(source: str) -> dict[str, Any]:
    name = harness.keep(source)
    names: dict[str, Any] = {"__name__": "cell", "__gr_iter__": loops.loop_iterator}
    exec(cells.compile_unit(ast.parse(source), name), names)
    return names


def test_warnings_about_a_cell_are_shown_once() -> None:
    source = "def f(x):\n    with x, x:\n        return x is 1\n"
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        compiled(source, guarded=True)
        assert cells.unit(harness.keep(source)) is not None
    assert len(shown) == 1


FUNCTION = '''
def f(a, /, b=1, *args, c, d=2, **kwargs) -> int:
    """Docstring."""
    for x in range(3):
        if x == 2:
            break
    return a
'''


def test_signature_docstring_and_source_stay() -> None:
    f = run_cell(FUNCTION)["f"]
    assert str(inspect.signature(f)) == "(a, /, b=1, *args, c, d=2, **kwargs) -> int"
    assert f.__doc__ == "Docstring."
    assert inspect.getsource(f) == FUNCTION[1:]


def test_a_traceback_names_the_users_lines_only() -> None:
    names = run_cell(
        "def f(x):\n    y = 1\n    return y / x\n\ndef g(x):\n    return f(x)\n"
    )
    with pytest.raises(ZeroDivisionError) as caught:
        names["g"](0)
    entries = traceback.walk_tb(caught.value.__traceback__)
    found = [(frame.f_code.co_name, line) for frame, line in entries]
    assert found[1:] == [("g", 6), ("f", 3)]
    assert caught.value.__context__ is None


def test_a_line_trace_is_the_same() -> None:
    import sys

    def traced(function: Any) -> list[int]:
        found: list[int] = []

        def trace(frame: Any, event: str, arg: Any) -> Any:
            if frame.f_code is function.__code__ and event == "line":
                found.append(frame.f_lineno)
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            function(1, c=3)
        finally:
            sys.settrace(before)
        return found

    plain: dict[str, Any] = {}
    exec(compile(FUNCTION, "<plain>", "exec"), plain)
    assert traced(run_cell(FUNCTION)["f"]) == traced(plain["f"])


@pytest.mark.parametrize("guard_body", [False, True])
def test_code_that_guards_would_nest_too_deeply_is_left_alone(guard_body: bool) -> None:
    managers = ", ".join(["contextlib.nullcontext()"] * 13)
    source = (
        "import contextlib\n"
        f"def deep():\n    with {managers}:\n        return 1\n"
        "def flat():\n    return 2\n"
        f"with {managers}:\n    value = deep() + flat()\n"
    )
    name = harness.keep(source)
    code = cells.compile_unit(ast.parse(source), name, guard_body=guard_body)
    names: dict[str, Any] = {"__gr_iter__": loops.loop_iterator}
    exec(code, names)
    assert names["value"] == 3
    assert "gpurescue.recovery.guards" in names["flat"].__code__.co_consts
    assert "gpurescue.recovery.guards" not in names["deep"].__code__.co_consts


def test_future_flags_stay() -> None:
    source = "from __future__ import annotations\ndef f(x: nowhere): pass\n"
    assert run_cell(source)["f"].__annotations__ == {"x": "nowhere"}


def test_guarded_code_works_where_gpurescue_is_not(monkeypatch: Any) -> None:
    import sys

    names = run_cell("def f(x):\n    with x:\n        return 1 / 0\n")
    monkeypatch.delitem(sys.modules, "gpurescue.recovery.guards")
    import contextlib

    with pytest.raises(ZeroDivisionError):
        names["f"](contextlib.nullcontext())


def test_the_source_of_a_cell_is_found_again() -> None:
    f = run_cell(FUNCTION)["f"]
    definition = cells.definition(f.__code__)
    assert definition is not None
    assert definition.source == FUNCTION.strip()
    linecache.cache.pop(f.__code__.co_filename)
    assert cells.definition(f.__code__) is None
