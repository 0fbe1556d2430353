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
    _BreakClears(name).clear(loop.body)


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


class _BreakClears(ast.NodeTransformer):
    """Puts ``name = None`` before each ``break`` of one loop."""

    def __init__(self, name: str) -> None:
        self.name = name

    def clear(self, body: list[ast.stmt]) -> None:
        body[:] = [new for node in body for new in self._visited(node)]

    def _visited(self, node: ast.stmt) -> list[ast.stmt]:
        result = self.visit(node)
        return result if isinstance(result, list) else [result]

    def visit_Break(self, node: ast.Break) -> list[ast.stmt]:
        return [*hidden.clear([self.name]), node]

    def _keep_body(self, node: Loop) -> ast.stmt:
        self.clear(node.orelse)  # a break in the inner loop's else is ours
        return node

    def visit_For(self, node: ast.For) -> ast.stmt:
        return self._keep_body(node)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.stmt:
        return self._keep_body(node)

    def visit_While(self, node: ast.While) -> ast.stmt:
        return self._keep_body(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.stmt:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.stmt:
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.stmt:
        return node
