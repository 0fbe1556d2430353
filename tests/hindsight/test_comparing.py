"""Two runs side by side."""

from __future__ import annotations

import time

import pytest

from gpurescue.errors import UsageError
from gpurescue.hindsight import comparing
from gpurescue.hindsight.journal import Journal, Origin
from gpurescue.hindsight.records import Records

A, B = "a1" * 8, "b2" * 8
CELL = "def f(x):\n    y = x + 1\n    return y\n"


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path, create=True)


def ran(records, id, sources, arguments=None, environment=None):
    origin = Origin(
        id=id, began=time.time(), sources=sources, environment=environment or {}
    )
    found = Journal(records, origin)
    found.write([], arguments or {}, [])
    found.end("finished")


def test_what_is_the_same_is_left_out(records):
    for id in (A, B):
        ran(records, id, {"run": "f(1)", "cell 1": CELL}, {"lr": "0.1"}, {"x": "y"})
    found = comparing.diff(records, A, "b2")
    assert found.runs == (A, B)
    assert (found.code, found.arguments, found.environment) == ({}, {}, {})
    assert str(found) == "There is no difference."


def test_code_that_was_edited_or_moved_is_shown_by_lines(records):
    ran(records, A, {"run": "f(1)", "cell 1": CELL, "cell 2": "gone = 1"})
    other = {"run": "f(1)", "cell 3": CELL.replace("+ 1", "+ 2"), "new.py": "n = 1"}
    ran(records, B, other)
    found = comparing.diff(records, A, B).code
    assert "-    y = x + 1\n+    y = x + 2" in found["cell 1"]
    assert found["cell 2"].endswith("-gone = 1")
    assert found["new.py"].endswith("+n = 1")
    assert len(found) == 3


def test_arguments_and_facts_are_shown_in_pairs(records):
    ran(records, A, {}, {"lr": "0.1", "seed": "1"}, {"torch": "2.12", "git": "x"})
    ran(records, B, {}, {"lr": "0.2", "seed": "1"}, {"torch": "2.13"})
    found = comparing.diff(records, A, B)
    assert found.arguments == {"lr": (0.1, 0.2)}
    assert found.environment == {"torch": ("2.12", "2.13"), "git": ("x", None)}
    assert str(found) == "lr: 0.1 -> 0.2\ngit: x -> None\ntorch: 2.12 -> 2.13"


def test_a_run_that_is_not_there_is_said(records):
    ran(records, A, {})
    with pytest.raises(UsageError, match="no run whose id begins with 'zz'"):
        comparing.diff(records, A, "zz")
