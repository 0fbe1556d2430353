"""Loops keep their iterator in a hidden local, to be entered again where they were."""

from __future__ import annotations

import ast

from gpurescue.source import hidden
from gpurescue.source import tree as trees
from gpurescue.source.tree import Loop

LOOP = "__gr_iter__"


def keep_iterator(loop: Loop) -> None:
    """Hold the iterator of ``loop`` in a hidden local for as long as it is live."""
    if isinstance(loop, ast.While):
        return
    name = trees.iterator_name(loop)
    if not hasattr(loop, "gr_reentered") and not hasattr(loop, "gr_once"):
        maker = "aiter" if isinstance(loop, ast.AsyncFor) else LOOP
        kept = hidden.expression(f"({name} := {maker}(_))", at=loop.iter)
        assert isinstance(kept, ast.NamedExpr)
        assert isinstance(kept.value, ast.Call)
        kept.value.args, loop.iter = [loop.iter], kept
        _let_go(loop)
    if not hasattr(loop, "gr_once"):
        loop.orelse = [*hidden.clear([name]), *loop.orelse]
    _clear_at_breaks(name, loop.body)


def _let_go(loop: ast.For | ast.AsyncFor) -> None:
    """Once the loop has its iterator, nothing holds what that was made from."""
    names = getattr(loop, "gr_clears", ())
    if not names:
        return
    cleared = ", ".join(f"({name} := ...)" for name in names)
    found = hidden.expression(f"(_, {cleared})[0]", at=loop.iter)
    assert isinstance(found, ast.Subscript)
    assert isinstance(found.value, ast.Tuple)
    found.value.elts[0], loop.iter = loop.iter, found


def _clear_at_breaks(name: str, body: list[ast.stmt]) -> None:
    """Put ``name = None`` before each ``break`` of the loop that has this body."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.Break):
            found += hidden.clear([name])
        elif isinstance(node, Loop):
            _clear_at_breaks(
                name, node.orelse
            )  # a break in an inner one's else is ours
        else:
            for _, _, child in trees.child_blocks(node):
                _clear_at_breaks(name, child)
        found.append(node)
    body[:] = found
