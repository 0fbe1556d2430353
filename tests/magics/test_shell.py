"""The front in a terminal's shell: everything blocks, everything is text."""

from __future__ import annotations

import ast
import sys

import pytest

import gpurescue
from gpurescue.errors import CannotResume, Suspended, UsageError
from gpurescue.magics import extension, guarding
from gpurescue.magics.session import Session
from gpurescue.state.device import TorchRuntime

CELL = """\
def ratio(x):
    top = x + 1
    return top / zero

class Net:
    def forward(self, x):
        return ratio(x)
"""
BODY = "zero = 0\nfound = [Net().forward(i) for i in range(3)]\nfound"


def run(ip, source):
    result = ip.run_cell(source, store_history=True)
    result.raise_error()
    return result


@pytest.fixture
def parked(ip):
    run(ip, CELL)
    with pytest.raises(Suspended, match="The run is alive"):
        gpurescue.resilient(BODY, park=True)
    return ip


def test_suspension_is_shown_as_text(parked, capsys):
    run(parked, "%frames")
    shown = capsys.readouterr().out
    assert "return top / zero" in shown or "ratio" in shown
    run(parked, "%fix")
    assert "def ratio(x):" in capsys.readouterr().out
    run(parked, "%rescue")
    assert "suspended" in capsys.readouterr().out


def test_whole_round(parked, capsys):
    run(parked, "def ratio(x):\n    top = x + 1\n    return top * 2")
    run(parked, "%resume")
    assert "resumes at line 3: `return top * 2`" in capsys.readouterr().out
    assert parked.user_ns["found"] == [2, 4, 6]
    assert not [
        n for n in parked.user_ns if n.startswith("__gr_") and n != "__gr_iter__"
    ]


def test_plan_changes_nothing(parked):
    assert str(gpurescue.plan(frame=1)) == (
        "resumes at line 7: `return ratio(x)` in Net.forward"
    )
    assert str(gpurescue.plan(body=BODY.replace("found\n", "found\n"))) != ""
    assert len(gpurescue.frames()) == 3
    assert gpurescue.suspension().error.args == ("division by zero",)


def test_abandon_from_python(parked):
    gpurescue.resume(action="abandon")
    with pytest.raises(UsageError, match="No run is suspended"):
        gpurescue.suspension()


def test_raise_gives_the_very_same_exception(parked):
    error = gpurescue.suspension().error
    with pytest.raises(ZeroDivisionError) as caught:
        gpurescue.resume(action="raise")
    assert caught.value is error
    assert error.__context__ is None


def test_at_keeps_what_was_done_before_it_failed(parked):
    with pytest.raises(ZeroDivisionError):
        gpurescue.at("top = 100\n1 / 0")
    assert gpurescue.at("top, x") == (100, 0)
    assert gpurescue.at("[top for _ in range(2)]") == [100, 100]
    gpurescue.at("del top")
    with pytest.raises(NameError):
        gpurescue.at("top")
    gpurescue.at("top = 5")
    gpurescue.at("global made_global\nmade_global = x")
    assert parked.user_ns["made_global"] == 0
    gpurescue.at("x = 41", frame=1)
    assert gpurescue.at("x, self.__class__.__name__", frame=1) == (41, "Net")
    gpurescue.at("zero = 2", frame=2)
    assert parked.user_ns["zero"] == 2
    gpurescue.resume()
    assert parked.user_ns["found"] == [2.5, 1.0, 1.5]


def test_cannot_resume_is_a_usage_matter(parked):
    with pytest.raises((CannotResume, UsageError)):
        gpurescue.resume(frame=5)
    assert gpurescue.frames()


def test_cell_guard_never_breaks_a_cell(ip, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("ours")

    monkeypatch.setattr(guarding.cells, "guard", fail)
    run(ip, "def f():\n    return 1\nvalue = f()")
    assert ip.user_ns["value"] == 1
    assert extension.current() is not None
    assert len(ip.ast_transformers) == 1
    assert "runs without guards" in caplog.text


def test_cell_guard_leaves_cells_without_functions_alone():
    tree = ast.parse("x = 1\nfor i in y: pass")
    guard = guarding.CellGuard(lambda: 0, Session({}, TorchRuntime()))
    assert guard.visit(tree) is tree
    assert guard.visit(tree.body[0]) is tree.body[0]


def test_guarded_source_is_as_written(ip):
    import inspect

    run(ip, CELL)
    assert inspect.getsource(ip.user_ns["ratio"]) == CELL.partition("\n\n")[0] + "\n"
    assert ip.user_ns["ratio"].__code__.co_firstlineno == 1


def test_future_imports_reach_guarded_code(ip):
    run(ip, "from __future__ import annotations")
    run(ip, "def f(x: undefined_type) -> another: return x")
    assert ip.user_ns["f"].__annotations__["x"] == "undefined_type"
    gpurescue.resilient("def g(x: missing): return x\nnote = g.__annotations__")
    assert ip.user_ns["note"] == {"x": "missing"}


def test_load_twice_and_unload(bare):
    gpurescue.load_ipython_extension(bare)
    gpurescue.load_ipython_extension(bare)
    assert len(bare.ast_transformers) == 1
    run(bare, CELL)
    names = bare.user_ns["ratio"].__code__.co_varnames
    assert any("__gr_" in name for name in names)
    gpurescue.unload_ipython_extension(bare)
    gpurescue.unload_ipython_extension(bare)
    assert bare.ast_transformers == []
    assert bare.user_ns["ratio"].__code__.co_varnames == ("x", "top")
    assert "resume" not in bare.magics_manager.magics["line"]
    assert "__gr_iter__" not in bare.user_ns


def test_unload_is_refused_while_a_run_is_parked(parked):
    with pytest.raises(UsageError, match="is still suspended; finish it"):
        gpurescue.unload_ipython_extension(parked)
    assert gpurescue.frames()


def test_nobody_at_a_script_means_no_parking(ip):
    run(ip, CELL)
    assert not sys.stdin.isatty()
    with pytest.raises(ZeroDivisionError):
        gpurescue.resilient(BODY)


def test_magics_have_help_and_arguments(ip):
    for kind in extension.MAGICS:
        for names in kind.magics.values():
            for attribute in names.values():
                assert "::" in getattr(kind, attribute).__doc__
