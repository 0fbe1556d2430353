"""What a round of a loop takes over from the round before it."""

from __future__ import annotations

import ast
import textwrap

import pytest

from gpurescue.source.liveness import carried


def of(body: str) -> ast.For:
    text = "for i, x in data:\n" + textwrap.indent(textwrap.dedent(body), "    ")
    (node,) = ast.parse(text).body
    assert isinstance(node, ast.For)
    return node


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("loss = f(x)\nloss.backward()", set()),
        ("total += f(x)", {"total"}),
        ("hidden = step(hidden, x)", {"hidden"}),
        ("if x:\n    a = 1\nprint(a)", {"a"}),
        ("if x:\n    a = 1\nelse:\n    a = 2\nprint(a)", set()),
        ("with f() as g:\n    a = g\nprint(a)", set()),
        ("for j in x:\n    a = j\nprint(a)", {"a"}),
        ("try:\n    a = f()\nexcept E:\n    pass\nprint(a)", {"a"}),
        ("x = x.to(device)", set()),
        ("print(step)\nstep = step + 1", {"step"}),
        ("while n < 3:\n    n += 1", {"n"}),
        # Too many are harmless: a walrus may not run before what reads its name.
        ("if (m := f(best)) > best:\n    best = m", {"best", "m"}),
        ("match x:\n    case [a, *b]:\n        pass\nprint(a, b)", {"a", "b"}),
        ("def g():\n    return count\ncount = g()", {"count"}),
        ("a: int = 0\nb, (c, *d) = a, x\nprint(b, c, d)", set()),
        ("import os\nos.getcwd()", set()),
    ],
)
def test_names(body: str, names: set[str]) -> None:
    assert carried(of(body)).names == names


def test_attributes_and_containers() -> None:
    found = carried(of("self.step += 1\nlosses.append(x)\ncounts[x] += 1\nprint(x)"))
    assert found.attributes == {("self", "step")}
    assert found.containers == {"losses", "counts"}


def test_attributes_may_be_containers() -> None:
    found = carried(of("self.losses.append(x)\nself.counts[x] += 1"))
    assert found.containers == {"self.losses", "self.counts"}
