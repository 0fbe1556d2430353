"""Statements of ours among the user's: written as Python, without a place.

A node without a line number makes no line event and no entry in a line table, so
debuggers, coverage and tracebacks see the user's lines only. Where one of our calls
can be the current instruction of a frame that a person looks at, it is given the
line of the header that it belongs to.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Sequence

from gpurescue.source import tree as trees


def statements(text: str, *, line: int = -1) -> list[ast.stmt]:
    """Parse ``text`` into statements that stand on ``line`` or, by default, nowhere."""
    return [trees.copied(node) for node in _parsed(text, line)]


def expression(text: str, *, at: ast.expr | None = None) -> ast.expr:
    """Parse ``text`` into one expression that stands where ``at`` does, or nowhere."""
    node = statements(text)[0]
    if not isinstance(node, ast.Expr):
        raise SyntaxError(f"{text!r} is no expression.")
    if at is not None:
        for inner in ast.walk(node.value):
            if hasattr(inner, "lineno"):
                ast.copy_location(inner, at)
    return node.value


@functools.lru_cache(maxsize=512)
def _parsed(text: str, line: int) -> Sequence[ast.stmt]:
    tree = ast.parse(text, "<hidden>")
    for node in ast.walk(tree):
        if hasattr(node, "lineno"):
            place(node, line)
    return tuple(tree.body)


def place(node: ast.AST, line: int) -> None:
    """Put one node on a line, or nowhere."""
    column = -1 if line < 0 else 0
    for name, value in (
        ("lineno", line),
        ("end_lineno", line),
        ("col_offset", column),
        ("end_col_offset", column),
    ):
        setattr(node, name, value)


def clear(names: Sequence[str], empty: str = "None") -> list[ast.stmt]:
    """Statements that let go of what hidden variables hold."""
    return [node for name in names for node in statements(f"{name} = {empty}")]


def protected(body: list[ast.stmt], handler: list[ast.stmt]) -> ast.stmt:
    """``try: body`` with a bare ``except: handler``."""
    (node,) = statements("try: pass\nexcept: pass")
    if not isinstance(node, ast.Try):
        raise TypeError(node)
    node.body, node.handlers[0].body = body, handler
    return node
