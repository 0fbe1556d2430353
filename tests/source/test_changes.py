"""What an edit of a module's file has changed."""

from __future__ import annotations

import ast

import pytest

from gpurescue.source.changes import Kind, changes, literal

OLD = """\
'''Documentation.'''
import math
RATE = 0.1
TABLE = {"a": [1, 2]}
net = build()
def f(x, y=1):
    return x
class Net(Base):
    size = 3
    def forward(self, x):
        return x
    @property
    def part(self):
        return 1
try:
    import fast
except ImportError:
    fast = None
if net:
    def g():
        return 1
register(f)
"""

CASES = {
    "nothing": ("", "", None),
    "a comment": ("RATE = 0.1", "RATE = 0.1  # slow", None),
    "an order": ("import math\nRATE = 0.1", "RATE = 0.1\nimport math", None),
    "the documentation": ("Documentation", "Other", None),
    "a body": ("return x\nclass", "return x + 1\nclass", (Kind.BODIES, ("f",))),
    "a default": ("y=1", "y=2", (Kind.DEFINES, ("f",))),
    "a decorator": ("def f(", "@cache\ndef f(", (Kind.DEFINES, ("f",))),
    "a kind of function": ("def f(", "async def f(", (Kind.DEFINES, ("f",))),
    "a method": ("        return x\n    @", "        return 0\n    @", Kind.BODIES),
    "an attribute": ("size = 3", "size = 4", (Kind.DEFINES, ("Net",))),
    "a base": ("Net(Base)", "Net(Other)", (Kind.DEFINES, ("Net",))),
    "an import": ("import math", "import math as m", (Kind.DEFINES, ("m",))),
    "a number": ("RATE = 0.1", "RATE = 0.2", (Kind.ASSIGNS, ("RATE",))),
    "a new variable": ("RATE", "NEW = build()\nRATE", (Kind.ASSIGNS, ("NEW",))),
    "new variables": ("RATE", "A, [B, *C] = 1, [2, 3]\nRATE", Kind.OTHER),
    "a pair": ("RATE", "A, (B, C) = 1, (2, 3)\nRATE", (Kind.ASSIGNS, ("A", "B", "C"))),
    "a value that is made": ("build()", "build(2)", (Kind.ASSIGNS, ("net",))),
    "an import that may fail": ("import fast", "import faster as fast", Kind.DEFINES),
    "a function in a block": ("return 1\nregister", "return 2\nregister", Kind.BODIES),
    "the head of a block": ("if net", "if not net", (Kind.DEFINES, ("g",))),
    "a call": ("register(f)", "register(g)", (Kind.OTHER, ())),
    "a part of something": ("register(f)", "net.size = 3", (Kind.OTHER, ())),
    "a script": ("register(f)\n", "register(f)\nif __name__ == '__main__': f()", None),
    "what was taken out": ("def f(x, y=1):\n    return x\n", "", None),
}


@pytest.mark.parametrize("name", CASES)
def test_change_of(name):
    before, after, expected = CASES[name]
    old, new = ast.parse(OLD).body, ast.parse(OLD.replace(before, after)).body
    found = changes(old, new)
    if expected is None:
        assert found == []
        return
    (change,) = found
    if isinstance(expected, Kind):
        assert change.kind is expected
    else:
        assert (change.kind, change.names) == expected
    assert new[change.index] is change.node


OVERLOADED = """\
@overload
def f(x: int): ...
@overload
def f(x: str): ...
def f(x):
    return x
@g.register
def _(x: int):
    return 1
@g.register
def _(x: str):
    return 2
"""


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("    return x", "    return -x", [(Kind.BODIES, ("f",))]),
        ("def f(x):", "f = 1\ndef f(x):", [(Kind.ASSIGNS, ())]),
        ("return 1", "return 3", [(Kind.BODIES, ())]),
        ("return 2", "return 4", [(Kind.BODIES, ("_",))]),
        ("_(x: int)", "_(x: float)", [(Kind.DEFINES, ())]),
        ("def f(x):", "def f(x=1):", [(Kind.DEFINES, ("f",))]),
        ("def f(x):\n    return x\n", "", [(Kind.DEFINES, ("f",))]),
    ],
)
def test_the_last_of_several_definitions_counts(before, after, expected):
    old, new = OVERLOADED, OVERLOADED.replace(before, after)
    found = changes(ast.parse(old).body, ast.parse(new).body)
    assert [(change.kind, change.last) for change in found] == expected


def test_what_stood_there_before_is_known():
    old = ast.parse("RATE = 0.1\nx = y = 2").body
    new = ast.parse("RATE = make()\ny = 3\nz = 4").body
    assert [c.before for c in changes(old, new)] == [old[0], old[1], None]
    assert literal(old[0]) == (0.1,)
    assert literal(new[0]) is None
    assert literal(None) is None
