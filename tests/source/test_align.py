"""Where an edited function goes on."""

from __future__ import annotations

import ast

import pytest

from gpurescue.errors import PatchRejected
from gpurescue.source import align
from gpurescue.source.remainder import Step, statement

OLD = """
a()
for x in y:
    b()
    c(x)
    d()
"""
PATH = (Step(1, "body"), Step(1))

CASES = {
    "unchanged": ("", "", "c(x)", ()),
    "failing one edited": ("c(x)", "c(x + 1)", "c(x + 1)", ()),
    "one put in before": ("    c(x)", "    x = q(x)\n    c(x)", "x = q(x)", ()),
    "one put in earlier": (
        "    b()",
        "    n()\n    b()",
        "n()",
        ("runs again: `b()`",),
    ),
    "wrapped": ("    c(x)", "    if x:\n        c(x)", "if x:\n    c(x)", ()),
    "one behind edited": ("d()", "d(1)", "c(x)", ()),
    "header edited": (
        "in y",
        "in z",
        "c(x)",
        ("takes effect from the next time it is reached: `for x in z:`",),
    ),
    "outer edited": (
        "a()",
        "a(2)",
        "c(x)",
        ("takes effect from the next time round: `a(2)`",),
    ),
    "import put in further out": (
        "a()",
        "import m\na()",
        "c(x)",
        ("runs first: `import m`",),
    ),
    "executed one deleted": ("    b()\n", "", "c(x)", ("had already run: `b()`",)),
}


@pytest.mark.parametrize("name", CASES)
def test_resume_point(name: str) -> None:
    before, after, text, notes = CASES[name]
    old = ast.parse(OLD).body
    new = ast.parse(OLD.replace(before, after) if before else OLD).body
    found = align.align(old, new, PATH, name="f")
    assert ast.unparse(statement(new, found.path)) == text
    assert found.notes == notes
    assert found.is_changed is bool(before)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (OLD.replace("    c(x)\n", ""), r"failing statement \(line 5: `c\(x\)`\)"),
        ("a()\n", "The `for` around line 5 is gone"),
        (OLD.replace("for x in y", "while x"), "The `for` around line 5 is gone"),
    ],
)
def test_refused(source: str, text: str) -> None:
    with pytest.raises(PatchRejected, match=text):
        align.align(ast.parse(OLD).body, ast.parse(source).body, PATH, name="f")


def test_of_two_blocks_with_the_same_header_the_one_more_alike_is_meant():
    old = ast.parse("with a():\n    x = 1\nwith a():\n    f()\n    g()\nend\n").body
    new = ast.parse(
        "with a():\n    x = 1\n    y = 2\nwith a():\n    f()\n    z = 3\n    g()\nend\n"
    ).body
    assert align.behind(old, new, 1) == 2
